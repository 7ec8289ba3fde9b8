"""Frames of a video, in order, decoded as they are asked for; pixels are converted only for frames that are used."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from densecli.errors import DensecliError, InputError
from densecli.sources.decoding import LoadedImage
from densecli.sources.missing_frames import FRAMES_OF_GRACE, SHARE_OF_GRACE, missing_of
from densecli.sources.opening import open_path
from densecli.sources.urls import filesystem_of, local_path, tried_twice
from densecli.wording import reason_of, shown_name

DECODERS = ("pyav", "opencv")
_TRIES = 100
"""Damaged pictures in a row after which OpenCV is believed that a video ends."""


@dataclass
class Frame:
    """One frame. number: of the frame in its video, from 0. fps: of the video, None where it does not say."""

    number: int
    fps: float | None
    _convert: Callable[[], np.ndarray] = field(repr=False)
    _lock: threading.Lock = field(repr=False)
    _pixels: np.ndarray | None = field(default=None, repr=False)
    _discarded: bool = field(default=False, repr=False)

    def load(self, name: str) -> LoadedImage:
        """The frame as an image, upright; may be called from any thread, also when later frames were read already.

        Raises InputError where the frame cannot be converted, or was discarded.
        """
        with self._lock:
            if self._pixels is None:
                if self._discarded:
                    raise InputError(f"{shown_name(name)}: this frame was passed over; read the video again")
                self._pixels, self._convert = self._convert(), _nothing
            pixels = self._pixels
        digest = hashlib.sha256(pixels.data).hexdigest()
        return LoadedImage(name=name, pixels=pixels, sha256=digest, notices=())

    def discard(self) -> None:
        """This frame will not be loaded: none of its pixels need to be converted."""
        with self._lock:
            self._discarded = True
            self._pixels, self._convert = None, _nothing

    def keep(self) -> None:
        """Convert the pixels now, because the decoder is about to move on."""
        with self._lock:
            if self._pixels is None and not self._discarded:
                self._pixels, self._convert = self._convert(), _nothing


def default_decoder() -> str:
    """`pyav` where it is installed, else `opencv`."""
    return "pyav" if importlib.util.find_spec("av") else "opencv"


def frames(name: str, *, every: int = 1, max_frames: int | None = None, decoder: str | None = None) -> Iterator[Frame]:
    """Frames 0, every, 2·every … of a video (path or URL), at most max_frames.

    Raises InputError when it cannot be opened; and after the good frames where it is damaged or cut off.
    """
    with ExitStack() as stack:
        source = _source(name, stack)
        read = _pyav if (decoder or default_decoder()) == "pyav" else _opencv
        with closing(read(name, source, every, stack)) as found:
            yield from itertools.islice(found, max_frames)


def promised_frames(name: str) -> int | None:
    """How many frames a local video says that it has; None where it does not, or cannot be opened."""
    local = local_path(name)
    if local is None or not os.path.isfile(local):
        return None
    cv2 = _cv2()
    capture = _opened(local)
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None
    finally:
        capture.release()


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


def _pyav(name: str, source: Any, every: int, stack: ExitStack) -> Generator[Frame, None, None]:
    import av

    shown = shown_name(name)
    try:
        container = stack.enter_context(av.open(source, mode="r"))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _unopenable(shown, error) from error
    if not container.streams.video:
        raise InputError(f"{shown}: has no pictures (a sound file?); give a video")
    stream = container.streams.video[0]
    fps = float(stream.average_rate) if stream.average_rate else None
    number, end, incomplete = 0, None, False
    failure: Exception | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            incomplete |= packet.is_corrupt
            decoded = packet.decode()
        except (av.error.FFmpegError, OSError) as problem:
            if isinstance(problem, av.error.EOFError):
                break
            failure = problem
            break
        for picture in decoded:
            if picture.is_corrupt:
                incomplete = True
                number += 1
                continue
            if picture.pts is not None and picture.time_base is not None:
                end = float((picture.pts + (picture.duration or 0)) * picture.time_base)
            if number % every == 0:
                yield Frame(number, fps, _PyavPixels(picture), threading.Lock())
            number += 1
    if failure is not None:
        raise _broken(shown, number, f"is damaged: {reason_of(failure)}")
    expected = _expected_end(container, stream)
    if expected is not None and end is not None and fps:
        missing = expected - end
        if missing > max(FRAMES_OF_GRACE / fps, SHARE_OF_GRACE * expected):
            raise _broken(shown, number, f"is cut off ({end:.1f} s of {expected:.1f} s)")
    if incomplete or number == 0:
        raise _broken(shown, number, "is damaged or cut off")


def is_hd(height: int) -> bool:
    """Whether colours are BT.709's where a file says nothing about them, as players take it; else they are BT.601's."""
    return height >= 720


class _PyavPixels:
    """Conversion of one decoded picture (which costs half of its pixels' memory) to upright RGB."""

    def __init__(self, picture: Any) -> None:
        self._picture = picture

    def __call__(self) -> np.ndarray:
        picture = self._picture
        options: dict[str, Any] = {}
        if picture.format.name.startswith(("yuv", "nv")):
            known = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M"}.get(int(picture.colorspace))
            options["src_colorspace"] = known or ("ITU709" if is_hd(picture.height) else "ITU601")
        pixels = picture.to_ndarray(format="rgb24", **options)
        turns = round(picture.rotation / 90) % 4  # counter-clockwise, as numpy turns
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else np.ascontiguousarray(pixels)


def _expected_end(container: Any, stream: Any) -> float | None:
    """When the pictures should end, in seconds; None where the container does not say."""
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    written = next((value for key, value in stream.metadata.items() if key.upper().startswith("DURATION")), None)
    if written is not None:  # Matroska: 00:00:04.120000000
        try:
            hours, minutes, seconds = written.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:
            return None
    if container.duration is not None and len(container.streams) == 1:  # else the sound may be longer
        return float(((container.start_time or 0) + container.duration) / 1_000_000)
    return None


def _opencv(name: str, source: Any, every: int, stack: ExitStack) -> Generator[Frame, None, None]:
    cv2 = _cv2()
    shown = shown_name(name)
    if not isinstance(source, str):
        raise InputError(
            f"{shown}: videos of this kind of URL need PyAV; run: pip install 'densecli[video]', or copy it here"
        )
    capture = _opened(source)
    stack.callback(capture.release)
    if not capture.isOpened():
        raise _unopenable(shown, None)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    fps = capture.get(cv2.CAP_PROP_FPS) or None
    promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    number, last, gap = 0, 0.0, 0.0
    current: Frame | None = None
    try:
        while True:
            if current is not None:
                current.keep()  # the decoder holds one picture only
                current = None
            if not capture.grab():
                break
            at = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            last, gap = at, max(gap, at - last)
            if number % every == 0:
                current = Frame(number, fps, lambda: _opencv_pixels(capture, shown), threading.Lock())
                yield current
            number += 1
    finally:
        if current is not None:
            current.keep()
    # A damaged picture looks like the end, but for what comes after it. That may be made of what was lost.
    goes_on = any(capture.grab() for _ in range(_TRIES))
    lack = missing_of(source, number, promised, last, gap, fps)
    if number == 0 or lack or goes_on:
        raise _broken(shown, number, f"is damaged or cut off{lack}")


def _cv2() -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its FFmpeg writes to stderr otherwise
    import cv2

    return cv2


def _opened(path: str) -> Any:
    """A cv2.VideoCapture, which may not have opened it; without words on stderr."""
    cv2 = _cv2()
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _opencv_pixels(capture: Any, shown: str) -> np.ndarray:
    cv2 = _cv2()
    good, pixels = capture.retrieve()
    if not good:
        raise InputError(f"{shown}: a frame cannot be converted; copy or download the video again")
    return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def _unopenable(shown: str, error: Exception | None) -> InputError:
    reason = f" ({reason_of(error)})" if error is not None else ""
    return InputError(
        f"{shown}: is not a video that can be read, or a part of it is missing{reason}; copy or download it again"
    )


def _broken(shown: str, number: int, what: str) -> InputError:
    good = f"the {number} frames before are good" if number else "no frame is good"
    return InputError(f"{shown}: {what}; {good}; copy or download it again for the others")


def _nothing() -> np.ndarray:
    raise InputError("a frame was asked for twice")
