"""Features and points to candidates: SAM 2's mask decoder for many prompts on one image, re-associated.

The function is that of `sam2.modeling.sam.mask_decoder.MaskDecoder` (float32: relative error below 1e-5); only the
order of the arithmetic differs:

1. Before the first layer's update all prompts see the same image tokens, so these are projected once per image.
2. Later projections of the many image tokens are absorbed into the few prompt tokens: (W_q t)·(W_k x) = (W_kᵀW_q t)·x,
   and sum_n p_n W_v x_n = W_v sum_n p_n x_n. The positional part is the same for every prompt; a key bias
   adds the same amount to every score of a query and drops out of the softmax.
3. Predicted IoU needs the IoU token only: it filters first, and only prompts that keep an output go through the last
   attention of their mask tokens and are upscaled.
4. Prompts go through in tiles, so that a tile's image tokens stay in the cache and memory is one tile.

Symbols: B prompts of a tile, T tokens a prompt (7 or 8), N image tokens, C channels, H heads, D width of the
attention, d = D / H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from densecli.engine.candidates import likely
from densecli.engine.encoder import Features
from densecli.engine.in_place import Buffers, normalised
from densecli.engine.memory import DecoderShape

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

# sam2's predictor clamps the low-resolution logits that it hands back for use as mask prompts.
MASK_PROMPT_LIMIT = 32.0


@dataclass(frozen=True)
class Decoded:
    """Candidates of a batch of prompts.

    predicted_iou: B × M float32. keep: B × M bool, the candidates above the threshold.
    logits: K × h × w float32, low-resolution mask logits of the kept ones, in row-major order of `keep`.
    """

    predicted_iou: torch.Tensor
    keep: torch.Tensor
    logits: torch.Tensor

    def to(self, device: torch.device) -> Decoded:
        """The same on another device."""
        return Decoded(self.predicted_iou.to(device), self.keep.to(device), self.logits.to(device))


@dataclass(frozen=True)
class _Shared:
    """What all prompts on one crop share.

    image: N × C image tokens. keys, values: H × N × d, layer 0, tokens to image. queries: H × d × N, layer 0, image to
    tokens. positional_keys, positional_queries: of each layer (and of the last attention), H × d × N, the positional
    parts of projections that are absorbed elsewhere.
    """

    image: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    queries: torch.Tensor
    positional_keys: list[torch.Tensor]
    positional_queries: list[torch.Tensor]
    upscaler: _Upscaler


class PromptDecoder:
    """The mask decoder of `model`, prepared for one crop's features."""

    def __init__(self, model: SAM2Base, features: Features, dtype: torch.dtype) -> None:
        self.model: Any = model
        self.decoder: Any = model.sam_mask_decoder
        self.prompt_encoder: Any = model.sam_prompt_encoder
        self.dtype = dtype
        self.device = features.embedding.device
        self.heads: int = self.decoder.transformer.num_heads
        self.channels, self.height, self.width = features.embedding.shape[1:]
        self.high_res = features.high_res
        self.embedding = features.embedding
        self.buffers = self._new_buffers()

    @cached_property
    def _shared(self) -> _Shared:
        """Made at first use: the loop of GPUs, which has its own, would wait for some sixty kernels in vain."""
        layers, final = self.decoder.transformer.layers, self.decoder.transformer.final_attn_token_to_image
        to_image = [layer.cross_attn_token_to_image for layer in layers]
        to_tokens = [layer.cross_attn_image_to_token for layer in layers]

        def places_last(x: torch.Tensor) -> torch.Tensor:
            return self._by_head(x).transpose(1, 2).contiguous()

        with torch.no_grad(), self._autocast():
            pe = _tokens_last(self.prompt_encoder.get_dense_pe().to(self.embedding))[0]  # N × C
            plain = self.embedding + self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
            image = _tokens_last(plain)[0]
            return _Shared(
                image,
                self._by_head(to_image[0].k_proj(image + pe)),
                self._by_head(to_image[0].v_proj(image)),
                places_last(to_tokens[0].q_proj(image + pe)),
                [places_last(F.linear(pe, attention.k_proj.weight)) for attention in [*to_image, final]],
                [places_last(attention.q_proj(pe)) for attention in to_tokens],
                _Upscaler(self.decoder, self.high_res, self.height, self.width),
            )

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """rows × D to H × rows × d."""
        return x.reshape(-1, self.heads, x.shape[-1] // self.heads).transpose(0, 1).contiguous()

    def _new_buffers(self) -> Buffers:
        # Autocast knows no products into given memory, and a GPU's allocator has it ready anyway.
        return Buffers(used=self.device.type == "cpu" and self.dtype == torch.float32)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def shape(self, multimask_output: bool) -> DecoderShape:
        """Sizes that decide how much memory a prompt takes."""
        element_size = torch.empty(0, dtype=self.dtype).element_size()
        return DecoderShape(self.height * self.width, self.channels, self.outputs(multimask_output), element_size)

    def outputs(self, multimask_output: bool) -> int:
        """M, candidates a prompt."""
        return self.decoder.num_mask_tokens - 1 if multimask_output else 1

    @property
    def logits_size(self) -> tuple[int, int]:
        """(h, w) of the low-resolution logits: four times the embedding's."""
        return 4 * self.height, 4 * self.width

    @torch.no_grad()
    def decode(
        self,
        points: torch.Tensor,
        *,
        tile: int,
        multimask_output: bool,
        pred_iou_thresh: float,
        mask_prompts: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> Decoded:
        """Candidates for single positive points, or for prompts of several points and boxes.

        points: B × 2 float32 (x, y) in pixels of the model's input; with labels B × P × 2. labels: B × P int, what
        each point is, as in sam2's prompt encoder: 1 positive, 0 negative, 2 and 3 a box's upper left and lower right
        corner. mask_prompts: B × h × w logits of an earlier pass (m2m), clamped here. tile: prompts at a time.
        pred_iou_thresh: 0 or less keeps everything. keep: B × M bool, exactly these candidates, whatever their
        predicted IoU.
        """
        self.buffers = self._new_buffers()
        with self._autocast():
            tokens = self._tokens(points, labels)
            # Before they meet image tokens of their own, all prompts of the batch go together.
            started = tokens if mask_prompts is not None else self._tokens_updated(0, tokens, tokens, None)
        parts = [
            self._decode_tile(
                tokens[window],
                started[window],
                multimask_output,
                pred_iou_thresh,
                None if mask_prompts is None else mask_prompts[window],
                None if keep is None else keep[window],
            )
            for window in (slice(start, start + tile) for start in range(0, len(points), tile))
        ]
        if not parts:
            none = torch.zeros(0, self.outputs(multimask_output), device=self.device)
            return Decoded(none, none.bool(), torch.zeros(0, *self.logits_size, device=self.device))
        return Decoded(
            torch.cat([p.predicted_iou for p in parts]),
            torch.cat([p.keep for p in parts]),
            torch.cat([p.logits for p in parts]),
        )

    def _decode_tile(
        self,
        pe: torch.Tensor,
        started: torch.Tensor,
        multimask: bool,
        threshold: float,
        prompts: torch.Tensor | None,
        keep: torch.Tensor | None,
    ) -> Decoded:
        """Candidates of a tile. pe: the prompts' tokens B × T × C. started: these after layer 0's token side."""
        with self._autocast():
            tokens, image = self._transform(pe, started, self._prompted_image(prompts))
            iou = 1 if self.decoder.pred_obj_scores else 0
            masks = iou + 1
            predicted_iou = self.decoder.iou_prediction_head(
                self._attended(tokens[:, iou : iou + 1], pe[:, iou : iou + 1], image)[:, 0]
            ).float()
            if not multimask and self.decoder.dynamic_multimask_via_stability:
                # Which output counts depends on the masks themselves, so all of them are needed before any filter.
                every = range(self.decoder.num_mask_tokens)
                logits = self._upscaled(tokens[:, masks:], pe[:, masks:], image, every).float()
                logits, predicted_iou = self.decoder._dynamic_multimask_via_stability(logits, predicted_iou)
                keep = likely(predicted_iou, threshold) if keep is None else keep
                return Decoded(predicted_iou, keep, logits[keep])
            outputs = range(1, self.decoder.num_mask_tokens) if multimask else range(1)
            predicted_iou = predicted_iou[:, outputs.start : outputs.stop]
            keep = likely(predicted_iou, threshold) if keep is None else keep
            some = keep.any(1)
            tokens, pe = tokens[:, masks:], pe[:, masks:]
            if int(some.sum()) < len(some):
                logits = self._upscaled(tokens[some], pe[some], image[some], outputs)[keep[some]]
            else:
                logits = self._upscaled(tokens, pe, image, outputs)[keep]
            return Decoded(predicted_iou, keep, logits.float())

    def _attended(self, tokens: torch.Tensor, pe: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Final tokens (B × t × C): the transformer's last attention to the image, for those that are asked for.

        No token looks at another one from there on, so that predicted IoU needs its own token alone, and masks those
        of their outputs.
        """
        transformer = self.decoder.transformer
        update = self._tokens_to_image(
            transformer.final_attn_token_to_image, tokens + pe, image, self._shared.positional_keys[-1]
        )
        return transformer.norm_final_attn(tokens + update)

    def _upscaled(
        self, mask_tokens: torch.Tensor, pe: torch.Tensor, image: torch.Tensor, outputs: range
    ) -> torch.Tensor:
        """B × M × h × w logits of the chosen outputs, from the mask tokens before the last attention."""
        if not len(image):
            return image.new_zeros(0, len(outputs), *self.logits_size)
        chosen = slice(outputs.start, outputs.stop)
        return self._shared.upscaler(
            image, self._attended(mask_tokens[:, chosen], pe[:, chosen], image), outputs, self.buffers
        )

    def _tokens(self, points: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """B × T × C: object score (where used), IoU and mask tokens, the points and the padding point."""
        if labels is None:
            points, labels = points[:, None], torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse = self.prompt_encoder._embed_points(points, labels, pad=True)
        learned = [self.decoder.iou_token.weight, self.decoder.mask_tokens.weight]
        if self.decoder.pred_obj_scores:
            learned.insert(0, self.decoder.obj_score_token.weight)
        return torch.cat([torch.cat(learned)[None].expand(len(points), -1, -1), sparse], 1)

    def _prompted_image(self, prompts: torch.Tensor | None) -> torch.Tensor | None:
        """B × N × C image tokens with the mask prompt added, or None where all prompts share the plain ones."""
        if prompts is None:
            return None
        clamped = prompts.clamp(-MASK_PROMPT_LIMIT, MASK_PROMPT_LIMIT)[:, None]
        dense = self.prompt_encoder._embed_masks(clamped)
        return _tokens_last(self.embedding + dense)

    def _transform(
        self, pe: torch.Tensor, started: torch.Tensor, image: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The two-way transformer up to its last attention: tokens B × T × C, updated image tokens B × N × C.

        image: the image tokens where prompts have their own; None where all share them, and then `started` are the
        tokens after layer 0's token side.
        """
        q = started
        for index, layer in enumerate(self.decoder.transformer.layers):
            if index or image is not None:
                q = self._tokens_updated(index, q, pe, image)
            image = self._updated_image(layer, q + pe, q, image, index)
        assert image is not None
        return q, image

    def _tokens_updated(
        self, index: int, q: torch.Tensor, pe: torch.Tensor, image: torch.Tensor | None
    ) -> torch.Tensor:
        """B × T × C tokens after the token side of a layer: self-attention, attention to the image, MLP."""
        layer = self.decoder.transformer.layers[index]
        if layer.skip_first_layer_pe:
            q = layer.norm1(layer.self_attn(q=q, k=q, v=q))
        else:
            q = layer.norm1(q + layer.self_attn(q=q + pe, k=q + pe, v=q))
        attention = layer.cross_attn_token_to_image
        if image is None:
            update = self._tokens_to_shared_image(attention, q + pe)
        else:
            update = self._tokens_to_image(attention, q + pe, image, self._shared.positional_keys[index])
        q = layer.norm2(q + update)
        return layer.norm3(q + layer.mlp(q))

    def _tokens_to_shared_image(self, attention: Any, q: torch.Tensor) -> torch.Tensor:
        b, t, _ = q.shape
        out = F.scaled_dot_product_attention(
            self._by_head(attention.q_proj(q))[None], self._shared.keys[None], self._shared.values[None]
        )
        return attention.out_proj(out[0].transpose(0, 1).reshape(b, t, -1))

    def _tokens_to_image(
        self, attention: Any, q: torch.Tensor, image: torch.Tensor, positional_keys: torch.Tensor
    ) -> torch.Tensor:
        b, t, _ = q.shape
        heads, d = self.heads, attention.internal_dim // self.heads
        q = self._by_head(attention.q_proj(q) / math.sqrt(d))  # H × B·T × d
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
        k = self._by_head(attention.k_proj(keys) / math.sqrt(d))  # H × B·T × d
        if image is None:
            scores = self._by_prompt(k @ self._shared.queries, b)  # B × H·T × N
        else:
            queries = self._by_prompt(k @ attention.q_proj.weight.view(heads, d, -1), b)  # B × H·T × C
            positional = self._by_prompt(k @ self._shared.positional_queries[index], b)
            scores = _plus_product(positional, queries, image.transpose(1, 2))
        # Over the tokens of a head; N stays innermost, where the processor's vectors work along it.
        weights = self.buffers.softmax("weights", scores.view(b, heads, t, -1), 2).view(b, heads * t, -1)
        v = self._by_head(attention.v_proj(values))
        out_proj = attention.out_proj.weight.view(-1, heads, d).permute(1, 2, 0)  # H × d × C
        # A head's weights sum to 1, so a share of the bias in each of its values adds up to the bias.
        v = self._by_prompt(v @ out_proj + attention.out_proj.bias / heads, b)  # B × H·T × C
        weights = weights.to(v.dtype).transpose(1, 2)
        if image is None:
            return normalised(self.buffers.product("image", weights, v), layer.norm4, self._shared.image)
        if image.dtype != v.dtype:
            return layer.norm4(torch.baddbmm(image.to(v.dtype), weights, v))
        return normalised(image.baddbmm_(weights, v), layer.norm4)

    def _by_prompt(self, x: torch.Tensor, b: int) -> torch.Tensor:
        """H × B·T × n to B × H·T × n."""
        return x.view(self.heads, b, -1, x.shape[-1]).transpose(0, 1).reshape(b, -1, x.shape[-1])


class _Upscaler:
    """`output_upscaling` and the product with the hyper-networks, with channels last.

    A transposed convolution of kernel 2 and stride 2 is one matrix product per token, whose 4 × C' outputs are the
    four pixels that the token becomes. Left in that order, everything up to the logits is a product of matrices;
    only the logits, the smallest of all, are put into rows and columns.
    """

    def __init__(self, decoder: Any, high_res: tuple[torch.Tensor, ...], height: int, width: int) -> None:
        self.decoder, self.height, self.width = decoder, height, width
        first, self.norm, self.act1, second, self.act2 = decoder.output_upscaling
        self.weight1, bias1 = _as_matrix(first)
        self.weight2, bias2 = _as_matrix(second)
        self.added1, self.added2 = bias1.repeat(height * width, 1).view(4 * height * width, -1), bias2
        if decoder.use_high_res_features:
            stride4, stride8 = high_res
            pixels = stride8[0].view(-1, height, 2, width, 2).permute(1, 3, 2, 4, 0)
            self.added1 = self.added1 + pixels.reshape(4 * height * width, -1)
            pixels = stride4[0].view(-1, height, 2, 2, width, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
            self.added2 = bias2 + pixels.reshape(4 * height * width, -1)

    def __call__(self, image: torch.Tensor, tokens: torch.Tensor, outputs: range, buffers: Buffers) -> torch.Tensor:
        """B × M × 4h × 4w logits of image tokens B × N × C and the final tokens B × M × C of these outputs."""
        b, h, w = len(image), self.height, self.width
        x = buffers.product("stride 8", image, self.weight1).view(b, 4 * h * w, -1)
        x = _activated(self.act1, normalised(x, self.norm, self.added1).to(image.dtype))
        x = buffers.product("stride 4", x, self.weight2).add_(self.added2)
        x = _activated(self.act2, x).view(b, 16 * h * w, -1)
        rows = torch.stack([self.decoder.output_hypernetworks_mlps[i](tokens[:, n]) for n, i in enumerate(outputs)], 1)
        logits = rows.to(x.dtype) @ x.transpose(1, 2)  # B × M × (h, w, 2, 2, 2, 2)
        logits = logits.view(b, len(outputs), h, w, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(b, len(outputs), 4 * h, 4 * w)


def _plus_product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """x + a @ b, in place where the types allow."""
    return x.baddbmm_(a, b) if x.dtype == a.dtype == b.dtype else torch.baddbmm(x, a, b)


def _activated(activation: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`activation(x)`, in place where torch can."""
    if isinstance(activation, torch.nn.GELU):
        try:
            return torch.ops.aten.gelu_(x, approximate=activation.approximate)
        except RuntimeError as error:
            if "could not create a primitive" not in str(error):
                raise
            # oneDNN, which has no room for its code where memory is short; PyTorch's own needs none.
            with torch.backends.mkldnn.flags(enabled=False):
                return torch.ops.aten.gelu_(x, approximate=activation.approximate)
    return activation(x)


def _as_matrix(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A ConvTranspose2d of kernel 2 and stride 2 as C × 4·C' weights and 4·C' biases, pixel by pixel."""
    channels, out = layer.weight.shape[:2]
    return layer.weight.permute(0, 2, 3, 1).reshape(channels, 4 * out), layer.bias.repeat(4)


def _tokens_last(maps: torch.Tensor) -> torch.Tensor:
    """B × C × h × w to B × N × C."""
    return maps.flatten(2).transpose(1, 2).contiguous()
