"""The list that comes by stdin, kept: a pipe gives it once, and both the run and its progress bar need all of it."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import threading
from typing import IO, Any, BinaryIO

from densecli.errors import InputError
from densecli.wording import reason_of


class _Kept:
    """What a stream held, in a temporary file."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.file: IO[bytes] | None = None
        self._stream: Any = None

    def fill(self) -> None:
        """Read the process's stdin, once. Raises InputError where nothing can come from it."""
        with self.lock:
            if self.file is not None and self._stream is sys.stdin:
                return
            if sys.stdin is None or sys.stdin.isatty():
                what = "is closed" if sys.stdin is None else "is a terminal"
                raise InputError(
                    f"stdin: {what}; '-' reads a list of inputs from a pipe, as in: find . | densecli batch -"
                )
            file = tempfile.TemporaryFile(prefix="densecli-")  # noqa: SIM115 - lives as long as the process
            try:
                shutil.copyfileobj(sys.stdin.buffer, file)
                file.flush()
            except OSError as error:
                raise InputError(
                    f"stdin: the list cannot be kept in {tempfile.gettempdir()} ({reason_of(error)}); set TMPDIR to "
                    "another folder"
                ) from error
            self.file, self._stream = file, sys.stdin


class _Reader(io.RawIOBase):
    """The kept bytes, at a place of its own: several threads read the one file."""

    def __init__(self, kept: _Kept) -> None:
        self._kept, self._at = kept, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._kept.lock:
            assert self._kept.file is not None
            self._at = offset if whence == os.SEEK_SET else self._kept.file.seek(offset, whence)
        return self._at

    def readinto(self, buffer: Any) -> int:
        with self._kept.lock:
            assert self._kept.file is not None
            self._kept.file.seek(self._at)
            data = self._kept.file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


_kept = _Kept()


def open_stdin_list() -> BinaryIO:
    """What stdin gives, from its beginning; as often as needed, from any thread. Raises InputError."""
    _kept.fill()
    return io.BufferedReader(_Reader(_kept))
