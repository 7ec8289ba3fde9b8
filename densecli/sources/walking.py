"""Walking through folders in natural order: one file at a time, each with the name of its outputs."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

from densecli.errors import DensecliError, InputError
from densecli.output_names import ENDINGS
from densecli.sources import heif
from densecli.sources.folders import Facts, Folder
from densecli.sources.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, collision_key, stem_and_suffix
from densecli.sources.sorting import sorted_names
from densecli.sources.tree_names import group_names, is_video, short_name, sort_key
from densecli.sources.video_files import NAMED_VIDEO_SUFFIXES
from densecli.wording import shown_name

# What people take for images in their folders, and would miss in the counts as "not an image".
# fmt: off
_UNREADABLE_SUFFIXES = frozenset([
    ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".svg", ".pdf", ".exr", ".hdr",
    ".psd", ".jxl", ".dcm", ".nii",
])
# fmt: on
_TAKEN = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_CLUTTER = frozenset(["thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information"])
MAX_DEPTH = 500
"""Folders inside each other that are followed."""


@dataclass(frozen=True)
class Entry:
    """A file to read. name: as shown. path: what `read_image` takes. stem: of its outputs, posix, relative."""

    name: str
    path: str
    stem: str
    is_video: bool
    ask: Callable[[], Facts]

    @cached_property
    def facts(self) -> Facts:
        """Looked up when first asked for: a shard has no use for those of most files."""
        return self.ask()


@dataclass(frozen=True)
class Trouble:
    """A place from which nothing could be read."""

    name: str
    error: DensecliError


@dataclass
class Skipped:
    """What was left out and why, over a whole run."""

    counts: Counter[str] = field(default_factory=Counter)
    folders: set[Hashable] = field(default_factory=set)
    """Identities of folders that were walked already: links can lead anywhere."""
    fresh_output: str | None = None
    """Real path of an output folder in which nothing but this run's outputs can lie."""


class Selection(Protocol):
    """Which files and folders of a tree are wanted; `parts` are the names from its root."""

    def takes(self, parts: tuple[str, ...]) -> bool:
        """Whether a file is wanted."""

    def enters(self, parts: tuple[str, ...]) -> bool:
        """Whether a folder can hold wanted files."""

    @property
    def explicit(self) -> bool:
        """Whether what is not wanted was never asked for, so that it is not counted as skipped."""


@dataclass(frozen=True)
class Everything:
    """All files of a folder, and of the folders in it."""

    recursive: bool
    explicit: bool = False

    def takes(self, parts: tuple[str, ...]) -> bool:
        return True

    def enters(self, parts: tuple[str, ...]) -> bool:
        return self.recursive


def walk(root: Folder, prefix: str, selection: Selection, skipped: Skipped) -> Iterator[Entry | Trouble]:
    """The files under `root`, folder by folder in natural order. prefix: of the stems, empty or ending in a slash."""
    stack = [_folder(root, prefix, (), selection, skipped)]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
        elif not isinstance(found, _Enter):
            yield found
        elif len(stack) >= MAX_DEPTH:
            yield Trouble(
                found.folder.path,
                InputError(f"{shown_name(found.folder.path)}: more than {MAX_DEPTH} folders deep; give it as an input"),
            )
        else:
            stack.append(_folder(found.folder, found.prefix, found.parts, selection, skipped))


@dataclass(frozen=True)
class _Enter:
    folder: Folder
    prefix: str
    parts: tuple[str, ...]


def _folder(
    folder: Folder, prefix: str, parts: tuple[str, ...], selection: Selection, skipped: Skipped
) -> Iterator[Entry | Trouble | _Enter]:
    identity = folder.identity()
    # A pattern may lead through folders that another input reads for itself.
    if identity is not None and not selection.explicit:
        if identity in skipped.folders:
            skipped.counts["folder that was read already (a link, or given twice)"] += 1
            return
        skipped.folders.add(identity)
    wanted = (
        (name, is_folder)
        for name, is_folder in folder.names()
        if is_folder or not selection.explicit or selection.takes((*parts, name))
    )
    try:
        # One letter in front tells folders from files while names are sorted.
        marked = (("d" if member[1] else "f") + member[0] for member in wanted if _may_be(*member, skipped))
        ordered = sorted_names(marked, lambda text: sort_key(text[1:], text[0] == "d"))
        candidates = (
            (name, is_folder)
            for name, is_folder in ((text[1:], text[0] == "d") for text in ordered)
            if not _is_own(folder, name, is_folder, skipped)
        )
        for _, same in itertools.groupby(candidates, key=lambda member: collision_key(short_name(*member))):
            group = list(same)
            for (name, is_folder), stem in zip(group, group_names(group), strict=True):
                path = (*parts, name)
                if is_folder:
                    if selection.enters(path):
                        yield _Enter(folder.child(name), f"{prefix}{stem}/", path)
                    elif not selection.explicit:
                        skipped.counts["subfolder (-r goes into them)"] += 1
                elif selection.takes(path):
                    file = folder.file(name)
                    yield Entry(file, file, prefix + stem, is_video(name), partial(folder.facts, name))
    except DensecliError as error:
        yield Trouble(folder.path, error)


def _may_be(name: str, is_folder: bool, skipped: Skipped) -> bool:
    """Whether a name can be an input; what cannot is counted. Names alone decide, so that a million take seconds."""
    suffix = stem_and_suffix(name)[1].lower()
    if name.startswith(".") or name.casefold() in _CLUTTER:
        reason = "hidden"
    elif is_folder or (suffix in _TAKEN and (heif.installed() or suffix not in heif.SUFFIXES)):
        return True
    elif suffix in heif.SUFFIXES:
        reason = f"{suffix}, which pip install 'densecli[heif]' reads"
    elif suffix in _UNREADABLE_SUFFIXES:
        reason = f"of a kind that cannot be read ({suffix})"
    elif suffix in NAMED_VIDEO_SUFFIXES - {".ts"}:  # TypeScript's, mostly
        reason = f"not looked for in folders, name it ({suffix})"
    else:
        reason = (
            "densecli output" if name.endswith((ENDINGS["json"], ENDINGS["candidates"])) else "not an image or video"
        )
    skipped.counts[reason] += 1
    return False


def _is_own(folder: Folder, name: str, is_folder: bool, skipped: Skipped) -> bool:
    fresh = is_folder and skipped.fresh_output is not None
    if not (fresh and os.path.realpath(folder.file(name)) == skipped.fresh_output) and not folder.is_own(
        name, is_folder
    ):
        return False
    skipped.counts["densecli output"] += 1
    return True
