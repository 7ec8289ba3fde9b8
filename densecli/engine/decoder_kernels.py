"""The mask decoder's work on image tokens, fused: Triton kernels that read and write a prompt's tokens once a layer.

Plain PyTorch moves about 47 MB a prompt through memory in the transformer and 47 MB in the upscaling (an official
shape, half precision), most of it scores and intermediate tokens that are read back at once. Here a program holds a
tile of image tokens on the chip from its scores to its norm: 10 MB and 3 MB. The functions are those of
`device_decoder.py`, with sums and softmaxes in float32.

Like `scoring_kernel.py` this needs triton, and image sizes play no part in it. Tested under Triton's interpreter, by
compiling it for sm_80 and sm_90 (nothing spilled on sm_90), and on an H200, on which warps and stages were chosen.

Symbols as in device_decoder.py; TP is T rounded up to a power of two: tokens that are there for shape's sake count
nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_ATTEND_TOKENS = 64
_UPDATE_TOKENS = 64
_UPSCALE_TOKENS = 32
_ATTEND_WARPS, _UPDATE_WARPS, _UPSCALE_WARPS = 4, 4, 8
# Of `_attend` with three stages on sm_80, an official shape; on sm_90 192 KB, of 227 there.
_THREE_STAGES_BYTES = 152 << 10
# tl.dot wants no side below 16; an upscaled candidate is one of at most four outputs.
_LEAST_SIDE = 16


@triton.jit
def _attend(
    queries,
    rows,
    image,
    positional,
    out,
    N,
    C: tl.constexpr,
    D: tl.constexpr,
    HT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # pragma: no cover - runs on the GPU, or in the interpreter's process
    """One prompt: softmax(queries · imageᵀ + rows · positional) · image, the softmax online over tiles of tokens."""
    b = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, HT)
    c = tl.arange(0, C)
    d = tl.arange(0, D)
    q = tl.load(queries + b * HT * C + at[:, None] * C + c[None, :])
    r = tl.load(rows + b * HT * D + at[:, None] * D + d[None, :])
    most = tl.full([HT], float("-inf"), dtype=tl.float32)
    total = tl.zeros([HT], dtype=tl.float32)
    pooled = tl.zeros([HT, C], dtype=tl.float32)
    for begin in range(0, N, BLOCK):
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
    rows,
    values,
    image,
    positional,
    norm_weight,
    norm_bias,
    out,
    eps,
    N,
    image_stride,
    C: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    T: tl.constexpr,
    TP: tl.constexpr,
    ABSORBED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # pragma: no cover - as above
    """One tile of one prompt's image tokens: their attention to the prompt's tokens, added, normalised."""
    HT: tl.constexpr = H * TP
    b = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = n < N
    at = tl.arange(0, HT)
    c = tl.arange(0, C)
    d = tl.arange(0, D)
    x = tl.load(image + b * image_stride + n[:, None] * C + c[None, :], mask=there[:, None], other=0.0)
    p = tl.load(positional + d[:, None] * N + n[None, :], mask=there[None, :], other=0.0)
    r = tl.load(rows + b * HT * D + at[None, :] * D + d[:, None])  # D × HT
    scores = tl.dot(tl.trans(p), r, input_precision="ieee")
    if ABSORBED:
        k = tl.load(keys + b * HT * C + at[None, :] * C + c[:, None])  # C × HT
        scores = tl.dot(x, k, acc=scores, input_precision="ieee")
    scores = tl.where((at % TP < T)[None, :], scores, float("-inf"))
    scores = tl.reshape(scores, (BLOCK, H, TP))
    weights = tl.exp(scores - tl.max(scores, axis=2)[:, :, None])
    weights = weights / tl.sum(weights, axis=2)[:, :, None]
    weights = tl.reshape(weights, (BLOCK, HT))
    v = tl.load(values + b * HT * C + at[:, None] * C + c[None, :])
    updated = tl.dot(weights.to(v.dtype), v, acc=x.to(tl.float32), input_precision="ieee")
    centred = updated - (tl.sum(updated, axis=1) / C)[:, None]
    spread = tl.rsqrt(tl.sum(centred * centred, axis=1) / C + eps)
    weight = tl.load(norm_weight + c).to(tl.float32)
    bias = tl.load(norm_bias + c).to(tl.float32)
    y = centred * spread[:, None] * weight[None, :] + bias[None, :]
    tl.store(out + b * N * C + n[:, None] * C + c[None, :], y.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def _gelu(x):  # pragma: no cover - as above
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _upscale(
    image,
    rows,
    chosen,
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
    MP: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):  # pragma: no cover - as above
    """One tile of one chosen prompt's image tokens, to sixteen logits a token and output, put into rows and columns."""
    C1: tl.constexpr = C // 4
    C2: tl.constexpr = C // 8
    u = tl.program_id(1).to(tl.int64)
    b = tl.load(chosen + u)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = n < N
    c = tl.arange(0, C)
    x = tl.load(added1 + n[:, None] * C + c[None, :], mask=there[:, None], other=0.0).to(tl.float32)
    for begin in range(0, C, STEP):
        k = begin + tl.arange(0, STEP)
        tokens = tl.load(image + b * N * C + n[:, None] * C + k[None, :], mask=there[:, None], other=0.0)
        w = tl.load(weight1 + k[:, None] * C + c[None, :])
        x = tl.dot(tokens, w, acc=x, input_precision="ieee")
    x = tl.reshape(x, (BLOCK * 4, C1))
    c1 = tl.arange(0, C1)
    centred = x - (tl.sum(x, axis=1) / C1)[:, None]
    spread = tl.rsqrt(tl.sum(centred * centred, axis=1) / C1 + eps)
    x = centred * spread[:, None] * tl.load(norm_weight + c1).to(tl.float32)[None, :]
    x = _gelu(x + tl.load(norm_bias + c1).to(tl.float32)[None, :])
    pixel = tl.program_id(0) * (BLOCK * 4) + tl.arange(0, BLOCK * 4)
    wide = tl.arange(0, 4 * C2)
    inside = (pixel < 4 * N)[:, None]
    y = tl.load(added2 + pixel[:, None] * (4 * C2) + wide[None, :], mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight2 + c1[:, None] * (4 * C2) + wide[None, :])
    y = _gelu(tl.dot(x.to(w.dtype), w, acc=y, input_precision="ieee"))
    y = tl.reshape(y, (BLOCK * 16, C2))
    m = tl.arange(0, MP)
    c2 = tl.arange(0, C2)
    row = tl.load(rows + b * M * C2 + m[None, :] * C2 + c2[:, None], mask=(m < M)[None, :], other=0.0)  # C2 × MP
    logits = tl.dot(y.to(row.dtype), row, input_precision="ieee")
    # A token's sixteen pixels: two by two of the first convolution, each two by two of the second.
    p = tl.arange(0, BLOCK * 16)
    token = tl.program_id(0) * BLOCK + p // 16
    line = 4 * (token // WIDTH) + 2 * (p // 8 % 2) + p // 2 % 2
    column = 4 * (token % WIDTH) + 2 * (p // 4 % 2) + p % 2
    place = out + (u * M + m[None, :]) * (16 * N) + (line * (4 * WIDTH) + column)[:, None]
    tl.store(place, logits.to(out.dtype.element_ty), mask=(token < N)[:, None] & (m < M)[None, :])


def attend_stages(shared_memory: int) -> int:
    """Tiles of tokens under way at a time in `attend`, for so many bytes of shared memory a block."""
    return 3 if shared_memory >= _THREE_STAGES_BYTES else 2


def attend(
    queries: torch.Tensor, rows: torch.Tensor, image: torch.Tensor, positional: torch.Tensor, stages: int = 2
) -> torch.Tensor:
    """B × HT × C: softmax over the image tokens of queries · imageᵀ + rows · positional, times image.

    queries: B × HT × C. rows: B × HT × D. image: B × N × C. positional: D × N. All of one type, contiguous; HT, C and D
    powers of two from 16. stages: see `attend_stages`.
    """
    b, ht, c = queries.shape
    out = torch.empty_like(queries)
    _attend[(b,)](
        queries,
        rows,
        image,
        positional,
        out,
        image.shape[1],
        C=c,
        D=rows.shape[2],
        HT=ht,
        BLOCK=_ATTEND_TOKENS,
        num_warps=_ATTEND_WARPS,
        num_stages=stages,
    )
    return out


def update(
    keys: torch.Tensor | None,
    rows: torch.Tensor,
    values: torch.Tensor,
    image: torch.Tensor,
    positional: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor, float],
    heads: int,
    tokens: int,
) -> torch.Tensor:
    """B × N × C: image tokens plus their attention to a prompt's tokens, normalised.

    keys: B × HT × C absorbed keys, or None where the image is shared and position says it all. rows: B × HT × D.
    values: B × HT × C. image: B × N × C, or N × C shared by all. positional: D × N. norm: weight, bias, eps.
    tokens: T, of the TP that each head has.
    """
    b, ht, d = rows.shape
    n, c = image.shape[-2:]
    out = torch.empty(b, n, c, dtype=image.dtype, device=image.device)
    _update[(triton.cdiv(n, _UPDATE_TOKENS), b)](
        rows if keys is None else keys,
        rows,
        values,
        image,
        positional,
        norm[0],
        norm[1],
        out,
        norm[2],
        n,
        n * c if image.dim() == 3 else 0,
        C=c,
        D=d,
        H=heads,
        T=tokens,
        TP=ht // heads,
        ABSORBED=keys is not None,
        BLOCK=_UPDATE_TOKENS,
        num_warps=_UPDATE_WARPS,
        num_stages=1,
    )
    return out


def upscale(
    image: torch.Tensor,
    rows: torch.Tensor,
    chosen: torch.Tensor,
    size: tuple[int, int],
    first: tuple[torch.Tensor, torch.Tensor],
    norm: tuple[torch.Tensor, torch.Tensor, float],
    second: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """U × M × 4h × 4w logits of the prompts `chosen` (U int64) of a tile.

    image: B × N × C. rows: B × M × C/8. size: (h, w) of the embedding. first, second: weights and what is added, of
    the two transposed convolutions. norm: weight, bias, eps of the norm between them.
    """
    _, n, c = image.shape
    m, u = rows.shape[1], len(chosen)
    out = torch.empty(u, m, 4 * size[0], 4 * size[1], dtype=image.dtype, device=image.device)
    _upscale[(triton.cdiv(n, _UPSCALE_TOKENS), u)](
        image,
        rows,
        chosen,
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
        MP=_LEAST_SIDE,
        STEP=64,
        BLOCK=_UPSCALE_TOKENS,
        num_warps=_UPSCALE_WARPS,
        num_stages=2,
    )
    return out
