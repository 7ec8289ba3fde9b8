"""From the name of a checkpoint to its verified file: which sources, one process at a time, and the final name."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

from densecli.checkpoints import (
    CheckpointEntry,
    Registry,
    broken_link,
    download_dir,
    fetch_command,
    load_registry,
    locate_entry,
    megabytes,
    one_line,
    search_dirs,
    verify,
    write_stamp,
)
from densecli.download.patience import Patience, patience_from_environment
from densecli.download.progress import Progress
from densecli.download.source import SourceFailed
from densecli.download.transfer import Transfer
from densecli.errors import CheckpointError, UsageError
from densecli.wording import reason_of, shown_name, url_of, without_password


def fetch(
    name: str,
    *,
    checkpoint_dir: Path | None = None,
    sources: list[str] | None = None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Path of a verified checkpoint `name`; downloads it unless it is there.

    With `checkpoint_dir` only that folder counts, otherwise all of `search_dirs`. `sources` are base URLs to use
    instead of those of the registry. Raises UsageError for an unknown name or a bad URL, CheckpointError if the
    checkpoint cannot be had.
    """
    progress = Progress() if progress is None else progress
    registry = load_registry()
    entry = registry.entry(name)
    urls = registry.urls(entry, sources)
    folders = search_dirs() if checkpoint_dir is None else search_dirs(checkpoint_dir)[:1]
    location = locate_entry(entry, folders)
    if location.problem:
        progress.note(f"{entry.name}: {location.problem}")
    if location.path is not None:
        try:
            verify(entry, location.path)
        except CheckpointError as error:
            progress.note(f"{entry.name}: {error}")
        else:
            progress.note(f"{entry.name}: already there, nothing to download")
            return location.path
    return download(entry, urls, download_dir(checkpoint_dir), progress=progress, patience=patience)


def named_sources(registry: Registry, given: list[str]) -> list[str]:
    """Base URLs for what stands after --source: a URL as it is, a folder, or a part of a host name of the registry.

    Raises UsageError for anything else.
    """
    bases = []
    for source in given:
        if "://" in source:
            bases.append(source)
        elif _is_folder(source):
            bases.append(Path(os.path.expanduser(source)).absolute().as_uri())
        else:
            hosts = {known: urllib.parse.urlsplit(known).netloc.rpartition("@")[2] for known in registry.sources}
            matching = [known for known, host in hosts.items() if source and source.lower() in host]
            if not matching:
                known_hosts = ", ".join(dict.fromkeys(host for host in hosts.values() if host))
                shown = shown_name(url_of(source) or source)
                raise UsageError(
                    f"--source: '{shown}' is neither a URL, nor a folder, nor a known server ({known_hosts})."
                )
            bases += matching
    return bases


def _is_folder(source: str) -> bool:
    """Raises UsageError where that cannot be seen."""
    try:
        return stat.S_ISDIR(os.stat(os.path.expanduser(source)).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        raise UsageError(
            f"--source: '{shown_name(source)}' cannot be read ({reason_of(error)}); give another folder, or a URL."
        ) from error


def download(
    entry: CheckpointEntry,
    urls: list[str],
    folder: Path,
    *,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Fetch `entry` into `folder` from the first of `urls` that has it, and return its path.

    What has arrived stays in `<file>.part` and is gone on with, also after Ctrl-C, a crash, or from another URL.
    The file appears under its name only when size and sha256 are right; another file of that name is then kept as
    `<file>.damaged`, or `.damaged-2` and so on. Processes that want the same file wait for each other. Raises
    CheckpointError.
    """
    progress = Progress() if progress is None else progress
    patience = patience_from_environment() if patience is None else patience
    target = folder / entry.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _raise_not_writable(folder, error)
    with _lock(target, entry, progress):
        if target.is_file():
            try:
                verify(entry, target)  # another process may have been faster
                return target
            except CheckpointError:
                progress.note(
                    f"{entry.name}: {target} is another file, or damaged; it stays until a good one is complete"
                )
        part = target.with_name(target.name + ".part")
        try:
            _fill(part, entry, urls, target, progress, patience)
        finally:
            with contextlib.suppress(OSError):
                if part.stat().st_size == 0:
                    part.unlink()  # nothing to go on with
        _put_in_place(entry, part, target, progress)
    return target


def _fill(
    part: Path, entry: CheckpointEntry, urls: list[str], target: Path, progress: Progress, patience: Patience
) -> None:
    """Make the part file complete and right, on the disk too. Raises CheckpointError."""
    with _open_part(part) as file:
        transfer = Transfer(entry, part, file, progress, patience)
        transfer.check_space()
        resumed = f", {megabytes(transfer.position)} of it are here" if transfer.position else ""
        progress.note(f"{entry.name}: {megabytes(entry.size)}{resumed}, downloading to {target.parent}")
        progress.start(entry.name, entry.size, transfer.position)
        try:
            _from_any(urls, transfer, target)
            os.fsync(file.fileno())
        except KeyboardInterrupt:
            there = f"{megabytes(transfer.position)} of {megabytes(entry.size)}"
            progress.note(f"{entry.name}: interrupted with {there} in {part}; the same command goes on there")
            raise
        except OSError as error:
            transfer.raise_cannot_write(error)
        finally:
            progress.close()


def _from_any(urls: list[str], transfer: Transfer, target: Path) -> None:
    """Complete the part file from the first URL that can. Raises CheckpointError if none can."""
    entry = transfer.entry
    reasons = []
    for url in urls:
        try:
            transfer.complete_from(url)
            return
        except SourceFailed as error:
            reasons.append(f"{without_password(url)} ({error})")
            if url != urls[-1]:
                transfer.progress.note(f"{entry.name}: {without_password(url)}: {error}; trying the next source")
    tried = "; ".join(reasons) or "its registry names no source"
    by_hand = "save one of these as" if len(urls) > 1 else "save it as"
    raise CheckpointError(
        f"Checkpoint '{entry.name}' could not be downloaded: {tried}. To fetch it by hand, {by_hand} {target} "
        f"({entry.size} bytes, sha256 {entry.sha256}); `{fetch_command(entry.name, target.parent)}` tries again."
    )


@contextlib.contextmanager
def _lock(target: Path, entry: CheckpointEntry, progress: Progress) -> Iterator[None]:
    """Keep other processes from fetching the same file; the system frees the lock of a process that died."""
    import filelock

    # The lock file stays: whoever deletes it could take it from under a process that just opened it.
    lock = filelock.FileLock(f"{target}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress.note(f"{entry.name}: another process is downloading it to {target.parent}; waiting")
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        _raise_not_writable(target.parent, error)
    try:
        yield
    finally:
        lock.release()


def _open_part(part: Path) -> IO[bytes]:
    # A folder that came from somebody else may hold a link of this name to any file of the user's.
    if part.is_symlink():
        raise CheckpointError(f"Cannot write {part}: it is a link; remove it, and run this again.")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        # Unbuffered: after kill -9 everything that was received is in the file.
        return open(os.open(part, flags, 0o666), "r+b", buffering=0)
    except OSError as error:
        _raise_not_writable(part.parent, error)


def _raise_not_writable(folder: Path, error: OSError) -> NoReturn:
    reason = broken_link(folder) or error.strerror or one_line(error)
    raise CheckpointError(
        f"Cannot write to folder {folder} ({reason}); name another with --dir or $DENSECLI_CHECKPOINTS."
    ) from error


def _put_in_place(entry: CheckpointEntry, part: Path, target: Path, progress: Progress) -> None:
    """Give the complete part file its final name; what was there under that name is kept beside it."""
    try:
        if os.path.lexists(target):
            # It may be a file of the user's own that happens to have this name: never destroy it.
            kept = _free_name(target.with_name(target.name + ".damaged"))
            os.replace(target, kept)
            progress.note(f"{entry.name}: the other file of this name is now {kept}; delete it if nobody needs it")
        os.replace(part, target)
        write_stamp(entry, target, target.stat())
    except OSError as error:
        _raise_not_writable(target.parent, error)


def _free_name(path: Path) -> Path:
    """`path`, or with -2, -3 ... behind it what nobody has: an earlier one may hold weights of the user's own."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], numbered) if not os.path.lexists(name))
