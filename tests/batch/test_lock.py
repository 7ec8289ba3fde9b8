"""Who may write into an output folder at the same time, and what is cleared away at the start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from densecli.batch import lock
from densecli.batch.lock import locked
from densecli.errors import OutputError
from densecli.files import TEMPORARY_PREFIX
from tests.conftest import CHECKOUT

HOLD = """
import sys; from pathlib import Path; from densecli.batch.lock import locked
with locked(Path(sys.argv[1]), eval(sys.argv[2])):
    print("held", flush=True); sys.stdin.read()
"""


@contextmanager
def held_by_another(out: Path, shard: tuple[int, int] | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out), repr(shard)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate(timeout=20)


def litter(out: Path) -> list[Path]:
    (out / "deep").mkdir(parents=True, exist_ok=True)
    folder = out / "deep" / f"{TEMPORARY_PREFIX}folder"
    folder.mkdir()
    (folder / "0001.png").touch()
    file = out / f"{TEMPORARY_PREFIX}file.png"
    file.touch()
    return [folder, file]


def test_a_second_run_is_told_who_has_the_folder(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        with pytest.raises(OutputError) as refused, locked(tmp_path):
            pass
        assert f"process {other.pid} on " in str(refused.value) and "\n" not in str(refused.value)
        with pytest.raises(OutputError, match=f"process {other.pid}"), locked(tmp_path, (1, 2)):
            pass
    with locked(tmp_path):
        pass


def test_shards_share_the_folder_but_not_with_their_double_or_a_whole_run(tmp_path: Path) -> None:
    with held_by_another(tmp_path, (1, 2)) as other:
        with locked(tmp_path, (2, 2)):
            pass
        for refused in ((1, 2), None):
            with pytest.raises(OutputError, match=f"process {other.pid}"), locked(tmp_path, refused):
                pass


def test_shards_that_start_together_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for others at work is to take their locks for a moment: who does it must keep others from starting."""
    looked = []

    def others_at_work(output_dir: Path, own: Path) -> list[Path]:
        with pytest.raises(Timeout):
            FileLock(output_dir / lock.PREFIX, timeout=0).acquire()
        looked.append(own.name)
        return []

    monkeypatch.setattr(lock, "_others_at_work", others_at_work)
    with FileLock(tmp_path / lock.PREFIX, thread_local=False) as starting:  # another shard, which has much to sweep
        threading.Timer(4, starting.release, [True]).start()
        with locked(tmp_path, (1, 2)):
            assert looked == [f"{lock.PREFIX}.1-of-2"]
    with FileLock(tmp_path / lock.PREFIX):  # a run of the whole job, which has its name tag there
        (tmp_path / f"{lock.PREFIX}.json").write_text("{}")
        begin = time.monotonic()
        with pytest.raises(OutputError, match="another run is writing there"), locked(tmp_path, (1, 2)):
            pass
        assert time.monotonic() - begin < 30


def test_a_killed_runs_name_tag_keeps_no_shard_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{lock.PREFIX}.json").write_text("{}")
    (left,) = litter(tmp_path)[1:]
    tags = []
    sweep = lock.sweep

    def slow(folder: Path, *, everything: bool) -> None:
        tags.append((tmp_path / f"{lock.PREFIX}.json").exists())  # by which those that wait are told to give up
        sweep(folder, everything=everything)

    monkeypatch.setattr(lock, "sweep", slow)
    with locked(tmp_path, (1, 2)):
        assert tags == [False] and not left.exists()


def test_a_name_tag_that_cannot_be_taken_away_fails_no_run(tmp_path: Path) -> None:
    """The disk went read-only, or something took the folder's place: what the run did has been said by then."""
    out = tmp_path / "out"
    with locked(out):
        out.rename(tmp_path / "away")
        out.touch()
    assert out.read_bytes() == b""


def test_a_password_of_a_url_is_not_in_the_name_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag stays where a run is killed, and goes to buckets too."""
    monkeypatch.setattr(lock.sys, "argv", ["densecli", "batch", "http://me:s3cret@host/a.jpg"])
    with locked(tmp_path):
        (tag,) = tmp_path.glob("*.json")
        assert json.loads(tag.read_text())["command"][-1] == "http://me:***@host/a.jpg"
    assert "s3cret" not in json.dumps(lock.this_process())


def test_leftovers_of_a_killed_run_go(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        other.kill()
        other.wait()
    left = litter(tmp_path)
    with locked(tmp_path):
        assert not any(path.exists() for path in left)
        (tag,) = tmp_path.glob("*.json")
        assert json.loads(tag.read_text())["pid"] == os.getpid()
    assert list(tmp_path.glob("*.json")) == []


def test_a_shard_leaves_alone_what_another_one_may_be_writing(tmp_path: Path) -> None:
    with held_by_another(tmp_path, (1, 2)) as other:
        other.kill()
        other.wait()
    with held_by_another(tmp_path, (2, 2)):
        left = litter(tmp_path)
        with locked(tmp_path, (1, 2)):
            assert all(path.exists() for path in left)
    with held_by_another(tmp_path, (2, 2)) as other:
        other.kill()
        other.wait()
    with locked(tmp_path, (1, 2)):
        assert not any(path.exists() for path in left)


def test_where_no_run_was_killed_only_old_leftovers_go(tmp_path: Path) -> None:
    old, fresh = litter(tmp_path)
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    with locked(tmp_path):
        assert fresh.exists() and not old.exists()
