"""`clip_overlay.mp4`: the overlays of a video's frames as a video again, made from the pictures on disk."""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections.abc import Iterable
from pathlib import Path

from densecli.errors import OutputError
from densecli.output_names import OVERLAY_VIDEO, beside, frame_name
from densecli.places import Place
from densecli.sinks.ownership import refuse_foreign_video
from densecli.sinks.shown_frames import ShownFrame, ShownFrames, Timing
from densecli.sinks.video_writing import write
from densecli.sources.own_outputs import TAIL_BYTES, video_mark


class OverlayVideos:
    """The overlay videos of one run. Usable from several threads until `finish`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._videos: dict[str, ShownFrames] = {}
        self._lock = threading.Lock()
        self.failed: list[OutputError] = []
        """Why videos could not be written, after `finish`."""

    def add(self, video_stem: str, frame: ShownFrame, state: object = None, rank: tuple[int, float] = (0, 0.0)) -> bool:
        """The overlay picture of a frame is there, of this run or of an earlier one. In any order.

        state: of the video's file; where it changed, frames of the highest rank are shown, as a video that was
        replaced may be shorter. Returns whether it is the first one of its video.
        """
        with self._lock:
            video = self._videos.get(video_stem)
            if video is None or (video.state != state and video.rank < rank):
                video = self._videos[video_stem] = ShownFrames(state, rank)
            elif video.state != state:
                return False
            video.add(frame, rank)
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

    def _finish(self, stem: str, video: ShownFrames) -> bool:
        """Whether there is a video."""
        path = self._path(stem)
        numbers, times = array("I"), array("d")  # a day has two million, whose paths would take a gigabyte
        newest = 0
        for number, seconds in video.in_order():
            if (facts := self._place.found(self._picture(stem, number))) is not None:
                numbers.append(number)
                times.append(seconds)
                newest = max(newest, facts[1] or 0)
        if not numbers:
            return False
        self.refuse_foreign(stem)
        timing = video.timing(times)
        mark = video_mark(_digest((self._picture(stem, number).name for number in numbers), timing))
        made = self._place.found(path)
        # A run may take others than the last one did.
        if made is None or (made[1] or 0) <= newest or not self._place.tail(path, TAIL_BYTES).endswith(mark):
            write((self._picture(stem, number) for number in numbers), path, timing, self._place, mark)
            self._place.send([path])
        return True

    def _picture(self, stem: str, number: int) -> Path:
        return beside(self._place.folder / stem / frame_name(number), "overlay")

    def _path(self, stem: str) -> Path:
        return self._place.folder / (stem + OVERLAY_VIDEO)


def _digest(names: Iterable[str], timing: Timing) -> str:
    """16 hex digits, of what a video is made of: of its pictures' names and their times as JSON."""
    digest = hashlib.sha256(b"[[")
    for place, name in enumerate(names):
        digest.update((", " * (place > 0) + json.dumps(name)).encode())
    seconds = timing.seconds and [round(second, 3) for second in timing.seconds]
    digest.update(("], " + json.dumps([round(timing.fps, 6), seconds, str(timing.pixel_aspect)])[1:]).encode())
    return digest.hexdigest()[:16]
