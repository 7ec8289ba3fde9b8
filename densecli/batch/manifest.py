"""`manifest.jsonl`: one line per input that ended, on disk before the next one counts; and what earlier runs left.

Each line is one JSON object (`densecli/manifest/1`): `input`, `status` (done, failed; skipped, and with --dry-run
planned, only on stdout), `error`, `seconds` and `masks` (null of what failed), `coverage`, `outputs` (relative to the
output folder), `size` and `mtime_ns` of the file, `sha256` of the file or of a frame's pixels, `settings` (fingerprint
of preset, model and precision), `alpha` (of the overlay), `stem`, `source`, `frame` and, of frames, `fps` (with
every N-th taken) and `seconds_in_video` (from its first frame on; null where unknown), `index`, `finished` (Unix time).
The last line of an output name counts; shards write files of their own, so that none waits for another.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections.abc import Callable, Container, Iterator
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np

from densecli.errors import OutputError
from densecli.files import explained
from densecli.output_names import manifest_name
from densecli.sources.own_outputs import is_manifest_name
from densecli.wording import shown_name

SCHEMA = "densecli/manifest/1"
_NO_INPUT = 0
"""In place of an input's key, where a line has none."""


def manifest_path(output_dir: Path, shard: tuple[int, int] | None = None) -> Path:
    """The file that a run writes."""
    return output_dir / manifest_name(shard)


def manifest_paths(output_dir: Path) -> list[Path]:
    """The manifests of all runs and shards in a folder."""
    try:
        return sorted(output_dir / name for name in os.listdir(output_dir) if is_manifest_name(name))
    except FileNotFoundError:
        return []


def to_line(entry: dict[str, Any]) -> str:
    """One line of JSON without line end; always encodable as UTF-8."""
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    # Bytes of a file name that are no UTF-8 are lone surrogates here; as \udcXX, JSON can carry them.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Manifest:
    """A manifest being written. Use as a context manager. Raises OutputError where it cannot be written.

    shown: what messages call it, where it is not its path.
    """

    def __init__(self, path: Path, shown: str | None = None) -> None:
        self.path = path
        self._shown = shown or shown_name(str(path))
        self._file: BinaryIO | None = None

    def __enter__(self) -> Manifest:
        if self.path.exists():  # else it is made with its first line: a run that does nothing leaves nothing
            self._open()
        return self

    def _open(self) -> None:
        with explained(self.path):
            # Unbuffered: what could not be written must not come out later, behind something else.
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 - closed by __exit__
            if not self._is_own():
                raise OutputError(
                    f"{self._shown}: is there and was not written by densecli; move it away, or choose "
                    "another --output-dir"
                )
            self._drop_torn_line()

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, entry: dict[str, Any]) -> tuple[int, int]:
        """Add one line; it is on the disk when this returns, or not in the file at all. Returns where, for `line`."""
        if self._file is None:
            self._open()
        assert self._file is not None
        line = (to_line(entry) + "\n").encode("utf-8")
        with explained(self.path):
            before = os.fstat(self._file.fileno()).st_size
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:]) or 0
                os.fsync(self._file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file.fileno(), before)
                raise
        return before, len(line)

    def line(self, place: int, length: int) -> dict[str, Any] | None:
        """A line that was appended; None where the file is gone. From any thread. place, length: in bytes."""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            file.seek(place)
            return _parsed(file.read(length))
        return None

    def _is_own(self) -> bool:
        """Whether its first line is densecli's, as far as it goes: a run may have been killed in it."""
        assert self._file is not None
        self._file.seek(0)
        first = self._file.readline(1 << 20)
        expected = to_line({"schema": SCHEMA}).removesuffix("}").encode()
        begins = first[: len(expected)].strip(b"\0")  # zeros are what a power cut leaves
        return _parsed(first) is not None or expected.startswith(begins)

    def _drop_torn_line(self) -> None:
        """A run that was killed, or a full disk, can leave the beginning of a line."""
        assert self._file is not None
        size = end = self._file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - 65536)
            self._file.seek(begin)
            block = self._file.read(end - begin)
            newline = block.rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            os.ftruncate(self._file.fileno(), end)


def key_of(stem: str) -> int:
    """The key of an output name."""
    return _key({"stem": stem})


def key_of_input(name: str) -> int:
    """The key of failures of an input that has no outputs."""
    return _key({"input": name})


def _key(entry: dict[str, Any]) -> int:
    """What a line is about: the output name, which one input owns; failures that have none, by input."""
    name = entry.get("stem")
    return _digest(f"o{name}" if name is not None else f"i{entry.get('input')}")


def _input_key(entry: dict[str, Any]) -> int | None:
    """Of the input itself, whatever its outputs are called; None of what has no outputs."""
    if entry.get("stem") is None or entry.get("source") is None:
        return None
    return _digest(f"{entry['source']}#{entry.get('frame')}")


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Record:
    """What all manifests of a folder say, the latest line per output name; lines stay on disk. Not thread-safe.

    Some 50 bytes of memory a line. Lines that are no JSON object of this schema, or whose outputs would lie outside of
    the folder, are passed over.
    """

    def __init__(self, output_dir: Path) -> None:
        self._files: list[BinaryIO] = []
        keys, sources, finished = array("Q"), array("Q"), array("d")
        numbers, offsets, lengths = array("I"), array("Q"), array("I")
        for path in manifest_paths(output_dir):
            try:
                self._files.append(path.open("rb"))
            except OSError as error:
                raise OutputError(
                    f"{shown_name(str(path))}: cannot be read ({error.strerror}); make it readable, or choose another "
                    "--output-dir"
                ) from error
            for offset, length, entry in _entries(self._files[-1]):
                keys.append(_key(entry))
                sources.append(_input_key(entry) or _NO_INPUT)
                finished.append(float(entry.get("finished") or 0))
                numbers.append(len(self._files) - 1)
                offsets.append(offset)
                lengths.append(length)
        self._keys, latest = _last_of_each(keys, finished)
        """In order. What follows is of the line of each that ended last: its input, file, place and length."""
        self._source_of, self._file_of = np.array(sources)[latest], np.array(numbers)[latest]
        self._offsets, self._lengths = np.array(offsets)[latest], np.array(lengths)[latest]
        self._sources, named = _last_of_each(sources, finished)
        self._name_of = np.array(keys)[named]
        """Key of the output name that each input, in order, had last."""

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files:
            file.close()

    def of(self, stem: str) -> dict[str, Any] | None:
        """The latest line about an output name."""
        key = np.uint64(key_of(stem))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        entry = self._entry(place)
        return entry if entry is not None and entry.get("stem") == stem else None

    def entries(self, *, renamed: Container[int] = ()) -> Iterator[dict[str, Any]]:
        """The latest line of each output name, in the order in which they ended; not those of `renamed`."""
        return (entry for key, entry in self._named() if key not in renamed)

    def renamed(self, met: Container[int]) -> set[int]:
        """Keys of output names of inputs whose outputs are called otherwise since, as more inputs came beside them.

        met: keys of the output names of this run; an input may have two there, from two lists.
        """
        now = self._name_of[np.searchsorted(self._sources, self._source_of)]
        renamed = self._keys[(now != self._keys) & (self._source_of != _NO_INPUT)]
        return {key for key in renamed.tolist() if key not in met}

    def outdated(self, is_outdated: Callable[[str, dict[str, Any]], bool]) -> set[int]:
        """Keys of output names of frames of videos that were replaced since, by a video's output name and the line."""
        frames = ((key, entry) for key, entry in self._named() if entry.get("frame") is not None)
        return {key for key, entry in frames if is_outdated(str(entry.get("stem")).rpartition("/")[0], entry)}

    def of_keys(self, keys: Container[int]) -> Iterator[dict[str, Any]]:
        """The latest lines of some output names."""
        return (entry for key, entry in self._named() if key in keys)

    def _named(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for place in np.lexsort((self._offsets, self._file_of)):
            if (entry := self._entry(place)) is not None:
                yield int(self._keys[place]), entry

    def _entry(self, place: int) -> dict[str, Any] | None:
        file = self._files[self._file_of[place]]
        file.seek(int(self._offsets[place]))
        return _parsed(file.read(int(self._lengths[place])))


def _last_of_each(keys: array[int], finished: array[float]) -> tuple[np.ndarray, np.ndarray]:
    """Each key once, in order, and which of its lines ended last: of several at once, the last one."""
    order = np.lexsort((np.array(finished), np.array(keys)))
    ordered = np.array(keys)[order]
    last = np.ones(len(ordered), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return ordered[last], order[last]


def _entries(file: BinaryIO) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Offset, length and content of each line."""
    file.seek(0)
    offset = 0
    for line in file:
        entry = _parsed(line)
        if entry is not None:
            yield offset, len(line), entry
        offset += len(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and entry.get("schema") == SCHEMA and _is_sound(entry) else None


def _is_sound(entry: dict[str, Any]) -> bool:
    """Whether densecli can have written it, and its outputs lie in the output folder.

    The folder may come from somebody else, and where its lines say that outputs are called otherwise since, files go.
    """
    stem, frame, finished = entry.get("stem"), entry.get("frame"), entry.get("finished")
    if not (finished is None or isinstance(finished, float | int)) or not (frame is None or isinstance(frame, int)):
        return False
    if stem is None:
        return True
    place = PurePath(stem) if isinstance(stem, str) and "\0" not in stem else PurePath()
    return bool(place.parts) and not place.anchor and ".." not in place.parts
