"""Free memory in containers and jobs: trees of control groups as Docker, Kubernetes, Slurm and systemd make them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from densecli.engine import cgroup, memory

GIB = 1 << 30
# As the kernel calls them: file of the limit, of what is in use, and memory.stat with pages of files that were read.
# Of version 1, inactive_file leaves out the groups below.
FILES = {
    2: ("memory.max", "memory.current", "anon 1\ninactive_file {}\nactive_file 7\n"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "inactive_file 5\ntotal_inactive_file {}\ntotal_cache 7\n"),
}


@pytest.fixture
def tree(tmp_path: Path):
    """`tree({"folder": (limit, used, droppable)}, groups, version)`: bytes that are left."""

    def free(folders: dict[str, tuple[object, int, int]], groups: str | None, version: int = 2) -> int | None:
        limit_name, used_name, stat = FILES[version]
        for name, (limit, used, droppable) in folders.items():
            folder = tmp_path / "mount" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / limit_name).write_text(f"{limit}\n")
            (folder / used_name).write_text(f"{used}\n")
            (folder / "memory.stat").write_text(stat.format(droppable))
        if groups is not None:
            (tmp_path / "groups").write_text(groups)
        return cgroup.free_bytes(tmp_path / "groups", tmp_path / "mount")

    return free


def test_a_container_of_version_2(tree) -> None:
    """Its own group is the mount. Pages of files that were read count as free."""
    assert tree({"": (4 * GIB, 3 * GIB, 2 * GIB)}, "0::/\n") == 3 * GIB


def test_the_tightest_of_the_groups_around_it(tree) -> None:
    groups = {"a": (8 * GIB, GIB, 0), "a/job": (4 * GIB, GIB, 0), "a/job/step": ("max", GIB, 0)}
    assert tree(groups, "0::/a/job/step\n") == 3 * GIB
    assert tree({"a": (2 * GIB, GIB, 0)}, "0::/a/job/step\n") == GIB


@pytest.mark.parametrize("name", ["slurm/uid_1/job_2", "docker/0123"])
def test_version_1(tree, name: str) -> None:
    """Docker's group is not there by its path inside of the container, but as the mount."""
    groups = f"11:cpu,cpuacct:/{name}\n4:memory:/{name}\n0::/\n"
    where = f"memory/{name}" if name.startswith("slurm") else "memory"
    assert tree({where: (4 * GIB, 3 * GIB, GIB)}, groups, 1) == 2 * GIB


def test_no_limit(tree) -> None:
    assert tree({"": ("max", GIB, 0)}, "0::/\n") is None
    assert tree({}, None) is None, "macOS"
    (unlimited,) = [tree({"memory": (9223372036854771712, GIB, 0)}, "4:memory:/\n", 1)]
    assert unlimited is not None and unlimited > 1 << 60


@pytest.mark.parametrize(
    "groups", ["", "nonsense\n", "0::\n", "::::\n", "0::/../../etc\n", "0::/gone\n", "4:memory:\n"]
)
def test_odd_groups(tree, groups: str) -> None:
    assert tree({"other": (GIB, 0, 0)}, groups) is None


def test_more_than_the_limit_is_in_use(tree) -> None:
    """As while a group is made smaller, or where page cache of another group is counted."""
    assert tree({"": (GIB, 2 * GIB, 0)}, "0::/\n") == 0
    assert tree({"": (GIB, 1, GIB)}, "0::/\n") == GIB


def test_batches_are_made_for_what_the_group_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    available = psutil.virtual_memory().available
    assert memory.free_bytes(cpu) == pytest.approx(available, rel=0.3)
    monkeypatch.setattr(cgroup, "free_bytes", lambda: 123_456_789)
    assert memory.free_bytes(cpu) == 123_456_789 < available
    monkeypatch.setattr(cgroup, "free_bytes", lambda: 1 << 62)
    assert memory.free_bytes(cpu) < 1 << 60
