"""A folder of an fsspec file system that files are sent to: each complete or absent, tried again where it may help."""

from __future__ import annotations

import contextlib
import errno
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from densecli.errors import EnvironmentProblem, OutputError, is_interruption
from densecli.files import TEMPORARY_PREFIX, complete_file
from densecli.remote.connection import Connection
from densecli.sources.folders import Facts, remote_facts
from densecli.sources.urls import url_scheme
from densecli.wording import reason_of, shown_name

T = TypeVar("T")

WAITS = (1.0, 4.0, 15.0)
"""Seconds before a call is tried again. (s3fs and others try each call several times on their own.)"""
# These put an object as a whole or not at all; elsewhere a file gets its name when all of it is there.
# fmt: off
_ATOMIC = frozenset([
    "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "obs", "cos", "r2", "tos", "b2", "memory",
])
# fmt: on
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FINAL = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)


class StoreError(EnvironmentProblem):
    """The place that outputs are sent to cannot be used (any more), so that no other input can be written either."""


class _Absent(Exception):
    pass


class Store:
    """Names are relative to the URL, posix. Usable from several threads. All calls raise StoreError or OutputError."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that is none, EnvironmentProblem for a package or account that is missing."""
        self.url = url.rstrip("/")
        self.scheme = url_scheme(url) or ""
        self._connection = Connection(self.url, self.scheme)
        self._location = self._connection.location.rstrip("/")
        self._closed = threading.Event()
        self.gone: StoreError | None = None
        """Why it cannot be used any more."""

    def shown(self, name: str = "") -> str:
        """The URL of a name, for messages."""
        return shown_name(f"{self.url}/{name}" if name else self.url)

    def close(self) -> None:
        """Try nothing again from now on."""
        self._closed.set()

    def put(self, local: Path, name: str) -> None:
        """Send a file; it has its name when all of it is there."""
        self._write(name, lambda target: self._filesystem.put_file(str(local), target), local.suffix)

    def put_bytes(self, data: bytes, name: str) -> None:
        """`put` for a few bytes."""
        self._write(name, lambda target: self._filesystem.pipe_file(target, data), "")

    def get(self, name: str, local: Path) -> bool:
        """Fetch a file to a path, complete or not at all; False where there is none."""
        try:
            with complete_file(local) as temporary:
                try:
                    self._call_on(name, lambda path: self._filesystem.get_file(path, str(temporary)))
                except FileNotFoundError as error:
                    raise _Absent from error  # else it would be explained as an error of the local folder
        except _Absent:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        try:
            return bytes(self._call(name, lambda: self._filesystem.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def head(self, name: str, most: int) -> bytes:
        """The first bytes of a file; none where there is no file."""
        return self.part(name, 0, most)

    def part(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from one place to another; none where there is no file."""
        try:
            return bytes(self._call(name, lambda: self._filesystem.cat_file(self._path(name), start=start, end=end)))
        except FileNotFoundError:
            return b""

    def names(self, folder: str = "") -> Iterator[tuple[str, Facts | None]]:
        """What lies in a folder: size and time of files, None of folders. Nothing where there is no such folder."""
        place = self._path(folder)

        def listed() -> list[dict[str, Any]]:
            self._filesystem.invalidate_cache()
            found: list[dict[str, Any]] = self._filesystem.ls(place, detail=True)
            self._filesystem.invalidate_cache()
            return found

        try:
            found = self._call(folder, listed)
        except (FileNotFoundError, NotADirectoryError):
            return
        for info in found:
            path = info["name"].rstrip("/")
            # Buckets may hold an empty object for the folder itself; of a file, some list just that.
            if path != place.rstrip("/"):
                yield path.rsplit("/", 1)[-1], None if info["type"] == "directory" else remote_facts(info)

    def remove(self, name: str) -> None:
        """Remove a file; none there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._call_on(name, lambda path: self._filesystem.rm_file(path))

    def check(self) -> None:
        """Raise StoreError where nothing can be written."""
        name = f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        self.put_bytes(b"densecli\n", name)
        self.remove(name)

    @property
    def _filesystem(self) -> Any:
        return self._connection.filesystem

    def _path(self, name: str) -> str:
        # Bytes of a local name that are no UTF-8 have no place in a URL.
        text = name.encode("utf-8", "backslashreplace").decode("utf-8")
        return f"{self._location}/{text}" if text else self._location or "/"

    def _write(self, name: str, write: Callable[[str], object], suffix: str) -> None:
        target = self._path(name)
        parent = target.rsplit("/", 1)[0]

        def attempt() -> None:
            if self.scheme in _ATOMIC:
                write(target)
                return
            self._filesystem.makedirs(parent, exist_ok=True)
            temporary = f"{parent}/{TEMPORARY_PREFIX}{uuid.uuid4().hex}{suffix}"
            try:
                write(temporary)
                self._rename(temporary, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._filesystem.rm_file(temporary)
                raise

        try:
            self._call(name, attempt)
        except FileNotFoundError as error:
            raise self._failure(name, error) from error

    def _rename(self, temporary: str, target: str) -> None:
        try:
            self._filesystem.mv(temporary, target)
        except Exception:
            if not self._filesystem.exists(target):
                raise
            self._filesystem.rm_file(target)  # some do not rename over what is there
            self._filesystem.mv(temporary, target)

    def _call(self, name: str, call: Callable[[], T]) -> T:
        """`call()`, several times if need be. Raises FileNotFoundError as it is."""
        for wait in (*WAITS, None):
            if self.gone is not None:
                raise self.gone
            try:
                return call()
            except (FileNotFoundError, NotADirectoryError):
                raise
            except Exception as error:  # each file system has its own family of errors
                if is_interruption(error):
                    raise KeyboardInterrupt from error
                if not _is_final(error):
                    self._connection.renew()
                if wait is None or _is_final(error) or self._closed.wait(wait):
                    raise self._failure(name, error) from error
        raise AssertionError

    def _call_on(self, name: str, call: Callable[[str], object]) -> None:
        """`_call` of `call(path)`; FileNotFoundError where the path is absent, whatever the library raises."""

        def attempt() -> None:
            try:
                call(self._path(name))
            except FileNotFoundError:
                raise
            except Exception:
                self._filesystem.info(self._path(name))  # FTP has one error for what is absent and what is forbidden
                raise

        self._call(name, attempt)

    def _failure(self, name: str, error: Exception) -> EnvironmentProblem | OutputError:
        """What to raise: whether it is about this one file, a look at the others shows."""
        try:
            probe = self._path(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
            self._filesystem.pipe_file(probe, b"densecli\n")
            self._filesystem.rm_file(probe)
        except Exception as worse:
            if is_interruption(worse):
                raise KeyboardInterrupt from worse
            self.gone = self.gone or StoreError(f"{self.shown()}: {self._reason(worse)}")
            return self.gone
        return OutputError(f"{self.shown(name)}: {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        if "redential" in type(error).__name__:
            return f"no credentials for {self.scheme}:// are set ({reason_of(error)}); set them and run again"
        if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
            return (
                f"permission denied ({reason_of(error)}); check your credentials for {self.scheme}://, or "
                "choose another --output-dir"
            )
        if isinstance(error, FileNotFoundError):
            return f"cannot be used ({reason_of(error)}); make the bucket or folder first, or check the URL"
        if getattr(error, "errno", None) in _FULL:
            return "there is no space left; free some, or choose another --output-dir"
        return f"cannot be used ({reason_of(error)}); check the network and run again, it goes on from here"


def _is_final(error: Exception) -> bool:
    """Whether trying again cannot help."""
    return (
        isinstance(error, (PermissionError, NotImplementedError, TypeError, ValueError))
        or getattr(error, "errno", None) in _FINAL
        or "redential" in type(error).__name__
    )
