"""stdin, stdout and stderr of the command: there though the caller closed them, fit for any name, said where full."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import TextIO

from densecli.errors import OutputError
from densecli.wording import reason_of


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
    given = sys.stdout
    # What stands in its place (pytest's, a notebook's) has ways of its own.
    if type(given) is not io.TextIOWrapper or given is not sys.__stdout__:
        yield
        return
    stdout = _Stdout.beside(given)
    sys.stdout = sys.__stdout__ = stdout  # type: ignore[misc]  # Final
    try:
        yield
    finally:
        sys.stdout = sys.__stdout__ = given  # type: ignore[misc]
        with contextlib.suppress(OSError, OutputError, ValueError):  # told by then
            stdout.detach()  # which writes what is left; else the caller's file would be closed with it


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
    """For writing to stdout. Raises OutputError where that fails, BrokenPipeError where its reader has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is still in the buffer would fail again, without words, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"stdout: cannot be written ({reason_of(error)}); free some space, or redirect it") from error


class _Stdout(io.TextIOWrapper):
    """stdout that says so where it cannot be written, whoever prints."""

    mode = "w"

    @classmethod
    def beside(cls, stream: io.TextIOWrapper) -> _Stdout:
        """Another one over the file of `stream`, which may be used again when this one is detached."""
        stream.flush()
        return cls(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )

    def write(self, text: str) -> int:
        with told_where_full():
            return super().write(text)

    def flush(self) -> None:
        with told_where_full():
            super().flush()


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
