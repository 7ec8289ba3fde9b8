"""The Python in use, its environment, the platform, and files that stand in the way of installed packages."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from pathlib import Path

from densecli.doctor import commands
from densecli.doctor.installed import DISTRIBUTIONS, place_of, shadow_of
from densecli.doctor.report import Check, problem, warning
from densecli.wording import command_line

_OLDEST_PYTHON = (3, 10)


def check_python() -> Check:
    """Version and word size of the Python in use."""
    seen = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return problem("python", f"{seen}: densecli needs 3.10 or later", "python3.12 -m venv .venv")
    if sys.maxsize < 1 << 32:
        return problem("python", f"{seen}: 32 bits; PyTorch exists for 64 only", "python3 -m venv .venv")
    return Check("python", seen)


def check_environment() -> Check:
    """Whether packages are kept apart from the system's."""
    if sys.prefix != sys.base_prefix:
        return Check("environment", f"virtual environment {sys.prefix}")
    if os.environ.get("CONDA_PREFIX"):
        return Check("environment", f"conda environment {os.environ['CONDA_PREFIX']}")
    if (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists():
        seen = "the system's Python, into which pip must not install"
        return warning("environment", seen, commands.python("-m", "venv", ".venv"))
    return Check("environment", f"no virtual environment, packages lie in {sys.prefix}")


def check_platform() -> Check:
    """Operating system and processor."""
    seen = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        seen = f"{seen}: PyTorch for Intel Macs ended with 2.2, and sam2 needs 2.5.1"
        return warning("platform", seen, "docker run -it python:3.12")
    if sys.platform == "linux" and not platform.libc_ver()[0]:
        return warning("platform", f"{seen} without glibc: PyTorch has no wheels for it", "docker run -it python:3.12")
    return Check("platform", seen)


def check_shadowing() -> Check:
    """Files and folders that Python takes instead of an installed package, or would, started from this folder."""
    for module in DISTRIBUTIONS:
        shadow = shadow_of(module)
        if shadow is None:
            continue
        place = place_of(module)
        seen = f"{shadow} is taken instead of the installed {module}"
        if shadow.parent == Path.cwd() and shadow.is_dir():
            fix = f"cd {command_line(['..'])} && {commands.densecli('doctor')}"
        else:
            fix = commands.rename_away(shadow)
        # A whole package may well work (a checkout); a lone file or an empty folder cannot.
        complete = place is not None and place.kind == "package"
        return warning("shadowing", seen, fix) if complete else problem("shadowing", seen, fix)
    for place_here in (Path.cwd(), Path(sys.path[0] or ".").absolute()):
        for candidate in (place_here / "sam2", place_here / "sam2.py"):
            place = place_of("sam2")
            if candidate.exists() and (place is None or candidate != place.path):
                # Not taken now; but the well-known error of sam2 ("running Python from the parent directory of
                # the sam2 repository") comes from such a folder where sam2 was installed with `pip install -e`.
                seen = f"{candidate} would stand in for the package sam2 where that is installed with pip -e"
                return warning("shadowing", seen, f"cd .. && {commands.densecli('doctor')}")
    return Check("shadowing", "nothing here or on Python's path stands in for an installed package")
