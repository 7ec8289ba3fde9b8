"""Areas and boxes of low-resolution logits on a GPU: a Triton kernel that never waits for the host.

The same function and arithmetic as `cpu_kernels.areas_and_boxes`, a row of cells at a time instead of a cell: one
program takes a strip of cell rows of one candidate, with the cells of a row side by side. Rows that no outline crosses
cost one look; in the others every row of pixels is a line in x per cell, whose crossing one division finds.
Image sizes enter through tables, so that the kernel is compiled once per network, not once per size.

This module needs triton; `triton_kernels.py` imports it where it is to be had. Tested under Triton's interpreter, by
compiling it for sm_80 and sm_90, and on an H200.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from densecli.engine.upsampling import Axis

# Cell rows a program: 32 programs a candidate of an official shape, some 3,000 for the 96 candidates of a step.
STRIP = 8
_FAR = 1 << 30  # beyond any image: the left and upper edge of a box that nothing has widened yet


@triton.jit
def _row_count(
    upper0, upper1, lower0, lower1, weight, threshold, first, step, x, n, x_weights, look
):  # pragma: no cover - runs on the GPU, or in the interpreter's process
    """Pixels above `threshold` in one row of pixels of each cell, and whether the logits rise along it.

    cpu_kernels._row_count, for a row of cells; 0 where `look` is False.
    """
    keep = 1.0 - weight
    left = upper0 * keep + lower0 * weight
    rise = (upper1 - upper0) * keep + (lower1 - lower0) * weight
    ratio = (threshold - left) / tl.where(rise == 0.0, 1.0, rise)
    where = (ratio - first) / step
    where = tl.where((ratio > 0.0) & (where > 0.0) & (rise != 0.0), where, 0.0)
    most = n - 1
    where = tl.minimum(where, most.to(tl.float32))
    nearest = tl.maximum((where + 0.5).to(tl.int32), 0)
    across = tl.load(x_weights + x + nearest, mask=look, other=0.0)
    kept = 1.0 - across
    value = (upper0 * kept + upper1 * across) * keep + (lower0 * kept + lower1 * across) * weight
    above = (value > threshold).to(tl.int32)
    count = tl.where(rise > 0.0, most - nearest + above, nearest + above)
    count = tl.where(rise == 0.0, n * above, count)
    return tl.where(look, count, 0), rise > 0.0


@triton.jit
def _strip(
    logits,
    wanted,
    row_start,
    row_weight,
    x_start,
    x_weights,
    x_first,
    out,
    low,
    middle,
    high,
    x_step,
    H: tl.constexpr,
    W: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    FAR: tl.constexpr,
):  # pragma: no cover - as above
    """out: M × strips × 6 int32: area above low and high, left, top, right and bottom edge of one strip of cells."""
    k = tl.program_id(0)
    strip = tl.program_id(1)
    j = tl.arange(0, BLOCK)
    cell = j < W
    x = tl.load(x_start + j, mask=cell, other=0).to(tl.int32)
    n = tl.load(x_start + j + 1, mask=cell, other=0).to(tl.int32) - x
    first = tl.load(x_first + j, mask=cell, other=0.0)
    beside = tl.minimum(j + 1, W - 1)
    cell = cell & (n > 0)
    area_low = tl.zeros([BLOCK], dtype=tl.int32)
    area_high = tl.zeros([BLOCK], dtype=tl.int32)
    left = tl.full([BLOCK], FAR, dtype=tl.int32)
    top = tl.full([BLOCK], FAR, dtype=tl.int32)
    right = tl.full([BLOCK], -1, dtype=tl.int32)
    bottom = tl.full([BLOCK], -1, dtype=tl.int32)
    # A candidate that is not wanted has no rows.
    begin = strip * ROWS
    end = tl.where(tl.load(wanted + k) != 0, tl.minimum(begin + ROWS, H), begin)
    picture = logits + k.to(tl.int64) * (H * W)
    for i in range(begin, end):
        y0 = tl.load(row_start + i).to(tl.int32)
        y1 = tl.load(row_start + i + 1).to(tl.int32)
        upper = picture + i * W
        lower = picture + tl.minimum(i + 1, H - 1) * W
        upper0 = tl.load(upper + j, mask=cell, other=0.0).to(tl.float32)
        upper1 = tl.load(upper + beside, mask=cell, other=0.0).to(tl.float32)
        lower0 = tl.load(lower + j, mask=cell, other=0.0).to(tl.float32)
        lower1 = tl.load(lower + beside, mask=cell, other=0.0).to(tl.float32)
        most = tl.maximum(tl.maximum(upper0, upper1), tl.maximum(lower0, lower1))
        least = tl.minimum(tl.minimum(upper0, upper1), tl.minimum(lower0, lower1))
        rows = y1 - y0
        filled = cell & (rows > 0)
        area_low += tl.where(filled & (least > low), n * rows, 0)
        area_high += tl.where(filled & (least > high), n * rows, 0)
        solid = filled & (least > middle)
        left = tl.where(solid, tl.minimum(left, x), left)
        right = tl.where(solid, tl.maximum(right, x + n - 1), right)
        top = tl.where(solid, tl.minimum(top, y0), top)
        bottom = tl.where(solid, tl.maximum(bottom, y1 - 1), bottom)
        look_low = filled & (most > low) & (least <= low)
        look_high = filled & (most > high) & (least <= high)
        look_middle = filled & (most > middle) & (least <= middle)
        if tl.max((look_low | look_high | look_middle).to(tl.int32), axis=0) > 0:
            for y in range(y0, y1):
                weight = tl.load(row_weight + y)
                count, _ = _row_count(
                    upper0, upper1, lower0, lower1, weight, low, first, x_step, x, n, x_weights, look_low
                )
                area_low += count
                count, _ = _row_count(
                    upper0, upper1, lower0, lower1, weight, high, first, x_step, x, n, x_weights, look_high
                )
                area_high += count
                count, rising = _row_count(
                    upper0, upper1, lower0, lower1, weight, middle, first, x_step, x, n, x_weights, look_middle
                )
                # A rising line has its pixels above the threshold at the end of the cell, a falling one at its start.
                start = tl.where(rising, x + n - count, x)
                some = count > 0
                left = tl.where(some, tl.minimum(left, start), left)
                right = tl.where(some, tl.maximum(right, start + count - 1), right)
                top = tl.where(some, tl.minimum(top, y), top)
                bottom = tl.where(some, tl.maximum(bottom, y), bottom)
    at = out + (k * tl.num_programs(1) + strip) * 6
    tl.store(at, tl.sum(area_low, axis=0))
    tl.store(at + 1, tl.sum(area_high, axis=0))
    tl.store(at + 2, tl.min(left, axis=0))
    tl.store(at + 3, tl.min(top, axis=0))
    tl.store(at + 4, tl.max(right, axis=0))
    tl.store(at + 5, tl.max(bottom, axis=0))


def areas_and_boxes(
    logits: torch.Tensor, wanted: torch.Tensor, thresholds: tuple[float, float, float], rows: Axis, columns: Axis
) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas (M × 2 int64: above low, above high) and boxes (M × 4 int64 xyxy inclusive) of the wanted candidates.

    logits: M × h × w of any float type, contiguous. wanted: M bool; the others get zeros. thresholds: low, middle (of
    the box), high. An empty mask has a box of zeros.
    """
    m, h, w = logits.shape
    strips = triton.cdiv(h, STRIP)
    out = torch.empty(m, strips, 6, dtype=torch.int32, device=logits.device)
    if m:
        _strip[(m, strips)](
            logits,
            wanted.view(torch.uint8),
            rows.start,
            rows.weight,
            columns.start,
            columns.weight,
            columns.first,
            out,
            *thresholds,
            columns.step,
            H=h,
            W=w,
            ROWS=STRIP,
            BLOCK=triton.next_power_of_2(w),
            FAR=_FAR,
            num_warps=4,
            enable_fp_fusion=False,  # products and sums round as on the CPU
        )
    return _together(out)


def _together(out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas and boxes of what the strips of each candidate gave."""
    areas = out[..., :2].sum(1, dtype=torch.int64)
    boxes = torch.cat([out[..., 2:4].amin(1), out[..., 4:].amax(1)], 1).long()
    return areas, boxes * (boxes[:, 2:3] >= 0)


def try_out(device: torch.device) -> None:
    """Run the kernel once. Raises whatever goes wrong, also where the answer is."""
    from densecli.engine.upsampling import Axis

    axis = Axis.of(2, 6, device)
    logits, wanted = torch.ones(2, 2, 2, device=device), torch.tensor([True, False], device=device)
    areas, boxes = areas_and_boxes(logits, wanted, (-1.0, 0.0, 2.0), axis, axis)
    if areas.tolist() != [[36, 0], [0, 0]] or boxes.tolist() != [[0, 0, 5, 5], [0, 0, 0, 0]]:
        raise RuntimeError("the scoring kernel gave a wrong answer")
