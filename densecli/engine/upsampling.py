"""Bilinear upsampling of low-resolution logits that never makes a full-size picture.

The reference upsamples every candidate to the size of the image, counts pixels above three thresholds and throws the
picture away. But inside a cell (the pixels between four neighbouring logits) the interpolation lies between the
smallest and the largest of the four: a cell whose corners are all above a threshold counts whole, one whose corners
are all below not at all. Only cells that an outline crosses need a look, and there each row of pixels is a straight
line in x, whose crossing of the threshold is found by one division. The cost of a candidate is that of its
low-resolution picture plus its outline, whatever the size of the image.

On the CPU compiled loops do this (cpu_kernels.py), on CUDA a Triton kernel (scoring_kernel.py); the tensor code here
serves where the one or the other is not to be had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch

from densecli.engine import outlines
from densecli.engine.compiled import kernels
from densecli.engine.threads import over_threads, slices
from densecli.engine.triton_kernels import scoring_kernel
from densecli.masks import Runs

# Elements that exist at one time in temporaries: they should stay near the cache, and bound the memory.
_CHUNK_ELEMENTS = 1 << 21
_STRIP_PIXELS = 1 << 20
# Tables that are kept: of the sides of a few sizes of photos and their crops, some kilobytes each.
_AXES = 64


@dataclass(frozen=True)
class Axis:
    """One axis of `F.interpolate(mode="bilinear", align_corners=False)` from n_low logits to n_out pixels.

    index: n_out int64, left neighbour of each pixel. weight: n_out float32, weight of the right neighbour.
    start: n_low + 1 int64, first pixel of each cell (the pixels with that left neighbour), ending with n_out.
    first: n_low float32, weight of the first pixel of each cell before clamping at the image's edge.
    step: weight from one pixel to the next.
    """

    index: torch.Tensor
    weight: torch.Tensor
    start: torch.Tensor
    first: torch.Tensor
    step: float

    @staticmethod
    @lru_cache(maxsize=_AXES)
    def of(n_low: int, n_out: int, device: torch.device) -> Axis:
        """Kept from one photo to the next: to a GPU these are four copies, each of which is waited for."""
        # float32 as in PyTorch's own kernel (area_pixel_compute_source_index), so that weights round alike.
        step = np.float32(n_low) / np.float32(n_out)
        source = step * (np.arange(n_out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
        clamped = np.maximum(source, np.float32(0))
        index = np.minimum(clamped.astype(np.int64), n_low - 1)
        weight = clamped - index.astype(np.float32)
        start = np.searchsorted(index, np.arange(n_low + 1))
        exact = (start[:-1] + 0.5) * (n_low / n_out) - 0.5 - np.arange(n_low)
        return Axis(
            torch.from_numpy(index).to(device),
            torch.from_numpy(weight).to(device),
            torch.from_numpy(start).to(device),
            torch.from_numpy(exact.astype(np.float32)).to(device),
            n_low / n_out,
        )

    @property
    def counts(self) -> torch.Tensor:
        """n_low int64: pixels of each cell."""
        return self.start[1:] - self.start[:-1]


class Upsampling:
    """Low-resolution logits h × w seen at height × width pixels (one crop).

    compiled: use the compiled loops on the CPU where they are to be had.
    """

    def __init__(
        self, low_size: tuple[int, int], size: tuple[int, int], device: torch.device, *, compiled: bool = True
    ) -> None:
        self.low_size, self.size = low_size, size
        self.rows = Axis.of(low_size[0], size[0], device)
        self.columns = Axis.of(low_size[1], size[1], device)
        self.compiled = compiled
        self.kernels = kernels() if compiled and device.type == "cpu" else None

    @cached_property
    def _tables(self) -> tuple[np.ndarray, ...] | None:
        """First pixels and weights of rows, then of columns, for the compiled loops where there are any."""
        if not self.compiled or kernels() is None:
            return None
        host = torch.device("cpu")
        axes = (Axis.of(low, out, host) for low, out in zip(self.low_size, self.size, strict=True))
        return tuple(t.numpy() for axis in axes for t in (axis.start, axis.weight))

    @classmethod
    def of_axes(cls, rows: Axis, columns: Axis) -> Upsampling:
        """One with tables that were made before, on their device."""
        made = cls.__new__(cls)
        made.compiled = True
        made.rows, made.columns = rows, columns
        made.low_size = len(rows.first), len(columns.first)
        made.size = len(rows.index), len(columns.index)
        made.kernels = kernels() if rows.index.device.type == "cpu" else None
        return made

    def areas_and_boxes(
        self, logits: torch.Tensor, low: float, middle: float, high: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels above `low` and above `high`, and the box of the pixels above `middle`, of the upsampled logits.

        logits: M × h × w float32. Returns two M float64 and M × 4 int64 boxes: xyxy, both ends inclusive,
        all 0 for an empty mask, as in sam2's `batched_mask_to_box`.
        """
        if self.kernels is not None:
            return self._compiled_areas_and_boxes(logits, low, middle, high)
        if logits.device.type == "cuda" and (kernel := scoring_kernel(logits.device)) is not None:
            every = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
            thresholds = low, middle, high
            areas, boxes = kernel.areas_and_boxes(logits.contiguous(), every, thresholds, self.rows, self.columns)
            return areas[:, 0].double(), areas[:, 1].double(), boxes
        per_chunk = max(1, _CHUNK_ELEMENTS // (self.low_size[0] * self.low_size[1]))
        parts = [
            self._areas_and_boxes(logits[i : i + per_chunk], low, middle, high)
            for i in range(0, len(logits), per_chunk)
        ]
        if not parts:
            empty = torch.zeros(0, dtype=torch.float64, device=logits.device)
            return empty, empty, torch.zeros(0, 4, dtype=torch.int64, device=logits.device)
        return tuple(torch.cat(p) for p in zip(*parts, strict=True))  # type: ignore[return-value]

    def _compiled_areas_and_boxes(
        self, logits: torch.Tensor, low: float, middle: float, high: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        loops = self.kernels
        assert loops is not None
        pictures = logits.numpy()
        m = len(pictures)
        area_low, area_high = np.empty(m, dtype=np.int64), np.empty(m, dtype=np.int64)
        boxes = np.empty((m, 4), dtype=np.int64)
        thresholds = np.float32(low), np.float32(middle), np.float32(high)
        tables = (
            *(t.numpy() for t in (self.rows.start, self.rows.weight)),
            *(t.numpy() for t in (self.columns.start, self.columns.weight, self.columns.first)),
            np.float32(self.columns.step),
        )

        def work(part: slice) -> None:
            loops.areas_and_boxes(pictures[part], *thresholds, *tables, area_low[part], area_high[part], boxes[part])

        over_threads(work, slices(m, 2))
        return torch.from_numpy(area_low).double(), torch.from_numpy(area_high).double(), torch.from_numpy(boxes)

    def _areas_and_boxes(
        self, logits: torch.Tensor, low: float, middle: float, high: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        padded = torch.nn.functional.pad(logits[:, None], (0, 1, 0, 1), mode="replicate")[:, 0]
        across = torch.minimum(padded[:, :, :-1], padded[:, :, 1:])
        smallest = torch.minimum(across[:, :-1], across[:, 1:])
        across = torch.maximum(padded[:, :, :-1], padded[:, :, 1:])
        largest = torch.maximum(across[:, :-1], across[:, 1:])
        area_low = self._area(padded, smallest, largest, low)
        area_high = self._area(padded, smallest, largest, high)
        return area_low, area_high, self._boxes(padded, smallest, largest, middle)

    def _area(
        self, padded: torch.Tensor, smallest: torch.Tensor, largest: torch.Tensor, threshold: float
    ) -> torch.Tensor:
        inside = smallest > threshold
        per_row = inside.to(torch.float32) @ self.columns.counts.to(torch.float32)
        area = per_row.to(torch.float64) @ self.rows.counts.to(torch.float64)
        for mask, _, _, _, count, _ in self._crossings(padded, inside, largest, threshold):
            area.index_add_(0, mask, count.sum(1).to(torch.float64))
        return area

    def _boxes(
        self, padded: torch.Tensor, smallest: torch.Tensor, largest: torch.Tensor, threshold: float
    ) -> torch.Tensor:
        height, width = self.size
        m, device = len(padded), padded.device
        inside = smallest > threshold
        # Cells without pixels (downsampling) must not widen a box.
        solid = inside & (self.rows.counts > 0)[:, None] & (self.columns.counts > 0)
        left, right = _extent(solid.any(1), self.columns, width)
        top, bottom = _extent(solid.any(2), self.rows, height)
        for mask, y, x, xn, count, rising in self._crossings(padded, inside, largest, threshold):
            found = count > 0
            n = count.amax(1)
            # A rising line has its pixels above the threshold at the end of the cell, a falling one at its start.
            starts = torch.where(rising, x[:, None] + xn[:, None] - count, x[:, None])
            ends = torch.where(rising, (x + xn)[:, None].expand_as(count), x[:, None] + count) - 1
            line = y[:, None] + torch.arange(count.shape[1], device=device)
            some = n > 0
            mask = mask[some]
            for edge, values, reduce, empty in (
                (left, starts, "amin", width),
                (right, ends, "amax", -1),
                (top, line, "amin", height),
                (bottom, line, "amax", -1),
            ):
                values = torch.where(found, values, empty)[some]
                best = values.amin(1) if reduce == "amin" else values.amax(1)
                edge.scatter_reduce_(0, mask, best, reduce, include_self=True)
        boxes = torch.stack([left, top, right, bottom], 1)
        return torch.where((right >= left)[:, None], boxes, torch.zeros(m, 4, dtype=torch.int64, device=device))

    def _crossings(
        self, padded: torch.Tensor, inside: torch.Tensor, largest: torch.Tensor, threshold: float
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Cells that the outline crosses, in chunks of K cells with at most P rows of pixels each.

        Yields mask index K, first row K, first column K, columns K, pixels above the threshold K × P (0 for rows
        that a cell does not have), and K × P bool whether the logits rise along that row.
        """
        crossed = (largest > threshold) ^ inside
        mask, i, j = crossed.nonzero(as_tuple=True)
        most_rows = int(self.rows.counts.max())
        per_chunk = max(1, _CHUNK_ELEMENTS // (4 * most_rows))
        for begin in range(0, len(mask), per_chunk):
            m, r, c = mask[begin : begin + per_chunk], i[begin : begin + per_chunk], j[begin : begin + per_chunk]
            y, n_rows = self.rows.start[r], self.rows.counts[r]
            x, n_columns = self.columns.start[c], self.columns.counts[c]
            offset = torch.arange(most_rows, device=padded.device)
            exists = offset < n_rows[:, None]
            weight = self.rows.weight[(y[:, None] + offset).clamp(max=self.size[0] - 1)]
            upper = padded[m, r, c][:, None], padded[m, r, c + 1][:, None]
            lower = padded[m, r + 1, c][:, None], padded[m, r + 1, c + 1][:, None]
            left = upper[0] * (1 - weight) + lower[0] * weight
            rise = (upper[1] - upper[0]) * (1 - weight) + (lower[1] - lower[0]) * weight
            # In pixels from the first one of the cell: where this row's line meets the threshold. Only the pixel
            # nearest to it can be in doubt; that one is interpolated as the reference does, along x, then along y.
            # Before the left neighbour there is no line: pixels there (at the image's edge) are clamped to it.
            ratio = (threshold - left) / rise
            where = torch.where(ratio > 0, (ratio - self.columns.first[c][:, None]) / self.columns.step, 0.0)
            nearest = where.round().clamp(min=0).minimum(n_columns[:, None] - 1.0).to(torch.int64)
            across = self.columns.weight[(x[:, None] + nearest).clamp(0, self.size[1] - 1)]
            value = (upper[0] * (1 - across) + upper[1] * across) * (1 - weight)
            value = value + (lower[0] * (1 - across) + lower[1] * across) * weight
            doubtful = value > threshold
            rising = rise > 0
            above = torch.where(rising, n_columns[:, None] - 1 - nearest + doubtful, nearest + doubtful)
            above = torch.where(rise == 0, doubtful * n_columns[:, None], above)
            above = torch.where(exists, above.clamp(min=0), 0).minimum(n_columns[:, None])
            yield m, y, x, n_columns, above, rising

    def masks(self, logits: Sequence[torch.Tensor], threshold: float) -> list[tuple[int, int, Runs]]:
        """`mask` of many candidates, on all threads. logits: K × h × w float32 each.

        Those of a GPU are best brought to the host by way of pinned memory; where there are no compiled loops, they
        stay where they are.
        """
        if self._tables is None:
            return [self.mask(one, threshold) for part in logits for one in part]
        tables, limit = self._tables, np.float32(threshold)

        def work(pictures: np.ndarray) -> list[tuple[int, int, Runs]]:
            column, top, bottom, first, boxes = outlines.boxed_runs_of_logits(pictures, limit, *tables)
            return [
                (x, y, Runs((height, width), column[begin:end], top[begin:end], bottom[begin:end]))
                for (x, y, width, height), (begin, end) in zip(boxes.tolist(), pairwise(first.tolist()), strict=True)
            ]

        parts = [part.cpu().numpy()[some] for part in logits for some in slices(len(part), 4)]
        return [mask for masks in over_threads(work, parts) for mask in masks]

    def mask(self, logits: torch.Tensor, threshold: float) -> tuple[int, int, Runs]:
        """The mask of one candidate's logits (h × w): x and y in pixels of the crop, and its runs.

        The pixels equal `F.interpolate(logits) > threshold`; the frame of the runs is the mask's box.
        """
        if self._tables is not None:
            # Also what comes from a GPU: the low-resolution logits are much less to transfer than the mask.
            runs = outlines.runs_of_logits(logits.cpu().numpy(), np.float32(threshold), *self._tables)
            return Runs(self.size, *runs).trimmed()
        above = logits > threshold
        lines, stacks = above.any(1).nonzero()[:, 0], above.any(0).nonzero()[:, 0]
        if not len(lines):
            return 0, 0, Runs.empty()
        y0, y1 = _pixels(self.rows, int(lines[0]), int(lines[-1]))
        x0, x1 = _pixels(self.columns, int(stacks[0]), int(stacks[-1]))
        if y0 >= y1 or x0 >= x1:
            return 0, 0, Runs.empty()
        runs = Runs.of(self._interpolated(logits, threshold, x0, y0, x1, y1).cpu().numpy())
        left, up, trimmed = runs.trimmed()
        return (x0 + left, y0 + up, trimmed) if trimmed.area else (0, 0, trimmed)  # as in all places without a pixel

    def _interpolated(self, logits: torch.Tensor, threshold: float, x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
        row, row_weight = self.rows.index[y0:y1], self.rows.weight[y0:y1]
        column, column_weight = self.columns.index[x0:x1], self.columns.weight[x0:x1]
        first, last = int(row[0]), min(int(row[-1]) + 1, self.low_size[0] - 1)
        used = logits[first : last + 1]
        right = (column + 1).clamp(max=self.low_size[1] - 1)
        wide = used[:, column] * (1 - column_weight) + used[:, right] * column_weight
        below = (row + 1).clamp(max=self.low_size[0] - 1) - first
        row = row - first
        out = torch.empty(y1 - y0, x1 - x0, dtype=torch.bool, device=logits.device)
        lines_per_strip = max(1, _STRIP_PIXELS // (x1 - x0))
        for begin in range(0, y1 - y0, lines_per_strip):
            part = slice(begin, begin + lines_per_strip)
            weight = row_weight[part, None]
            torch.gt(wide[row[part]] * (1 - weight) + wide[below[part]] * weight, threshold, out=out[part])
        return out


def _extent(used: torch.Tensor, axis: Axis, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last pixel of the used cells (M × n bool) along an axis; (length, -1) where none is used."""
    n = used.shape[1]
    cells = torch.arange(n, device=used.device)
    first = torch.where(used, cells, n).amin(1)
    last = torch.where(used, cells, -1).amax(1)
    start = torch.cat([axis.start[:-1], torch.tensor([length], device=used.device)])
    return start[first], torch.where(last >= 0, axis.start[last + 1] - 1, -1)


def _pixels(axis: Axis, first: int, last: int) -> tuple[int, int]:
    """Pixels (from, to) that logits first..last take part in: those of their cells and of the cell before."""
    return int(axis.start[max(first - 1, 0)]), int(axis.start[last + 1])
