"""Compiled loops for the upscaling on a CPU: what lies between its products of matrices, each in one pass.

As tensor operations these are seven passes over numbers that a core's own cache only just holds, and took as long as
the products. Compiled by numba at first use and cached on disk. All functions let go of the GIL.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from densecli.engine.loops import loop

# Sums in any order and products with reciprocals, so that the processor's vectors are used; NaN stays NaN.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_F = np.float32


@njit(inline="always", error_model="numpy")
def _gelu(x):
    """x · (1 + erf(x / √2)) / 2 in float32.

    erf is the rational approximation of Eigen (generic_fast_erf_float), within 4e-7 of the truth for all x.
    """
    t = x * _F(0.70710678118654752)
    t = min(max(t, _F(-4.0)), _F(4.0))
    s = t * t
    p = _F(-2.72614225801306e-10)
    p = p * s + _F(2.77068142495902e-08)
    p = p * s + _F(-2.10102402082508e-06)
    p = p * s + _F(-5.69250639462346e-05)
    p = p * s + _F(-7.34990630326855e-04)
    p = p * s + _F(-2.95459980854025e-03)
    p = p * s + _F(-1.60960333262415e-02)
    q = _F(-1.45660718464996e-05)
    q = q * s + _F(-2.13374055278905e-04)
    q = q * s + _F(-1.68282697438203e-03)
    q = q * s + _F(-7.37332916720468e-03)
    q = q * s + _F(-1.42647390514189e-02)
    return _F(0.5) * x * (_F(1.0) + t * p / q)


@loop(fastmath=_FAST, error_model="numpy")
def scaled_sums(x, scale1, shared, scale2, added):
    """x = (x + scale1 ⊙ shared) ⊙ scale2 + added, in place.

    x, shared, added: n × C float32. scale1, scale2: n float32, a number for each row.
    """
    for i in range(len(x)):
        row, other, more = x[i], shared[i], added[i]
        first, second = scale1[i], scale2[i]
        for j in range(x.shape[1]):
            row[j] = (row[j] + first * other[j]) * second + more[j]


@loop(fastmath=_FAST, error_model="numpy")
def normalise_and_activate(x, weight, bias, eps):
    """gelu(layer norm) of each row of x (n × C float32) in place. weight, bias: C float32. eps: float32."""
    n, channels = x.shape
    count = _F(channels)
    for i in range(n):
        row = x[i]
        total = _F(0.0)
        for j in range(channels):
            total += row[j]
        mean = total / count
        squares = _F(0.0)
        for j in range(channels):
            away = row[j] - mean
            squares += away * away
        scale = _F(1.0) / np.sqrt(squares / count + eps)
        for j in range(channels):
            row[j] = _gelu((row[j] - mean) * scale * weight[j] + bias[j])


@loop(fastmath=_FAST, error_model="numpy")
def activate_and_multiply(x, added, rows, logits, width, first):
    """Write the product of `rows` and gelu(x + added) into pictures.

    x, added: 4·n × 4·C float32, n image tokens from `first` on, each of 2 × 2 pixels of 2 × 2 pixels of C channels.
    rows: K × C float32. logits: K × 4h × 4w float32; width: w, tokens in a row.
    """
    channels = rows.shape[1]
    activated = np.empty(4 * channels, dtype=np.float32)
    for i in range(len(x)):
        token, quarter = first + i // 4, i % 4
        y = 4 * (token // width) + 2 * (quarter // 2)
        column = 4 * (token % width) + 2 * (quarter % 2)
        row, more = x[i], added[i]
        for j in range(4 * channels):
            activated[j] = _gelu(row[j] + more[j])
        for pixel in range(4):
            values = activated[pixel * channels : (pixel + 1) * channels]
            for k in range(len(rows)):
                weights = rows[k]
                total = _F(0.0)
                for j in range(channels):
                    total += values[j] * weights[j]
                logits[k, y + pixel // 2, column + pixel % 2] = total
