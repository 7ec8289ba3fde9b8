"""Where an input's outputs go, writing them, and whether they are there already."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

from densecli.errors import OutputError
from densecli.files import explained
from densecli.masks import Segmentation
from densecli.sinks import WriteOptions, sink
from densecli.sources import local_path
from densecli.sources.own_outputs import is_own_file, is_own_folder
from densecli.wording import shown_name

if TYPE_CHECKING:
    from densecli.sources.collecting import Item


def outputs_of(stem: str, output_dir: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """Path of each kind of output, in writing order."""
    return {kind: sink(kind).path(output_dir / stem) for kind in kinds}


def write_outputs(segmentation: Segmentation, outputs: Mapping[str, Path], options: WriteOptions) -> None:
    """Write all kinds, each complete or not at all. Raises OutputError."""
    if outputs:
        # Until all are new, the set must not look complete: a run that is killed here would leave old beside new.
        _remove(list(outputs.values())[-1])
    begin = time.perf_counter()
    for kind, path in outputs.items():
        if kind == "json":  # the last one: it holds the time that the others took
            segmentation.written_in(time.perf_counter() - begin)
        sink(kind).write(segmentation, path, options)
    if "json" not in outputs:
        segmentation.written_in(time.perf_counter() - begin)


def _remove(path: Path) -> None:
    with explained(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def relative(outputs: Mapping[str, Path], output_dir: Path) -> list[str]:
    """Outputs as the manifest names them."""
    return [path.relative_to(output_dir).as_posix() for path in outputs.values()]


def source_of(item: Item) -> str:
    """The file of an input whatever folder the command was run in, or its URL."""
    local = local_path(item.source)
    return item.source if local is None else os.path.abspath(local)


def is_complete(
    entry: Mapping[str, Any] | None, item: Item, outputs: Mapping[str, Path], output_dir: Path, settings: str
) -> bool:
    """Whether `entry`, the latest line about this output name, says that this very input is done, and it still is."""
    return (
        entry is not None
        and entry.get("status") == "done"
        and entry.get("settings") == settings
        and set(relative(outputs, output_dir)) <= set(entry.get("outputs") or ())
        and _is_same_input(entry, item)
        and all(_is_whole(path) for path in outputs.values())
    )


def _is_same_input(entry: Mapping[str, Any], item: Item) -> bool:
    if entry.get("size") != item.size or entry.get("frame") != item.frame:
        return False
    if entry.get("source") == source_of(item) and entry.get("mtime_ns") == item.mtime_ns:
        return True
    # Copied, or touched: what is in it decides. Not for frames, whose digest takes decoding the video.
    local = local_path(item.source)
    if local is None or item.frame is not None or item.size is None:
        return False
    try:
        with open(local, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return False
    return digest.hexdigest() == entry.get("sha256")


def _is_whole(path: Path) -> bool:
    """There, and not one of the empty files that a power cut leaves."""
    try:
        found = path.stat()
    except OSError:
        return False
    return S_ISDIR(found.st_mode) or found.st_size > 0


def refuse_foreign(outputs: Mapping[str, Path], entry: Mapping[str, Any] | None, output_dir: Path) -> None:
    """Raise OutputError where an output would take the place of something that densecli did not write.

    entry: the latest line of the manifest about this output name.
    """
    known = set(entry.get("outputs") or ()) if entry is not None else set()
    for path, name in zip(outputs.values(), relative(outputs, output_dir), strict=True):
        if name in known or not os.path.lexists(path) or not _is_whole(path):
            continue
        if path.is_dir():
            own = is_own_folder(str(path.parent), path.name) or not any(path.iterdir())
        else:
            own = is_own_file(str(path.parent), path.name)
        if not own:
            raise OutputError(
                f"{shown_name(str(path))}: is there and was not written by densecli; move it away, or choose another "
                "--output-dir"
            )
