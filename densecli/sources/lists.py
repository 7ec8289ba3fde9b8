"""Lists of inputs in a text file: one a line, `#` begins a comment, relative to the folder of the list."""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePath

import numpy as np

from densecli.sources.names import collision_key
from densecli.sources.opening import open_path
from densecli.sources.stdin_list import open_stdin_list
from densecli.sources.tree_names import lone_name, long_name
from densecli.sources.urls import url_scheme


class InputList:
    """A list of inputs. Read twice, and never held: what must be known of all lines is eight bytes for each."""

    def __init__(self, given: str, stack: ExitStack) -> None:
        """given: a local path, or `-` for stdin. Raises InputError."""
        self.folder = "" if given == "-" else os.path.dirname(given)
        self._file = stack.enter_context(open_stdin_list()) if given == "-" else open_path(given, given, stack)
        self._folders: set[str] = set()
        paths, names, stems = array("Q"), array("Q"), array("Q")
        for path in self._paths():
            relative = self._relative(path)
            paths.append(_hash(path))
            names.append(_hash(collision_key(relative)))
            stems.append(_hash(collision_key(_stem(relative))))
        if not paths:
            paths, names, stems = array("Q", [0]), array("Q", [0]), array("Q", [0])
        first: np.ndarray
        _, first, times = np.unique(np.frombuffer(paths, np.uint64), return_index=True, return_counts=True)
        self._repeated_paths = frozenset(np.frombuffer(paths, np.uint64)[first[times > 1]].tolist())
        self._repeated_names = _repeated(np.frombuffer(names, np.uint64)[first])
        self._repeated_stems = _repeated(np.frombuffer(stems, np.uint64)[first])

    def lines(self, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
        """Each input, once, as a path from here or a URL; and the name of its outputs, were it a file."""
        seen: set[int] = set()
        for path in self._paths():
            digest = _hash(path)
            if digest in self._repeated_paths:
                if digest in seen:
                    skipped["listed twice"] += 1
                    continue
                seen.add(digest)
            relative = self._relative(path)
            name = self._name(relative)
            if _hash(collision_key(relative)) in self._repeated_names:
                name += f"-{digest:016x}"  # of another root, or another case
            yield path, name

    def folder_prefix(self, path: str) -> str:
        """What the stems of files in a folder of the list begin with."""
        relative = self._relative(path)
        return relative and f"{relative}/"

    def _paths(self) -> Iterator[str]:
        self._file.seek(0)
        for number, line in enumerate(self._file):
            text = os.fsdecode(line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).strip()
            if text and not text.startswith("#"):
                yield (
                    text if url_scheme(text) else os.path.normpath(os.path.join(self.folder, os.path.expanduser(text)))
                )

    def _relative(self, path: str) -> str:
        """Where it lies under the list's folder, posix; of other places all folders but the root."""
        if scheme := url_scheme(path):
            location = path.split("://", 1)[1].split("::", 1)[0]
            if scheme in ("http", "https"):
                location = re.split("[?#]", location, maxsplit=1)[0]
            parts = [re.sub(r'[<>:"|?*\\\x00-\x1f]', "_", part) for part in location.split("/")]
            return "/".join(part for part in parts if part not in ("", ".", "..")) or scheme
        inside = os.path.relpath(os.path.abspath(path), os.path.abspath(self.folder or "."))
        pure = PurePath(inside)
        if ".." in pure.parts or pure.is_absolute():
            pure = PurePath(os.path.abspath(path))
            return "/".join(part for part in pure.parts if part != pure.anchor)
        return "" if inside == "." else pure.as_posix()

    def _name(self, relative: str) -> str:
        folder, slash, last = relative.rpartition("/")
        repeated = _hash(collision_key(_stem(relative))) in self._repeated_stems
        return folder + slash + (long_name(last) if repeated else lone_name(last))


def _stem(relative: str) -> str:
    folder, slash, last = relative.rpartition("/")
    return folder + slash + PurePath(last).stem


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _repeated(hashes: np.ndarray) -> frozenset[int]:
    values, counts = np.unique(hashes, return_counts=True)
    return frozenset(values[counts > 1].tolist())
