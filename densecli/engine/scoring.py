"""Areas and boxes of a fixed number of candidates, some of them wanted: one operator, whatever computes it.

An operator of its own, so that a compiler, a fake tensor and a check for host synchronisation see one step with fixed
shapes. On CUDA it is the Triton kernel, where triton is to be had; elsewhere, and without it, `Upsampling`, which on
CUDA has to wait for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from densecli.engine.triton_kernels import scoring_kernel
from densecli.engine.upsampling import Axis, Upsampling


def areas_and_boxes(
    logits: torch.Tensor, wanted: torch.Tensor, upsampling: Upsampling, low: float, middle: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas above low and high (M × 2 int64), boxes of what is above middle (M × 4 int64 xyxy, inclusive).

    logits: M × h × w of any float type. wanted: M bool; the others get zeros, as a mask without a pixel does.
    """
    rows, columns = upsampling.rows, upsampling.columns
    return torch.ops.densecli.areas_and_boxes(
        logits.contiguous(),
        wanted,
        [low, middle, high],
        [rows.index, rows.weight, rows.start, rows.first],
        rows.step,
        [columns.index, columns.weight, columns.start, columns.first],
        columns.step,
    )


@torch.library.custom_op(
    "densecli::areas_and_boxes",
    mutates_args=(),
    schema="(Tensor logits, Tensor wanted, float[] thresholds, Tensor[] rows, float row_step, "
    "Tensor[] columns, float column_step) -> (Tensor, Tensor)",
)
def _areas_and_boxes(
    logits: torch.Tensor,
    wanted: torch.Tensor,
    thresholds: Sequence[float],
    rows: Sequence[torch.Tensor],
    row_step: float,
    columns: Sequence[torch.Tensor],
    column_step: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    low, middle, high = thresholds
    row_axis, column_axis = _axis(rows, row_step), _axis(columns, column_step)
    kernels = scoring_kernel(logits.device) if logits.device.type == "cuda" else None
    if kernels is not None:
        return kernels.areas_and_boxes(logits, wanted, (low, middle, high), row_axis, column_axis)
    areas = torch.zeros(len(logits), 2, dtype=torch.int64, device=logits.device)
    boxes = torch.zeros(len(logits), 4, dtype=torch.int64, device=logits.device)
    upsampling = Upsampling.of_axes(row_axis, column_axis)
    area_low, area_high, found = upsampling.areas_and_boxes(logits[wanted].float(), low, middle, high)
    areas[wanted], boxes[wanted] = torch.stack([area_low, area_high], 1).long(), found
    return areas, boxes


def _axis(tables: Sequence[torch.Tensor], step: float) -> Axis:
    index, weight, start, first = tables
    return Axis(index, weight, start, first, step)


@_areas_and_boxes.register_fake
def _(
    logits: torch.Tensor,
    wanted: torch.Tensor,
    thresholds: Sequence[float],
    rows: Sequence[torch.Tensor],
    row_step: float,
    columns: Sequence[torch.Tensor],
    column_step: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    m = len(logits)
    return logits.new_empty(m, 2, dtype=torch.int64), logits.new_empty(m, 4, dtype=torch.int64)
