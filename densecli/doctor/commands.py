"""Commands that mend things, spelt for the Python in use and for this system's shell."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from densecli.wording import command_line


def python(*arguments: str) -> str:
    """A command of the Python in use."""
    return command_line([sys.executable, *arguments])


def densecli(*arguments: str) -> str:
    """A densecli command of the Python in use: there may be others on the PATH."""
    return python("-m", "densecli", *arguments)


def pip_arguments(*arguments: str) -> list[str]:
    """`pip install` with these arguments for the Python in use; by uv where there is no pip (venvs that uv made)."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")):
        return [uv, "pip", "install", "--python", sys.executable, *arguments]
    return [sys.executable, "-m", "pip", "install", *arguments]


def pip_install(*arguments: str) -> str:
    """`pip_arguments` as a command line."""
    command = command_line(pip_arguments(*arguments))
    if importlib.util.find_spec("pip") is None and not shutil.which("uv"):
        return f"{python('-m', 'ensurepip')} && {command}"
    return command


def pip_uninstall(*names: str) -> str:
    """A command that removes these packages."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")):
        return command_line([uv, "pip", "uninstall", "--python", sys.executable, *names])
    return python("-m", "pip", "uninstall", "-y", *names)


def rename_away(path: Path) -> str:
    """A command that takes a file or folder out of Python's way and deletes nothing."""
    away = path.with_name(f"my_{path.name}") if path.suffix == ".py" else path.with_name(f"{path.name}.away")
    return command_line(["move" if os.name == "nt" else "mv", str(path), str(away)])


def remove(paths: Sequence[Path]) -> str:
    """A command that deletes files and folders."""
    names = [str(path) for path in paths]
    return command_line(["rmdir", "/s", "/q", *names] if os.name == "nt" else ["rm", "-r", *names])


def variable(name: str, value: Path) -> str:
    """A command that sets an environment variable for the commands after it."""
    return f"{'set' if os.name == 'nt' else 'export'} {name}={command_line([str(value)])}"


def unset(name: str) -> str:
    """A command after which an environment variable is not there."""
    return f"set {name}=" if os.name == "nt" else f"unset {name}"


def own_folder(name: str) -> Path:
    """A folder for the user in a place where one can be made: not every user of a container has a home.

    Elsewhere than there it has a name that nobody can foresee: others could put into it what Python then runs.
    """
    home = Path(os.path.expanduser("~"))
    for place in (home, Path(tempfile.gettempdir()), Path("/var/tmp")):
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
            return place / (name if place == home else f"{name}-{secrets.token_hex(4)}")
    return Path(tempfile.gettempdir()) / f"{name}-{secrets.token_hex(4)}"


def install_sam2() -> str:
    """sam2 without its CUDA extension, which densecli does not need and which often fails to build."""
    command = pip_install("--no-build-isolation", "sam2>=1.1.0")
    return f"set SAM2_BUILD_CUDA=0 && {command}" if os.name == "nt" else f"SAM2_BUILD_CUDA=0 {command}"


def install_torch(driver_cuda: tuple[int, int] | None) -> str:
    """PyTorch in a build that this driver can run; a build runs on every driver of its CUDA major version or later."""
    index = "cu130"
    if driver_cuda is not None and driver_cuda < (13, 0):
        index = "cu126" if driver_cuda >= (12, 0) else "cu118"
    url = f"https://download.pytorch.org/whl/{index}"
    return pip_install("--force-reinstall", "torch>=2.5.1", "torchvision>=0.20.1", "--index-url", url)
