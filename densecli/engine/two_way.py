"""SAM 2's two-way transformer for many prompts on one image, re-associated.

The function is that of `sam2.modeling.sam.transformer.TwoWayTransformer`; only the order of the arithmetic differs:

1. Before the first layer's update all prompts see the same image tokens, so these are projected once per image.
2. Later projections of the many image tokens are absorbed into the few prompt tokens: (W_q t)·(W_k x) = (W_kᵀW_q t)·x,
   and sum_n p_n W_v x_n = W_v sum_n p_n x_n. The positional part is the same for every prompt; a key bias
   adds the same amount to every score of a query and drops out of the softmax.

Symbols: B prompts of a tile, T tokens a prompt (7 or 8), N image tokens, C channels, H heads, D width of the
attention, d = D / H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from densecli.engine.image_tokens import FirstConvolution, FirstPixels
from densecli.engine.in_place import Buffers, normalised


@dataclass(frozen=True)
class WrittenOut:
    """Image tokens of B prompts as they are, B × N × C, of this transformer."""

    transformer: TwoWayTransformer
    image: torch.Tensor

    def __getitem__(self, some: torch.Tensor) -> WrittenOut:
        return WrittenOut(self.transformer, self.image[some])

    def attended(self, tokens: torch.Tensor, pe: torch.Tensor) -> torch.Tensor:
        return self.transformer.attended(tokens, pe, self.image)

    def first_pixels(self) -> FirstPixels:
        weight, added = self.transformer.first

        def of(prompts: slice, places: slice) -> torch.Tensor:
            pixels = self.transformer.buffers.product("stride 8", self.image[prompts, places], weight)
            return pixels.add_(added[places]) if pixels.dtype == added.dtype else pixels + added[places]

        return of

    def pixels(self) -> None:
        return None


class TwoWayTransformer:
    """`transformer` (sam2's), prepared for one image: N × C image tokens and their positional encoding `pe`, N × C.

    first: what comes after it.
    """

    def __init__(
        self, transformer: Any, image: torch.Tensor, pe: torch.Tensor, first: FirstConvolution, buffers: Buffers
    ) -> None:
        self.transformer = transformer
        self.first = first
        self.layers: list[Any] = list(transformer.layers)
        self.final: Any = transformer.final_attn_token_to_image
        self.heads: int = transformer.num_heads
        self.buffers = buffers
        self.image = image
        to_image = [layer.cross_attn_token_to_image for layer in self.layers]
        to_tokens = [layer.cross_attn_image_to_token for layer in self.layers]
        # Layer 0. keys, values: H × N × d, tokens to image. queries: H × d × N, image to tokens.
        self.keys = self.by_head(to_image[0].k_proj(image + pe))
        self.values = self.by_head(to_image[0].v_proj(image))
        self.queries = self._places_last(to_tokens[0].q_proj(image + pe))
        # Of each layer (and of the last attention), H × d × N: positional parts of projections absorbed elsewhere.
        self.positional_keys = [
            self._places_last(F.linear(pe, attention.k_proj.weight)) for attention in [*to_image, self.final]
        ]
        self.positional_queries = [self._places_last(attention.q_proj(pe)) for attention in to_tokens]

    def by_head(self, x: torch.Tensor) -> torch.Tensor:
        """rows × D to H × rows × d."""
        return x.reshape(-1, self.heads, x.shape[-1] // self.heads).transpose(0, 1).contiguous()

    def _places_last(self, x: torch.Tensor) -> torch.Tensor:
        """N × D to H × d × N."""
        return self.by_head(x).transpose(1, 2).contiguous()

    def _by_prompt(self, x: torch.Tensor, b: int) -> torch.Tensor:
        """H × B·T × n to B × H·T × n."""
        return x.view(self.heads, b, -1, x.shape[-1]).transpose(0, 1).reshape(b, -1, x.shape[-1])

    def started(self, pe: torch.Tensor) -> torch.Tensor:
        """B × T × C: the prompts' tokens after layer 0's token side, where all prompts share the image tokens."""
        return self._tokens_updated(0, pe, pe, None)

    def transform(
        self, pe: torch.Tensor, started: torch.Tensor, image: torch.Tensor | None
    ) -> tuple[torch.Tensor, WrittenOut]:
        """The transformer up to its last attention: tokens B × T × C, updated image tokens.

        pe: the prompts' tokens B × T × C. image: the image tokens where prompts have their own; None where all share
        them, and then `started` are the tokens after layer 0's token side.
        """
        q = started
        for index, layer in enumerate(self.layers):
            if index or image is not None:
                q = self._tokens_updated(index, q, pe, image)
            image = self._updated_image(layer, q + pe, q, image, index)
        assert image is not None
        return q, WrittenOut(self, image)

    def attended(self, tokens: torch.Tensor, pe: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Final tokens (B × t × C) of image tokens B × N × C."""
        update = self._tokens_to_image(self.final, tokens + pe, image, self.positional_keys[-1])
        return self.transformer.norm_final_attn(tokens + update)

    def _tokens_updated(
        self, index: int, q: torch.Tensor, pe: torch.Tensor, image: torch.Tensor | None
    ) -> torch.Tensor:
        """B × T × C tokens after the token side of a layer: self-attention, attention to the image, MLP."""
        layer = self.layers[index]
        q = self_attended(layer, q, pe)
        attention = layer.cross_attn_token_to_image
        if image is None:
            update = self._tokens_to_shared_image(attention, q + pe)
        else:
            update = self._tokens_to_image(attention, q + pe, image, self.positional_keys[index])
        return after_attention(layer, q, update)

    def _tokens_to_shared_image(self, attention: Any, q: torch.Tensor) -> torch.Tensor:
        b, t, _ = q.shape
        out = F.scaled_dot_product_attention(
            self.by_head(attention.q_proj(q))[None], self.keys[None], self.values[None]
        )
        return attention.out_proj(out[0].transpose(0, 1).reshape(b, t, -1))

    def _tokens_to_image(
        self, attention: Any, q: torch.Tensor, image: torch.Tensor, positional_keys: torch.Tensor
    ) -> torch.Tensor:
        b, t, _ = q.shape
        heads, d = self.heads, attention.internal_dim // self.heads
        q = self.by_head(attention.q_proj(q) / math.sqrt(d))  # H × B·T × d
        queries = self._by_prompt(q @ attention.k_proj.weight.view(heads, d, -1), b)  # B × H·T × C
        positional = self._by_prompt(q @ positional_keys, b)  # B × H·T × N
        scores = _plus_product(positional, queries, image.transpose(1, 2))
        weights = self.buffers.softmax("weights", scores, -1)
        pooled = torch.bmm(weights.to(image.dtype), image)  # B × H·T × C
        pooled = pooled.view(b, heads, t, -1).transpose(0, 1).reshape(heads, b * t, -1)
        out = pooled @ attention.v_proj.weight.view(heads, d, -1).transpose(1, 2)  # H × B·T × d
        out = out.transpose(0, 1).reshape(b, t, -1) + attention.v_proj.bias
        return attention.out_proj(out)

    def _updated_image(
        self, layer: Any, keys: torch.Tensor, values: torch.Tensor, image: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        """Image tokens plus their attention to the prompt tokens, normalised: B × N × C. Those of `image` are lost."""
        attention = layer.cross_attn_image_to_token
        b, t, _ = keys.shape
        heads, d = self.heads, attention.internal_dim // self.heads
        k = self.by_head(attention.k_proj(keys) / math.sqrt(d))  # H × B·T × d
        if image is None:
            scores = self._by_prompt(k @ self.queries, b)  # B × H·T × N
        else:
            queries = self._by_prompt(k @ attention.q_proj.weight.view(heads, d, -1), b)  # B × H·T × C
            positional = self._by_prompt(k @ self.positional_queries[index], b)
            scores = _plus_product(positional, queries, image.transpose(1, 2))
        # Over the tokens of a head; N stays innermost, where the processor's vectors work along it.
        weights = self.buffers.softmax("weights", scores.view(b, heads, t, -1), 2).view(b, heads * t, -1)
        v = self.by_head(attention.v_proj(values))
        out_proj = attention.out_proj.weight.view(-1, heads, d).permute(1, 2, 0)  # H × d × C
        # A head's weights sum to 1, so a share of the bias in each of its values adds up to the bias.
        v = self._by_prompt(v @ out_proj + attention.out_proj.bias / heads, b)  # B × H·T × C
        weights = weights.to(v.dtype).transpose(1, 2)
        if image is None:
            return normalised(self.buffers.product("image", weights, v), layer.norm4, self.image)
        if image.dtype != v.dtype:
            return layer.norm4(torch.baddbmm(image.to(v.dtype), weights, v))
        return normalised(image.baddbmm_(weights, v), layer.norm4)


def self_attended(layer: Any, q: torch.Tensor, pe: torch.Tensor) -> torch.Tensor:
    """B × T × C tokens after the first step of a layer's token side."""
    if layer.skip_first_layer_pe:
        return layer.norm1(layer.self_attn(q=q, k=q, v=q))
    return layer.norm1(q + layer.self_attn(q=q + pe, k=q + pe, v=q))


def after_attention(layer: Any, q: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """B × T × C tokens after the last steps of a layer's token side; update: what the image tokens gave them."""
    q = layer.norm2(q + update)
    return layer.norm3(q + layer.mlp(q))


def _plus_product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """x + a @ b, in place where the types allow."""
    return x.baddbmm_(a, b) if x.dtype == a.dtype == b.dtype else torch.baddbmm(x, a, b)
