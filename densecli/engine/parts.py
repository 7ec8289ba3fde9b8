"""Which mask is a part of which: the smallest bigger mask that holds at least 90 % of its area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

# CONTRACT, vocabulary: a part lies with at least this share of its area inside a bigger mask.
PART_FRACTION = 0.9


def parents(rles: Sequence[dict[str, Any]], areas: Sequence[int]) -> list[int | None]:
    """For each mask the index of its parent, or None.

    rles: COCO RLEs of one image, by falling area, so that a parent comes before its parts and cycles cannot be.
    areas: their pixels, in the same order.
    """
    found: list[int | None] = []
    for i, area in enumerate(areas):
        parent = None
        if i:
            # With iscrowd, pycocotools' IoU divides by the first mask's own area: the share that lies inside.
            inside = coco.iou([rles[i]], list(rles[:i]), [1] * i)[0]
            holders = [j for j in np.flatnonzero(inside >= PART_FRACTION).tolist() if areas[j] > area]
            parent = holders[-1] if holders else None
        found.append(parent)
    return found
