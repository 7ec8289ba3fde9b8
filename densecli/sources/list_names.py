"""What the outputs of a list's files are called: none like another's, in whatever order its lines come."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from densecli.output_names import FRAME_NAME
from densecli.sources.names import collision_key, stem_and_suffix
from densecli.sources.tree_names import lone_name, long_name


@dataclass(frozen=True)
class ListedFile:
    """A file of a list, named by a line of its own or found in a folder or by a pattern of the list."""

    path: str
    relative: str
    """Where it lies, posix, from the list's folder."""
    lone: str
    """Name of its outputs where no other file is in the way."""
    is_video: bool

    @staticmethod
    def of_line(path: str, relative: str, is_video: bool) -> ListedFile:
        """A file that has a line of its own."""
        return ListedFile(path, relative, _in_folder_of(relative, lone_name(relative.rpartition("/")[2])), is_video)

    @staticmethod
    def of_tree(path: str, relative: str, stem: str, is_video: bool) -> ListedFile:
        """A file of a folder or pattern, which called it `stem` there."""
        return ListedFile(path, relative, _in_folder_of(relative, stem.rpartition("/")[2]), is_video)

    @property
    def long(self) -> str:
        """Name of its outputs where another file has its stem."""
        return _in_folder_of(self.lone, long_name(self.relative.rpartition("/")[2]))


class ListNames:
    """Names for the files of one list: `add` each of them, `settle`, then `name` each. Holds 33 bytes a file."""

    def __init__(self) -> None:
        self._paths, self._stems, self._lone, self._long = array("Q"), array("Q"), array("Q"), array("Q")
        self._videos = array("B")
        self._folders_of_frames: set[int] = set()
        self._seen: set[int] = set()

    def add(self, file: ListedFile) -> None:
        """To be called for each file before any is named; more than once for a file does no harm."""
        self._paths.append(_hash(file.path))
        self._stems.append(place_number(stem_of(file.relative)))
        self._lone.append(place_number(file.lone))
        self._long.append(place_number(file.long))
        self._videos.append(file.is_video)
        folder, _, last = file.lone.rpartition("/")
        if not file.is_video and FRAME_NAME.fullmatch(last):
            self._folders_of_frames.add(place_number(folder))

    def settle(self) -> None:
        """All files are added."""
        paths, first, times = np.unique(_numbers(self._paths), return_index=True, return_counts=True)
        self._repeated_paths = frozenset(paths[times > 1].tolist())
        stems, lone, long = (_numbers(hashes)[first] for hashes in (self._stems, self._lone, self._long))
        self._repeated_stems = _repeated(stems)
        chosen = np.where(np.isin(stems, np.array(list(self._repeated_stems), np.uint64)), long, lone)
        # The frames of a video lie in a folder of its name, where a picture may be called like one of them.
        in_the_way = np.isin(chosen, np.array(list(self._folders_of_frames), np.uint64))
        in_the_way &= np.frombuffer(self._videos, np.uint8)[first] == 1 if len(first) else False
        self._blocked = frozenset(chosen[in_the_way].tolist())
        self._repeated_names = _repeated(np.where(in_the_way, long, chosen))
        del self._paths, self._stems, self._lone, self._long, self._videos

    def name(self, file: ListedFile) -> str | None:
        """Name of its outputs; None where this file was named before."""
        path = _hash(file.path)
        if path in self._repeated_paths:
            if path in self._seen:
                return None
            self._seen.add(path)
        chosen = file.long if place_number(stem_of(file.relative)) in self._repeated_stems else file.lone
        if file.is_video and place_number(chosen) in self._blocked:
            chosen = file.long
        if place_number(chosen) in self._repeated_names:
            chosen += f"-{path:016x}"  # of another root, or another case
        return chosen


def _in_folder_of(stem: str, name: str) -> str:
    """`name` in the folder of `stem`, both posix."""
    folder, slash, _ = stem.rpartition("/")
    return folder + slash + name


def stem_of(relative: str) -> str:
    """`relative` without its suffix."""
    return _in_folder_of(relative, stem_and_suffix(relative.rpartition("/")[2])[0])


def place_numbers(place: str) -> Iterator[int]:
    """The number of a place and of each folder above it, up to the list's own."""
    yield place_number(place)
    while place:
        place = place.rpartition("/")[0]
        yield place_number(place)


def place_number(place: str) -> int:
    """Equal for places that some file system takes for the same."""
    return _hash(collision_key(place))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _numbers(hashes: array[int]) -> np.ndarray:
    return np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)


def _repeated(hashes: np.ndarray) -> frozenset[int]:
    values, counts = np.unique(hashes, return_counts=True)
    return frozenset(values[counts > 1].tolist())
