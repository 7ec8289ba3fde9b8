"""Opening local files and pipes without ever waiting for nobody, with the reason in words where it fails."""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import itertools
import os
import stat
from typing import Any, BinaryIO

from densecli.errors import InputError
from densecli.sources.foreign import HEAD_BYTES, foreign_kind
from densecli.wording import command_line, reason_of, shown_name

CHUNK_BYTES = 1 << 20
MOST_BYTES = 4_000_000_000
"""Of a pipe or a download, which lie in memory; the largest picture that is read has as many, four a pixel."""


def read_stdin(stream: BinaryIO) -> BinaryIO:
    """All bytes of the process's stdin, for an image. Raises InputError for a terminal, and as `slurp`."""
    if stream.isatty():
        raise InputError("stdin: is a terminal; '-' reads an image from a pipe, as in: densecli segment - < photo.jpg")
    return slurp("stdin", stream)


def slurp(name: str, stream: Any) -> BinaryIO:
    """All bytes of `stream`, which cannot seek; what surely is no image is refused before it fills the memory.

    Raises InputError.
    """
    head = stream.read(HEAD_BYTES)
    kind = foreign_kind(head)
    if kind:
        raise InputError(f"{shown_name(name)}: {kind}")
    buffer = io.BytesIO()
    while head:
        if buffer.tell() + len(head) > MOST_BYTES:  # a server may send without end
            raise InputError(f"{shown_name(name)}: does not end after {MOST_BYTES / 1e9:g} GB; give it as a file here")
        buffer.write(head)
        head = stream.read(CHUNK_BYTES)
    return buffer


def open_path(name: str, path: str, stack: contextlib.ExitStack) -> BinaryIO:
    """Open a local file for reading, without ever waiting for a pipe or a device that nobody writes to."""
    shown = shown_name(name)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{shown}: is a folder; use `{_batch(name)}`")
        # `<(command)` of a shell and /dev/stdin are pipes with somebody at the other end; a named pipe need not be.
        is_pipe = stat.S_ISFIFO(mode) and (path == "/dev/stdin" or path.startswith(("/dev/fd/", "/proc/")))
        if not stat.S_ISREG(mode) and not is_pipe:
            what = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
            raise InputError(f"{shown}: is {what}, not a file; to read from a pipe give '-' and pipe into densecli")
        file = stack.enter_context(open(path, "rb"))  # noqa: SIM115 - the stack closes it
        return slurp(name, file) if is_pipe else file
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_missing(shown, path)) from None
    except PermissionError:
        raise InputError(f"{shown}: permission denied; check who may read it (ls -l)") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise InputError(
                f"{shown}: is a link that leads back to itself; give the file it should point to"
            ) from None
        raise InputError(f"{shown}: cannot be opened: {reason_of(error)}; check the path") from error


def _batch(name: str) -> str:
    """The command for what `segment` does not take, fit to be pasted, whatever a folder is called."""
    return shown_name(command_line(["densecli", "batch", name]))


def _missing(shown: str, path: str) -> str:
    """Why `path` is not there, with the nearest name that is."""
    if os.path.islink(path):
        return f"{shown}: is a link to {shown_name(os.readlink(path))}, which does not exist; repair the link"
    folder, base = os.path.split(path)
    if folder and not os.path.isdir(folder):
        return f"{shown}: does not exist, nor does its folder; check the path (relative paths start at {os.getcwd()})"
    if any(character in base for character in "*?["):
        return f"{shown}: does not exist; to use a pattern, run `{_batch(path)}`"
    try:
        with os.scandir(folder or ".") as entries:
            nearby = {entry.name.casefold(): entry.name for entry in itertools.islice(entries, 5000)}
    except OSError:
        nearby = {}
    close = difflib.get_close_matches(base.casefold(), nearby, n=1, cutoff=0.75)
    if close:
        return f"{shown}: does not exist; did you mean {shown_name(os.path.join(folder, nearby[close[0]]))}?"
    return f"{shown}: does not exist; check the path"
