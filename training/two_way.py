"""SAM 2's two-way transformer for training: the same function and gradients, with far less written to memory.

A step has some thousand prompts, each with its own copy of the image tokens (N × C); reading and writing these is
nearly all that the official modules do. Here, as in `densecli/engine/decoder.py`:

- the first layer's projections of the image are made once an image, not once a prompt;
- projections of image tokens are absorbed on the side of the few prompt tokens: (q·W_k)·x instead of q·(W_k·x);
- under autocast, norms and softmaxes of image tokens stay in half precision (with sums in float32 inside of them).

A step of the starter on an H200 took 77 ms in the official modules, 17 of them in attentions of 784 × 7 that flash
kernels pad to 128 × 128.

Symbols: B images, P prompts an image, Q = B·P, T tokens a prompt, H heads, D width of an attention, d = D / H.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F


def transformed(
    transformer: Any, image: torch.Tensor, position: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Q×T×C prompt tokens and Q×N×C image tokens after the transformer (`TwoWayTransformer`), Q = B·P.

    image: B×N×C image tokens, shared by the prompts of an image. position: N×C. tokens: Q×T×C.
    """
    heads = transformer.num_heads
    q, own = tokens, image
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            q = layer.norm1(_among_tokens(layer.self_attn, q, q, heads))
        else:
            q = layer.norm1(q + _among_tokens(layer.self_attn, q + tokens, q, heads))
        q = layer.norm2(q + _tokens_to_image(layer.cross_attn_token_to_image, q + tokens, own, position, heads))
        q = layer.norm3(q + layer.mlp(q))
        update = _image_to_tokens(layer.cross_attn_image_to_token, own, position, q + tokens, q, heads)
        together = (update.unflatten(0, (len(own), -1)) + own.to(update.dtype)[:, None]).flatten(0, 1)
        own = layer_norm(together, layer.norm4.weight, layer.norm4.bias, layer.norm4.eps)
    final = transformer.final_attn_token_to_image
    return transformer.norm_final_attn(q + _tokens_to_image(final, q + tokens, own, position, heads)), own


def _among_tokens(attention: Any, q: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Q×T×C: self-attention. q: with position, v: without."""
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in (attention.q_proj(q), attention.k_proj(q), attention.v_proj(v))
    )
    weights = _softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
    return attention.out_proj((weights @ v).transpose(1, 2).flatten(2))


def _tokens_to_image(
    attention: Any, q: torch.Tensor, image: torch.Tensor, position: torch.Tensor, heads: int
) -> torch.Tensor:
    """Q×T×C: what tokens (Q×T×C, with position) get from image tokens: a prompt's own Q×N×C, or shared B×N×C."""
    count, t, _ = q.shape
    q = _by_head(attention.q_proj(q) / math.sqrt(attention.internal_dim // heads), heads)  # Q×H·T×D
    places = F.linear(position, attention.k_proj.weight).t()  # D×N; a key's bias drops out of the softmax
    absorbed = (q @ attention.k_proj.weight).reshape(len(image), -1, image.shape[-1])
    scores = absorbed @ image.transpose(1, 2) + (q @ places).reshape(len(image), -1, image.shape[1])
    pooled = _softmax(scores, -1) @ image.to(scores.dtype)
    values = (pooled @ attention.v_proj.weight.t()).view(count, heads, t, heads, -1)
    own = torch.diagonal(values, dim1=1, dim2=3).permute(0, 1, 3, 2)  # Q×T×H×d, each head's columns of its own rows
    return attention.out_proj(own.flatten(2) + attention.v_proj.bias)


def _image_to_tokens(
    attention: Any, image: torch.Tensor, position: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int
) -> torch.Tensor:
    """Q×N×C: what image tokens get from the prompt's tokens. k: Q×T×C with position, v: without. image: as above."""
    count, t, _ = k.shape
    k = _by_head(attention.k_proj(k) / math.sqrt(attention.internal_dim // heads), heads)  # Q×H·T×D
    # A head's weights sum to 1, so a share of the bias in each of its values adds up to the bias.
    values = _by_head(attention.v_proj(v), heads) @ attention.out_proj.weight.t() + attention.out_proj.bias / heads
    if len(image) < count:  # shared: project it once
        queries = attention.q_proj(image + position).transpose(1, 2)  # B×D×N
        scores = k.reshape(len(image), -1, k.shape[-1]) @ queries
    else:
        scores = (k @ attention.q_proj.weight) @ image.transpose(1, 2)
        scores = scores + k @ attention.q_proj(position).t()
    weights = _softmax(scores.reshape(count, heads, t, -1), 2).flatten(1, 2)
    return weights.transpose(1, 2) @ values.to(weights.dtype)


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Q×T×D to Q×H·T×D: a row for every head, zero outside of the head's own columns."""
    own = torch.eye(heads, dtype=x.dtype, device=x.device).view(1, heads, 1, heads, 1)
    return (x.unflatten(-1, (heads, -1))[:, None] * own).flatten(3).flatten(1, 2)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Over the last axis, in x's own type, which autocast would make float32."""
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)


def _softmax(scores: torch.Tensor, axis: int) -> torch.Tensor:
    """In the scores' own type, which autocast would make float32."""
    with torch.autocast(scores.device.type, enabled=False):
        return scores.softmax(axis)
