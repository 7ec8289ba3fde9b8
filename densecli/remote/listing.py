"""What lies in a folder of a store, in 24 bytes a name: a bucket may hold a million outputs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from densecli.sources.folders import Facts

_UNKNOWN, _FOLDER = -1, -2


class Listing:
    """Names of one folder. Looked up, never given back."""

    def __init__(self, names: Iterable[tuple[str, Facts | None]]) -> None:
        rows = [(_hash(name), *_numbers(facts)) for name, facts in names]
        table = np.array(rows, dtype=[("name", "<u8"), ("size", "<i8"), ("mtime", "<i8")])
        table.sort(order="name")
        self._names, self._sizes, self._mtimes = (
            np.ascontiguousarray(table[column]) for column in ("name", "size", "mtime")
        )

    def file(self, name: str) -> Facts | None:
        """Size and time of a file; None where there is none."""
        place = self._place(name)
        if place is None or self._sizes[place] == _FOLDER:
            return None
        size, mtime = int(self._sizes[place]), int(self._mtimes[place])
        return None if size == _UNKNOWN else size, None if mtime == _UNKNOWN else mtime

    def has_folder(self, name: str) -> bool:
        place = self._place(name)
        return place is not None and bool(self._sizes[place] == _FOLDER)

    def _place(self, name: str) -> int | None:
        wanted = np.uint64(_hash(name))
        place = int(np.searchsorted(self._names, wanted))
        return place if place < len(self._names) and self._names[place] == wanted else None


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "little")


def _numbers(facts: Facts | None) -> tuple[int, int]:
    if facts is None:
        return _FOLDER, _UNKNOWN
    size, mtime = facts
    return _UNKNOWN if size is None else size, _UNKNOWN if mtime is None else mtime
