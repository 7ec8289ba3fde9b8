"""Checkpoints, what was left of downloads and runs, folders and disks."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from densecli import checkpoints
from densecli.checkpoints import load_registry
from densecli.doctor import commands, source, weights
from densecli.doctor.report import Check
from densecli.download import download
from densecli.errors import CheckpointError
from tests.conftest import CHECKOUT, obeying_permissions


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint folder of our own, a registry with one small checkpoint `mine`, and an empty working folder."""
    content = b"weights" * 100
    entry = {"file": "mine.pt", "size": 700, "sha256": hashlib.sha256(content).hexdigest(), "config": "mine.yaml"}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"checkpoints": {"mine": entry}}))
    (tmp_path / "work").mkdir()
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "mine.pt").write_bytes(content)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("DENSECLI_REGISTRY", str(tmp_path / "registry.yaml"))
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def rows_of_weights(*, deep: bool = False) -> dict[str, Check]:
    return {row.name: row for row in weights.check_weights(deep=deep)}


def test_a_good_checkpoint(home: Path) -> None:
    rows = rows_of_weights()
    assert f"mine in {home} (right size); not here: tiny" in rows["checkpoints"].seen
    assert {name: row.status for name, row in rows.items()} == dict.fromkeys(
        ["starter", "checkpoints", "leftovers", "disk space", "checkpoint folder"], "ok"
    )
    assert f"mine in {home} (verified)" in rows_of_weights(deep=True)["checkpoints"].seen


@pytest.mark.parametrize(("kept", "said"), [(1000, "1000 bytes instead of"), (None, "its sha256 is")])
def test_a_damaged_starter(kept: int | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_file, config = checkpoints.starter_files()
    damaged = tmp_path / "starter.safetensors"
    damaged.write_bytes(weights_file.read_bytes()[:kept] if kept else b"?" + weights_file.read_bytes()[1:])
    monkeypatch.setattr(checkpoints, "starter_files", lambda: (damaged, config))
    row = weights.check_starter()
    assert row.status == "problem" and f"{damaged} is damaged: {said}" in row.seen
    assert row.fix == source.restore_starter()


def test_a_missing_starter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoints, "resource_dir", lambda name: tmp_path)
    row = weights.check_starter()
    assert (row.status, row.fix) == ("problem", source.restore_starter())


def test_no_checkpoint(home: Path) -> None:
    (home / "mine.pt").unlink()
    row = rows_of_weights()["checkpoints"]
    assert (row.status, row.fix) == ("warning", commands.densecli("download-checkpoints", "large"))
    assert sys.executable in commands.densecli("doctor")


def test_a_truncated_checkpoint(home: Path) -> None:
    (home / "mine.pt").write_bytes(b"weig")
    row = rows_of_weights()["checkpoint mine"]
    assert (row.status, row.fix) == ("warning", commands.densecli("download-checkpoints", "mine"))
    assert "has 4 bytes instead of 700" in row.seen


def test_a_checkpoint_with_wrong_content_is_found_by_deep_only(home: Path) -> None:
    (home / "mine.pt").write_bytes(bytes(700))
    assert "checkpoint mine" not in rows_of_weights()
    row = rows_of_weights(deep=True)["checkpoint mine"]
    assert (row.status, row.fix) == ("problem", commands.densecli("download-checkpoints", "mine"))


def test_a_folder_that_may_not_be_looked_into(home: Path) -> None:
    """Made by root, say, or of somebody else's cache."""
    code = "from densecli.doctor import weights as w; print([(r.name, r.seen) for r in w.check_weights(deep=False)])"
    home.chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            preexec_fn=obeying_permissions,
        )
    finally:
        home.chmod(0o700)
    if done.returncode == 99:
        pytest.skip("permissions do not hold here")
    assert done.returncode == 0, done.stderr
    rows = dict(ast.literal_eval(done.stdout))
    assert rows["checkpoint mine"] == f"{home / 'mine.pt'} cannot be read (Permission denied)"
    assert "cannot be written" in rows["checkpoint folder"]


def test_an_unfinished_download(home: Path) -> None:
    (home / "mine.pt").rename(home / "mine.pt.part")
    row = rows_of_weights()["leftovers"]
    assert (row.status, row.fix) == ("warning", commands.densecli("download-checkpoints", "mine"))
    assert str(home / "mine.pt.part") in row.seen


def test_an_unfinished_download_elsewhere(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "densecli" / "checkpoints"
    folder.mkdir(parents=True)
    (home / "mine.pt").rename(folder / "mine.pt.part")
    fix = rows_of_weights()["leftovers"].fix
    assert fix == commands.densecli("download-checkpoints", "mine", "--dir", str(folder))


@pytest.mark.parametrize("beside", [True, False])
def test_an_unfinished_download_of_what_is_here(beside: bool, home: Path, tmp_path: Path) -> None:
    folder = home if beside else tmp_path / "cache" / "densecli" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "mine.pt.part"
    part.write_bytes(b"weig")
    assert rows_of_weights()["leftovers"].status == "ok"  # may be going on
    os.utime(part, (time.time() - 3600,) * 2)
    row = rows_of_weights()["leftovers"]
    assert row.status == "warning" and f"{part}: an unfinished download of a checkpoint that is here" in row.seen
    subprocess.run(row.fix or "", shell=True, check=True)
    assert rows_of_weights()["leftovers"].status == "ok" and (home / "mine.pt").exists()


def test_a_bad_file_before_a_good_one(home: Path, tmp_path: Path) -> None:
    """A download finds the good one, and would change nothing."""
    folder = tmp_path / "cache" / "densecli" / "checkpoints"
    folder.mkdir(parents=True)
    (home / "mine.pt").rename(folder / "mine.pt")
    (home / "mine.pt").write_bytes(b"version https://git-lfs")
    Path("checkpoints").mkdir()
    Path("checkpoints/mine.pt").symlink_to("nowhere")
    row = rows_of_weights()["checkpoint mine"]
    assert row.status == "warning" and f"{home / 'mine.pt'} has 23 bytes instead of 700" in row.seen
    subprocess.run(row.fix or "", shell=True, check=True)
    assert "checkpoint mine" not in rows_of_weights()
    assert (home / "mine.pt.away").read_bytes() == b"version https://git-lfs"


def test_a_damaged_file_in_another_folder_than_downloads_go_to(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "densecli" / "checkpoints"
    folder.mkdir(parents=True)
    (home / "mine.pt").unlink()
    (folder / "mine.pt").write_bytes(bytes(700))
    fix = rows_of_weights(deep=True)["checkpoint mine"].fix
    assert fix == commands.densecli("download-checkpoints", "mine", "--dir", str(folder))


def test_a_cache_folder_that_is_a_link_to_nowhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to("/nowhere/deep")
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(link / "c"))
    rows = rows_of_weights()
    assert {rows[name].status for name in ("starter", "leftovers", "disk space")} == {"ok"}
    row, told = rows["checkpoint folder"], f"{link} is a link to /nowhere/deep, which is not there"
    assert row.status == "warning" and told in row.seen
    assert (row.fix or "").startswith("export DENSECLI_CHECKPOINTS=")
    registry = load_registry()
    with pytest.raises(CheckpointError, match=f"Cannot write to folder {link}/c .{told}.; name another with --dir"):
        download(registry.entry("mine"), [], link / "c")


def test_temporary_files_of_a_killed_run(home: Path) -> None:
    file = Path(".densecli-tmp-abc.png").absolute()
    file.touch()
    assert rows_of_weights()["leftovers"].status == "ok"  # may belong to a run that is going on
    os.utime(file, (time.time() - 3600,) * 2)
    row = rows_of_weights()["leftovers"]
    assert row.status == "warning" and str(file) in row.seen
    subprocess.run(row.fix or "", shell=True, check=True)
    assert not file.exists()


def test_a_broken_registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(os.environ["DENSECLI_REGISTRY"]).write_text("checkpoints: [")
    (row,) = weights.check_weights(deep=False)
    assert (row.status, row.fix) == ("problem", "unset DENSECLI_REGISTRY") and "registry.yaml" in row.seen


def test_a_folder_in_the_home_of_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", "~nobodyx/c")
    (row,) = weights.check_weights(deep=False)
    assert (row.status, row.fix) == (
        "problem",
        "unset DENSECLI_CHECKPOINTS",
    ) and "'~nobodyx/c' names a user" in row.seen


def test_a_file_where_the_cache_folder_should_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(home / "mine.pt" / "folder"))
    row = weights.check_folder()
    assert row.status == "warning" and str(home / "mine.pt") in row.seen
    assert (row.fix or "").startswith("export DENSECLI_CHECKPOINTS=")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions count for root only when it is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_cache_folder_that_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        monkeypatch.setenv("DENSECLI_CHECKPOINTS", name)
        with as_nobody():
            row = weights.check_folder()
        folder.chmod(0o755)
    assert row.status == "warning" and f"{folder}: Permission denied" in row.seen


def test_a_disk_that_is_too_small(home: Path, tmp_path: Path) -> None:
    registry = load_registry()
    assert weights.check_space(registry).status == "ok"
    huge = {"file": "l.pt", "size": 10**18, "sha256": "0" * 64, "config": "l.yaml"}
    entry = type(registry.entry("large"))("large", *list(huge.values()), tmp_path)  # type: ignore[call-overload]
    registry.entries["large"] = entry
    row = weights.check_space(registry)
    assert row.status == "warning" and "too little for large" in row.seen
