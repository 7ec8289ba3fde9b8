"""Pictures on disk as a video, by PyAV where it is installed, else by OpenCV."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densecli.errors import OutputError
from densecli.files import complete_file
from densecli.places import Place
from densecli.sinks.shown_frames import Timing
from densecli.sources.own_outputs import marked, video_mark
from densecli.sources.video_pyav import is_hd
from densecli.wording import reason_of, shown_name

_AHEAD = 32
"""Pictures that are brought together, where they are not here."""
# Numbers of ITU-T H.273.
_BT709, _BT601, _VIDEO_RANGE = 1, 6, 1
_CODECS = (("libx264", {"crf": "18", "preset": "veryfast"}), ("mpeg4", {"q:v": "3"}))
_TICK = Fraction(1, 60_000)
"""In seconds; MPEG-4 has none much shorter."""


def write(frames: Iterable[Path], path: Path, timing: Timing, place: Place, mark: bytes | None = None) -> None:
    """Write pictures of (mostly) one size as H.264, or MPEG-4 where there is no encoder for it. Raises OutputError.

    mark: what the file says of itself at its end, of `video_mark`.
    """
    with complete_file(path) as temporary:
        if importlib.util.find_spec("av"):
            _write_pyav(_pictures(frames, place), temporary, timing, path)
        else:
            _write_opencv(_pictures(frames, place), temporary, timing.mean_fps, path)
        with temporary.open("ab") as file:
            file.write(marked(mark or video_mark("0" * 16)))


def _write_pyav(pictures: Iterator[np.ndarray], temporary: Path, timing: Timing, path: Path) -> None:
    import av

    try:
        _encode(pictures, temporary, timing)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):  # the disk's, which `complete_file` explains
            raise
        raise OutputError(f"{shown_name(str(path))}: cannot be written as a video ({reason_of(error)})") from error


def _encode(pictures: Iterator[np.ndarray], path: Path, timing: Timing) -> None:
    import av

    codec, options = next(known for known in _CODECS if known[0] in av.codecs_available)
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = "densecli"
        stream: Any = container.add_stream(codec, rate=Fraction(timing.fps).limit_denominator(1001), options=options)
        stream.pix_fmt = "yuv420p"
        if timing.seconds is not None:
            stream.codec_context.time_base = _TICK
            stream.codec_context.max_b_frames = 0  # MP4 would take the time of the last one decoded for its length
        stream.codec_context.sample_aspect_ratio = timing.pixel_aspect.limit_denominator(255)
        matrix, tick = "", -1
        for number, pixels in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
                # Said in the file too: not every reader takes the one that is usual for its size.
                matrix, said = ("ITU709", _BT709) if is_hd(stream.height) else ("ITU601", _BT601)
                context = stream.codec_context
                context.colorspace = context.color_primaries = context.color_trc = said
                context.color_range = _VIDEO_RANGE
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace=matrix)
            if timing.seconds is not None:
                tick = max(tick + 1, round(timing.seconds[number] / _TICK))  # some are nearer to each other
                picture.pts, picture.time_base = tick, _TICK
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _write_opencv(pictures: Iterator[np.ndarray], temporary: Path, fps: float, path: Path) -> None:
    import cv2

    writer: Any = None
    try:
        for pixels in pictures:
            if writer is None:
                height, width = pixels.shape[:2]
                writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))  # type: ignore[attr-defined]
                if not writer.isOpened():
                    raise OutputError(
                        f"{shown_name(str(path))}: OpenCV cannot write it; run: pip install 'densecli[video]'"
                    )
            writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    finally:
        if writer is not None:
            writer.release()


def _brought(frames: Iterable[Path], place: Place) -> Iterator[Path]:
    coming = iter(frames)
    while some := list(islice(coming, _AHEAD)):
        place.bring_all(some)
        yield from some


def _pictures(frames: Iterable[Path], place: Place) -> Iterator[np.ndarray]:
    """Each picture, H×W×3 uint8 RGB, all of the size of the first one, made even: the encoders want that."""
    size: tuple[int, int] | None = None
    for frame in _brought(frames, place):
        try:
            with Image.open(frame) as image:
                picture = image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's, of what is no picture any more
            raise OutputError(
                f"{place.shown(frame)}: is damaged ({reason_of(error)}), so its video is missing; remove it and run "
                "again, which makes it anew"
            ) from error
        place.let_go(frame)
        size = size or picture.size
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        height, width = pixels.shape[:2]
        yield np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
