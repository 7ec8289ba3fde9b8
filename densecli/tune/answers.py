"""What the page is told, as plain values ready for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from densecli import __version__
from densecli.engine.reasons import Verdict
from densecli.masks import Mask, Segmentation
from densecli.presets import ResolvedPreset
from densecli.tune.controls import controls, fixed
from densecli.tune.jobs import Job
from densecli.tune.state import Tuning
from densecli.tune.wording import in_words, let_in
from densecli.wording import shown_name

_SCORE_STEPS = 1000
_MOST_VERDICTS = 60


def start(tuning: Tuning, shown: tuple[int, int]) -> dict[str, Any]:
    """Everything that the page is built from. shown: width and height of the picture that it shows."""
    kept, preset = tuning.first, tuning.start
    height, width = kept.proposals.size
    values = preset.parameters()
    offered = controls(preset, kept.proposals.floor, width * height, tuning.segmenter is not None)
    moved = [control["key"] for control in offered] + ["points_per_side"]
    return {
        "version": __version__,
        "photo": {"name": shown_name(str(kept.image["path"])), "width": width, "height": height, "shown": shown},
        "model": {"name": tuning.model["name"], "device": tuning.model["device"]},
        "preset": {"name": preset.name, "description": tuning.preset.description},
        "values": {key: values[key] for key in moved},
        "controls": offered,
        "fixed": fixed(preset),
        "floor": {"pred_iou_thresh": kept.proposals.floor.predicted_iou,
                  "stability_score_thresh": kept.proposals.floor.stability},
        "has_model": tuning.segmenter is not None,
        **grids(tuning),
    }  # fmt: skip


def grids(tuning: Tuning) -> dict[str, Any]:
    return {"grids": tuning.grids(), "denser": tuning.denser()}


def scores(tuning: Tuning, wish: ResolvedPreset) -> dict[str, list[int]]:
    """Predicted IoU and stability of each candidate of a grid, in thousandths; -1 where there is none."""
    candidates = tuning.candidates(wish).proposals.candidates

    def thousandths(values: Any) -> list[int]:
        # Downwards, so that no score seems to pass a threshold that it does not.
        rounded = np.floor(np.nan_to_num(values.numpy(), nan=-1 / _SCORE_STEPS) * _SCORE_STEPS)
        return [int(v) for v in rounded]

    return {"predicted_iou": thousandths(candidates.predicted_iou), "stability": thousandths(candidates.stability)}


def choice(tuning: Tuning, found: Segmentation, unfinished: bool) -> dict[str, Any]:
    """Masks and funnel. unfinished: whether `Tuning.finish` has to be asked for what the values mean."""
    return {
        "masks": [_mask(mask) for mask in found.masks],
        "funnel": {"points": found.points, **found.funnel},
        "advice": found.advice,
        "warnings": [] if unfinished else found.warnings,
        "unfinished": unfinished,
        "seconds": found.seconds["postprocess"],
        **grids(tuning),
    }


def _mask(mask: Mask) -> dict[str, Any]:
    return {
        "id": mask.id,
        "area": mask.area,
        "bbox": mask.bbox,
        "predicted_iou": round(mask.predicted_iou, 7),
        "stability": round(mask.stability_score, 7),
        "parent": mask.parent,
        "color": mask.color,
        # COCO counts of the box alone.
        "counts": mask.window_counts.decode("ascii"),
    }


def why(tuning: Tuning, wish: ResolvedPreset, x: int, y: int) -> dict[str, Any]:
    """The candidates at a pixel: each one's scores, and the id of its mask or why there is none."""
    verdicts, found = tuning.verdicts(wish, x, y, _MOST_VERDICTS + 1)
    height, width = tuning.first.proposals.size

    def entry(verdict: Verdict) -> dict[str, Any]:
        loss = verdict.loss
        stability = None if np.isnan(verdict.stability) else round(verdict.stability, 7)
        h, w = verdict.runs.size
        return {
            "candidate": verdict.candidate,
            "predicted_iou": round(verdict.predicted_iou, 7),
            "stability": stability,
            "area": verdict.runs.area,
            "mask": verdict.mask_id,
            "filter": None if loss is None else loss.filter,
            "why": None if loss is None else in_words(loss, found),
            "let_in": None if loss is None else let_in(loss, wish, width * height),
            "bbox": (verdict.x, verdict.y, w, h),
            "counts": verdict.runs.rle()["counts"],
        }

    shown = [entry(verdict) for verdict in verdicts[:_MOST_VERDICTS]]
    return {"x": x, "y": y, "more": len(verdicts) > len(shown), "candidates": shown}


def job(latest: Job | None) -> dict[str, Any] | None:
    """The latest job, or None where there was none."""
    if latest is None:
        return None
    return {
        "number": latest.number,
        "what": latest.what,
        "state": latest.state,
        "done": latest.done,
        "total": latest.total,
        "error": latest.error,
        "result": latest.result,
    }
