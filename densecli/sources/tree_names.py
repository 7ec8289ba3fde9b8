"""What the outputs of files in a folder are called, decided folder by folder: no list of all files is needed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence

from densecli.output_names import ENDINGS, OVERLAY_VIDEO, RUN_FILES, RUN_FOLDERS
from densecli.sources.names import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    collision_key,
    fitting,
    natural_part,
    stem_and_suffix,
)

_SUFFIXES = "|".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES))
# `desk.jpg` of a file `desk.jpg.png` could be the long name of `desk.jpg`: such a stem is never used as a name.
_LIKE_A_LONG_NAME = re.compile(rf"\.({_SUFFIXES})(-[0-9a-f]{{8}})?", re.IGNORECASE)
# A folder of this name could stand where an output of a file beside it goes (`desk_masks/` and `desk.jpg`) ...
_LIKE_AN_OUTPUT = re.compile(
    f".*({'|'.join(map(re.escape, [*ENDINGS.values(), OVERLAY_VIDEO]))})_*", re.IGNORECASE | re.DOTALL
)
# ... and these where one of the whole run goes.
_LIKE_A_RUN_OUTPUT = re.compile(f"({'|'.join(map(re.escape, RUN_FOLDERS + RUN_FILES))})_*", re.IGNORECASE)


def sort_key(name: str, is_folder: bool) -> tuple[object, ...]:
    """Natural order in which files with the same stem are neighbours."""
    stem = short_name(name, is_folder)
    key = collision_key(stem)
    return natural_part(key), key, natural_part(name), name


def short_name(name: str, is_folder: bool) -> str:
    """Name without suffix; of a folder the whole name."""
    return name if is_folder else stem_and_suffix(name)[0]


def group_names(group: Sequence[tuple[str, bool]]) -> list[str]:
    """Output names of the files (name, False) and folders (name, True) of one folder that share one stem.

    The stem where one file has it alone, else the file's whole name; names that differ in case alone get a digest.
    """
    files = sum(not is_folder for _, is_folder in group)
    result = []
    for name, is_folder in group:
        if is_folder:
            chosen = name if len(group) - files == 1 else _with_digest(name)
        else:
            stem = stem_and_suffix(name)[0]
            # The frames of a video lie in a folder of its name, which must not be another folder's.
            beside_folder = len(group) > files and is_video(name)
            if files == 1 and not beside_folder and not _is_like_a_long_name(stem):
                chosen = stem
            else:
                twins = sum(collision_key(other) == collision_key(name) for other, _ in group)
                chosen = name if twins == 1 else _with_digest(name)
        result.append(fitting(chosen))
    return result


def long_name(name: str) -> str:
    """The name of a file whose stem another one has too."""
    return fitting(name)


def lone_name(name: str) -> str:
    """The name of a file whose stem no other one has."""
    return group_names([(name, False)])[0]


def safe_folders(stem: str) -> str:
    """`stem` (posix) with an underscore after each folder whose name an output could need."""
    *folders, last = stem.split("/")
    safe: list[str] = []
    for folder in folders:
        taken = _LIKE_AN_OUTPUT.fullmatch(folder) or (not safe and _LIKE_A_RUN_OUTPUT.fullmatch(folder))
        safe.append(f"{folder}_" if taken else folder)
    return "/".join([*safe, last])


def file_name(path: str) -> str:
    """The name at the end of a path or URL: without a query, and of a chain the first link's."""
    path = path.partition("::")[0] if "://" in path else path
    if path.lower().startswith(("http://", "https://")):
        path = re.split("[?#]", path, maxsplit=1)[0]
    path = path.rstrip("/")
    return re.split(r"[/\\]", path)[-1] if os.sep == "\\" else path.rpartition("/")[2]


def is_image(name: str) -> bool:
    return stem_and_suffix(name)[1].lower() in IMAGE_SUFFIXES


def is_video(name: str) -> bool:
    return stem_and_suffix(name)[1].lower() in VIDEO_SUFFIXES


def _is_like_a_long_name(stem: str) -> bool:
    return "." in stem and _LIKE_A_LONG_NAME.fullmatch(stem[stem.rfind(".") :]) is not None


def _with_digest(name: str) -> str:
    return f"{name}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
