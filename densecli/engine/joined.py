"""Runs of many masks in one piece of memory, for compiled loops that go over many masks in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from densecli.masks import Runs


class Joined(NamedTuple):
    """Runs of n masks, one mask after the other, each in the frame of its box.

    column, top, bottom: int32, half the memory of Runs. first: n + 1 int64, each mask's first run, ending with the
    number of all.
    """

    column: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    first: np.ndarray

    @staticmethod
    def of(runs: Sequence[Runs]) -> Joined:
        """runs: of one mask at least."""
        first = np.zeros(len(runs) + 1, dtype=np.int64)
        np.cumsum([len(one.column) for one in runs], out=first[1:])
        return Joined(
            _together([one.column for one in runs]),
            _together([one.top for one in runs]),
            _together([one.bottom for one in runs]),
            first,
        )


def _together(lines: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(lines, dtype=np.int32, casting="same_kind")
