"""The mask decoder's work on image tokens, fused: Triton kernels that read and write a prompt's tokens once a layer.

Plain PyTorch moves about 47 MB a prompt through memory in the transformer and 47 MB in the upscaling (an official
shape, half precision), most of it scores and intermediate tokens that are read back at once. Here a program holds a
tile of image tokens on the chip from its scores to its norm: 10 MB and 3 MB. The functions are those of
`device_decoder.py`, with sums and softmaxes in float32.

Like `scoring_kernel.py` this needs triton, and image sizes play no part in it. Tested under Triton's interpreter, by
compiling it for sm_80, sm_89 and sm_90 (one register spilled), and on an H200, on which warps and stages were chosen.

Symbols as in device_decoder.py; TP is T rounded up to a power of two: tokens that are there for shape's sake count
nothing. Of the HT = TP · H rows of a prompt all heads of a token come one after the other: a softmax over a head's
tokens then stays within a thread.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl


class Tile(NamedTuple):
    """Image tokens that a program holds at a time, its warps, and how many loads of a loop are under way.

    registers: most of a thread, where the compiler's own choice leaves room for too few programs.
    """

    tokens: int
    warps: int
    stages: int
    registers: int | None = None


class Tiles(NamedTuple):
    """How each kernel is cut."""

    attend: Tile
    update: Tile
    upscale: Tile


# By what a block of threads may have of shared memory, an official shape. On sm_90 192, 96 and 36 KB: two programs of
# `_update` and four of `_upscale` share a multiprocessor. On sm_80 to sm_89 at most 80 KB: consumers' cards have 99.
_LARGE_BYTES = 200 << 10
_LARGE = Tiles(Tile(64, 4, 3), Tile(64, 4, 1), Tile(64, 4, 1, registers=128))
_SMALL = Tiles(Tile(32, 4, 2), Tile(32, 4, 1), Tile(64, 4, 1))
# Tiles that a program of `_update` goes through with one prompt's keys and values.
_UPDATES = 4
# Channels of image tokens that `_upscale` multiplies at a time: it reads its tokens once for each of four pixels, from
# the cache, rather than hold them.
_STEP = 64


@triton.jit
def _attend(
    queries,
    rows,
    image,
    positional,
    count,
    out,
    N,
    C: tl.constexpr,
    D: tl.constexpr,
    HT: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # pragma: no cover - runs on the GPU, or in the interpreter's process
    """One prompt: softmax(queries · imageᵀ + rows · positional) · image, the softmax online over tiles of tokens."""
    b = tl.program_id(0).to(tl.int64)
    if b < tl.load(count):
        at = tl.arange(0, HT)
        c = tl.arange(0, C)
        d = tl.arange(0, D)
        q = tl.load(queries + b * HT * C + at[:, None] * C + c[None, :])
        r = tl.load(rows + b * HT * D + at[:, None] * D + d[None, :])
        most = tl.full([HT], float("-inf"), dtype=tl.float32)
        total = tl.zeros([HT], dtype=tl.float32)
        pooled = tl.zeros([HT, C], dtype=tl.float32)
        for begin in tl.range(0, N, BLOCK, num_stages=STAGES):
            n = begin + tl.arange(0, BLOCK)
            there = n < N
            x = tl.load(image + b * N * C + n[:, None] * C + c[None, :], mask=there[:, None], other=0.0)
            p = tl.load(positional + d[:, None] * N + n[None, :], mask=there[None, :], other=0.0)
            scores = tl.dot(q, tl.trans(x), input_precision="ieee")
            scores = tl.dot(r, p, acc=scores, input_precision="ieee")
            scores = tl.where(there[None, :], scores, float("-inf"))
            new = tl.maximum(most, tl.max(scores, axis=1))
            weights = tl.exp(scores - new[:, None])
            kept = tl.exp(most - new)
            total = total * kept + tl.sum(weights, axis=1)
            pooled = tl.dot(weights.to(x.dtype), x, acc=pooled * kept[:, None], input_precision="ieee")
            most = new
        pooled = pooled / total[:, None]
        tl.store(out + b * HT * C + at[:, None] * C + c[None, :], pooled.to(out.dtype.element_ty))


@triton.jit
def _update(
    keys,
    biases,
    values,
    image,
    pe,
    norm_weight,
    norm_bias,
    count,
    out,
    eps,
    N,
    image_stride,
    C: tl.constexpr,
    H: tl.constexpr,
    T: tl.constexpr,
    TP: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
    STAGES: tl.constexpr,
):  # pragma: no cover - as above
    """Some tiles of one prompt's image tokens: their attention to the prompt's tokens, added, normalised."""
    HT: tl.constexpr = H * TP
    b = tl.program_id(1).to(tl.int64)
    if b < tl.load(count):
        at = tl.arange(0, HT)
        c = tl.arange(0, C)
        k = tl.load(keys + b * HT * C + at[None, :] * C + c[:, None])  # C × HT
        v = tl.load(values + b * HT * C + at[:, None] * C + c[None, :])
        bias = tl.where(at < H * T, tl.load(biases + b * HT + at).to(tl.float32), float("-inf"))
        first = tl.program_id(0) * (BLOCK * TILES)
        for tile in tl.range(0, TILES, num_stages=STAGES):
            n = first + tile * BLOCK + tl.arange(0, BLOCK)
            there = n < N
            x = tl.load(image + b * image_stride + n[:, None] * C + c[None, :], mask=there[:, None], other=0.0)
            p = tl.load(pe + n[:, None] * C + c[None, :], mask=there[:, None], other=0.0)
            scores = tl.dot((x + p).to(k.dtype), k, input_precision="ieee") + bias[None, :]
            scores = tl.reshape(scores, (BLOCK, TP, H))
            weights = tl.exp(scores - tl.max(scores, axis=1)[:, None, :])
            weights = weights / tl.sum(weights, axis=1)[:, None, :]
            weights = tl.reshape(weights, (BLOCK, HT))
            y = tl.dot(weights.to(v.dtype), v, acc=x.to(tl.float32), input_precision="ieee")
            y -= (tl.sum(y, axis=1) * (1.0 / C))[:, None]
            spread = tl.rsqrt(tl.sum(y * y, axis=1) * (1.0 / C) + eps)
            # The norm's weights are read here, not before the loop: registers are scarce, the cache is near.
            y = y * spread[:, None] * tl.load(norm_weight + c).to(tl.float32)[None, :]
            y = y + tl.load(norm_bias + c).to(tl.float32)[None, :]
            tl.store(out + b * N * C + n[:, None] * C + c[None, :], y.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def _gelu(x):  # pragma: no cover - as above
    """x · Φ(x) with Φ a polynomial up to ±4.5: at most 8e-6 off there, 4e-5 beyond; half the instructions of erf.

    Φ(x) = 0.5 + x · q(2 x² / 4.5² - 1), q of degree 9 by least squares reweighted until the error was even.
    """
    near = tl.minimum(tl.maximum(x, -4.5), 4.5)
    u = near * (near * 0.09876543209876543) - 1.0
    q = -0.0015656844 * u + 0.004655324
    q = q * u - 0.0066828164
    q = q * u + 0.010140455
    q = q * u - 0.018159239
    q = q * u + 0.02862397
    q = q * u - 0.040295783
    q = q * u + 0.05467185
    q = q * u - 0.07718337
    q = q * u + 0.1569053
    return x * (near * q + 0.5)


@triton.jit
def _upscale(
    image,
    rows,
    chosen,
    count,
    weight1,
    added1,
    norm_weight,
    norm_bias,
    weight2,
    added2,
    out,
    eps,
    N,
    WIDTH,
    C: tl.constexpr,
    M: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    STEP: tl.constexpr,
):  # pragma: no cover - as above
    """One tile of one chosen prompt's image tokens, to sixteen logits a token and output, put into rows and columns.

    One of the first convolution's four pixels of a token after the other: none needs the others.
    """
    C1: tl.constexpr = C // 4
    C2: tl.constexpr = C // 8
    u = tl.program_id(1).to(tl.int64)
    if u < tl.load(count):
        b = tl.load(chosen + u)
        n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = (n < N)[:, None]
        c1 = tl.arange(0, C1)
        w = tl.arange(0, 2 * C2)
        w2 = weight2 + c1[:, None] * (4 * C2) + w[None, :]
        upper, lower = tl.load(w2), tl.load(w2 + 2 * C2)
        # The second convolution's four pixels lie side by side, so the outputs' rows stand four times on a diagonal:
        # the first two of them for the upper two pixels.
        at = tl.arange(0, 16)
        m = at % 4
        row = rows + b * M * C2 + m[None, :] * C2 + (w % C2)[:, None]
        upper_row = tl.load(row, mask=((w // C2)[:, None] == (at // 4)[None, :]) & (m < M)[None, :], other=0.0)
        lower_row = tl.load(row, mask=((w // C2)[:, None] + 2 == (at // 4)[None, :]) & (m < M)[None, :], other=0.0)
        corner = 4 * (n // WIDTH) * (4 * WIDTH) + 4 * (n % WIDTH)
        place = at // 8 * (4 * WIDTH) + at // 4 % 2
        place = out + (u * M + m[None, :]) * (16 * N) + corner[:, None] + place[None, :]
        for s in tl.range(0, 4, num_stages=STAGES):
            x = tl.zeros([BLOCK, C1], tl.float32)
            for begin in tl.static_range(0, C, STEP):
                k = begin + tl.arange(0, STEP)
                tokens = tl.load(image + b * N * C + n[:, None] * C + k[None, :], mask=there, other=0.0)
                w1 = tl.load(weight1 + k[:, None] * C + s * C1 + c1[None, :])
                x = tl.dot(tokens, w1, acc=x, input_precision="ieee")
            x += tl.load(added1 + n[:, None] * C + s * C1 + c1[None, :], mask=there, other=0.0).to(tl.float32)
            x = x * tl.rsqrt(tl.sum(x * x, axis=1) * (1.0 / C1) + eps)[:, None]
            x = x * tl.load(norm_weight + c1).to(tl.float32)[None, :]
            x = _gelu(x + tl.load(norm_bias + c1).to(tl.float32)[None, :]).to(upper.dtype)
            beside = added2 + (4 * n + s)[:, None] * (4 * C2) + w[None, :]
            y = tl.dot(x, upper, input_precision="ieee")
            y = _gelu(y + tl.load(beside, mask=there, other=0.0).to(tl.float32))
            logits = tl.dot(y.to(x.dtype), upper_row, input_precision="ieee")
            y = tl.dot(x, lower, input_precision="ieee")
            y = _gelu(y + tl.load(beside + 2 * C2, mask=there, other=0.0).to(tl.float32))
            logits = tl.dot(y.to(x.dtype), lower_row, acc=logits, input_precision="ieee")
            place_s = place + s // 2 * (8 * WIDTH) + s % 2 * 2
            tl.store(place_s, logits.to(out.dtype.element_ty), mask=there & (m < M)[None, :])


def tiles_for(shared_memory: int) -> Tiles:
    """How to cut the kernels for so many bytes of shared memory a block."""
    return _LARGE if shared_memory >= _LARGE_BYTES else _SMALL


def _limits(tile: Tile) -> dict[str, int]:
    return {} if tile.registers is None else {"maxnreg": tile.registers}


def attend(
    queries: torch.Tensor,
    rows: torch.Tensor,
    image: torch.Tensor,
    positional: torch.Tensor,
    count: torch.Tensor,
    tile: Tile = _SMALL.attend,
) -> torch.Tensor:
    """B × HT × C: softmax over the image tokens of queries · imageᵀ + rows · positional, times image.

    queries: B × HT × C. rows: B × HT × D. image: B × N × C. positional: D × N. All of one type, contiguous; HT, C and D
    powers of two from 16. count: 0-dimensional int64; those of later prompts are whatever was there before.
    """
    b, ht, c = queries.shape
    out = torch.empty_like(queries)
    _attend[(b,)](
        queries,
        rows,
        image,
        positional,
        count,
        out,
        image.shape[1],
        C=c,
        D=rows.shape[2],
        HT=ht,
        BLOCK=tile.tokens,
        STAGES=tile.stages,
        num_warps=tile.warps,
        **_limits(tile),
    )
    return out


def update(
    keys: torch.Tensor,
    biases: torch.Tensor,
    values: torch.Tensor,
    image: torch.Tensor,
    pe: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor, float],
    heads: int,
    tokens: int,
    count: torch.Tensor,
    tile: Tile = _SMALL.update,
) -> torch.Tensor:
    """B × N × C: image tokens plus their attention to a prompt's tokens, normalised.

    keys: B × HT × C absorbed keys, and biases: B × HT what their products with image + pe lack. values: B × HT × C.
    image: B × N × C, whose place the result takes, or N × C shared by all. pe: N × C. norm: weight, bias, eps.
    tokens: T, of the TP that each head has. count: 0-dimensional int64; of later prompts nothing is touched.
    """
    b, ht, c = keys.shape
    n = image.shape[-2]
    own = image.dim() == 3
    out = image if own else torch.empty(b, n, c, dtype=image.dtype, device=image.device)
    _update[(triton.cdiv(n, tile.tokens * _UPDATES), b)](
        keys,
        biases,
        values,
        image,
        pe,
        norm[0],
        norm[1],
        count,
        out,
        norm[2],
        n,
        n * c if own else 0,
        C=c,
        H=heads,
        T=tokens,
        TP=ht // heads,
        BLOCK=tile.tokens,
        TILES=_UPDATES,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return out


def upscale(
    image: torch.Tensor,
    rows: torch.Tensor,
    chosen: torch.Tensor,
    count: torch.Tensor,
    size: tuple[int, int],
    first: tuple[torch.Tensor, torch.Tensor],
    norm: tuple[torch.Tensor, torch.Tensor, float],
    second: tuple[torch.Tensor, torch.Tensor],
    tile: Tile = _SMALL.upscale,
) -> torch.Tensor:
    """U × M × 4h × 4w logits of the first `count` (0-dimensional int64) of the prompts `chosen` (U int64) of a tile.

    Those of the others are whatever was there before. image: B × N × C. rows: B × M × C/8. size: (h, w) of the
    embedding. first, second: weights and what is added, of the two transposed convolutions; those of the first give
    pixels whose channels have a mean of zero. norm: weight, bias, eps of the norm between them.
    """
    _, n, c = image.shape
    m, u = rows.shape[1], len(chosen)
    out = torch.empty(u, m, 4 * size[0], 4 * size[1], dtype=image.dtype, device=image.device)
    _upscale[(triton.cdiv(n, tile.tokens), u)](
        image,
        rows,
        chosen,
        count,
        *first,
        norm[0],
        norm[1],
        *second,
        out,
        norm[2],
        n,
        size[1],
        C=c,
        M=m,
        STEP=min(_STEP, c),
        BLOCK=tile.tokens,
        STAGES=tile.stages,
        num_warps=tile.warps,
        **_limits(tile),
    )
    return out
