"""Compiled loops for image tokens in factors: what `factored.py` does with their N places, prompt by prompt.

As tensor operations these are some forty calls a prompt, of which each writes K × N numbers for the next one to read,
and between which threads wait for each other's Python. Here the numbers of a prompt stay in a core's cache, and a share
of prompts is one call. Compiled by numba at first use and cached on disk. All functions let go of the GIL.

Symbols as in `factored.py`: B prompts, T tokens each, N image tokens, C channels, H heads, d channels of a head,
K = H·T. All arrays are float32.
"""

from __future__ import annotations

import numpy as np

from densecli.engine.blas import product
from densecli.engine.loops import loop
from densecli.engine.upscaling_kernels import activate_and_multiply, normalise_and_activate, scaled_sums

# Sums in any order and products with reciprocals, so that the processor's vectors are used; NaN stays NaN.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_F = np.float32
# Weights of an attention below this go (`in_place.py` says why), and so does what is this far below the highest score.
_NEXT_TO_NOTHING = _F(1e-18)
_FAR_BELOW = _F(-45.0)


@loop(fastmath=_FAST, error_model="numpy")
def _exponentials(x, bits):
    """x = exp(x) in place, for x ≤ 0; below -45 exp(-45) = 3e-20. bits: len(x) int32, to work in.

    Cephes' expf: exp(x) = 2ⁿ · exp(x - n · ln 2), the latter a polynomial within 2e-7 of the truth.
    """
    for j in range(len(x)):
        value = max(x[j], _FAR_BELOW)
        n = np.int32(value * _F(1.44269504088896341) - _F(0.5))
        rest = value - _F(n) * _F(0.693359375) + _F(n) * _F(2.12194440e-4)
        p = _F(1.9875691500e-4)
        p = p * rest + _F(1.3981999507e-3)
        p = p * rest + _F(8.3334519073e-3)
        p = p * rest + _F(4.1665795894e-2)
        p = p * rest + _F(1.6666665459e-1)
        p = p * rest + _F(5.0000001201e-1)
        x[j] = p * rest * rest + rest + _F(1.0)
        bits[j] = (n + np.int32(127)) << np.int32(23)
    powers = bits.view(np.float32)
    for j in range(len(x)):
        x[j] *= powers[j]


@loop(error_model="numpy")
def _highest(row, of_lanes):
    """The highest number of a row; of_lanes: float32 to work in.

    A maximum over numbers of which some may be NaN is not split by the compiler: 32 maxima side by side are.
    """
    lanes = min(len(of_lanes), len(row))
    best = of_lanes[:lanes]
    best[:] = row[:lanes]
    for begin in range(lanes, len(row) - lanes + 1, lanes):
        some = row[begin : begin + lanes]
        for j in range(lanes):
            best[j] = max(best[j], some[j])
    for j in range(len(row) - len(row) % lanes, len(row)):
        best[0] = max(best[0], row[j])
    for j in range(1, lanes):
        best[0] = max(best[0], best[j])
    return best[0]


@loop(fastmath=_FAST, error_model="numpy")
def _softmax_of_places(scores, bits, of_lanes):
    """Softmax of each row of scores (K × N) in place: over the places."""
    for k in range(len(scores)):
        row = scores[k]
        highest = _highest(row, of_lanes)
        for j in range(len(row)):
            row[j] -= highest
        _exponentials(row, bits)
        total = _F(0.0)
        for j in range(len(row)):
            total += row[j]
        scale = _F(1.0) / total
        for j in range(len(row)):
            weight = row[j] * scale
            row[j] = weight if not weight < _NEXT_TO_NOTHING else _F(0.0)


@loop(fastmath=_FAST, error_model="numpy")
def _softmax_of_tokens(scores, tokens, row_of_places, bits):
    """Softmax of each column of scores (K × N) in place, `tokens` rows at a time: over the tokens of a head."""
    k, n = scores.shape
    best = row_of_places
    for first in range(0, k, tokens):
        best[:] = scores[first]
        for t in range(first + 1, first + tokens):
            row = scores[t]
            for j in range(n):
                best[j] = max(best[j], row[j])
        for t in range(first, first + tokens):
            row = scores[t]
            for j in range(n):
                row[j] -= best[j]
            _exponentials(row, bits)
        best[:] = scores[first]
        for t in range(first + 1, first + tokens):
            row = scores[t]
            for j in range(n):
                best[j] += row[j]
        for j in range(n):
            best[j] = _F(1.0) / best[j]
        for t in range(first, first + tokens):
            row = scores[t]
            for j in range(n):
                weight = row[j] * best[j]
                row[j] = weight if not weight < _NEXT_TO_NOTHING else _F(0.0)


@loop(fastmath=_FAST, error_model="numpy")
def _scale_places(x, scale):
    """x (K × N) = x ∘ scale (N) in place."""
    for k in range(len(x)):
        row = x[k]
        for j in range(len(row)):
            row[j] *= scale[j]


@loop(fastmath=_FAST, error_model="numpy")
def _add_weighted_sum(sums, x, weights):
    """sums (N) += the sum over K of x · weights (K × N each)."""
    for k in range(len(x)):
        row, of_row = x[k], weights[k]
        for j in range(len(sums)):
            sums[j] += row[j] * of_row[j]


@loop()
def _of_heads(out, x, shared, kept, sizes, factors):
    """out (H·T × N) = kept · out + x (H × T × d) @ shared (H × d × N), head by head."""
    heads, tokens, _ = x.shape
    for h in range(heads):
        product(out[h * tokens : (h + 1) * tokens], x[h], False, shared[h], False, kept, sizes, factors)


@loop(fastmath=_FAST, error_model="numpy")
def first_weights(keys, queries, values, crossed, grams, squares, channels, eps, a0, s1):
    """Layer 0: fill a0 (B × K × N, weights over tokens, already multiplied by s1) and s1 (B × N).

    keys, values: B × H × T × d. queries, crossed: H × d × N. grams: B × K × K. squares: N.
    """
    k, n = a0.shape[1:]
    room, row, bits = np.empty((k, n), dtype=np.float32), np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int32)
    sizes, factors = np.empty(6, dtype=np.int64), np.empty(2, dtype=np.float32)
    for b in range(len(a0)):
        weights, scale = a0[b], s1[b]
        _of_heads(weights, keys[b], queries, 0.0, sizes, factors)
        _softmax_of_tokens(weights, keys.shape[2], row, bits)
        _of_heads(room, values[b], crossed, 0.0, sizes, factors)
        product(room, grams[b], False, weights, False, 1.0, sizes, factors)
        scale[:] = squares
        _add_weighted_sum(scale, room, weights)
        for j in range(n):
            scale[j] = _F(1.0) / np.sqrt(scale[j] / channels + eps)
        _scale_places(weights, scale)


@loop(fastmath=_FAST, error_model="numpy")
def second_weights(
    keys,
    queries,
    positional,
    crossed_keys,
    a0,
    s1,
    values0,
    crossed0,
    values1,
    crossed1,
    grams,
    squares,
    bias,
    channels,
    eps,
    a1,
    s2,
):
    """Layer 1: fill a1 (B × K × N, weights over tokens) and s2 (B × N).

    keys, values0, values1: B × H × T × d. queries, positional, crossed0, crossed1: H × d × N. crossed_keys: B × K × K,
    the keys' products with layer 0's values. grams: 3 × B × K × K, products of values: 0 with 0, 2 · 1 with 0, 1 with
    1. squares, bias: N.
    """
    k, n = a0.shape[1:]
    room, row, bits = np.empty((k, n), dtype=np.float32), np.empty(n, dtype=np.float32), np.empty(n, dtype=np.int32)
    sizes, factors = np.empty(6, dtype=np.int64), np.empty(2, dtype=np.float32)
    for b in range(len(a0)):
        first, weights, scale1, scale2 = a0[b], a1[b], s1[b], s2[b]
        _of_heads(weights, keys[b], queries, 0.0, sizes, factors)
        _scale_places(weights, scale1)
        _of_heads(weights, keys[b], positional, 1.0, sizes, factors)
        product(weights, crossed_keys[b], False, first, False, 1.0, sizes, factors)
        _softmax_of_tokens(weights, keys.shape[2], row, bits)
        for j in range(n):
            scale2[j] = scale1[j] * (scale1[j] * squares[j] + bias[j])
        _of_heads(room, values0[b], crossed0, 0.0, sizes, factors)
        _scale_places(room, scale1)
        product(room, grams[0, b], False, first, False, 1.0, sizes, factors)
        _add_weighted_sum(scale2, room, first)
        _of_heads(room, values1[b], crossed1, 0.0, sizes, factors)
        _scale_places(room, scale1)
        product(room, grams[1, b], False, first, False, 1.0, sizes, factors)
        product(room, grams[2, b], False, weights, False, 1.0, sizes, factors)
        _add_weighted_sum(scale2, room, weights)
        for j in range(n):
            scale2[j] = _F(1.0) / np.sqrt(scale2[j] / channels + eps)


@loop(fastmath=_FAST, error_model="numpy")
def attention_to_image(queries, keys, positional, crossed, factors_a, s1, s2, values, pooled, update):
    """Attention of tokens to the image: fill pooled and update.

    queries, update: B × H × t × d. keys, positional: H × d × N. values: H × N × d. factors_a: the layers' a0 or a0 and
    a1, B × K × N each. crossed: for each of them B × H·t × K, the queries' products with its values. pooled: likewise,
    the attention's weights summed up by it. s1: B × N. s2: the same, or 0 × N before layer 1's norm.
    """
    n = keys.shape[2]
    heads, tokens = queries.shape[1:3]
    scores, bits = np.empty((heads * tokens, n), dtype=np.float32), np.empty(n, dtype=np.int32)
    of_lanes = np.empty(32, dtype=np.float32)
    sizes, factors = np.empty(6, dtype=np.int64), np.empty(2, dtype=np.float32)
    for b in range(len(queries)):
        _of_heads(scores, queries[b], keys, 0.0, sizes, factors)
        _scale_places(scores, s1[b])
        for i in range(len(factors_a)):
            product(scores, crossed[i][b], False, factors_a[i][b], False, 1.0, sizes, factors)
        if len(s2):
            _scale_places(scores, s2[b])
        _of_heads(scores, queries[b], positional, 1.0, sizes, factors)
        _softmax_of_places(scores, bits, of_lanes)
        if len(s2):
            _scale_places(scores, s2[b])
        for i in range(len(factors_a)):
            product(pooled[i][b], scores, False, factors_a[i][b], True, 0.0, sizes, factors)
        _scale_places(scores, s1[b])
        for h in range(heads):
            of_head = scores[h * tokens : (h + 1) * tokens]
            product(update[b, h], of_head, False, values[h], False, 0.0, sizes, factors)


@loop(fastmath=_FAST, error_model="numpy")
def upscale(
    a0, v0, a1, v1, s1, s2, shared, added, weight, bias, eps, second, added2, rows, ends, logits, width, window
):
    """Write mask logits: both convolutions of the upscaling and the product with the hyper-networks' rows.

    v0, v1: B × K × 4·C', the values after the first convolution. shared, added: N × 4·C', what it makes of the shared
    image tokens and of biases and features. weight, bias: C', the norm's. second: C' × 4·C'', the second convolution.
    added2: 4·N × 4·C''. rows: R × C'', of the kept outputs, prompt by prompt; ends: B int64, up to where each prompt's
    go. logits: R × 4h × 4w. width: w, tokens in a row. window: image tokens at a time, whole rows.
    """
    n = a0.shape[2]
    channels, wide = second.shape
    sizes, factors = np.empty(6, dtype=np.int64), np.empty(2, dtype=np.float32)
    all_pixels = np.empty((window, shared.shape[1]), dtype=np.float32)
    all_last = np.empty((4 * window, wide), dtype=np.float32)
    # All prompts of a window, then the next: what they share there stays in the cache.
    for start in range(0, n, window):
        end = min(start + window, n)
        pixels, last = all_pixels[: end - start], all_last[: 4 * (end - start)]
        first = 0
        for b in range(len(a0)):
            kept, pictures = rows[first : ends[b]], logits[first : ends[b]]
            first = ends[b]
            if not len(kept):
                continue
            product(pixels, a0[b][:, start:end], True, v0[b], False, 0.0, sizes, factors)
            product(pixels, a1[b][:, start:end], True, v1[b], False, 1.0, sizes, factors)
            scaled_sums(pixels, s1[b, start:end], shared[start:end], s2[b, start:end], added[start:end])
            quarters = pixels.reshape(-1, channels)
            normalise_and_activate(quarters, weight, bias, eps)
            product(last, quarters, False, second, False, 0.0, sizes, factors)
            activate_and_multiply(last, added2[4 * start : 4 * end], kept, pictures, width, start)
