"""`clip_overlay.mp4`: the overlays of a video's frames as a video again, made from the pictures on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densecli.errors import OutputError
from densecli.files import complete_file
from densecli.places import Place
from densecli.sinks import overlay
from densecli.sinks.ownership import refuse_foreign_video
from densecli.sources.own_outputs import TAIL_BYTES, marked, video_mark
from densecli.sources.video_pyav import is_hd
from densecli.wording import reason_of, shown_name

_DEFAULT_FPS = 25.0
_AHEAD = 32
"""Pictures that are brought together, where they are not here."""
# Numbers of ITU-T H.273.
_BT709, _BT601, _VIDEO_RANGE = 1, 6, 1
_CODECS = (("libx264", {"crf": "18", "preset": "veryfast"}), ("mpeg4", {"q:v": "3"}))


@dataclass
class _Video:
    state: object
    rank: tuple[int, float]
    fps: float
    numbers: array[int] = field(default_factory=lambda: array("I"))
    """Four bytes a frame: a long video has a million."""


class OverlayVideos:
    """The overlay videos of one run. Usable from several threads until `finish`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._videos: dict[str, _Video] = {}
        self._lock = threading.Lock()
        self.failed: list[OutputError] = []
        """Why videos could not be written, after `finish`."""

    def add(
        self,
        video_stem: str,
        frame: int,
        fps: float | None,
        state: object = None,
        rank: tuple[int, float] = (0, 0.0),
    ) -> bool:
        """The overlay picture of a frame is there, of this run or of an earlier one. In any order.

        state: of the video's file; where it changed, frames of the highest rank are shown, as a video that was
        replaced may be shorter. Returns whether it is the first one of its video.
        """
        with self._lock:
            video = self._videos.get(video_stem)
            if video is None or (video.state != state and video.rank < rank):
                video = self._videos[video_stem] = _Video(state, rank, fps or _DEFAULT_FPS)
            elif video.state != state:
                return False
            elif video.rank < rank:
                video.rank, video.fps = rank, fps or _DEFAULT_FPS
            video.numbers.append(frame)
            return len(video.numbers) == 1

    def refuse_foreign(self, video_stem: str) -> None:
        """Raise OutputError where the video would take the place of something that densecli did not write."""
        refuse_foreign_video(self._path(video_stem), self._place)

    def finish(self) -> list[Path]:
        """Write each video that is not up to date. Returns the paths of all that are there. Raises StoreError."""
        paths = []
        for stem, video in self._videos.items():
            try:
                if self._finish(stem, video):
                    paths.append(self._path(stem))
            except OutputError as error:  # its own: the others are written
                self.failed.append(error)
        return paths

    def _finish(self, stem: str, video: _Video) -> bool:
        """Whether there is a video."""
        path = self._path(stem)
        frames: list[Path] = []
        newest = 0
        for number in sorted(set(video.numbers)):
            picture = overlay.path(self._place.folder / stem / f"frame_{number:06d}")
            if (facts := self._place.found(picture)) is not None:
                frames.append(picture)
                newest = max(newest, facts[1] or 0)
        if not frames:
            return False
        self.refuse_foreign(stem)
        mark = video_mark(_digest([picture.name for picture in frames], video.fps))
        made = self._place.found(path)
        # A run may take others than the last one did.
        if made is None or (made[1] or 0) <= newest or not self._place.tail(path, TAIL_BYTES).endswith(mark):
            write(frames, path, video.fps, self._place, mark)
            self._place.send([path])
        return True

    def _path(self, stem: str) -> Path:
        return self._place.folder / f"{stem}_overlay.mp4"


def _digest(*made_of: Any) -> str:
    """16 hex digits, of what a video is made of."""
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def write(frames: list[Path], path: Path, fps: float, place: Place, mark: bytes | None = None) -> None:
    """Write pictures of (mostly) one size as H.264, or MPEG-4 where there is no encoder for it. Raises OutputError.

    mark: what the file says of itself at its end, of `video_mark`.
    """
    with complete_file(path) as temporary:
        if importlib.util.find_spec("av"):
            _write_pyav(_pictures(frames, place), temporary, fps)
        else:
            _write_opencv(_pictures(frames, place), temporary, fps, path)
        with temporary.open("ab") as file:
            file.write(marked(mark or video_mark(_digest())))


def _write_pyav(pictures: Iterator[np.ndarray], path: Path, fps: float) -> None:
    import av

    codec, options = next(known for known in _CODECS if known[0] in av.codecs_available)
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = "densecli"
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.pix_fmt = "yuv420p"
        matrix = ""
        for number, pixels in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
                # Said in the file too: not every reader takes the one that is usual for its size.
                matrix, said = ("ITU709", _BT709) if is_hd(stream.height) else ("ITU601", _BT601)
                context = stream.codec_context
                context.colorspace = context.color_primaries = context.color_trc = said
                context.color_range = _VIDEO_RANGE
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=matrix)))
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


def _pictures(frames: list[Path], place: Place) -> Iterator[np.ndarray]:
    """Each picture, H×W×3 uint8 RGB, all of the size of the first one, made even: the encoders want that."""
    size: tuple[int, int] | None = None
    for number, frame in enumerate(frames):
        if number % _AHEAD == 0:
            place.bring_all(frames[number : number + _AHEAD])
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
