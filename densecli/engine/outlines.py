"""Masks straight from logits to runs to COCO counts and back, at the cost of the outline: for thousands of candidates.

Written as plain loops. numba compiles them where it can be used (cached on disk, without the GIL); without it they give
the same results slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        from densecli.engine.loops import loop

        return loop()(function)
    except Exception:  # as in compiled.py: not importable, built for another NumPy, or nowhere to cache
        return function


@_compiled
def _longer(array, n):
    new = np.empty(2 * len(array), dtype=array.dtype)
    new[:n] = array[:n]
    return new


@_compiled
def _stacks(picture, threshold, begins, ends):
    """How many pieces of cells that hold something each column of cells has, w int64.

    begins, ends: w × h int32, where each piece's first row and the row after its last go. A cell has four logits at its
    corners. Solid cells are one piece with those below; a piece that is not solid is one cell, with its end negative.

    Row by row, as logits lie in memory, and eight cells at a time where nothing changes from row to row: column by
    column, the rows of a picture whose width is a power of two would share a few lines of the cache.
    """
    h, w = picture.shape
    wide = 8 * (w // 8 + 1)  # at least one column more than there are
    above, corners = np.zeros((2, wide), np.uint8), np.zeros((2, wide), np.uint8)
    corners_by_word = corners.view(np.uint64)
    cells = np.zeros(w, np.int64)
    for j in range(w):
        above[0, j] = picture[0, j] > threshold
    above[0, w] = above[0, w - 1]
    for i in range(h):
        # Of these rows, the one above the other in turns.
        now, below = above[i % 2], above[(i + 1) % 2]
        if i + 1 < h:
            logits = picture[i + 1]
            for j in range(w):
                below[j] = logits[j] > threshold
            below[w] = below[w - 1]
        else:
            below[:] = now
        count, before = corners[i % 2], corners[(i + 1) % 2]
        for j in range(w):
            count[j] = now[j] + now[j + 1] + below[j] + below[j + 1]
        words, words_before = corners_by_word[i % 2], corners_by_word[(i + 1) % 2]
        for word in range(len(words)):
            if words[word] == words_before[word] and words[word] & np.uint64(0x0303030303030303) == 0:
                continue  # all four corners or none, as in the row before
            for j in range(8 * word, min(8 * word + 8, w)):
                if before[j] == 4 and count[j] != 4:
                    ends[j, cells[j] - 1] = i
                if count[j] == 0 or (count[j] == 4 and before[j] == 4):
                    continue
                begins[j, cells[j]], ends[j, cells[j]] = i, -(i + 1)
                cells[j] += 1
    for j in range(w):
        if corners[(h - 1) % 2, j] == 4:
            ends[j, cells[j] - 1] = h
    return cells


@_compiled
def runs_of_logits(picture, threshold, row_start, row_weight, x_start, x_weights):
    """Columns, tops and bottoms (n int64 each, by column, then top) of the pixels above `threshold`, in pixels.

    picture: h × w float32. row_start, x_start: first pixel of each cell, ending with the number of pixels. row_weight,
    x_weights: float32 weight of the next logit for each pixel. The pixels are those of F.interpolate: solid cells
    count whole, in others every pixel is interpolated along x, then along y.
    """
    h, w = picture.shape
    begins, ends = np.empty((w, h), np.int32), np.empty((w, h), np.int32)
    return _runs(picture, threshold, row_start, row_weight, x_start, x_weights, begins, ends)


@_compiled
def _runs(picture, threshold, row_start, row_weight, x_start, x_weights, begins, ends):
    """As `runs_of_logits`, with room for `_stacks`."""
    h, w = picture.shape
    one = np.float32(1.0)
    column, top, bottom = np.empty(512, np.int64), np.empty(512, np.int64), np.empty(512, np.int64)
    n = 0
    cells = _stacks(picture, threshold, begins, ends)
    # The pieces of one column of cells, in pixels.
    row, first, last = np.empty(h, np.int64), np.empty(h, np.int64), np.empty(h, np.int64)
    solid = np.empty(h, np.bool_)
    for j in range(w):
        if cells[j] == 0 or x_start[j] == x_start[j + 1]:
            continue
        beside = min(j + 1, w - 1)
        m = 0
        for k in range(cells[j]):
            i, end = begins[j, k], abs(ends[j, k])
            if row_start[i] != row_start[end]:
                row[m], first[m], last[m], solid[m] = i, row_start[i], row_start[end], ends[j, k] > 0
                m += 1
        if m == 0:
            continue
        for x in range(x_start[j], x_start[j + 1]):
            across = x_weights[x]
            begin, end = -1, -1
            for k in range(m + 1):
                # One more round than there are cells closes the last run.
                if k < m and solid[k]:
                    if end == first[k]:
                        end = last[k]
                        continue
                    fresh_begin, fresh_end = first[k], last[k]
                elif k < m:
                    i = row[k]
                    below = min(i + 1, h - 1)
                    upper = picture[i, j] * (one - across) + picture[i, beside] * across
                    lower = picture[below, j] * (one - across) + picture[below, beside] * across
                    y0, y1 = first[k], last[k]
                    # Where the line is steep enough for rounding not to bend it, it crosses the threshold once.
                    steep = abs(lower - upper) > np.float32(1e-6) * (y1 - y0) * max(abs(upper), abs(lower))
                    if y1 - y0 > 4 and steep:
                        weight = row_weight[y0]
                        at_first = upper * (one - weight) + lower * weight > threshold
                        weight = row_weight[y1 - 1]
                        at_last = upper * (one - weight) + lower * weight > threshold
                        if at_first and at_last:
                            piece_begin, piece_end = y0, y1
                        elif not at_first and not at_last:
                            continue
                        else:
                            low, high = y0, y1 - 1  # at_first holds for low, at_last for high
                            while high - low > 1:
                                y = (low + high) // 2
                                weight = row_weight[y]
                                if (upper * (one - weight) + lower * weight > threshold) == at_first:
                                    low = y
                                else:
                                    high = y
                            piece_begin, piece_end = (y0, high) if at_first else (high, y1)
                        if end == piece_begin:
                            end = piece_end
                            continue
                        fresh_begin, fresh_end = piece_begin, piece_end
                    else:
                        for y in range(y0, y1):
                            weight = row_weight[y]
                            if not upper * (one - weight) + lower * weight > threshold:
                                continue
                            if end == y:
                                end = y + 1
                                continue
                            if begin >= 0:
                                if n == len(column):
                                    column, top, bottom = _longer(column, n), _longer(top, n), _longer(bottom, n)
                                column[n], top[n], bottom[n] = x, begin, end
                                n += 1
                            begin, end = y, y + 1
                        continue
                else:
                    fresh_begin, fresh_end = -1, -1
                if begin >= 0:
                    if n == len(column):
                        column, top, bottom = _longer(column, n), _longer(top, n), _longer(bottom, n)
                    column[n], top[n], bottom[n] = x, begin, end
                    n += 1
                begin, end = fresh_begin, fresh_end
    return column[:n].copy(), top[:n].copy(), bottom[:n].copy()


@_compiled
def boxed_runs_of_logits(pictures, threshold, row_start, row_weight, x_start, x_weights):
    """Runs of n pictures (n × h × w float32), each in the frame of its box: `runs_of_logits` of many.

    Columns, tops and bottoms (int64) one picture after the other; n + 1 int64, each one's first run, ending with the
    number of all; boxes (n × 4 int64: x, y, width, height), zeros where there is no pixel.
    """
    n, h, w = pictures.shape
    begins, ends = np.empty((w, h), np.int32), np.empty((w, h), np.int32)
    column, top, bottom = np.empty(256 * n, np.int64), np.empty(256 * n, np.int64), np.empty(256 * n, np.int64)
    first, boxes = np.zeros(n + 1, np.int64), np.zeros((n, 4), np.int64)
    size = 0
    for k in range(n):
        columns, tops, bottoms = _runs(pictures[k], threshold, row_start, row_weight, x_start, x_weights, begins, ends)
        m = len(columns)
        while size + m > len(column):
            column, top, bottom = _longer(column, size), _longer(top, size), _longer(bottom, size)
        if m:
            x, y, end = columns[0], tops[0], bottoms[0]
            for i in range(m):
                y, end = min(y, tops[i]), max(end, bottoms[i])
            for i in range(m):
                column[size + i], top[size + i], bottom[size + i] = columns[i] - x, tops[i] - y, bottoms[i] - y
            boxes[k] = x, y, columns[-1] - x + 1, end - y
            size += m
        first[k + 1] = size
    return column[:size].copy(), top[:size].copy(), bottom[:size].copy(), first, boxes


@_compiled
def coco_counts(column, top, bottom, height, width, x, y):
    """COCO compressed counts (uint8) of runs at x, y of a frame of height × width; the bytes that pycocotools makes."""
    first = x * height + y
    n = len(column)
    # Two counts a run and a last one, of at most eight bytes: enough for frames of 2^39 pixels.
    out = np.empty(16 * n + 8, dtype=np.uint8)
    size = 0
    position = 0  # end of the counts so far
    previous, before = 0, 0  # the last two counts
    index = 0
    i = 0
    while position < height * width:
        # Background up to the next run, then the run, which goes on where the next column begins at once.
        start, stop = height * width, height * width
        if i < n:
            start = first + column[i] * height + top[i]
            stop = start + (bottom[i] - top[i])
            i += 1
            while i < n and first + column[i] * height + top[i] == stop:
                stop += bottom[i] - top[i]
                i += 1
        for count in (start - position, stop - start):
            if index and count == 0 and start == height * width:
                break
            rest = count - before if index > 2 else count
            before, previous = previous, count
            index += 1
            while rest < -16 or rest > 15:
                out[size] = (rest & 0x1F) + 80
                size += 1
                rest >>= 5
            out[size] = (rest & 0x1F) + 48
            size += 1
        position = stop
    return out[:size].copy()


@_compiled
def coco_counts_of_many(column, top, bottom, first, places, frames):
    """Counts (uint8) of many masks one after the other, and where each one's end (int64).

    column, top, bottom: of `Joined`; first: n + 1 of its firsts, for n of its masks. places: n × 2 int64, x and y;
    frames: n × 2 int64, height and width.
    """
    n = len(first) - 1
    out, ends, size = np.empty(64 * n + 4 * (first[n] - first[0]), dtype=np.uint8), np.empty(n, dtype=np.int64), 0
    for mask in range(n):
        runs = slice(first[mask], first[mask + 1])
        height, width = frames[mask]
        x, y = places[mask]
        counts = coco_counts(column[runs], top[runs], bottom[runs], height, width, x, y)
        while size + len(counts) > len(out):
            out = _longer(out, size)
        out[size : size + len(counts)] = counts
        size += len(counts)
        ends[mask] = size
    return out[:size].copy(), ends


@_compiled
def runs_of_counts(counts, height, width):
    """Columns, tops and bottoms (int64) of COCO compressed counts (uint8) of a frame of height × width.

    Raises ValueError for bytes that are no such counts: a damaged file must not lead out of the frame.
    """
    column, top, bottom = np.empty(512, np.int64), np.empty(512, np.int64), np.empty(512, np.int64)
    n = 0
    position, total = 0, height * width
    previous, before = 0, 0
    index = 0
    at = 0
    while at < len(counts):
        x, shift = 0, 0
        more = True
        while more:
            if at == len(counts) or shift > 40:
                raise ValueError("counts end too early")
            bits = int(counts[at]) - 48
            if bits < 0 or bits > 63:
                raise ValueError("not COCO counts")
            at += 1
            x |= (bits & 0x1F) << shift
            shift += 5
            more = bits & 0x20 != 0
            if not more and bits & 0x10:
                x |= -1 << shift
        if index > 2:
            x += before
        if x < 0 or position + x > total:
            raise ValueError("counts lead out of the frame")
        before, previous = previous, x
        if index % 2:
            start, stop = position, position + x
            while start < stop:
                c = start // height
                end = min(stop, (c + 1) * height)
                if n == len(column):
                    column, top, bottom = _longer(column, n), _longer(top, n), _longer(bottom, n)
                column[n], top[n], bottom[n] = c, start - c * height, end - c * height
                n += 1
                start = end
        position += x
        index += 1
    return column[:n].copy(), top[:n].copy(), bottom[:n].copy()
