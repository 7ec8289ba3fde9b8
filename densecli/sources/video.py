"""Frames of a video, in order, decoded as they are asked for; pixels are converted only for frames that are used."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

from densecli.errors import DensecliError, InputError
from densecli.sources.opening import open_path
from densecli.sources.urls import filesystem_of, local_path, tried_twice
from densecli.sources.video_frame import Frame
from densecli.sources.video_opencv import read_opencv
from densecli.sources.video_pyav import read_pyav
from densecli.wording import reason_of, shown_name

DECODERS = ("pyav", "opencv")


def default_decoder() -> str:
    """`pyav` where it is installed, else `opencv`."""
    return "pyav" if importlib.util.find_spec("av") else "opencv"


def frames(name: str, *, every: int = 1, max_frames: int | None = None, decoder: str | None = None) -> Iterator[Frame]:
    """Frames 0, every, 2·every … of a video (path or URL), at most max_frames.

    Raises InputError when it cannot be opened; and after the good frames where it is damaged or cut off.
    """
    with ExitStack() as stack:
        source = _source(name, stack)
        read = read_pyav if (decoder or default_decoder()) == "pyav" else read_opencv
        with closing(read(name, source, every, stack)) as found:
            yield from itertools.islice(found, max_frames)


def _source(name: str, stack: ExitStack) -> Any:
    """What a decoder opens: a path, an http URL or an open file. Raises InputError with the reason if there is none."""
    local = local_path(name)
    if local is not None:
        file = open_path(name, local, stack)
        if not file.read(1):
            raise InputError(f"{shown_name(name)}: is empty (0 bytes); copy or download it again")
        file.close()
        return local
    remote = filesystem_of(name)
    if remote is None:
        return name
    try:
        filesystem, path = remote
        return stack.enter_context(tried_twice(filesystem, name, lambda filesystem: filesystem.open(path, "rb")))
    except DensecliError:
        raise
    except Exception as error:  # each file system has its own family of errors
        raise InputError(
            f"{shown_name(name)}: cannot be read: {reason_of(error)}; check the URL and your credentials"
        ) from error
