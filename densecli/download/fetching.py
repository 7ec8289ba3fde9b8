"""Fetches a checkpoint: resumes, retries, tries several sources; only a file with the right sha256 gets its name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from densecli import __version__
from densecli.checkpoints import (
    CheckpointEntry,
    Registry,
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
from densecli.errors import CheckpointError, UsageError

TIMEOUT_VARIABLE = "DENSECLI_DOWNLOAD_TIMEOUT"
DEFAULT_TIMEOUT = 30.0  # seconds without a byte before a connection counts as stalled

_CHUNK = 1 << 18  # bytes asked for at a time; what has arrived is written at once, so an interruption loses nothing
_PROGRESS_BYTES = 1024  # an attempt that brought less than this does not reset the count of failures
_CONNECT_ATTEMPTS = 2  # a host that cannot be reached at all: do not keep somebody offline waiting
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long a download waits and how often it tries again."""

    timeout: float = DEFAULT_TIMEOUT  # seconds without a byte before a connection counts as stalled
    attempts: int = 5  # failures in a row, without anything new received, before a source is given up
    backoff: float = 1.0  # seconds before the first new attempt; doubles with every failure in a row
    longest_wait: float = 30.0  # seconds; also the most that a server's Retry-After is granted

    def wait(self, failures: int, retry_after: float) -> float:
        """Seconds to wait after this many failures in a row (0: the last attempt brought something new)."""
        # Jitter, so that many machines that lost the same server do not come back at the same moment.
        delay = self.backoff * 2.0 ** (failures - 1) * random.uniform(0.75, 1.25)
        return min(max(delay, retry_after), self.longest_wait)


class Progress:
    """Says on `stream` how a download goes: a bar on a terminal, now and then a line elsewhere, nothing if `quiet`."""

    def __init__(self, stream: IO[str] | None = None, *, quiet: bool = False, interval: float = 5.0) -> None:
        """`interval`: seconds between two lines where there is no terminal."""
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._interval = interval
        self._bar: Any = None
        self._name, self._size = "", 0
        self._begun_at = self._said_at = 0.0
        self._begun_position = 0

    def start(self, name: str, size: int, position: int) -> None:
        """`position` of `size` bytes of checkpoint `name` are there, the rest follows."""
        self._name, self._size, self._begun_position = name, size, position
        self._begun_at = self._said_at = time.monotonic()
        if not self._quiet and self._stream.isatty() and not os.environ.get("NO_COLOR"):
            from tqdm import tqdm

            self._bar = tqdm(
                total=size,
                initial=position,
                desc=name,
                unit="B",
                unit_scale=True,
                # Some terminals (containers, scripts) say that they are 0 by 0: tqdm would show nothing.
                ncols=None if self._columns() else 80,
                nrows=None if self._columns() else 24,
                dynamic_ncols=self._columns() > 0,
                file=self._stream,
            )

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            return 0

    def at(self, position: int) -> None:
        """`position` bytes are there now."""
        if self._bar is not None:
            self._bar.update(position - self._bar.n)
            return
        self._begun_position = min(self._begun_position, position)  # after a restart from zero
        now = time.monotonic()
        if now - self._said_at < self._interval:
            return
        self._said_at = now
        rate = (position - self._begun_position) / (now - self._begun_at)
        left = f", {(self._size - position) / rate:.0f} s left" if rate > 0 else ""
        self.note(
            f"{self._name}: {position / 1e6:.1f} of {megabytes(self._size)} "
            f"({position / self._size:.0%}), {rate / 1e6:.1f} MB/s{left}"
        )

    def note(self, text: str) -> None:
        """One line that is worth reading."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """The download is over, well or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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
    folders = search_dirs() if checkpoint_dir is None else [Path(checkpoint_dir).expanduser().absolute()]
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


def patience_from_environment() -> Patience:
    """The defaults, with the timeout of $DENSECLI_DOWNLOAD_TIMEOUT (seconds). Raises UsageError if it is no number."""
    given = os.environ.get(TIMEOUT_VARIABLE)
    if not given:
        return Patience()
    try:
        timeout = float(given)
    except ValueError:
        timeout = 0.0
    if not 0 < timeout < 1e6:
        raise UsageError(f"${TIMEOUT_VARIABLE} is '{given}', but must be a number of seconds above 0.")
    return Patience(timeout=timeout)


def named_sources(registry: Registry, given: list[str]) -> list[str]:
    """Base URLs for what stands after --source: a URL as it is, a folder, or a part of a host name of the registry.

    Raises UsageError for anything else.
    """
    bases = []
    for source in given:
        if "://" in source:
            bases.append(source)
        elif Path(source).expanduser().is_dir():
            bases.append(Path(source).expanduser().absolute().as_uri())
        else:
            hosts = {known: urllib.parse.urlsplit(known).netloc for known in registry.sources}
            matching = [known for known, host in hosts.items() if source and source.lower() in host]
            if not matching:
                known_hosts = ", ".join(dict.fromkeys(host for host in hosts.values() if host))
                raise UsageError(
                    f"--source: '{source}' is neither a URL, nor a folder, nor a known server ({known_hosts})."
                )
            bases += matching
    return bases


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
    The file appears under its name only when size and sha256 are right; a damaged file of that name is then kept as
    `<file>.damaged`. Processes that want the same file wait for each other. Raises CheckpointError.
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
                progress.note(f"{entry.name}: {target} is damaged; it stays until a good one is complete")
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
        transfer = _Transfer(entry, part, file, progress, patience)
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


def _from_any(urls: list[str], transfer: _Transfer, target: Path) -> None:
    """Complete the part file from the first URL that can. Raises CheckpointError if none can."""
    entry = transfer.entry
    reasons = []
    for url in urls:
        try:
            transfer.complete_from(url)
            return
        except _SourceFailed as error:
            reasons.append(f"{url} ({error})")
            if url != urls[-1]:
                transfer.progress.note(f"{entry.name}: {url}: {error}; trying the next source")
    tried = "; ".join(reasons) or "its registry names no source"
    by_hand = "save one of these as" if len(urls) > 1 else "save it as"
    raise CheckpointError(
        f"Checkpoint '{entry.name}' could not be downloaded: {tried}. To fetch it by hand, {by_hand} {target} "
        f"({entry.size} bytes, sha256 {entry.sha256}); `{fetch_command(entry.name)}` tries again."
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
    try:
        # Unbuffered: after kill -9 everything that was received is in the file.
        return open(os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", buffering=0)
    except OSError as error:
        _raise_not_writable(part.parent, error)


def _raise_not_writable(folder: Path, error: OSError) -> NoReturn:
    raise CheckpointError(
        f"Cannot write to folder {folder} ({error.strerror or one_line(error)}); "
        "name another with --dir or $DENSECLI_CHECKPOINTS."
    ) from error


def _put_in_place(entry: CheckpointEntry, part: Path, target: Path, progress: Progress) -> None:
    """Give the complete part file its final name; what was there under that name is kept beside it."""
    try:
        if os.path.lexists(target):
            # It may be a file of the user's own that happens to have this name: never destroy it.
            damaged = target.with_name(target.name + ".damaged")
            os.replace(target, damaged)
            progress.note(f"{entry.name}: the damaged file is now {damaged} and can be deleted")
        os.replace(part, target)
        write_stamp(entry, target, target.stat())
    except OSError as error:
        _raise_not_writable(target.parent, error)


class _SourceFailed(Exception):
    """This URL will not do; the next one may."""


class _Dropped(Exception):
    """Nothing more came, but may come if asked again."""

    def __init__(self, reason: str, *, retry_after: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after  # seconds, as the server asked
        self.unreachable = unreachable  # there was no connection at all


class _NoRange(Exception):
    """The server cannot go on from the middle of the file."""


@dataclass
class _Body:
    """What a source sends: `read(n)` gives at most n bytes, b"" at the end; the first is byte `offset` of the file."""

    read: Callable[[int], bytes]
    close: Callable[[], None]
    offset: int
    ends_cleanly: bool  # b"" from `read` means that the sender had nothing more, not that the connection broke


class _Transfer:
    """The growing part file of one checkpoint, with the sha256 of what is in it."""

    def __init__(
        self, entry: CheckpointEntry, part: Path, file: IO[bytes], progress: Progress, patience: Patience
    ) -> None:
        self.entry = entry
        self.part = part
        self.progress = progress
        self.patience = patience
        self._file = file
        self.position = 0  # bytes in the part file
        self._digest = hashlib.sha256()
        self._pieced = False  # whether the bytes came in more than one response, so that they may not belong together
        try:
            self._take_up_part()
        except OSError as error:
            self.raise_cannot_write(error)

    def _take_up_part(self) -> None:
        there = os.fstat(self._file.fileno()).st_size
        if there > self.entry.size:
            self.progress.note(f"{self.entry.name}: {self.part} is too big; starting from zero")
            self._restart()
            return
        while chunk := self._file.read(_CHUNK):
            self._digest.update(chunk)
            self.position += len(chunk)
        self._pieced = self.position > 0

    def check_space(self) -> None:
        """Raises CheckpointError if the rest of the file does not fit on the disk."""
        needed = self.entry.size - self.position
        try:
            free = shutil.disk_usage(self.part.parent).free
        except OSError:
            return  # some network folders do not tell; a failed write will
        if free < needed:
            raise CheckpointError(
                f"Checkpoint '{self.entry.name}' does not fit in {self.part.parent}: {megabytes(needed)} needed, "
                f"{megabytes(free)} free; make room, or name another folder with --dir or $DENSECLI_CHECKPOINTS."
            )

    def complete_from(self, url: str) -> None:
        """Receive from `url` until the part file has the right size and sha256. Raises _SourceFailed."""
        failures = 0
        may_refetch = may_restart = True
        while True:
            before = self.position
            try:
                if self.position < self.entry.size:
                    self._receive(url)
                found = self._digest.hexdigest()
                if found == self.entry.sha256:
                    return
                pieced = self._pieced
                self._restart()
                if not (pieced and may_refetch):
                    raise _SourceFailed(f"sent another file: sha256 {found} instead of {self.entry.sha256}")
                may_refetch = False
                self.progress.note(f"{self.entry.name}: the pieces do not fit together; starting from zero")
            except _NoRange:
                if not may_restart or self.position == 0:
                    raise _SourceFailed("answers with parts of the file that were not asked for") from None
                may_restart = False
                self.progress.note(f"{self.entry.name}: {url} cannot go on from the middle; starting from zero")
                self._restart()
            except _Dropped as error:
                failures = 0 if self.position - before >= _PROGRESS_BYTES else failures + 1
                most = min(_CONNECT_ATTEMPTS, self.patience.attempts) if error.unreachable else self.patience.attempts
                if failures >= most:
                    raise _SourceFailed(str(error)) from error
                delay = self.patience.wait(failures, error.retry_after)
                self.progress.note(f"{self.entry.name}: {error}; trying again in {delay:.1f} s")
                time.sleep(delay)

    def _receive(self, url: str) -> None:
        """One response: add what it has to the part file until that is as long as it must be."""
        begun = self.position
        body = _open_url(url, begun, self.entry.size, self.patience.timeout)
        try:
            skip = begun - body.offset
            if skip:
                self.progress.note(f"{self.entry.name}: {url} begins anew; passing over the first {megabytes(skip)}")
            self._pieced = begun > 0
            while self.position < self.entry.size:
                try:
                    chunk = body.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _dropped(error, self.patience.timeout) from error
                if not chunk and body.ends_cleanly:
                    if begun == 0:
                        self._restart()  # nothing of this belongs to the checkpoint
                    raise _SourceFailed(f"sent fewer than {self.entry.size} bytes")
                if not chunk:
                    raise _Dropped(f"connection closed at {self.position} of {self.entry.size} bytes")
                passed = min(skip, len(chunk))
                skip -= passed
                self._append(chunk[passed : passed + self.entry.size - self.position])
        finally:
            body.close()

    def _append(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                written = self._file.write(rest)
                self._digest.update(rest[:written])
                self.position += written
                rest = rest[written:]
        except OSError as error:
            self.raise_cannot_write(error)
        self.progress.at(self.position)

    def _restart(self) -> None:
        try:
            self._file.seek(0)
            self._file.truncate()
        except OSError as error:
            self.raise_cannot_write(error)
        self.position = 0
        self._digest = hashlib.sha256()
        self._pieced = False

    def raise_cannot_write(self, error: OSError) -> NoReturn:
        """Turn a failed write into an error that says what to do. Raises CheckpointError."""
        raise CheckpointError(
            f"Cannot write {self.part} ({error.strerror or one_line(error)}): "
            f"{megabytes(self.entry.size - self.position)} of checkpoint '{self.entry.name}' are still to come; "
            f"make room and run `{fetch_command(self.entry.name)}` again, or name another folder with --dir."
        ) from error


def _open_url(url: str, offset: int, size: int, timeout: float) -> _Body:
    """Ask `url` for bytes `offset` to the end of a file that must have `size` bytes.

    Raises _SourceFailed, _Dropped or _NoRange.
    """
    if url.startswith("file:"):
        return _open_file(url, offset, size)
    # The answer must be the file itself: its bytes are counted and hashed as they come.
    headers = {"User-Agent": f"densecli/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        request = urllib.request.Request(_quoted(url), headers=headers)
        response = urllib.request.build_opener().open(request, timeout=timeout)  # proxies from the environment
    except urllib.error.HTTPError as error:
        with error:
            _raise_for_status(error, offset, size)
    except (ValueError, http.client.InvalidURL) as error:
        raise _SourceFailed(f"not a usable URL: {one_line(error)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _dropped(error, timeout) from error
    try:
        begins = _check_headers(response, offset, size)
    except BaseException:
        response.close()
        raise
    return _Body(response.read1, response.close, begins, ends_cleanly=bool(response.chunked) and response.status == 200)


def _quoted(url: str) -> str:
    # A base URL is taken as it is written, the file name may hold a blank or a letter that HTTP does not know.
    base, _, file = url.rpartition("/")
    return f"{base}/{urllib.parse.quote(file)}"


def _open_file(url: str, offset: int, size: int) -> _Body:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(_quoted(url)).path))
    try:
        file = path.open("rb")
        there = os.fstat(file.fileno()).st_size
        file.seek(offset)
    except OSError as error:
        raise _SourceFailed(error.strerror or one_line(error)) from error
    if there != size:
        file.close()
        raise _SourceFailed(f"has {there} bytes instead of {size}")
    return _Body(file.read, file.close, offset, ends_cleanly=True)


def _raise_for_status(error: urllib.error.HTTPError, offset: int, size: int) -> NoReturn:
    """What an HTTP status other than 2xx means for the download."""
    if error.code == 416 and offset:
        total = _content_range(error.headers.get("Content-Range"))[1]
        if total is not None and total != size:
            raise _SourceFailed(f"has {total} bytes instead of {size}")
        raise _NoRange
    answer = f"HTTP {error.code} {one_line(error.reason)}"
    if error.code in _TRANSIENT_STATUS:
        after = error.headers.get("Retry-After") or ""
        raise _Dropped(answer, retry_after=float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0)
    raise _SourceFailed(answer)


def _check_headers(response: http.client.HTTPResponse, offset: int, size: int) -> int:
    """Position in the file at which the body of a good response begins. Raises _SourceFailed, _Dropped or _NoRange."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise _SourceFailed(f"sends the file encoded as {encoding}")
    if response.status == 206:
        begins, total = _content_range(response.headers.get("Content-Range"))
        if total is not None and total != size:
            raise _SourceFailed(f"has {total} bytes instead of {size}")
        if begins != offset:
            raise _NoRange
        return offset
    if response.status != 200:
        raise _SourceFailed(f"HTTP {response.status} {response.reason}")
    length = response.headers.get("Content-Length")
    if response.headers.get_content_type() == "text/html" and length != str(size):
        raise _SourceFailed("sent a web page instead of the file (a login page, or a wrong address)")
    if length is not None and length != str(size):
        raise _SourceFailed(f"announces {length} bytes instead of {size}")
    return 0


def _content_range(header: str | None) -> tuple[int | None, int | None]:
    """First byte and whole length of `bytes 5-9/10` or `bytes */10`, None for what it does not tell."""
    match = re.fullmatch(r"\s*bytes\s+(?:(\d+)-\d+|\*)/(?:(\d+)|\*)\s*", header or "", re.IGNORECASE)
    if match is None:
        return None, None
    first, total = match.groups()
    return (int(first) if first else None), (int(total) if total else None)


def _dropped(error: Exception, timeout: float) -> Exception:
    """The download's own error for one of the network: try again, or leave this source."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _SourceFailed(f"certificate not trusted: {one_line(reason.verify_message)}")
    if isinstance(reason, str):
        return _SourceFailed(reason)
    # urllib wraps what goes wrong until the request is sent in URLError; all later trouble comes as it is.
    unreachable = isinstance(error, urllib.error.URLError)
    if isinstance(reason, TimeoutError):
        text = f"no data for {timeout:g} s"
    elif isinstance(reason, http.client.IncompleteRead):
        text = "connection closed early"
    else:
        text = getattr(reason, "strerror", None) or one_line(reason)
    return _Dropped(f"no connection: {text}" if unreachable else text, unreachable=unreachable)
