"""The two-way transformer with the image tokens of a prompt kept as factors: they are never written out.

All prompts start with the same image tokens X (N × C). A layer adds its attention to the few prompt tokens, which is a
product of weights A (K × N, K = H·T = 64 for a single point) and values V (K × C), and normalises. A layer norm takes
the mean away, which can be taken from X and V beforehand, and then scales each token by one number. So after two layers
the tokens of a prompt are (⊙: a number for each token, ∘: a number for each channel, ¯: rows without their mean)

    image₁ = s₁ ⊙ (X̄ + A₀ᵀV̄₀) ∘ g₁ + b₁
    image₂ = s₂ ⊙ (X₁ + …)    with  s₁ ⊙ (X₁ + A₀ᵀV₀₁) + A₁ᵀV₁ inside, ∘ g₂ + b₂

where X₁ = the mean-free X̄ ∘ g₁ and V₀₁ = the mean-free V̄₀ ∘ g₁. Whatever follows is a product with these, and so
a sum over the factors. What it takes of X is a projection of d channels a head, W_h X, which all prompts share; the
rest are products with A₀ and A₁, K × N each. In place of K·C·N multiplications a product takes K·K·N + K·d·N: 64 + 16
instead of 256 for an official shape. The variance that a norm needs is the square of the same sum:

    C · var = |X̄|² + sum_k A₀ ∘ (2 V̄₀X̄ᵀ + V̄₀V̄₀ᵀ A₀)

Beside the arithmetic this saves most of the memory's work: K × N numbers a prompt and factor instead of N × C.

For prompts that share the image tokens (no mask prompts) and transformers of two layers, in float32. Symbols as in
`two_way.py`, and K = H·T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from densecli.engine.factor_steps import FirstLayer, SecondLayer, Shown, steps_for
from densecli.engine.image_tokens import FirstPixels, PixelFactors
from densecli.engine.two_way import TwoWayTransformer, after_attention, self_attended


@dataclass(frozen=True)
class Factors:
    """Image tokens of B prompts before the last norm's weight and bias: s2 ⊙ (s1 ⊙ X₁ + a0ᵀ v0 + a1ᵀ v1).

    a0, a1: B × K × N, a0 multiplied by s1. v0, v1: B × K × C. s1, s2: B × N.
    """

    transformer: FactoredTransformer
    a0: torch.Tensor
    v0: torch.Tensor
    a1: torch.Tensor
    v1: torch.Tensor
    s1: torch.Tensor
    s2: torch.Tensor

    def __getitem__(self, some: torch.Tensor) -> Factors:
        factors = (self.a0, self.v0, self.a1, self.v1, self.s1, self.s2)
        return Factors(self.transformer, *(factor[some] for factor in factors))

    def attended(self, tokens: torch.Tensor, pe: torch.Tensor) -> torch.Tensor:
        return self.transformer.attended(tokens, pe, self)

    def pixels(self) -> PixelFactors:
        transformer = self.transformer
        return PixelFactors(
            self.a0,
            self.v0 @ transformer.pixel_weight,
            self.a1,
            self.v1 @ transformer.pixel_weight,
            self.s1,
            self.s2,
            transformer.pixels,
            transformer.pixel_bias,
        )

    def first_pixels(self) -> FirstPixels:
        a0, v0, a1, v1, s1, s2, shared, added = self.pixels()

        def of(prompts: slice, places: slice) -> torch.Tensor:
            pixels = self.transformer.buffers.product("stride 8", a0[prompts, :, places].mT, v0[prompts])
            pixels.baddbmm_(a1[prompts, :, places].mT, v1[prompts])
            pixels.addcmul_(s1[prompts, places, None], shared[places])
            return torch.addcmul(added[places], pixels, s2[prompts, places, None], out=pixels)

        return of


class FactoredTransformer:
    """`plain`, with the image tokens of prompts as factors."""

    def __init__(self, plain: TwoWayTransformer) -> None:
        self.plain = plain
        self.heads, self.buffers = plain.heads, plain.buffers
        self.steps = steps_for(plain.buffers)
        first, second = plain.layers
        self.to_image, self.to_tokens, self.final = (
            second.cross_attn_token_to_image,
            second.cross_attn_image_to_token,
            plain.final,
        )
        norm1, norm2 = first.norm4, second.norm4
        self.g1, self.g2 = norm1.weight, norm2.weight
        out0, out1 = first.cross_attn_image_to_token.out_proj, self.to_tokens.out_proj
        # H × d × C: weights of projections, head by head; those that make values for image tokens are mean-free.
        self.out0, self.out1 = _centred(self._columns(out0.weight)), _centred(self._columns(out1.weight))
        self.key1, self.value1, self.query1 = (
            self._rows(projection.weight)
            for projection in (self.to_image.k_proj, self.to_image.v_proj, self.to_tokens.q_proj)
        )
        self.last_key, self.last_value = self._rows(self.final.k_proj.weight), self._rows(self.final.v_proj.weight)

        # What is the same for all prompts. A head's weights sum to 1, so that a bias of values can go to the image.
        x = _centred(plain.image + out0.bias)
        self.x1 = _centred(x * self.g1)
        x2 = self.x1 * self.g2
        self.bias1 = _centred(norm1.bias + out1.bias)
        self.of_first = FirstLayer(
            queries=plain.queries,
            crossed=_projected(2 * self.out0, x),
            squares=x.square().sum(1),
            channels=len(self.g1),
            eps=norm1.eps,
        )
        self.of_second = SecondLayer(
            queries=_projected(self.query1 * self.g1, x),
            # The norm's bias gives all image tokens the same, which drops out of a softmax over them, not over tokens.
            positional=plain.positional_queries[1] + (self.query1 @ norm1.bias)[..., None],
            crossed0=_projected(2 * _centred(self.out0 * self.g1), self.x1),
            crossed1=_projected(2 * self.out1, self.x1),
            squares=self.x1.square().sum(1),
            bias=2 * (self.x1 @ self.bias1),
            channels=len(self.g2),
            eps=norm2.eps,
        )
        keys, values = (_projected(weight * self.g1, x) for weight in (self.key1, self.value1))
        self.shown1 = Shown(keys, plain.positional_keys[1], values.mT.contiguous())
        keys, values = _projected(self.last_key, x2), _projected(self.last_value, x2)
        self.shown_last = Shown(keys, plain.positional_keys[-1], values.mT.contiguous())
        self.value_bias1 = self.to_image.v_proj.bias + (self.value1 @ norm1.bias).flatten()
        self.last_value_bias = self.final.v_proj.bias + (self.last_value @ norm2.bias).flatten()
        # The first convolution of the upscaling: C × 4·C', and N × 4·C' each.
        self.pixel_weight = self.g2[:, None] * plain.first.weight
        self.pixels = self.x1 @ self.pixel_weight
        self.pixel_bias = plain.first.added + norm2.bias @ plain.first.weight

    def _rows(self, weight: torch.Tensor) -> torch.Tensor:
        """D × C to H × d × C."""
        return weight.view(self.heads, -1, weight.shape[1])

    def _columns(self, weight: torch.Tensor) -> torch.Tensor:
        """C × D to H × d × C."""
        return weight.view(len(weight), self.heads, -1).permute(1, 2, 0)

    @staticmethod
    def serves(transformer: Any, tokens: int) -> bool:
        """Whether it can, and takes less than writing image tokens out, for prompts of so many tokens."""
        channels = transformer.layers[0].norm4.normalized_shape[0]
        return len(transformer.layers) == 2 and 2 * transformer.num_heads * tokens <= channels

    def transform(self, pe: torch.Tensor, started: torch.Tensor) -> tuple[torch.Tensor, Factors]:
        """The transformer up to its last attention: tokens B × T × C, and factors of the image tokens.

        pe: the prompts' tokens B × T × C. started: these after layer 0's token side.
        """
        first, second = self.plain.layers
        # Layer 0's image side.
        attention = first.cross_attn_image_to_token
        v = self._heads_first(attention.v_proj(started))
        v0 = self._absorbed(v, self.out0)
        k = self._queries(attention.k_proj, started + pe)
        a0, s1 = self.steps.first_weights(self.of_first, k, v, v0 @ v0.mT)
        v0 = v0 * self.g1

        # Layer 1's token side.
        tokens = self_attended(second, started, pe)
        q = self._queries(self.to_image.q_proj, tokens + pe)
        crossed = self._absorbed(q, self.key1) @ v0.mT
        (pooled,), update = self.steps.attention(self.shown1, q, ((a0, crossed),), s1, None)
        update = update + self._projected_back(pooled @ v0, self.value1)
        tokens = after_attention(second, tokens, self.to_image.out_proj(self._heads_last(update) + self.value_bias1))

        # Its image side.
        k = self._queries(self.to_tokens.k_proj, tokens + pe)
        crossed = self._absorbed(k, self.query1) @ v0.mT
        v0 = _centred(v0)
        low_v1 = self._heads_first(self.to_tokens.v_proj(tokens))
        v1 = self._absorbed(low_v1, self.out1) + self.bias1 / self.heads
        # Of the square of s1 ⊙ X₁ + a0ᵀ v0 + a1ᵀ v1, of which the first two have s1 as a factor.
        grams = v0 @ v0.mT, 2 * v1 @ v0.mT, v1 @ v1.mT
        a1, s2 = self.steps.second_weights(self.of_second, k, crossed, (v, low_v1), grams, a0, s1)
        return tokens, Factors(self, a0, v0, a1, v1, s1, s2)

    def attended(self, tokens: torch.Tensor, pe: torch.Tensor, image: Factors) -> torch.Tensor:
        """Final tokens (B × t × C) of image tokens in factors."""
        q = self._queries(self.final.q_proj, tokens + pe)
        queries = self._absorbed(q, self.last_key) * self.g2
        factors = tuple((a, queries @ v.mT) for a, v in ((image.a0, image.v0), (image.a1, image.v1)))
        (of_v0, of_v1), update = self.steps.attention(self.shown_last, q, factors, image.s1, image.s2)
        pooled = (of_v0 @ image.v0 + of_v1 @ image.v1) * self.g2
        update = update + self._projected_back(pooled, self.last_value)
        update = self.final.out_proj(self._heads_last(update) + self.last_value_bias)
        return self.plain.transformer.norm_final_attn(tokens + update)

    def _queries(self, projection: Any, tokens: torch.Tensor) -> torch.Tensor:
        """B × H × t × d of tokens B × t × C, scaled for an attention's scores."""
        x = self._heads_first(projection(tokens))
        return x / math.sqrt(x.shape[-1])

    def _heads_first(self, x: torch.Tensor) -> torch.Tensor:
        """B × t × D to B × H × t × d."""
        b, t, _ = x.shape
        return x.view(b, t, self.heads, -1).transpose(1, 2).contiguous()

    def _heads_last(self, x: torch.Tensor) -> torch.Tensor:
        """B × H × t × d to B × t × D."""
        return x.transpose(1, 2).flatten(2)

    def _absorbed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """B × H·t × C of x (B × H × t × d) and a projection's weights, H × d × C."""
        b, heads, t, d = x.shape
        out = torch.bmm(x.transpose(0, 1).reshape(heads, b * t, d), weight)
        return out.view(heads, b, t, -1).transpose(0, 1).reshape(b, heads * t, -1)

    def _projected_back(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """B × H × t × d of x (B × H·t × C) and a projection's weights, H × d × C."""
        b, heads = len(x), self.heads
        by_head = x.view(b, heads, -1, x.shape[-1]).transpose(0, 1).reshape(heads, -1, x.shape[-1])
        return torch.bmm(by_head, weight.mT).view(heads, b, -1, weight.shape[1]).transpose(0, 1)


def _centred(x: torch.Tensor) -> torch.Tensor:
    """x without the mean over its last axis."""
    return x - x.mean(-1, keepdim=True)


def _projected(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """H × d × N of weights H × d × C and x N × C."""
    return (weight.flatten(0, 1) @ x.T).view(*weight.shape[:2], -1)
