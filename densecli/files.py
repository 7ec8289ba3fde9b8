"""Writing files so that each appears under its final name only when complete."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densecli.errors import OutputError
from densecli.wording import reason_of, shown_name

# Leftovers of a run that was killed can be told from everything else by this.
TEMPORARY_PREFIX = ".densecli-tmp-"
# The umask can only be read by setting it, which must not happen while other threads write files.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def complete_file(path: Path, instead: str = "another --output-dir") -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and vanishes when it does not.

    Raises OutputError when the folder or the file cannot be written. instead: what a user is to choose then.
    """
    with explained(path, instead):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays: image writers choose the format by it.
        temporary = temporary_beside(path, path.suffix)
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            yield temporary
            # Private until it is whole; the result should have the permissions of any other new file.
            os.chmod(temporary, 0o666 & ~_UMASK)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Like `complete_file` for a folder; what lay at `path` before goes only when the new one is complete."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise OutputError(f"{shown_name(str(path))}: is a file where a folder must go; move it away")
        temporary = temporary_beside(path)
        try:
            os.mkdir(temporary, 0o700)
            yield temporary
            os.chmod(temporary, 0o777 & ~_UMASK)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """A name beside `path` that nobody has.

    Chosen before anything has it, as tempfile does not: Ctrl-C while the system makes the file must find its name.
    """
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffix}"


def _replace_folder(new: Path, path: Path) -> None:
    """Put `new` at `path`; the folder there goes only after that, and comes back where it fails."""
    if not path.exists():
        os.replace(new, path)
        return
    keep = temporary_beside(path)
    try:
        os.mkdir(keep, 0o700)
        os.replace(path, keep / "old")
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(keep / "old", path)
            raise
    finally:
        shutil.rmtree(keep, ignore_errors=True)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_writable(folder: Path, instead: str = "another --output-dir") -> None:
    """Raise OutputError if `folder` cannot be written, or made, as far as can be told before seconds of work."""
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    with explained(folder, instead):
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def explained(path: Path, instead: str = "another --output-dir") -> Iterator[None]:
    """Raises OutputError for what the system has against writing to `path`. instead: what a user is to choose then."""
    shown = shown_name(str(path))
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{shown}: the disk is full; free some space, or choose {instead}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(f"{shown}: no permission to write there; choose {instead}") from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            raise OutputError(f"{shown}: a part of this path is a file, not a folder; choose {instead}") from error
        if error.errno == errno.EFBIG:
            raise OutputError(f"{shown}: larger than files may be here; see ulimit -f, or use another disk") from error
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"{shown}: the name is too long for this file system; rename the input") from error
        if error.errno == errno.EISDIR:
            raise OutputError(f"{shown}: is a folder where a file must go; move it away") from error
        raise OutputError(f"{shown}: cannot be written ({reason_of(error)}); choose {instead}") from error
