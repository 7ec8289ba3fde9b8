"""One frame of a video, whichever decoder it comes from, and what is said where a video ends badly."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from densecli.errors import InputError
from densecli.sources.decoding import LoadedImage
from densecli.wording import reason_of, shown_name


@dataclass
class Frame:
    """One frame. number: of the frame in its video, from 0. fps: of the video, None where it does not say.

    seconds: from the video's first frame on, None where unknown. pixel_aspect: width of a pixel over its height.
    """

    number: int
    fps: float | None
    _convert: Callable[[], np.ndarray] = field(repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _pixels: np.ndarray | None = field(default=None, repr=False)
    _discarded: bool = field(default=False, repr=False)
    seconds: float | None = None
    pixel_aspect: Fraction = Fraction(1)
    notices: list[str] = field(default_factory=list)
    """What converting it has shown."""

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
        return LoadedImage(name=name, pixels=pixels, sha256=digest, notices=tuple(self.notices))

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


def unopenable(shown: str, error: Exception | None) -> InputError:
    """What to raise of a file that no decoder opens."""
    reason = f" ({reason_of(error)})" if error is not None else ""
    return InputError(
        f"{shown}: is not a video that can be read, or a part of it is missing{reason}; copy or download it again"
    )


def broken(shown: str, number: int, what: str, where: str = "before") -> InputError:
    """What to raise of a video of which so many frames are good; what: is wrong with it, where: they lie."""
    good = f"the {number} frames {where} are good" if number else "no frame is good"
    return InputError(f"{shown}: {what}; {good}; copy or download it again for the others")


def _nothing() -> np.ndarray:
    """In place of a conversion that was done, or will not be."""
    raise InputError("a frame was asked for twice")
