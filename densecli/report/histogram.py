"""Masks per image as bars: which ranges of numbers, and how high each stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_BARS = 30


@dataclass(frozen=True)
class Bar:
    """Images with `first` to `last` masks. height: 0 to 1, of the highest bar."""

    first: int
    last: int
    images: int
    height: float

    @property
    def range(self) -> str:
        return f"{self.first:,}" if self.first == self.last else f"{self.first:,}–{self.last:,}"


def bars(counts: Sequence[tuple[int, int]]) -> list[Bar]:
    """Bars of equal width (1, 2, 5, 10, 20 … masks) from 0 to the largest number; none where there are no images.

    counts: number of masks, and how many images have as many.
    """
    if not counts:
        return []
    most = max(masks for masks, _ in counts)
    width = _width(most + 1)
    images = [0] * (most // width + 1)
    for masks, count in counts:
        images[masks // width] += count
    highest = max(images)
    return [Bar(i * width, (i + 1) * width - 1, count, count / highest) for i, count in enumerate(images)]


def _width(numbers: int) -> int:
    """The smallest of 1, 2, 5, 10 … by which `numbers` numbers need few enough bars."""
    for power in range(int(math.log10(numbers)) + 1):
        for step in (1, 2, 5):
            width: int = step * 10**power
            if numbers <= _MOST_BARS * width:
                return width
    return numbers
