"""Frames of a video by OpenCV, where PyAV is not installed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from densecli.errors import InputError
from densecli.sources.missing_frames import missing_of
from densecli.sources.video_frame import Frame, broken, unopenable
from densecli.wording import shown_name

_TRIES = 100
"""Damaged pictures in a row after which OpenCV is believed that a video ends."""
_SAME = (
    "is the same picture as the frame before; if this video is interlaced, OpenCV cannot read it: run: pip install "
    "'densecli[video]', and this again with --overwrite"
)


def read_opencv(name: str, source: Any, every: int, stack: ExitStack) -> Generator[Frame, None, None]:
    """Frames by OpenCV. source: as for PyAV, but no open file."""
    cv2 = _opencv()
    shown = shown_name(name)
    if not isinstance(source, str):
        raise InputError(
            f"{shown}: videos of this kind of URL need PyAV; run: pip install 'densecli[video]', or copy it here"
        )
    capture = _opened(source)
    stack.callback(capture.release)
    if not capture.isOpened():
        raise unopenable(shown, None)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    fps = capture.get(cv2.CAP_PROP_FPS) or None
    promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    number, last, gap = 0, 0.0, 0.0
    current: Frame | None = None
    pixels = _Pixels(capture, shown)
    try:
        while True:
            if current is not None:
                current.keep()  # the decoder holds one picture only
                current = None
            if not capture.grab():
                break
            at = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            seconds = at if number == 0 or at > last else None  # what is unknown is 0
            last, gap = at, max(gap, at - last)
            if number % every == 0:
                notices: list[str] = []
                current = Frame(number, fps, partial(pixels, notices), seconds=seconds, notices=notices)
                yield current
            number += 1
    finally:
        if current is not None:
            current.keep()
    # A damaged picture looks like the end, but for what comes after it. That may be made of what was lost.
    goes_on = any(capture.grab() for _ in range(_TRIES))
    lack = missing_of(source, number, promised, last, gap, fps)
    if number == 0 or lack or goes_on:
        raise broken(shown, number, f"is damaged or cut off{lack}")


def _opencv() -> Any:
    """The module, which says nothing itself."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its FFmpeg writes to stderr otherwise
    import cv2

    return cv2


def _opened(path: str) -> Any:
    """A cv2.VideoCapture, which may not have opened it; without words on stderr."""
    cv2 = _opencv()
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)


class _Pixels:
    """Conversion of what was grabbed last to upright RGB."""

    def __init__(self, capture: Any, shown: str) -> None:
        self._capture, self._shown = capture, shown
        self._before: bytes | None = None

    def __call__(self, notices: list[str]) -> np.ndarray:
        """The pixels; notices: to which is added what they give reason to say."""
        cv2 = _opencv()
        good, pixels = self._capture.retrieve()
        if not good:
            raise InputError(f"{self._shown}: a frame cannot be converted; copy or download the video again")
        # OpenCV 5 cannot convert interlaced pictures, and gives what lay in memory without saying so.
        digest = hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
        if digest == self._before:
            notices.append(_SAME)
        self._before = digest
        return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
