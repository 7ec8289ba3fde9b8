"""A model against scenes whose truth is known to the pixel: edges of everything, and keyboards as one mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from densecli.segmenter import Segmenter
from training.evaluation.edges import boundary, f_score
from training.evaluation.truths import Window

FOUND = 0.75
"""IoU from which a mask is the keyboard."""
INSIDE = 0.9
"""Share of a mask that lies in the keyboard, from which it is a piece of it."""


@dataclass(frozen=True)
class Keyboards:
    """Shares of scenes. found: a mask is the keyboard; alone: and no other lies in it. pieces: others, on average."""

    scenes: int
    found: float
    alone: float
    pieces: float
    best: float


def keyboard_outcome(masks: Iterable[Window], keyboard: np.ndarray) -> tuple[bool, int, float]:
    """Whether a mask is the keyboard (H×W bool), how many others lie in it, and the best IoU."""
    total, best, inside = int(keyboard.sum()), 0.0, 0
    for x, y, window in masks:
        h, w = window.shape
        area = int(window.sum())
        common = int((keyboard[y : y + h, x : x + w] & window).sum())
        iou = common / max(1, total + area - common)
        best = max(best, iou)
        inside += iou < FOUND and common >= INSIDE * area
    return best >= FOUND, inside, best


def keyboards(segmenter: Segmenter, seeds: Sequence[int], width: int = 1200, height: int = 800) -> Keyboards:
    """`segmenter` has the preset `keyboard-fix`; scenes come from benchmarks/scenes."""
    from benchmarks import scenes

    outcomes = []
    for seed in seeds:
        scene = scenes.make("keyboard", seed, width, height)
        whole = next(o for o in scene.objects if o.role == "whole" and "keyboard" in o.name)
        masks = segmenter(scene.pixels).masks
        outcomes.append(keyboard_outcome((m.decode_window() for m in masks), whole.mask))
    found, pieces, best = (np.array(column, float) for column in zip(*outcomes, strict=True))
    alone = (found > 0) & (pieces == 0)
    return Keyboards(len(outcomes), found.mean(), float(alone.mean()), pieces.mean(), best.mean())


def edges(segmenter: Segmenter, seeds: Sequence[int], width: int = 900, height: int = 600) -> dict[str, list[float]]:
    """Kind of scene → mean boundary F, precision and recall of the kept masks."""
    from benchmarks import scenes

    table = {}
    for kind in scenes.KINDS:
        figures = []
        for seed in seeds:
            scene = scenes.make(kind, seed, width, height)
            size = scene.pixels.shape[:2]
            true = boundary([(o.x, o.y, o.window) for o in scene.objects], size)
            drawn = boundary([m.decode_window() for m in segmenter(scene.pixels).masks], size)
            figures.append(f_score(drawn, true))
        table[kind] = np.mean(figures, 0).tolist()
    return table
