"""What the commands say: results to stdout, everything else to stderr, bars and colour only on a terminal."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from densecli.streams import json_for, told_where_full
from densecli.wording import printable


class Console:
    """One command's output. `json`: stdout carries one JSON array; results are its elements.

    `json_lines`: one JSON document a line instead. Use as a context manager: the array is closed whatever happens.
    """

    def __init__(
        self, *, quiet: bool = False, verbose: bool = False, json: bool = False, json_lines: bool = False
    ) -> None:
        self.quiet, self.verbose, self.json, self.json_lines = quiet, verbose, json, json_lines
        self._said: set[str] = set()
        self._elements = 0
        self._bar: tqdm | None = None
        self._bar_shows: tuple[str, int] | None = None
        self._status = ""

    def __enter__(self) -> Console:
        self._filters = warnings.catch_warnings()
        self._filters.__enter__()  # the caller's come back afterwards
        if not self.verbose:
            # Libraries' warnings are not for users; what matters to them is said in densecli's own words.
            warnings.simplefilter("ignore")
        if self.json and not self.json_lines:
            _write_result("[")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._filters.__exit__(None, None, None)
        self.progress_done()
        if self.json and not self.json_lines:
            _write_result("\n]\n" if self._elements else "]\n")

    def result(self, line: str, document: str) -> None:
        """A result: its line, or with --json its document (JSON text).

        Raises OutputError when stdout cannot be written, BrokenPipeError when its reader has gone.
        """
        self.progress_done()
        if self.json and self.json_lines:
            _write_result(json_for(sys.stdout, document.rstrip("\n")) + "\n")
        elif self.json:
            # One write an element, so that an interruption falls between elements rather than into one.
            _write_result((",\n" if self._elements else "\n") + json_for(sys.stdout, document.rstrip("\n")))
            self._elements += 1
        else:
            _write_result(line + "\n")

    def notice(self, text: str, *, once: bool = False) -> None:
        """Something worth knowing."""
        if self.quiet or (once and text in self._said):
            return
        if once:
            self._said.add(text)
        self._err(text)

    def warning(self, text: str) -> None:
        """Something that went differently from what was asked."""
        if self.quiet:
            return
        self._err(f"warning: {printable(text)}")

    def failure(self, text: str, error: BaseException) -> None:
        """An input that failed."""
        self._err(f"densecli: error: {printable(text)}")
        if self.verbose:
            self._err("".join(traceback.format_exception(error)).rstrip())

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        """Show how far `what` is; nothing where stderr is no terminal."""
        if not self.shows_progress:
            return
        if self._bar is None or self._bar_shows != (what, total):
            self.progress_done()
            self._bar_shows = (what, total)
            width = _columns(sys.stderr)
            self._bar = tqdm(
                total=total,
                desc=what,
                unit=unit,
                file=sys.stderr,
                leave=False,
                # Terminals of containers and scripts often say that they have no columns, and tqdm would draw nothing.
                ncols=None if width else 80,
                nrows=None if width else 24,
                dynamic_ncols=width > 0,
            )
        self._bar.update(done - self._bar.n)

    @property
    def shows_progress(self) -> bool:
        """Whether there is a terminal to show it on."""
        return not self.quiet and _is_terminal(sys.stderr)

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 where it does not say."""
        return _columns(sys.stderr) or 80

    def status(self, text: str) -> None:
        """Show one line that stays until the next message; nothing where stderr is no terminal."""
        if not self.shows_progress:
            return
        text = text[: self.width - 1]
        _write(sys.stderr, "\r" + text.ljust(len(self._status)))
        self._status = text

    def progress_done(self) -> None:
        """Take the progress bar or status line off the screen."""
        if self._status:
            _write(sys.stderr, "\r" + " " * len(self._status) + "\r")
            self._status = ""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _err(self, text: str) -> None:
        self.progress_done()
        _write(sys.stderr, text + "\n")


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


def _write_result(text: str) -> None:
    with told_where_full():
        _write(sys.stdout, text)


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
