"""Whether an input's outputs are there already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecli.files import sha256_of
from densecli.places import Place
from densecli.sources import local_path
from densecli.wording import without_password

if TYPE_CHECKING:
    from densecli.sources.collecting import Item

_ENDS = {".json": (b"{", b"}"), ".png": (b"\x89PNG", b"IEND\xaeB`\x82")}
"""How files of a kind begin and end."""


def relative(outputs: Mapping[str, Path], output_dir: Path) -> list[str]:
    """Outputs as the manifest names them."""
    return [path.relative_to(output_dir).as_posix() for path in outputs.values()]


def source_of(item: Item) -> str:
    """The file of an input whatever folder the command was run in, or its URL, without a password."""
    local = local_path(item.source)
    return without_password(item.source) if local is None else os.path.abspath(local)


def is_complete(
    entry: Mapping[str, Any] | None,
    item: Item,
    outputs: Mapping[str, Path],
    place: Place,
    settings: str,
    alpha: float,
) -> bool:
    """Whether `entry`, the latest line about this output name, says that this very input is done, and it still is.

    settings: of the masks. alpha: of overlays, which matters only where there are to be some.
    """
    return entry is not None and same_masks(entry, item, settings) and not missing(entry, outputs, place, alpha)


def missing(entry: Mapping[str, Any], outputs: Mapping[str, Path], place: Place, alpha: float) -> dict[str, Path]:
    """Those of the outputs that are not there, by `entry`, the line of an input that is done. alpha: of overlays."""
    recorded = set(entry.get("outputs") or ())
    return {
        kind: path
        for (kind, path), name in zip(outputs.items(), relative(outputs, place.folder), strict=True)
        if (kind == "overlay" and entry.get("alpha") != alpha)
        or name not in recorded
        or not place.is_whole(path, entry.get("masks"))
        or not (place.apart or _is_closed(path))
    }


def _is_closed(path: Path) -> bool:
    """Whether a summary or picture begins and ends as they do: what a crash left of one may have its length, or any."""
    if path.suffix not in _ENDS:
        return True
    begin, end = _ENDS[path.suffix]
    try:
        with open(path, "rb") as file:
            first = file.read(len(begin))
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(end) - 4))
            return first == begin and file.read().rstrip().endswith(end)
    except OSError:
        return False


def same_masks(entry: Mapping[str, Any] | None, item: Item, settings: str) -> bool:
    """Whether `entry` says that this very input was done with these settings, whatever was saved then."""
    return (
        entry is not None
        and entry.get("status") == "done"
        and entry.get("settings") == settings
        and _is_same_input(entry, item)
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
