"""The truth of a scene: which masks hold each pixel, at four levels that nest.

Pixels that lie in the same masks at every level are one *atom*. A scene stores one map of atoms and a table that says
which mask an atom belongs to at each level, 0 for none; a mask is the set of atoms with its id.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = ("detail", "part", "object", "whole")
DETAIL, PART, OBJECT, WHOLE = range(4)
Ids = tuple[int, int, int, int]
NOWHERE: Ids = (0, 0, 0, 0)
MAX_ATOMS = 1024


@dataclass(frozen=True)
class Scene:
    """pixels: S×S×3 uint8 RGB. atoms: S×S int16, rows of `table`. table: N×4 int16, ids at LEVELS, N ≤ MAX_ATOMS.

    photo: whether its masks were drawn on a photo, so that some that one could draw may be missing.
    """

    pixels: np.ndarray
    atoms: np.ndarray
    table: np.ndarray
    photo: bool

    def level(self, level: int) -> np.ndarray:
        """S×S int16: the mask id of each pixel at a level, 0 for none."""
        return self.table[:, level][self.atoms]

    def masks(self, level: int, min_area: int = 1) -> list[np.ndarray]:
        """S×S bool masks of a level."""
        ids = self.level(level)
        return [m for i in np.unique(ids) if i and (m := ids == i).sum() >= min_area]


def packed(atoms: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """atoms (any integers) and their table (N×4), with unused atoms gone, equal ones joined and ids from 1 a level.

    Where there are more than MAX_ATOMS, the finest levels are left out until there are not.
    """
    table = table.astype(np.int64)
    used = np.bincount(atoms.ravel(), minlength=len(table)) > 0
    kept = table[used]
    for finest in range(len(LEVELS)):
        rows, place = np.unique(kept, axis=0, return_inverse=True)
        if len(rows) <= MAX_ATOMS:
            break
        kept[:, finest] = 0
    lookup = np.zeros(len(table), np.int16)
    lookup[used] = place.reshape(-1)
    numbered = np.zeros_like(rows)
    for level in range(len(LEVELS)):
        ids, inverse = np.unique(rows[:, level], return_inverse=True)
        numbered[:, level] = inverse.reshape(-1) + (0 if ids[0] == 0 else 1)
    return lookup[atoms], numbered.astype(np.int16)


def combined(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H×W uint16 atoms and their N×4 table of 4×H×W level maps (ids ≥ 0); not limited to MAX_ATOMS."""
    levels = levels.astype(np.int64)
    code = levels[0]
    for coarser in levels[1:]:
        code = code * (coarser.max() + 1) + coarser
    _, first, atoms = np.unique(code, return_index=True, return_inverse=True)
    table = levels.reshape(len(levels), -1)[:, first].T
    return atoms.reshape(levels.shape[1:]).astype(np.uint16), table
