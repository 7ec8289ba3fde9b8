"""What an overlay video is made of: which frames of a video it shows, and when."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate

import numpy as np

_DEFAULT_FPS = 25.0
_LONGEST_GAP = 60.0
"""In seconds, for which a picture stands: more is a seam, as of recordings that were joined."""


@dataclass(frozen=True)
class ShownFrame:
    """One frame. fps: of the overlay video. seconds: in the video it is of. None where unknown."""

    number: int
    fps: float | None = None
    seconds: float | None = None
    pixel_aspect: Fraction | None = None
    """Width of a pixel over its height."""


@dataclass(frozen=True)
class Timing:
    """How pictures are shown. seconds: of each, from 0; None for one after the other at `fps`."""

    fps: float = _DEFAULT_FPS
    seconds: Sequence[float] | None = None
    pixel_aspect: Fraction = Fraction(1)

    @property
    def mean_fps(self) -> float:
        """The rate at which as many pictures take as long."""
        return (len(self.seconds) - 1) / self.seconds[-1] if self.seconds and self.seconds[-1] > 0 else self.fps


@dataclass
class ShownFrames:
    """Those of one video. state: of its file. rank: of who told of them last."""

    state: object
    rank: tuple[int, float]
    fps: float | None = None
    pixel_aspect: Fraction = Fraction(1)
    numbers: array[int] = field(default_factory=lambda: array("I"))
    """Four bytes a frame, and eight for its time: a long video has a million."""
    seconds: array[float] = field(default_factory=lambda: array("d"))
    """Not a number where unknown."""

    def add(self, frame: ShownFrame, rank: tuple[int, float]) -> None:
        """In any order."""
        if self.rank < rank or not self.numbers:
            self.rank, self.fps = rank, frame.fps
        self.pixel_aspect = frame.pixel_aspect or self.pixel_aspect
        self.numbers.append(frame.number)
        self.seconds.append(math.nan if frame.seconds is None else frame.seconds)

    def in_order(self) -> Iterator[tuple[int, float]]:
        """Number and time of each frame, as it was told of last."""
        numbers, seconds = np.array(self.numbers)[::-1], np.array(self.seconds)[::-1]
        _, last = np.unique(numbers, return_index=True)
        return ((int(numbers[place]), float(seconds[place])) for place in last)

    def timing(self, seconds: Sequence[float]) -> Timing:
        """When frames of these times are to be shown: at the video's rate, unless their times are known and uneven."""
        fps = self.fps or _DEFAULT_FPS
        gaps = [after - before for before, after in zip(seconds, seconds[1:], strict=False)]
        rises = all(gap > 0 for gap in gaps)  # so is no NaN
        even = all(abs((second - seconds[0]) * fps - place) < 0.5 for place, second in enumerate(seconds))
        if even or not rises or not gaps:
            return Timing(fps, None, self.pixel_aspect)
        longest = max(_LONGEST_GAP, 10 / fps)
        return Timing(fps, list(accumulate((min(gap, longest) for gap in gaps), initial=0.0)), self.pixel_aspect)
