"""Lists of inputs in a text file: one a line, `#` begins a comment, relative to the folder of the list."""

from __future__ import annotations

import codecs
import locale
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePath
from typing import BinaryIO

from densecli.errors import InputError
from densecli.sources.foreign import HEAD_BYTES, no_list
from densecli.sources.opening import CHUNK_BYTES, open_path
from densecli.sources.stdin_list import open_stdin_list
from densecli.sources.urls import local_path, location_of, open_url, url_scheme
from densecli.wording import shown_name, without_password

_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class InputList:
    """A list of inputs, a local file, a URL or stdin. Read as often as asked for, and never held.

    UTF-8, or UTF-16 (as PowerShell writes). Names that end in NUL instead of a line's end (find -print0)
    are taken as they are: comments and blanks are theirs.
    """

    def __init__(self, given: str, stack: ExitStack) -> None:
        """given: a path, a URL, or `-` for stdin. Raises InputError or EnvironmentProblem."""
        local, scheme = local_path(given), url_scheme(given)
        self._url = ""
        self.folder = ""
        if given == "-":
            file = stack.enter_context(open_stdin_list())
        elif local is not None or scheme is None:
            self.folder = os.path.dirname(local or given)
            file = open_path(given, local or given, stack)
        else:
            self._url = _folder_of_url(given, scheme)
            file = open_url(given, scheme, stack)
        file.seek(0)
        if kind := no_list(file.read(HEAD_BYTES)):
            raise InputError(f"{'stdin' if given == '-' else shown_name(given)}: {kind}")
        self._file = _as_utf8(file, stack)
        self._base = os.path.join(os.path.abspath(self.folder or "."), "")

    def paths(self) -> Iterator[str]:
        """Each line, as a path from here or a URL; from the beginning."""
        for text in self._names():
            if url_scheme(text):
                yield text
            elif self._url and not os.path.isabs(os.path.expanduser(text)):
                yield _in_url(self._url, text)
            else:
                yield os.path.normpath(os.path.join(self.folder, os.path.expanduser(text)))

    def relative(self, path: str) -> str:
        """Where it lies under the list's folder, posix; of other places all folders but the root."""
        if scheme := url_scheme(path):
            location = _location(path)
            if self._url and scheme == url_scheme(self._url):
                location = location.removeprefix(_location(self._url) + "/")
            if scheme in ("http", "https"):
                location = re.split("[?#]", location, maxsplit=1)[0]
            parts = [re.sub(r'[<>:"|?*\\\x00-\x1f]', "_", part) for part in location.split("/")]
            return "/".join(part for part in parts if part not in ("", ".", "..")) or scheme
        absolute = os.path.abspath(path)
        if absolute.startswith(self._base):  # nearly all, and a list may have a million
            return absolute[len(self._base) :].replace(os.sep, "/")
        try:
            inside = os.path.relpath(absolute, self._base)
        except ValueError:  # on another drive of Windows
            inside = absolute
        pure = PurePath(inside)
        if ".." in pure.parts or pure.is_absolute():
            pure = PurePath(absolute)
            return "/".join(part for part in pure.parts if part != pure.anchor)
        return "" if inside == "." else pure.as_posix()

    def _names(self) -> Iterator[str]:
        self._file.seek(0)
        if _ends_in_nul(self._file):
            for name in _split(self._file, b"\0"):
                if name.strip(b"\r\n"):  # what follows the last NUL
                    yield _text(name)
            return
        for number, line in enumerate(self._file):
            text = _text(line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).strip()
            if text and not text.startswith("#"):
                yield text


def _text(name: bytes) -> str:
    try:
        return os.fsdecode(name)
    except UnicodeDecodeError:  # Windows has no names of any bytes: it is in its own code page, as Notepad writes
        return name.decode(locale.getpreferredencoding(False), "backslashreplace")


def _as_utf8(file: BinaryIO, stack: ExitStack) -> BinaryIO:
    file.seek(0)
    encoding = _utf16(file.read(CHUNK_BYTES))
    file.seek(0)
    if encoding is None:
        return file
    text = codecs.getreader(encoding)(file, "replace")
    decoded = stack.enter_context(tempfile.TemporaryFile(prefix="densecli-"))  # noqa: SIM115 - the stack closes it
    shutil.copyfileobj(text, codecs.getwriter("utf-8")(decoded))
    return decoded


def _utf16(head: bytes) -> str | None:
    """The encoding of a list in UTF-16; without its mark by ends of lines, where every other byte of it is NUL."""
    if head[:2] in _BYTE_ORDER_MARKS:
        return "utf-16"
    line = head[: head.find(b"\n") + 1]
    if line and not any(line[::2]) and all(line[1::2]):
        return "utf-16-be"
    if len(line) >= 3 and not any(line[1::2]) and all(line[::2]) and head[len(line) : len(line) + 1] == b"\0":
        return "utf-16-le"
    return None


def _ends_in_nul(file: BinaryIO) -> bool:
    """Whether the first name of a file ends in NUL; leaves the file at its beginning."""
    found = False
    while chunk := file.read(CHUNK_BYTES):
        if end := re.search(rb"[\0\n]", chunk):
            found = end[0] == b"\0"
            break
    file.seek(0)
    return found


def _split(file: BinaryIO, separator: bytes) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest


def _location(url: str) -> str:
    return location_of(without_password(url))[1]


def _folder_of_url(url: str, scheme: str) -> str:
    before, location, archive = location_of(url)
    if scheme in ("http", "https"):
        location = re.split("[?#]", location, maxsplit=1)[0]
    return f"{before}{posixpath.dirname(location)}{archive}"


def _in_url(folder: str, name: str) -> str:
    before, location, archive = location_of(folder)
    return f"{before}{posixpath.normpath(posixpath.join(location, name))}{archive}"
