"""stdin, stdout and stderr of the command: there though the caller closed them, fit for any name, said where full."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from densecli.errors import OutputError
from densecli.wording import reason_of

if TYPE_CHECKING:
    from typing_extensions import Self


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Around a command, before anything is printed or opened; afterwards the caller's stdout is there again."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by the caller, as with >&-
            _occupy(number)
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files, where the terminal is not UTF-8
    with _in_place_of("stderr", _Stderr), _in_place_of("stdout", _Stdout):
        yield


@contextlib.contextmanager
def _in_place_of(name: str, kind: type[_Beside]) -> Iterator[None]:
    given = getattr(sys, name)
    # What stands in its place (pytest's, a notebook's) has ways of its own.
    if type(given) is not io.TextIOWrapper or given is not getattr(sys, f"__{name}__"):
        yield
        return
    ours = kind.beside(given)
    setattr(sys, name, ours)
    setattr(sys, f"__{name}__", ours)
    try:
        yield
    finally:
        setattr(sys, name, given)
        setattr(sys, f"__{name}__", given)
        with contextlib.suppress(OSError, OutputError, ValueError):  # told by then
            ours.detach()  # which writes what is left; else the caller's file would be closed with it


def json_for(stream: TextIO, text: str) -> str:
    """JSON text that `stream` can encode: on a terminal or pipe that is not UTF-8, with \\uXXXX."""
    try:
        text.encode(stream.encoding or "utf-8")
        return text
    except UnicodeEncodeError:
        return re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    # In one piece: a reader that has seen enough may have gone before the next.
    sys.stdout.write(json_for(sys.stdout, json.dumps(document, indent=2, ensure_ascii=False)) + "\n")


@contextlib.contextmanager
def told_where_full() -> Iterator[None]:
    """For writing to stdout. Raises OutputError where that fails, BrokenPipeError where its reader has gone.

    Where its terminal was closed there is nobody to tell; SIGHUP says so, and may be ignored or still to come.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        terminal_closed = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(sys.stdout.fileno()).st_mode)
        # What is still in the buffer would fail again, without words, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if terminal_closed:
            return
        raise OutputError(f"stdout: cannot be written ({reason_of(error)}); free some space, or redirect it") from error


class _Beside(io.TextIOWrapper):
    mode = "w"

    @classmethod
    def beside(cls, stream: io.TextIOWrapper) -> Self:
        """Another one over the file of `stream`, which may be used again when this one is detached."""
        with contextlib.suppress(OSError):
            stream.flush()
        return cls(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )


class _Stdout(_Beside):
    """stdout that says so where it cannot be written, whoever prints."""

    def write(self, text: str) -> int:
        with told_where_full():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with told_where_full():
            super().flush()


class _Stderr(_Beside):
    """stderr whose reader may go, whose disk may fill: nobody hears it then, and the work goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._to_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        # For what is still in the buffer, and for libraries that print there themselves.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _occupy(number: int) -> None:
    """Keep a file that is opened later from getting the number of a stream, and so all that libraries print."""
    try:
        os.fstat(number)
    except OSError:
        got = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if got != number:
            os.dup2(got, number)
            os.close(got)
        os.set_inheritable(number, True)
