"""Compiled loops for refining edges: margins of a band's pixels (see `edges`), and where two masks meet (`sharing`)."""

from __future__ import annotations

import numpy as np

from densecli.engine.loops import loop


@loop()
def margins(full, colour, fitted, band, first_row, first_column, fy, fx, reach, least, out):
    """Fill `out`, H × W float32: how surely each pixel of a tile of the photo is mask, from -0.5 to 0.5.

    full: H × W uint8, the mask; colour: H × W × 3 uint8. fitted: h × w × 6 float32 of the smaller picture, (a, b),
    trust, and distance to the edge; the tile's first pixel lies at first_row, first_column of it. band: h × w bool.
    fy, fx: pixels of the photo along one of the smaller picture. Outside of the band: -1 and 1.
    """
    h, w, _ = fitted.shape
    half = np.float32(0.5)
    scale = np.float32(1.0 / 255.0)
    for y in range(full.shape[0]):
        small_y = first_row + y // fy
        at = (first_row + (np.float32(y) + half) / np.float32(fy)) - half
        down = int(np.floor(at))
        v = np.float32(at - down)
        y0, y1 = min(max(down, 0), h - 1), min(max(down + 1, 0), h - 1)
        for x in range(full.shape[1]):
            inside = full[y, x] > 0
            small_x = first_column + x // fx
            if not band[small_y, small_x]:
                out[y, x] = 1 if inside else -1
                continue
            at = (first_column + (np.float32(x) + half) / np.float32(fx)) - half
            right = int(np.floor(at))
            u = np.float32(at - right)
            x0, x1 = min(max(right, 0), w - 1), min(max(right + 1, 0), w - 1)
            p, q = (np.float32(1) - v) * (np.float32(1) - u), (np.float32(1) - v) * u
            r, s = v * (np.float32(1) - u), v * u
            one, two, three, four = fitted[y0, x0], fitted[y0, x1], fitted[y1, x0], fitted[y1, x1]
            value = p * one[3] + q * two[3] + r * three[3] + s * four[3] - half
            for c in range(3):
                value += (p * one[c] + q * two[c] + r * three[c] + s * four[c]) * np.float32(colour[y, x, c]) * scale
            trust = p * one[4] + q * two[4] + r * three[4] + s * four[4]
            held = (p * one[5] + q * two[5] + r * three[5] + s * four[5]) / reach
            held = min(max(held, least), np.float32(1)) * half
            value = trust * value + (np.float32(1) - trust) * (held if inside else -held)
            out[y, x] = min(max(value, -half), half)


@loop()
def common_box(column, top, bottom, dx, dy, starts, other_top, other_bottom):
    """x0, y0, x1, y1 (ends excluded) of the pixels that two masks share, in the frame of the other; zeros for none.

    The masks as in `cpu_kernels.common_pixels`.
    """
    width = len(starts) - 1
    found = False
    x0 = y0 = x1 = y1 = 0
    for i in range(len(column)):
        c = column[i] + dx
        if c < 0 or c >= width:
            continue
        begin, stop = top[i] + dy, bottom[i] + dy
        for k in range(starts[c], starts[c + 1]):
            high, low = max(begin, other_top[k]), min(stop, other_bottom[k])
            if high >= low:
                continue
            if not found:
                found, x0, y0, y1 = True, c, high, low
            x1 = c + 1
            y0, y1 = min(y0, high), max(y1, low)
    return x0, y0, x1, y1
