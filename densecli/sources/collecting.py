"""Everything a batch reads: folders, patterns, lists, images and videos in, one item after the other out, unhurried."""

from __future__ import annotations

import itertools
import os
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from densecli.errors import DensecliError, InputError, UsageError
from densecli.output_names import frame_name
from densecli.sources.decoding import LoadedImage
from densecli.sources.foreign import VIDEO
from densecli.sources.inputs import Inputs
from densecli.sources.reading import read_image
from densecli.sources.tree_names import safe_folders
from densecli.sources.urls import local_path
from densecli.sources.video import frames
from densecli.sources.video_frame import Frame
from densecli.sources.walking import Entry, Skipped, Trouble
from densecli.wording import reason_of, shown_name

_MANY = 20
"""Inputs that are not there, from which on a run tells of each and keeps record."""
_PAUSE_FOR_LOOK = 4
"""Pauses between two looks are so many times as long as a look keeps a core busy: seconds, where 100,000 files lie."""


def _takes_long(given: str) -> bool:
    local = local_path(given)
    return given == "-" or local is None or (local.lower().endswith(".txt") and os.path.isfile(local))


@dataclass(frozen=True)
class Item:
    """One image, or one frame of a video."""

    name: str
    """As shown and recorded: the path or URL; of a frame `clip.mp4#12`, with its number in the video."""
    stem: str
    """Of the outputs, under the output folder, posix, without suffix: `a/desk`, `clip/frame_000012`."""
    size: int | None
    """Bytes of the file, None where it cannot be asked; of a frame, those of the video."""
    mtime_ns: int | None
    """When the file was changed last; nanoseconds."""
    frame: int | None
    """Number of the frame in its video, from 0; None of an image."""
    source: str
    """The file itself."""
    index: int
    """Running number over the whole run, the same in all shards."""
    fps: float | None = None
    """Frames a second of the video, with every N-th frame taken; None of an image or where unknown."""
    seconds_in_video: float | None = None
    """When a frame is shown, from the video's first one on; None of an image or where unknown."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a pixel over its height; images are taken for square ones."""
    _frame: Frame | None = field(default=None, repr=False, compare=False)

    @property
    def video_stem(self) -> str | None:
        """Stem of the outputs of the whole video (`clip`); None of an image."""
        return self.stem.rpartition("/")[0] if self.frame is not None else None

    def load(self) -> LoadedImage:
        """Its pixels; may be called from any thread. Raises InputError or EnvironmentProblem."""
        if self._frame is not None:
            return self._frame.load(self.name)
        try:
            return read_image(self.source)
        except InputError as error:
            if VIDEO not in str(error):  # which sends a user of `segment` here
                raise
            said = "is a video, which its name hides; save it under one that ends in .mp4 or .mkv"
            raise InputError(str(error).replace(VIDEO, said)) from None

    def discard(self) -> None:
        """It will not be loaded: saves converting the pixels of a frame."""
        if self._frame is not None:
            self._frame.discard()


@dataclass(frozen=True)
class Problem:
    """Something that belongs to no item: a folder that cannot be listed, a video that cannot be read to its end."""

    name: str
    error: DensecliError
    index: int


@dataclass(frozen=True)
class Mended:
    """A Problem of this name, told at an earlier look, is none any more, or the video is read anew."""

    name: str


class Collection:
    """Items and Problems in order; iterate once. Nothing is listed, opened or decoded before it is asked for.

    Where files are looked at again and again, Mended too.

    every, max_frames: of each video, every N-th frame and at most so many. shard: (I, N), I from 1 to N: the I-th of N
    parts. poll_seconds: look again and again, without an end: files are given once complete, and again when they were
    changed. decoder: of densecli.sources.video.DECODERS; PyAV where it is installed, else OpenCV.
    Raises UsageError for what cannot be read again and again.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        output_dir: Path | str,
        recursive: bool = False,
        every: int = 1,
        max_frames: int | None = None,
        shard: tuple[int, int] | None = None,
        poll_seconds: float | None = None,
        decoder: str | None = None,
    ) -> None:
        if poll_seconds is not None and "-" in inputs:
            raise UsageError("--watch: a list on stdin cannot be read again and again; give it as a file")
        self._inputs = list(dict.fromkeys(inputs))
        self._recursive, self._every, self._max_frames, self._shard = recursive, every, max_frames, shard
        self._poll_seconds, self._decoder = poll_seconds, decoder
        self._fresh_output = _if_fresh(output_dir)
        self._told: set[str] = set()
        """Names of the Problems that stand, where files are looked at again and again."""
        self._skipped = Skipped(fresh_output=self._fresh_output)
        self._stopped = threading.Event()

    @property
    def skipped(self) -> dict[str, int]:
        """How many names were left out so far, by reason."""
        return dict(self._skipped.counts)

    def stop(self) -> None:
        """End the iteration, at the latest after the item that is being read; from any thread."""
        self._stopped.set()

    def missing(self) -> list[DensecliError]:
        """What is wrong with each input, where not one of them leads to a file; else nothing.

        Quick: it looks no further than to the first file, not into lists, nor where it would ask another machine.
        """
        if len(self._inputs) > _MANY or any(map(_takes_long, self._inputs)):
            return []
        troubles: list[DensecliError] = []
        for entry in self._entries(Skipped(fresh_output=self._fresh_output)):
            if isinstance(entry, Trouble):
                troubles.append(entry.error)
            elif (local := local_path(entry.path)) is None or os.path.lexists(local):
                return []
            else:
                troubles.append(InputError(f"{shown_name(entry.name)}: does not exist; check the path"))
        return troubles

    def __iter__(self) -> Iterator[Item | Problem | Mended]:
        running = itertools.count()
        entries = self._entries(self._skipped) if self._poll_seconds is None else self._watched(self._poll_seconds)
        for entry in entries:
            if self._stopped.is_set():
                return
            if isinstance(entry, Trouble):
                found: Iterator[Item | Problem | Mended] = iter([Problem(entry.name, entry.error, next(running))])
            elif isinstance(entry, Mended):
                found = iter([entry])
            elif entry.is_video:
                found = self._frames(entry, running)
            else:
                stem, index = safe_folders(entry.stem), next(running)
                mine = self._is_mine(stem)
                found = iter([Item(entry.name, stem, *entry.facts, None, entry.path, index)] if mine else [])
            for item_or_problem in found:
                if isinstance(item_or_problem, Mended):
                    self._told.discard(item_or_problem.name)
                elif isinstance(item_or_problem, Problem) and self._poll_seconds is not None:
                    self._told.add(item_or_problem.name)
                if isinstance(item_or_problem, Mended) or self._is_mine(_place_of(item_or_problem)):
                    yield item_or_problem
                elif isinstance(item_or_problem, Item):
                    item_or_problem.discard()
                if self._stopped.is_set():
                    return

    def _is_mine(self, place: str) -> bool:
        if self._shard is None:
            return True
        part, parts = self._shard
        return zlib.crc32(place.encode("utf-8", "surrogatepass")) % parts == part - 1

    def _frames(self, entry: Entry, running: Iterator[int]) -> Iterator[Item | Problem | Mended]:
        if entry.name in self._told:
            yield Mended(entry.name)
        try:
            for frame in frames(entry.path, every=self._every, max_frames=self._max_frames, decoder=self._decoder):
                yield Item(
                    f"{entry.name}#{frame.number}",
                    safe_folders(f"{entry.stem}/{frame_name(frame.number)}"),
                    *entry.facts,
                    frame.number,
                    entry.path,
                    next(running),
                    frame.fps / self._every if frame.fps else None,
                    frame.seconds,
                    frame.pixel_aspect,
                    frame,
                )
        except DensecliError as error:
            yield Problem(entry.name, error, next(running))
        except Exception as error:  # a library's, which must not cost the other inputs
            said = f"cannot be read ({type(error).__name__}: {reason_of(error)}); please report it"
            yield Problem(entry.name, InputError(said), next(running))

    def _entries(self, skipped: Skipped) -> Iterator[Entry | Trouble]:
        """Files in order, videos whole."""
        yield from Inputs(self._inputs, self._recursive, skipped).entries()

    def _watched(self, poll_seconds: float) -> Iterator[Entry | Trouble | Mended]:
        """Files as they become complete: when size and time were the same at two looks in a row."""
        places: set[str] = set()
        """Names of Troubles that were told."""
        done: dict[int, int] = {}
        pending: dict[int, int] = {}
        while not self._stopped.is_set():
            began = time.thread_time()
            skipped = Skipped(fresh_output=self._fresh_output)
            standing: dict[int, int] = {}
            troubled: set[str] = set()
            for entry in self._entries(skipped):
                if self._stopped.is_set():
                    return
                if isinstance(entry, Trouble):
                    key, state = hash(entry.name), hash(str(entry.error))
                    troubled.add(entry.name)
                else:
                    key, state = hash(entry.path), hash(entry.facts)
                if done.get(key) == state:
                    continue
                standing[key] = state
                if pending.get(key) == state:
                    done[key] = state
                    if isinstance(entry, Trouble):
                        places.add(entry.name)
                    yield entry
            for name in places - troubled:
                places.remove(name)
                yield Mended(name)
            pending = standing
            self._skipped.counts = skipped.counts
            # The engine has the other cores, but there is one lock on Python's code. (At first it waits for files.)
            rest = _PAUSE_FOR_LOOK * (time.thread_time() - began) if done else 0.0
            self._stopped.wait(max(poll_seconds, rest))


def _place_of(found: Item | Problem) -> str:
    """What tells whose it is, of all shards."""
    # By name rather than by number: a file that comes or goes while the shards start must not move the others.
    # Not by the path, which may differ between machines.
    return found.stem if isinstance(found, Item) else os.path.basename(found.name)


def _if_fresh(output_dir: Path | str) -> str | None:
    """Real path of the output folder if nothing lies in it yet that a user may have put there."""
    try:
        names = os.listdir(output_dir)
    except OSError:
        names = []
    return None if any(not name.startswith((".", "manifest")) for name in names) else os.path.realpath(output_dir)
