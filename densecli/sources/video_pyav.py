"""Frames of a video by PyAV: it reads all that FFmpeg does, from open files too, and says what is damaged."""

from __future__ import annotations

import struct
from collections.abc import Generator
from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import numpy as np

from densecli.errors import InputError
from densecli.sources.lost_pictures import Loss, Numbers
from densecli.sources.missing_frames import FRAMES_OF_GRACE, SHARE_OF_GRACE
from densecli.sources.video_frame import Frame, broken, unopenable
from densecli.wording import reason_of, shown_name

# As numbers: older PyAV has no names for some.
_ITU709, _FCC, _ITU601, _SMPTE240M, _BT2020 = 1, 4, 5, 7, 9
_MATRICES = {
    1: _ITU709, 4: _FCC, 5: _ITU601, 6: _ITU601, 7: _SMPTE240M, 9: _BT2020, 10: _BT2020,
}  # fmt: skip
"""libswscale's numbers of matrices, by those of ITU-T H.273; 10 is BT.2020's of constant luminance, which it lacks."""


def read_pyav(name: str, source: Any, every: int, stack: ExitStack) -> Generator[Frame, None, None]:
    """Frames by PyAV. source: a path, an http URL or an open file."""
    import av

    shown = shown_name(name)
    try:
        container = stack.enter_context(av.open(source, mode="r"))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise unopenable(shown, error) from error
    if not container.streams.video:
        raise InputError(f"{shown}: has no pictures (a sound file?); give a video")
    stream = container.streams.video[0]
    fps = float(stream.average_rate) if stream.average_rate else None
    start = float((stream.start_time or 0) * stream.time_base)
    numbers, good, end, incomplete = Numbers(fps), 0, None, False
    failure: Exception | None = None
    loss, resumed = Loss(), False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            incomplete |= packet.is_corrupt
            decoded = packet.decode()
            loss.decoded(packet)
        except av.error.EOFError:
            break
        except (av.error.FFmpegError, OSError) as problem:
            failure = failure or problem
            if not isinstance(problem, av.error.InvalidDataError):
                break
            loss.begins()
            numbers.skip()
            continue
        for picture in decoded:
            incomplete |= picture.is_corrupt
            if picture.is_corrupt and not loss.is_open:
                loss.begins_with(picture)
            was_open = loss.is_open
            if picture.is_corrupt or loss.spoils(picture):
                numbers.skip()
                continue
            resumed |= was_open and not loss.is_open
            begin = None
            if picture.pts is not None and picture.time_base is not None:
                begin = float(picture.pts * picture.time_base)
                end = begin + float((picture.duration or 0) * picture.time_base)
            number = numbers.take(begin, was_open)
            good += 1
            if number % every == 0:
                yield Frame(
                    number,
                    fps,
                    _PyavPixels(picture),
                    seconds=None if begin is None else begin - start,
                    pixel_aspect=_pixel_aspect(stream, picture),
                )
    if failure is not None:
        raise broken(shown, good, f"is damaged: {reason_of(failure)}", "around that" if resumed else "before")
    expected = _expected_end(container, stream)
    if expected is not None and end is not None and fps:
        missing = expected - end
        if missing > max(FRAMES_OF_GRACE / fps, SHARE_OF_GRACE * expected):
            raise broken(shown, good, f"is cut off ({end:.1f} s of {expected:.1f} s)")
    if incomplete or good == 0:
        raise broken(shown, good, "is damaged or cut off")


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
            usual = _ITU709 if is_hd(picture.height) else _ITU601
            options["src_colorspace"] = _MATRICES.get(int(picture.colorspace), usual)
        pixels = picture.to_ndarray(format="rgb24", **options)
        return np.ascontiguousarray(_as_displayed(pixels, picture))


def _as_displayed(pixels: np.ndarray, picture: Any) -> np.ndarray:
    """H×W×3 turned, and flipped, as the file says; by quarter turns. (PyAV's `rotation` knows no flip.)"""
    a, b, c, d = _display_matrix(picture)
    if abs(b) > abs(a):
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _display_matrix(picture: Any) -> tuple[int, int, int, int]:
    """a, b, c, d, for which a point (x, y) is shown at (ax + cy, bx + dy), but for a factor."""
    side_data = picture.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=9i", bytes(side_data))[:5]
    return a, b, c, d


def _pixel_aspect(stream: Any, picture: Any) -> Fraction:
    """Width of a pixel of the upright picture over its height."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    a, b, _, _ = _display_matrix(picture)
    return 1 / aspect if abs(b) > abs(a) else aspect


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
