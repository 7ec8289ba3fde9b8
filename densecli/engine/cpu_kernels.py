"""Compiled loops for the CPU: areas, boxes and masks of low-resolution logits, cell by cell.

The same functions as the tensor code of `upsampling.py`, which stays the path for GPUs; here one pass over a candidate
takes some ten microseconds, where some sixty tensor operations over all its cells took a millisecond. Compiled by numba
at first use and cached on disk. All functions let go of the GIL.
"""

from __future__ import annotations

import numpy as np

from densecli.engine.loops import loop


@loop()
def _row_count(left, rise, threshold, upper0, upper1, lower0, lower1, weight, first, step, x, n, x_weights):
    """Pixels above `threshold` in one cell's row of pixels, on which the logits are a line, rising or falling.

    Only the pixel nearest to the crossing can be in doubt; it is interpolated as F.interpolate does it.
    """
    nearest = 0
    if rise != 0.0:
        ratio = (threshold - left) / rise
        # Before the left neighbour there is no line: pixels there (at the image's edge) are clamped to it.
        if ratio > 0.0:
            where = (ratio - first) / step
            if where > n - 1:
                nearest = n - 1
            elif where > 0.0:
                nearest = int(where + np.float32(0.5))
    across = x_weights[x + nearest]
    keep = np.float32(1.0) - across
    value = (upper0 * keep + upper1 * across) * (np.float32(1.0) - weight)
    value += (lower0 * keep + lower1 * across) * weight
    above = 1 if value > threshold else 0
    if rise == 0.0:
        return n * above
    return n - 1 - nearest + above if rise > 0.0 else nearest + above


@loop()
def areas_and_boxes(
    logits, low, middle, high, row_start, row_weight, x_start, x_weights, x_first, x_step, area_low, area_high, boxes
):
    """Fill area_low, area_high (M int64) and boxes (M × 4 int64 xyxy inclusive, zeros for an empty mask).

    logits: M × h × w float32. row_start, x_start: first pixel of each cell, ending with the number of pixels.
    row_weight, x_weights: weight of the next logit for each pixel. x_first: weight of the first pixel of each cell
    before clamping at the image's edge, x_step: weight from pixel to pixel.
    """
    m, h, w = logits.shape
    highest = np.empty(h, dtype=np.float32)
    for k in range(m):
        picture = logits[k]
        for i in range(h):
            best = np.float32(-np.inf)
            for j in range(w):
                if picture[i, j] > best:  # as NaN is not
                    best = picture[i, j]
            highest[i] = best
        n_low = n_high = 0
        left_edge, top_edge, right_edge, bottom_edge = x_start[w], row_start[h], -1, -1
        for i in range(h):
            y0, y1 = row_start[i], row_start[i + 1]
            below = min(i + 1, h - 1)
            if y0 == y1 or not max(highest[i], highest[below]) > low:
                continue
            for j in range(w):
                n = x_start[j + 1] - x_start[j]
                if n == 0:
                    continue
                beside = min(j + 1, w - 1)
                upper0, upper1 = picture[i, j], picture[i, beside]
                lower0, lower1 = picture[below, j], picture[below, beside]
                most = max(max(upper0, upper1), max(lower0, lower1))
                if not most > low:
                    continue
                least = min(min(upper0, upper1), min(lower0, lower1))
                x = x_start[j]
                inside_low, inside_high = least > low, least > high
                if inside_low and np.isnan(upper0 + upper1 + lower0 + lower1):  # as are all pixels between them
                    continue
                if inside_low:
                    n_low += n * (y1 - y0)
                if inside_high:
                    n_high += n * (y1 - y0)
                look_low = not inside_low
                look_high = most > high and not inside_high
                if least > middle:
                    left_edge, right_edge = min(left_edge, x), max(right_edge, x + n - 1)
                    top_edge, bottom_edge = min(top_edge, y0), max(bottom_edge, y1 - 1)
                    look_middle = False
                else:
                    # A cell that lies within the box cannot widen it.
                    look_middle = most > middle and (
                        x < left_edge or x + n - 1 > right_edge or y0 < top_edge or y1 - 1 > bottom_edge
                    )
                if not (look_low or look_high or look_middle):
                    continue
                for y in range(y0, y1):
                    weight = row_weight[y]
                    keep = np.float32(1.0) - weight
                    left = upper0 * keep + lower0 * weight
                    rise = (upper1 - upper0) * keep + (lower1 - lower0) * weight
                    if look_low:
                        n_low += _row_count(
                            left, rise, low, upper0, upper1, lower0, lower1, weight, x_first[j], x_step, x, n, x_weights
                        )
                    if look_high:
                        n_high += _row_count(
                            left,
                            rise,
                            high,
                            upper0,
                            upper1,
                            lower0,
                            lower1,
                            weight,
                            x_first[j],
                            x_step,
                            x,
                            n,
                            x_weights,
                        )
                    if look_middle:
                        count = _row_count(
                            left,
                            rise,
                            middle,
                            upper0,
                            upper1,
                            lower0,
                            lower1,
                            weight,
                            x_first[j],
                            x_step,
                            x,
                            n,
                            x_weights,
                        )
                        if count > 0:
                            begin = x + n - count if rise > 0.0 else x
                            left_edge, right_edge = min(left_edge, begin), max(right_edge, begin + count - 1)
                            top_edge, bottom_edge = min(top_edge, y), max(bottom_edge, y)
        area_low[k], area_high[k] = n_low, n_high
        if right_edge < 0:
            boxes[k, :] = 0
        else:
            boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = left_edge, top_edge, right_edge, bottom_edge


@loop()
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@loop()
def _in_large_regions(column, top, bottom, area, min_area):
    """For each run whether its 8-connected region has at least `min_area` pixels; runs by column, then top."""
    n = len(column)
    parent = np.arange(n)
    a = 0  # in the column before that of b
    for b in range(n):
        while a < b and (column[a] < column[b] - 1 or (column[a] == column[b] - 1 and bottom[a] < top[b])):
            a += 1
        i = a
        while i < b and column[i] == column[b] - 1 and top[i] <= bottom[b]:
            one, other = _root(parent, i), _root(parent, b)
            if one != other:
                parent[max(one, other)] = min(one, other)
            i += 1
    total = np.zeros(n, dtype=np.int64)
    for i in range(n):
        total[_root(parent, i)] += area[i]
    large = np.empty(n, dtype=np.bool_)
    for i in range(n):
        large[i] = total[_root(parent, i)] >= min_area
    return large


@loop()
def remove_small_regions(column, top, bottom, first_column, last_column, height, width, min_area):
    """Fill holes, then drop islands, below `min_area` pixels; regions are 8-connected.

    Runs of pixels in image coordinates, by column, then top, at least one; first and last column in use. Returns new
    runs. The background left and right of the mask counts as one run each, with the area that it has.
    """
    n = len(column)
    # Background runs: at most one more than there are runs in each column.
    most = n + (last_column - first_column + 1) + 2
    b_column, b_top = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    b_bottom, b_area = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    count = 0
    if first_column > 0:
        b_column[0], b_top[0], b_bottom[0], b_area[0] = first_column - 1, 0, height, first_column * height
        count = 1
    i = 0
    for c in range(first_column, last_column + 1):
        at = 0
        while i < n and column[i] == c:
            if top[i] > at:
                b_column[count], b_top[count], b_bottom[count] = c, at, top[i]
                b_area[count] = top[i] - at
                count += 1
            at = bottom[i]
            i += 1
        if at < height:
            b_column[count], b_top[count], b_bottom[count], b_area[count] = c, at, height, height - at
            count += 1
    beyond = width - 1 - last_column
    if beyond > 0:
        b_column[count], b_top[count], b_bottom[count] = last_column + 1, 0, height
        b_area[count] = beyond * height
        count += 1
    open_ = _in_large_regions(b_column[:count], b_top[:count], b_bottom[:count], b_area[:count], min_area)
    # Small background to the left or right is whole columns, of which only one run is known: spell them out.
    grow_left = first_column if first_column > 0 and not open_[0] else 0
    grow_right = beyond if beyond > 0 and not open_[count - 1] else 0
    most = n + count + grow_left + grow_right
    f_column, f_top = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    f_bottom = np.empty(most, dtype=np.int64)
    k = 0
    for c in range(first_column - grow_left, first_column):
        f_column[k], f_top[k], f_bottom[k] = c, 0, height
        k += 1
    i, b = 0, 1 if first_column > 0 else 0
    for c in range(first_column, last_column + 1):
        fresh = True  # no run of this column yet
        while True:
            mask_next = i < n and column[i] == c
            hole_next = b < count and b_column[b] == c
            if not (mask_next or hole_next):
                break
            if mask_next and (not hole_next or top[i] < b_top[b]):
                begin, end, solid = top[i], bottom[i], True
                i += 1
            else:
                begin, end, solid = b_top[b], b_bottom[b], not open_[b]
                b += 1
            if not solid:
                continue
            if not fresh and f_bottom[k - 1] == begin:
                f_bottom[k - 1] = end
            else:
                f_column[k], f_top[k], f_bottom[k] = c, begin, end
                k += 1
                fresh = False
    for c in range(last_column + 1, last_column + 1 + grow_right):
        f_column[k], f_top[k], f_bottom[k] = c, 0, height
        k += 1
    f_column, f_top, f_bottom = f_column[:k], f_top[:k], f_bottom[:k]
    keep = _in_large_regions(f_column, f_top, f_bottom, f_bottom - f_top, min_area)
    return f_column[keep], f_top[keep], f_bottom[keep]


@loop()
def common_pixels(column, top, bottom, dx, dy, starts, other_top, other_bottom, most_missing):
    """Pixels that two masks share: runs of the one at dx, dy of the other, whose columns begin at `starts`.

    Counting ends where more than `most_missing` pixels of the one are found not to be the other's: what is given then
    is some number of the shared ones.
    """
    width = len(starts) - 1
    common, seen = 0, 0
    j = 0
    for i in range(len(column)):
        if seen - common > most_missing:
            break
        seen += bottom[i] - top[i]
        c = column[i] + dx
        if c < 0 or c >= width:
            continue
        if i == 0 or column[i] != column[i - 1] or j < starts[c]:
            j = starts[c]
        end = starts[c + 1]
        begin, stop = top[i] + dy, bottom[i] + dy
        while j < end and other_bottom[j] <= begin:
            j += 1
        k = j
        while k < end and other_top[k] < stop:
            common += min(stop, other_bottom[k]) - max(begin, other_top[k])
            k += 1
    return common


@loop()
def column_starts(column, first, starts, first_start):
    """Into `starts` the first run of each column of each mask, counted from the mask's own first run.

    column, first: of `Joined`. first_start: n + 1 int64, where each mask's starts begin; a column more than its width.
    """
    for mask in range(len(first) - 1):
        j = first[mask]
        for c in range(first_start[mask + 1] - first_start[mask]):
            while j < first[mask + 1] and column[j] < c:
                j += 1
            starts[first_start[mask] + c] = j - first[mask]


@loop()
def parents(areas, boxes, column, top, bottom, first, starts, first_start, fraction, begin, step, found):
    """Into found[i] of every `step`-th mask from `begin` on the smallest bigger mask that has `fraction` of it, or -1.

    areas: n int64, falling. boxes: n × 4 int64 xyxy. column, top, bottom, first: of `Joined`. starts, first_start: of
    `column_starts`. Boxes decide first; only pairs whose boxes overlap enough are compared run by run.
    """
    for i in range(begin, len(areas), step):
        needed = fraction * areas[i]
        a = slice(first[i], first[i + 1])
        found[i] = -1
        for j in range(i - 1, -1, -1):  # from the smallest up: the first one that holds the mask is its parent
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            if areas[j] <= areas[i] or max(width, 0) * max(height, 0) < needed:
                continue
            b = slice(first[j], first[j + 1])
            dx, dy = boxes[i, 0] - boxes[j, 0], boxes[i, 1] - boxes[j, 1]
            columns = starts[first_start[j] : first_start[j + 1]]
            # What lacks too much of the mask is known by the first of its columns.
            missing = areas[i] - needed
            if common_pixels(column[a], top[a], bottom[a], dx, dy, columns, top[b], bottom[b], missing) >= needed:
                found[i] = j
                break


@loop(fastmath={"reassoc", "contract"})
def normalise_rows(x, added, weight, bias, eps):
    """Layer normalisation of each row of x (n × C float32) in place, after adding row i modulo m of `added` (m × C).

    added may have no rows. eps: float32. Sums may be taken in another order than torch's (relative error near 1e-7).
    """
    n, channels = x.shape
    m = len(added)
    count = np.float32(channels)
    for i in range(n):
        row = x[i]
        if m:
            other = added[i % m]
            for j in range(channels):
                row[j] += other[j]
        total = np.float32(0.0)
        for j in range(channels):
            total += row[j]
        mean = total / count
        squares = np.float32(0.0)
        for j in range(channels):
            away = row[j] - mean
            squares += away * away
        scale = np.float32(1.0) / np.sqrt(squares / count + eps)
        for j in range(channels):
            row[j] = (row[j] - mean) * scale * weight[j] + bias[j]


@loop(error_model="numpy")  # two boxes without area: NaN, which is above nothing
def not_suppressed(boxes, threshold):
    """N bool: boxes (N × 4 float32 xyxy, best first) that no better one overlaps by more than `threshold` (IoU).

    As torchvision's kernel counts: in float32, and compared with the threshold in float64.
    """
    n = len(boxes)
    zero = np.float32(0.0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.ones(n, dtype=np.bool_)
    for i in range(n):
        if not kept[i]:
            continue
        left, top, right, bottom = boxes[i]
        for j in range(i + 1, n):
            if not kept[j]:
                continue
            width = max(zero, min(right, boxes[j, 2]) - max(left, boxes[j, 0]))
            height = max(zero, min(bottom, boxes[j, 3]) - max(top, boxes[j, 1]))
            common = width * height
            if common / (areas[i] + areas[j] - common) > threshold:
                kept[j] = False
    return kept
