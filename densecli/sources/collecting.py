"""Everything a batch reads: folders, patterns, lists, images and videos in, one item after the other out, unhurried."""

from __future__ import annotations

import itertools
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from densecli.errors import DensecliError, InputError, UsageError
from densecli.sources.decoding import LoadedImage
from densecli.sources.folders import LocalFolder, facts_of, folder_at
from densecli.sources.lists import InputList
from densecli.sources.names import distinct_names, name_candidates
from densecli.sources.own_outputs import is_own_file, is_own_folder
from densecli.sources.patterns import has_magic, split_pattern
from densecli.sources.reading import read_image
from densecli.sources.tree_names import safe_folders
from densecli.sources.urls import local_path, url_scheme
from densecli.sources.video import Frame, frames, promised_frames
from densecli.sources.walking import Entry, Everything, Skipped, Trouble, walk
from densecli.wording import shown_name


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
    _frame: Frame | None = field(default=None, repr=False, compare=False)

    @property
    def video_stem(self) -> str | None:
        """Stem of the outputs of the whole video (`clip`); None of an image."""
        return self.stem.rpartition("/")[0] if self.frame is not None else None

    def load(self) -> LoadedImage:
        """Its pixels; may be called from any thread. Raises InputError or EnvironmentProblem."""
        return self._frame.load(self.name) if self._frame is not None else read_image(self.source)

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


class Collection:
    """Items and Problems in order; iterate once. Nothing is listed, opened or decoded before it is asked for.

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
        self._skipped = Skipped(fresh_output=self._fresh_output)
        self._stopped = threading.Event()

    @property
    def skipped(self) -> dict[str, int]:
        """How many names were left out so far, by reason."""
        return dict(self._skipped.counts)

    def stop(self) -> None:
        """End the iteration, at the latest after the item that is being read; from any thread."""
        self._stopped.set()

    def count(self) -> int:
        """How many items there will be, of all shards, as far as names and the videos' own words tell; for progress.

        Walks through everything: call it from another thread. `stop` ends it early.
        """
        total = 0
        for entry in self._entries(Skipped(fresh_output=self._fresh_output)):
            if self._stopped.is_set():
                break
            if isinstance(entry, Entry) and entry.is_video:
                taken = -(-(promised_frames(entry.path) or 0) // self._every)
                total += taken if self._max_frames is None else min(taken, self._max_frames)
            else:
                total += 1
        return total

    def __iter__(self) -> Iterator[Item | Problem]:
        running = itertools.count()
        entries = self._entries(self._skipped) if self._poll_seconds is None else self._watched(self._poll_seconds)
        for entry in entries:
            if self._stopped.is_set():
                return
            if isinstance(entry, Trouble):
                found: Iterator[Item | Problem] = iter([Problem(entry.name, entry.error, next(running))])
            elif entry.is_video:
                found = self._frames(entry, running)
            else:
                stem = safe_folders(entry.stem)
                item = Item(entry.name, stem, entry.size, entry.mtime_ns, None, entry.path, next(running))
                found = iter([item])
            for item_or_problem in found:
                if self._is_mine(item_or_problem):
                    yield item_or_problem
                elif isinstance(item_or_problem, Item):
                    item_or_problem.discard()
                if self._stopped.is_set():
                    return

    def _is_mine(self, found: Item | Problem) -> bool:
        if self._shard is None:
            return True
        # By name rather than by number: a file that comes or goes while the shards start must not move the others.
        # Not by the path, which may differ between machines.
        text = found.stem if isinstance(found, Item) else os.path.basename(found.name)
        part, parts = self._shard
        return zlib.crc32(text.encode("utf-8", "surrogatepass")) % parts == part - 1

    def _frames(self, entry: Entry, running: Iterator[int]) -> Iterator[Item | Problem]:
        try:
            for frame in frames(entry.path, every=self._every, max_frames=self._max_frames, decoder=self._decoder):
                yield Item(
                    f"{entry.name}#{frame.number}",
                    safe_folders(f"{entry.stem}/frame_{frame.number:06d}"),
                    entry.size,
                    entry.mtime_ns,
                    frame.number,
                    entry.path,
                    next(running),
                    frame.fps / self._every if frame.fps else None,
                    frame,
                )
        except DensecliError as error:
            yield Problem(entry.name, error, next(running))

    def _entries(self, skipped: Skipped) -> Iterator[Entry | Trouble]:
        """Files in order, videos whole."""
        yield from _Inputs(self._inputs, self._recursive, skipped).entries()

    def _watched(self, poll_seconds: float) -> Iterator[Entry | Trouble]:
        """Files as they become complete: when size and time were the same at two looks in a row."""
        done: dict[int, int] = {}
        pending: dict[int, int] = {}
        while not self._stopped.is_set():
            skipped = Skipped(fresh_output=self._fresh_output)
            standing: dict[int, int] = {}
            for entry in self._entries(skipped):
                if self._stopped.is_set():
                    return
                if isinstance(entry, Trouble):
                    key, state = hash(entry.name), hash(str(entry.error))
                else:
                    key, state = hash(entry.path), hash((entry.size, entry.mtime_ns))
                if done.get(key) == state:
                    continue
                standing[key] = state
                if pending.get(key) == state:
                    done[key] = state
                    yield entry
            pending = standing
            self._skipped.counts = skipped.counts
            self._stopped.wait(poll_seconds)


class _Inputs:
    """What the user named, sorted out: folders, patterns, lists and files, and what the outputs of each are called."""

    def __init__(self, inputs: Sequence[str], recursive: bool, skipped: Skipped) -> None:
        self._inputs, self._recursive, self._skipped = inputs, recursive, skipped

    def entries(self) -> Iterator[Entry | Trouble]:
        kinds = [_kind(given) for given in self._inputs]
        names = distinct_names(
            [
                list(name_candidates(given)) if kind == "file" else _root_names(given, kind)
                for given, kind in zip(self._inputs, kinds, strict=True)
            ]
        )
        alone = len(self._inputs) == 1
        for given, kind, name in zip(self._inputs, kinds, names, strict=True):
            try:
                if kind == "file":
                    yield from self._file(given, name)
                elif kind == "list":
                    yield from self._list(given, "" if alone else f"{name}/")
                else:
                    yield from self._tree(given, kind, "" if alone else f"{name}/")
            except DensecliError as error:
                yield Trouble(given, error)

    def _file(self, given: str, stem: str) -> Iterator[Entry]:
        local = local_path(given)
        if local is not None and is_own_file(*os.path.split(local)):
            self._skipped.counts["densecli output"] += 1
            return
        yield Entry(given, given, stem, *(facts_of(local) if local is not None else (None, None)))

    def _tree(self, given: str, kind: str, prefix: str) -> Iterator[Entry | Trouble]:
        if kind == "pattern":
            root, pattern = split_pattern(given)
            folder = folder_at(root) if root else LocalFolder("")
            found = walk(folder, prefix, pattern, self._skipped) if folder is not None else iter(())
            first = next(found, None)
            if first is None:
                raise InputError(f"{shown_name(given)}: nothing matches this pattern; check it, and the folder")
            yield first
            yield from found
            return
        folder = folder_at(given)
        if folder is None:
            raise InputError(f"{shown_name(given)}: does not exist; check the path")
        if isinstance(folder, LocalFolder):
            if folder.path == ".":
                folder = LocalFolder("")
            else:
                head, tail = os.path.split(os.path.abspath(folder.path))
                if is_own_folder(head, tail):
                    self._skipped.counts["densecli output"] += 1
                    return
        yield from walk(folder, prefix, Everything(self._recursive), self._skipped)

    def _list(self, given: str, prefix: str) -> Iterator[Entry | Trouble]:
        with ExitStack() as stack:
            listed = InputList(given, stack)
            for path, name in listed.lines(self._skipped.counts):
                try:
                    kind = _kind(path)
                    if kind in ("folder", "pattern"):
                        base = split_pattern(path)[0] if kind == "pattern" else path
                        yield from self._tree(path, kind, prefix + listed.folder_prefix(base))
                    else:
                        yield from self._file(path, prefix + name)
                except DensecliError as error:
                    yield Trouble(path, error)


def _kind(given: str) -> str:
    """`file`, `folder`, `pattern` or `list`."""
    local = local_path(given)
    if given == "-":
        return "list"
    if local is not None:
        if os.path.isdir(local):
            return "folder"
        if os.path.lexists(local):
            return "list" if local.lower().endswith(".txt") else "file"
        if has_magic(local):
            return "pattern"
        return "list" if local.lower().endswith(".txt") else "file"
    if has_magic(given):
        return "pattern"
    # Asking a bucket costs time: a name with a suffix of files is taken for a file.
    last = given.partition("::")[0].rstrip("/").rsplit("/", 1)[-1]
    if "." in last or url_scheme(given) in ("http", "https") or _is_no_folder(given):
        return "file"
    return "folder"


def _is_no_folder(url: str) -> bool:
    """Whether there is no such folder, or it cannot be known (reading it as a file will say why)."""
    try:
        return folder_at(url) is None
    except DensecliError:
        return True


def _root_names(given: str, kind: str) -> list[str]:
    """Candidates for the folder of a root's outputs: its name, then with the folders above it."""
    if given == "-":
        return ["stdin"]
    root = split_pattern(given)[0] if kind == "pattern" else given
    local = local_path(root)
    place = os.path.abspath(local) if local is not None else root.partition("::")[0].split("://", 1)[-1]
    parts = [part for part in place.replace(os.sep, "/").split("/") if part] or ["root"]
    if kind == "list":
        parts[-1] = PurePath(parts[-1]).stem
    return ["_".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def _if_fresh(output_dir: Path | str) -> str | None:
    """Real path of the output folder if nothing lies in it yet that a user may have put there."""
    try:
        names = os.listdir(output_dir)
    except OSError:
        names = []
    return None if any(not name.startswith((".", "manifest")) for name in names) else os.path.realpath(output_dir)
