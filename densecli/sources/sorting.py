"""Sorting more names than should be held in memory: sorted pieces go to a temporary file and are merged from there."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

PIECE = 32_768
"""Names held at a time; about 20 MB with their keys."""
_BLOCK_BYTES = 1 << 13


def sorted_names(names: Iterable[str], key: Callable[[str], Any], piece: int = PIECE) -> Iterator[str]:
    """The names (without NUL characters) in the order of `key`, which tells all of them apart. Reads them all first."""
    held: list[tuple[Any, str]] = []
    file: IO[bytes] | None = None
    places: list[tuple[int, int]] = []
    try:
        for name in names:
            held.append((key(name), name))
            if len(held) == piece:
                file = file or tempfile.TemporaryFile(prefix="densecli-")  # noqa: SIM115 - lives as long as the iterator
                places.append(_spill(held, file))
                held = []
        held.sort()
        if file is None:
            for _, name in held:
                yield name
            return
        runs: list[Iterable[tuple[Any, str]]] = [_read_back(file, start, end, key) for start, end in places]
        for _, name in heapq.merge(*runs, held):
            yield name
    finally:
        if file is not None:
            file.close()


def _spill(held: list[tuple[Any, str]], file: IO[bytes]) -> tuple[int, int]:
    held.sort()
    start = file.tell()
    for _, name in held:
        file.write(name.encode("utf-8", "surrogatepass") + b"\0")
    return start, file.tell()


def _read_back(file: IO[bytes], start: int, end: int, key: Callable[[str], Any]) -> Iterator[tuple[Any, str]]:
    rest = b""
    while start < end:
        file.seek(start)  # the other pieces are read from the same file in between
        block = file.read(min(_BLOCK_BYTES, end - start))
        start += len(block)
        *whole, rest = (rest + block).split(b"\0")
        for encoded in whole:
            name = encoded.decode("utf-8", "surrogatepass")
            yield key(name), name
