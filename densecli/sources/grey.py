"""Grey values deeper than 8 bits: which values become black and white, and the scaling."""

from __future__ import annotations

import numpy as np

STRIP_PIXELS = 4_000_000  # converted at a time, so that temporary arrays stay small beside the image


def write_deep_grey(values: np.ndarray, out: np.ndarray, notices: list[str]) -> None:
    """Scale h×w grey values of any integer or float type to 0..255 and write them to all channels of `out` (h×w×3)."""
    black, white, notice = _grey_window(values)
    rows = max(1, STRIP_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        strip = values[top : top + rows].astype(np.float64)
        if values.dtype.kind == "f":
            strip = np.nan_to_num(strip, copy=False, nan=black, posinf=white, neginf=black)
        strip -= black
        strip *= 255 / (white - black)
        out[top : top + rows] = np.rint(strip.clip(0, 255, out=strip), out=strip).astype(np.uint8)[..., None]
    notices.append(notice)


def _grey_window(values: np.ndarray) -> tuple[float, float, str]:
    """The values that become black and white, and a notice that says so.

    A 16-bit file rarely says how many of its bits it uses: a 12-bit X-ray or a thermal image around 7000 comes out
    black or flat if its upper byte is taken. So: if the values fit a customary scale (0..1, 0..255 or 0..65535) and
    span at least half of it, that scale holds (an 8-bit photo saved with 16 bits comes back exactly). Otherwise the
    range is stretched that is left without the lowest and the highest thousandth of the pixels, so that single dead or
    hot pixels do not count. NaN becomes black, infinities black or white.
    """
    kind = f"{8 * values.dtype.itemsize}-bit {'float' if values.dtype.kind == 'f' else 'grey'}"
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if finite.size == 0:
        return 0.0, 1.0, f"{kind} values of which none is a finite number, so it is black"
    tail = (finite.size - 1) // 1000
    finite = np.partition(finite.astype(finite.dtype.newbyteorder("="), copy=False), (tail, finite.size - 1 - tail))
    low, high = float(finite[tail]), float(finite[finite.size - 1 - tail])
    least, most = float(finite[: tail + 1].min()), float(finite[finite.size - 1 - tail :].max())
    if low == high:  # nearly all pixels are equal; what differs is the content
        low, high = least, most
    scale = next((scale for scale in (1.0, 255.0, 65535.0) if least >= 0 and most <= scale), None)
    if scale and (high - low >= scale / 2 or least == most):
        low, high = 0.0, scale
    elif low == high:
        high = low + max(1.0, abs(low))
    return low, high, f"{kind} values ({least:g} to {most:g}) scaled to 8 bits: {low:g} is black, {high:g} is white"
