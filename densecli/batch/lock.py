"""One run at a time in an output folder; shards of one job side by side; what a killed run left behind goes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from densecli.errors import OutputError
from densecli.files import TEMPORARY_PREFIX, explained
from densecli.wording import shown_name, without_password

# Hidden, so that no listing of results shows them; the files stay, as removing a lock file lets two runs have it.
PREFIX = ".densecli-lock"
_SHARD_LOCK = re.compile(re.escape(PREFIX) + r"\.\d+-of-\d+")
_OLD_SECONDS = 3600.0
_ENTERING_SECONDS = 120.0
"""Shards before this one may have to sweep a folder of a million files."""


@contextlib.contextmanager
def locked(output_dir: Path, shard: tuple[int, int] | None = None, shown: str | None = None) -> Iterator[None]:
    """Make the folder and hold it for this run, and clear it of temporary files that a killed run left there.

    A run of the whole job excludes every other; a shard excludes the whole job and its own double. shown: what
    messages call the folder.
    Raises OutputError, naming the process that has the folder.
    """
    shown = shown or shown_name(str(output_dir))
    with explained(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    whole = output_dir / PREFIX
    own = output_dir / f"{PREFIX}.{shard[0]}-of-{shard[1]}" if shard else whole
    with contextlib.ExitStack() as stack:
        owner = _owner_file(own)
        with _entering(whole, shown) if shard else contextlib.nullcontext():
            stack.enter_context(_hold(own, shown))
            others = _others_at_work(output_dir, own)
            if others and not shard:
                raise _taken(shown, others[0])
            # A run that ends takes its name tag away. One that is still there is of a run that was killed.
            killed = any(output_dir.glob(f"{PREFIX}*.json"))
            # We hold that lock: who waits for us must not take a killed run's tag for one of a run at work.
            _owner_file(whole).unlink(missing_ok=True)
            sweep(output_dir, everything=not others and killed)
            if not others:
                for tag in output_dir.glob(f"{PREFIX}*.json"):
                    tag.unlink(missing_ok=True)
            with explained(owner):
                owner.write_text(json.dumps(this_process()), encoding="utf-8")
            stack.callback(_take_away, owner)
        yield


@contextlib.contextmanager
def _entering(whole: Path, shown: str) -> Iterator[None]:
    """Held by each shard while it starts, one after the other: to look whether others are at work takes their locks.

    A run of the whole job holds the same file as long as it is at work; by its name tag it is told from a shard.
    """
    end = time.monotonic() + _ENTERING_SECONDS
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_hold(whole, shown, wait_seconds=3))
            except OutputError:
                if _owner_file(whole).exists() or time.monotonic() > end:
                    raise
                continue
            yield
            return


@contextlib.contextmanager
def finishing(output_dir: Path, shard: tuple[int, int] | None) -> Iterator[None]:
    """Held while what spans the whole run (data sets, report) is written: by one shard after the other."""
    if not shard:
        yield
        return
    with _hold(output_dir / f"{PREFIX}.finishing", shown_name(str(output_dir)), wait_seconds=3600):
        yield


@contextlib.contextmanager
def _hold(path: Path, shown: str, wait_seconds: float = 0) -> Iterator[None]:
    lock = FileLock(path, timeout=wait_seconds, mode=0o666)
    try:
        with explained(path), contextlib.suppress(Timeout):  # an OSError itself, which is not to be explained
            lock.acquire()
    except NotImplementedError:  # a file system without locks: better unlocked than not at all
        yield
        return
    if not lock.is_locked:
        raise _taken(shown, path)
    try:
        yield
    finally:
        lock.release()


def _others_at_work(output_dir: Path, own: Path) -> list[Path]:
    """Lock files of shards that some process holds at this moment, but our own."""
    held = []
    for path in sorted(output_dir.glob(f"{PREFIX}.*")):
        if path == own or not _SHARD_LOCK.fullmatch(path.name):
            continue
        try:
            with FileLock(path, timeout=0, mode=0o666):
                pass
        except Timeout:
            held.append(path)
        except NotImplementedError:
            pass
    return held


def sweep(output_dir: Path, *, everything: bool) -> None:
    """Remove temporary files and folders: all of them, or those too old to be of a `segment` that runs just now."""
    before = time.time() - _OLD_SECONDS
    pending = [str(output_dir)]
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if not entry.name.startswith(TEMPORARY_PREFIX):
                        if is_folder:
                            pending.append(entry.path)
                    elif everything or entry.stat(follow_symlinks=False).st_mtime < before:
                        shutil.rmtree(entry.path) if is_folder else os.unlink(entry.path)


def _take_away(owner: Path) -> None:
    with contextlib.suppress(OSError):  # on a disk that went read-only: a later run takes it for a killed one's
        owner.unlink()


def _owner_file(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.json")


def this_process() -> dict[str, Any]:
    """What others should know of who writes in a folder."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": [without_password(argument) for argument in sys.argv],
    }


def _taken(shown: str, lock: Path) -> OutputError:
    who = "another run"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads(_owner_file(lock).read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']}, started {owner['started']},"
    return OutputError(
        f"{shown}: {who} is writing there; wait until it has ended, or choose another "
        "--output-dir (--shard I/N lets several share one)"
    )
