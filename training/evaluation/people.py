"""A model against what people drew: best overlaps at several thresholds, coverage, calibration of predicted IoU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from densecli.engine.proposals import Floor
from densecli.masks import Mask, Segmentation
from densecli.presets import load_preset
from densecli.segmenter import Segmenter
from training.evaluation.baselines import label_maps
from training.evaluation.truths import Truth, Window

Thresholds = tuple[float, ...]
"""pred_iou_thresh, stability_score_thresh and, where it is not the preset's, box_nms_thresh."""
PRESET = "dense"
BINS = np.linspace(0, 1, 11)


@dataclass
class Row:
    """One line of the table, gathered photo by photo."""

    overlap: list[float] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)

    def add(self, overlap: float, masks: int, coverage: float) -> None:
        self.overlap.append(overlap)
        self.masks.append(masks)
        self.coverage.append(coverage)


@dataclass
class AgainstPeople:
    """Figures of one model over photos with human regions.

    rows: name → Row. predicted, stability, measured: one number a candidate; measured is the best overlap with a human
    region that holds its point.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    predicted: list[np.ndarray] = field(default_factory=list)
    stability: list[np.ndarray] = field(default_factory=list)
    measured: list[np.ndarray] = field(default_factory=list)

    def row(self, name: str) -> Row:
        return self.rows.setdefault(name, Row())

    def add(self, segmenter: Segmenter, pixels: np.ndarray, truth: Truth, thresholds: list[Thresholds]) -> None:
        """One photo, H×W×3 uint8 RGB. The network runs once; each pair of thresholds then chooses."""
        result = segmenter(pixels, keep_candidates=Floor(0.0, 0.0))
        kept = result.proposals
        assert kept is not None
        for name, chosen in _choices(kept, thresholds):
            overlaps = truth.overlaps(_windows(chosen.masks))
            self.row(name).add(truth.best(overlaps), len(chosen.masks), chosen.coverage)
        proposals = kept.proposals
        count = len(proposals)
        overlaps = truth.overlaps(_unpacked(proposals.masks, count))
        self.row("all candidates").add(truth.best(overlaps), count, float("nan"))  # not looked at
        self._calibrate(proposals, overlaps, truth)
        for name, labels in label_maps(pixels).items():
            self.row(name).add(truth.best(truth.overlaps_of_labels(labels)), int(labels.max()) + 1, 1.0)

    def _calibrate(self, proposals, overlaps: np.ndarray, truth: Truth) -> None:
        from densecli.engine import grid

        height, width = proposals.size
        (crop,) = grid.crops(height, width, proposals.parameters)
        points = grid.crop_points(crop, proposals.parameters)[proposals.candidates.point.numpy()]
        x = np.clip(points[:, 0].astype(int), 0, width - 1)
        y = np.clip(points[:, 1].astype(int), 0, height - 1)
        holding = truth.within[truth.pieces[y, x]]
        self.measured.append((overlaps * holding).max(1))
        self.predicted.append(proposals.candidates.predicted_iou.numpy())
        self.stability.append(proposals.candidates.stability.numpy())

    def calibration(self) -> tuple[list[dict[str, float]], float, float]:
        """A row for each tenth of predicted IoU, the correlation, and the mean absolute error."""
        predicted, measured = np.concatenate(self.predicted), np.concatenate(self.measured)
        stability = np.nan_to_num(np.concatenate(self.stability))
        rows = []
        place = np.clip(np.digitize(predicted, BINS) - 1, 0, len(BINS) - 2)
        for i in range(len(BINS) - 1):
            here = place == i
            if here.any():
                rows.append(
                    {
                        "from": BINS[i],
                        "to": BINS[i + 1],
                        "count": int(here.sum()),
                        "measured": float(measured[here].mean()),
                        "stable": float((stability[here] >= 0.9).mean()),
                    }
                )
        same = predicted.std() * measured.std() == 0
        correlation = 0.0 if same else float(np.corrcoef(predicted, measured)[0, 1])
        return rows, correlation, float(np.abs(predicted - measured).mean())


def own_thresholds(model_name: str) -> Thresholds:
    """Those that the preset `dense` has for a model."""
    values = load_preset(PRESET).resolve(model_name).generator
    return values.pred_iou_thresh, values.stability_score_thresh


def name_of(thresholds: Thresholds) -> str:
    of_nms = f", NMS {thresholds[2]:.2f}" if len(thresholds) > 2 else ""
    return f"kept at {thresholds[0]:.2f} / {thresholds[1]:.2f}{of_nms}"


def _choices(kept, thresholds: list[Thresholds]) -> Iterator[tuple[str, Segmentation]]:
    keys = "pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"
    for values in thresholds:
        overrides = [f"{key}={value}" for key, value in zip(keys, values, strict=False)]
        yield name_of(values), Segmenter.refilter(kept, PRESET, overrides)


def _windows(masks: Sequence[Mask]) -> Iterator[Window]:
    return (mask.decode_window() for mask in masks)


def _unpacked(packed, count: int) -> Iterator[Window]:
    for i in range(count):
        x, y, runs = packed.unpacked(i)
        yield x, y, runs.decode() if len(runs.column) else np.zeros((0, 0), bool)
