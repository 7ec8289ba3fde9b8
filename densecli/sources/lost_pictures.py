"""What a picture that cannot be decoded costs: which others it spoils, and what those after it are numbered."""

from __future__ import annotations

from typing import Any

_DELAYED = 64
"""Packets after which a decoder gives the picture of the first of them; more than any takes."""


class Numbers:
    """Numbers of the frames of a video: counted; after a loss by their times, where those before came evenly."""

    def __init__(self, fps: float | None) -> None:
        self._fps, self._next, self._skipped, self._even = fps, 0, 0, bool(fps)
        self._first: float | None = None
        """Time of frame 0, in frames."""

    def skip(self) -> None:
        """A frame cannot be used."""
        self._skipped += 1

    def take(self, begin: float | None, after_loss: bool) -> int:
        """Number of the next one. begin: its time in seconds. after_loss: more may be missing than were skipped."""
        counted = self._next + self._skipped
        if begin is None or not self._fps:
            self._even = False
        else:
            if self._first is None:
                self._first = begin * self._fps - counted
            place = begin * self._fps - self._first
            if self._even and (after_loss or self._skipped):
                counted = max(self._next, round(place))
            self._even &= abs(place - counted) < 0.5
        self._next, self._skipped = counted + 1, 0
        return counted


class Loss:
    """Which pictures a packet that could not be decoded spoils: those that are made of it, up to the next key frame."""

    def __init__(self) -> None:
        self.is_open = False
        self._recent: dict[int | None, bool] = {}
        """Times of the last packets, and whether a picture begins anew with them."""
        self._key_seen = False
        self._key_pts: int | None = None

    def begins(self) -> None:
        """A packet could not be decoded."""
        self.is_open, self._key_seen, self._key_pts = True, False, None

    def begins_with(self, picture: Any) -> None:
        """A picture was made up in part; packets of later ones may be decoded already."""
        keys = [pts for pts, key in self._recent.items() if key and pts is not None and pts > (picture.pts or 0)]
        self.begins()
        self._recent.clear()
        if keys:
            self._key_seen, self._key_pts = True, min(keys)

    def decoded(self, packet: Any) -> None:
        """A packet was decoded; its picture may come later."""
        if not self.is_open:
            self._recent[packet.pts] = packet.is_keyframe
            if len(self._recent) > _DELAYED:
                del self._recent[next(iter(self._recent))]
        elif packet.is_keyframe and not self._key_seen:
            self._key_seen, self._key_pts = True, packet.pts

    def spoils(self, picture: Any) -> bool:
        """Whether a picture may be made of what was lost. The first one that begins anew ends the loss."""
        if not self.is_open or (picture.pts is not None and picture.pts in self._recent):
            return False
        if self._key_pts is None or picture.pts is None:
            self.is_open = not (self._key_seen and picture.key_frame)
        else:
            self.is_open = picture.pts < self._key_pts
        if not self.is_open:
            self._recent.clear()
        return self.is_open
