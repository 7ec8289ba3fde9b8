"""Which of the files that a user names one by one are videos."""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePath

from densecli.sources.foreign import HEAD_BYTES, VIDEO, foreign_kind
from densecli.sources.tree_names import file_name, is_image, is_video
from densecli.sources.urls import local_path

NAMED_VIDEO_SUFFIXES = frozenset([".3gp", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".wmv"])
"""Of videos that are read where they are named, and not looked for in folders."""


def names_video(given: str) -> bool:
    """Whether a path or URL that the user wrote is a video's: by its suffix, or what a local file begins with."""
    name = file_name(given)
    if is_image(name) or is_video(name):
        return is_video(name)
    local = local_path(given)
    if local is None:
        return PurePath(name).suffix.lower() in NAMED_VIDEO_SUFFIXES
    with contextlib.suppress(OSError, ValueError):  # reading it will say why
        if os.path.isfile(local):  # a pipe could block
            with open(local, "rb") as file:
                return foreign_kind(file.read(HEAD_BYTES)) == VIDEO
    return False
