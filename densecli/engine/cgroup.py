"""Memory that the kernel's control groups leave to this process: containers and cluster jobs have less than the host.

Who takes more is killed without a word, so what is free on the host says nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# File of the limit, of what is in use, and key in memory.stat of what of it the kernel drops when it is short: pages of
# files that were read once. That is how Docker and Kubernetes tell use, too.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the tightest of this process's groups, or of those above them, leaves; None where none has a limit.

    groups: what the kernel says of a process's groups (cgroups(7)). mount: where the groups are, of version 2 or, each
    controller in a folder of its own, of version 1.
    """
    try:
        lines = groups.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return None
    left = []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers == "":
            left += [_left(folder, _V2) for folder in _upwards(mount, path)]
        elif "memory" in controllers.split(","):
            left += [_left(folder, _V1) for folder in _upwards(mount / "memory", path)]
    return min((free for free in left if free is not None), default=None)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """A group's folder and those of the groups around it. In a container its own group may be the mount itself."""
    inside = PurePosixPath(path.lstrip("/"))
    for part in (inside, *inside.parents):
        if ".." not in part.parts:
            yield mount / part


def _left(folder: Path, names: tuple[str, str, str]) -> int | None:
    limit, used, droppable = names
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        if most == "max":
            return None
        dropped = 0
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == droppable:
                dropped = int(value)
        return max(0, int(most) - max(0, int((folder / used).read_text(encoding="ascii")) - dropped))
    except (OSError, ValueError):
        return None
