"""Puts a Segmentation together from what the engine gave, whether a network ran or kept candidates were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from densecli import explain
from densecli.engine.selection import Funnel
from densecli.masks import Mask, Segmentation
from densecli.presets import ResolvedPreset

S = TypeVar("S", bound=Segmentation)


def result_of(
    kind: type[S],
    pixels: np.ndarray,
    masks: Sequence[Mask],
    funnel: Funnel,
    *,
    image: dict[str, Any],
    model: dict[str, Any],
    preset: ResolvedPreset,
    seconds: dict[str, float],
    peak_memory_mb: int,
    warnings: Sequence[str] = (),
    notices: Sequence[str] = (),
) -> S:
    """A Segmentation, or `kind` of one. image, model: as in the summary. seconds: by stage, but for write and total."""
    parameters = preset.parameters()
    result = kind(
        pixels=pixels,
        masks=masks,
        image=dict(image),
        model=dict(model),
        preset={"name": preset.name, "parameters": parameters},
        funnel=_counts(funnel, len(masks), parameters),
        fill=None if funnel.fill is None else asdict(funnel.fill),
        points=funnel.points,
        seconds={stage: round(taken, 4) for stage, taken in seconds.items()},
        peak_memory_mb=peak_memory_mb,
        warnings=list(warnings),
        notices=list(notices),
        advice=explain.advice(funnel, masks, parameters),
    )
    result.written_in(0.0)
    return result


def _counts(funnel: Funnel, masks: int, parameters: Mapping[str, Any]) -> dict[str, int]:
    counts = {
        "candidates": funnel.candidates,
        "after_pred_iou": funnel.after_pred_iou,
        "after_stability": funnel.after_stability,
    }
    if parameters["crop_n_layers"] > 0:  # only then can a mask be cut off by a crop's edge
        counts["after_crop_edge"] = funnel.after_crop_edge
    counts |= {"after_nms": funnel.after_nms, "after_area": funnel.after_area}
    if parameters["ask_for_wholes"]:
        counts |= {"asked": funnel.asked, "answered": funnel.answered}
    return counts | {"after_parts": funnel.after_parts, "masks": masks}
