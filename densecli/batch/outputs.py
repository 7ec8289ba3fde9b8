"""Whether an input's outputs are there already, and are densecli's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecli.errors import OutputError
from densecli.files import sha256_of
from densecli.places import Place
from densecli.sources import local_path
from densecli.sources.own_outputs import is_own_file, is_own_folder
from densecli.wording import without_password

if TYPE_CHECKING:
    from densecli.sources.collecting import Item


def relative(outputs: Mapping[str, Path], output_dir: Path) -> list[str]:
    """Outputs as the manifest names them."""
    return [path.relative_to(output_dir).as_posix() for path in outputs.values()]


def source_of(item: Item) -> str:
    """The file of an input whatever folder the command was run in, or its URL, without a password."""
    local = local_path(item.source)
    return without_password(item.source) if local is None else os.path.abspath(local)


def is_complete(
    entry: Mapping[str, Any] | None, item: Item, outputs: Mapping[str, Path], place: Place, settings: str
) -> bool:
    """Whether `entry`, the latest line about this output name, says that this very input is done, and it still is."""
    return (
        entry is not None
        and entry.get("status") == "done"
        and entry.get("settings") == settings
        and set(relative(outputs, place.folder)) <= set(entry.get("outputs") or ())
        and _is_same_input(entry, item)
        and all(place.is_whole(path, entry.get("masks")) for path in outputs.values())
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
        return sha256_of(local) == entry.get("sha256")
    except OSError:
        return False


def refuse_foreign(outputs: Mapping[str, Path], entry: Mapping[str, Any] | None, place: Place) -> None:
    """Raise OutputError where an output would take the place of something that densecli did not write.

    entry: the latest line of the manifest about this output name.
    """
    known = set(entry.get("outputs") or ()) if entry is not None else set()
    names = relative(outputs, place.folder)
    unknown = [
        path
        for path, name in zip(outputs.values(), names, strict=True)
        if name not in known and place.is_whole(path, None)
    ]
    for path in unknown:
        place.sample(path)
    for path in unknown:
        if path.is_dir():
            own = is_own_folder(str(path.parent), path.name) or not any(path.iterdir())
        else:
            own = is_own_file(str(path.parent), path.name)
        if not own:
            raise OutputError(
                f"{place.shown(path)}: is there and was not written by densecli; move it away, or choose another "
                "--output-dir"
            )
    for path in unknown:
        place.forget_sample(path)
