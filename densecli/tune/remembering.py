"""Masks that were unpacked a moment ago are asked for again with the next move of a slider: they are remembered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from threading import Lock

from densecli.engine.proposals import PackedMasks, Proposals
from densecli.masks import Runs

# Some 50 KB each at 2 megapixels.
_MOST = 1000

Unpacked = tuple[int, int, Runs]


@dataclass(frozen=True)
class RememberedMasks(PackedMasks):
    """Packed masks that keep those that were unpacked last."""

    _latest: OrderedDict[int, Unpacked] = field(default_factory=OrderedDict, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def unpacked(self, i: int) -> Unpacked:
        with self._lock:
            if i in self._latest:
                self._latest.move_to_end(i)
                return self._latest[i]
        found = super().unpacked(i)
        with self._lock:
            self._latest[i] = found
            if len(self._latest) > _MOST:
                self._latest.popitem(last=False)
        return found


def remembering(proposals: Proposals) -> Proposals:
    """The same proposals, faster when asked for the same masks again."""
    masks = proposals.masks
    return replace(proposals, masks=RememberedMasks(masks.frames, masks.sizes, masks.data))
