"""densecli itself: where it was installed from, and how it is made whole again. It is on no package index."""

from __future__ import annotations

from pathlib import Path

from densecli.doctor import commands
from densecli.doctor.installed import installations
from densecli.wording import command_line

STARTER, STARTER_CONFIG = "starter.safetensors", "starter.yaml"
STARTER_SIZE = 19_648_392  # bytes
STARTER_SHA256 = "6ee0d7db8bc58e1ef71aa131eb00ff6f5154258e2e844621221fd9d1b3e62c21"
_FOLDER = Path(__file__).resolve().parents[2]


def install_densecli() -> str:
    """The command that installs densecli once more from where it came; in words, where nobody noted where that was."""
    found = installations("densecli")
    origin = found[0].origin if found else {}
    url = str(origin.get("url", ""))
    if checkout := _checkout():
        return commands.pip_install("--no-deps", "-e", str(checkout))
    if isinstance(vcs := origin.get("vcs_info"), dict):
        url = f"{vcs.get('vcs')}+{url}@{vcs.get('commit_id')}"
    if url:
        return commands.pip_install("--force-reinstall", "--no-deps", url)
    return "install densecli again, from the wheel or folder that it came from"


def restore_starter() -> str:
    """The command that brings back the starter's weights, which come with densecli."""
    checkout = _checkout()
    if checkout is None:
        return install_densecli()
    if not (checkout / ".git").exists():
        return f"copy checkpoints/starter.* to {checkout / 'checkpoints'} once more, from where densecli came"
    files = [f"checkpoints/{name}" for name in (STARTER, STARTER_CONFIG)]
    return command_line(["git", "-C", str(checkout), "checkout", "--", *files])


def _checkout() -> Path | None:
    """The source folder that this process runs from, if it does."""
    return _FOLDER if (_FOLDER / "pyproject.toml").is_file() else None
