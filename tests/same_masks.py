"""Comparing the masks of two runs that differ in nothing but the order of their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from densecli.masks import decode_rle

# A fresh run decodes its winners again, in batches of another size, which rounds the last digit of a logit differently:
# of a mask of 700,000 pixels one was seen to change.
MOST_PIXELS, MOST_SHARE = 1, 1e-4


def assert_same_masks(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> None:
    """Entries of summaries: all equal, but for a pixel on the edge here and there, which stability counts as well."""
    near = ("area", "bbox", "segmentation", "stability_score")
    assert [{k: m[k] for k in m if k not in near} for m in one] == [
        {k: m[k] for k in m if k not in near} for m in other
    ]
    for a, b in zip(one, other, strict=True):
        assert abs(a["stability_score"] - b["stability_score"]) <= max(MOST_PIXELS / max(a["area"], 1), MOST_SHARE)
        if a != b:
            differing = np.count_nonzero(decode_rle(a["segmentation"]) != decode_rle(b["segmentation"]))
            assert differing <= max(MOST_PIXELS, MOST_SHARE * a["area"]), (a["id"], differing)
