"""Features and points to candidates: SAM 2's mask decoder for many prompts on one image, re-associated.

The function is that of `sam2.modeling.sam.mask_decoder.MaskDecoder` (float32: relative error below 1e-5); only the
order of the arithmetic differs:

1. Before the first layer's update all prompts see the same image tokens, so these are projected once per image.
2. Later projections of the many image tokens are absorbed into the few prompt tokens: (W_q t)·(W_k x) = (W_kᵀW_q t)·x,
   and sum_n p_n W_v x_n = W_v sum_n p_n x_n. The positional part is the same for every prompt; a key bias
   adds the same amount to every score of a query and drops out of the softmax.
3. Predicted IoU needs the IoU token only: it filters first, and only prompts that keep an output are upscaled.
4. Prompts go through in tiles, so that a tile's image tokens stay in the cache and memory is one tile.

Symbols: B prompts of a tile, T tokens a prompt (7 or 8), N image tokens, C channels, H heads, D width of the
attention, d = D / H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from densecli.engine.encoder import Features
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


class PromptDecoder:
    """The mask decoder of `model`, prepared for one crop's features."""

    def __init__(self, model: SAM2Base, features: Features, dtype: torch.dtype) -> None:
        self.model: Any = model
        self.decoder: Any = model.sam_mask_decoder
        self.prompt_encoder: Any = model.sam_prompt_encoder
        self.dtype = dtype
        self.device = features.embedding.device
        transformer = self.decoder.transformer
        self.heads: int = transformer.num_heads
        self.channels, self.height, self.width = features.embedding.shape[1:]
        self.high_res = features.high_res
        self.embedding = features.embedding
        with torch.no_grad(), self._autocast():
            pe = self.prompt_encoder.get_dense_pe().to(features.embedding)
            self.pe = pe.flatten(2).transpose(1, 2)[0].contiguous()  # N × C
            plain = features.embedding + self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
            self.image_tokens = plain.flatten(2).transpose(1, 2)[0].contiguous()  # N × C, shared by all prompts
            first = transformer.layers[0]
            self.shared_keys = first.cross_attn_token_to_image.k_proj(self.image_tokens + self.pe)
            self.shared_values = first.cross_attn_token_to_image.v_proj(self.image_tokens)
            self.shared_queries = first.cross_attn_image_to_token.q_proj(self.image_tokens + self.pe)
            # Positional parts of the projections that are absorbed elsewhere: N × D each.
            self.positional_keys = [
                self.pe @ attention.k_proj.weight.T
                for attention in [layer.cross_attn_token_to_image for layer in transformer.layers]
                + [transformer.final_attn_token_to_image]
            ]
            self.positional_queries = [
                F.linear(self.pe, layer.cross_attn_image_to_token.q_proj.weight)
                + layer.cross_attn_image_to_token.q_proj.bias
                for layer in transformer.layers
            ]

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
    ) -> Decoded:
        """Candidates for single positive points.

        points: B × 2 float32 (x, y) in pixels of the model's input. mask_prompts: B × h × w logits of an earlier
        pass (m2m), clamped here. tile: prompts at a time. pred_iou_thresh: 0 or less keeps everything.
        keep: B × M bool, exactly these candidates, whatever their predicted IoU.
        """
        parts = [
            self._decode_tile(
                points[window],
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
        points: torch.Tensor,
        multimask: bool,
        threshold: float,
        prompts: torch.Tensor | None,
        keep: torch.Tensor | None,
    ) -> Decoded:
        with self._autocast():
            tokens, image = self._transform(self._tokens(points), self._prompted_image(prompts))
            first = 1 if self.decoder.pred_obj_scores else 0
            predicted_iou = self.decoder.iou_prediction_head(tokens[:, first]).float()
            mask_tokens = tokens[:, first + 1 : first + 1 + self.decoder.num_mask_tokens]
            if not multimask and self.decoder.dynamic_multimask_via_stability:
                # Which output counts depends on the masks themselves, so all of them are needed before any filter.
                logits = self._logits(image, mask_tokens, range(self.decoder.num_mask_tokens)).float()
                logits, predicted_iou = self.decoder._dynamic_multimask_via_stability(logits, predicted_iou)
                keep = _above(predicted_iou, threshold) if keep is None else keep
                return Decoded(predicted_iou, keep, logits[keep])
            outputs = range(1, self.decoder.num_mask_tokens) if multimask else range(1)
            predicted_iou = predicted_iou[:, outputs.start : outputs.stop]
            keep = _above(predicted_iou, threshold) if keep is None else keep
            rows = keep.any(1).nonzero()[:, 0]
            if len(rows) < len(points):
                logits = self._logits(image[rows], mask_tokens[rows], outputs)[keep[rows]]
            else:
                logits = self._logits(image, mask_tokens, outputs)[keep]
            return Decoded(predicted_iou, keep, logits.float())

    def _tokens(self, points: torch.Tensor) -> torch.Tensor:
        """B × T × C: object score (where used), IoU and mask tokens, the point and the padding point."""
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse = self.prompt_encoder._embed_points(points[:, None], labels, pad=True)
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
        return (self.embedding + dense).flatten(2).transpose(1, 2).contiguous()

    def _transform(self, tokens: torch.Tensor, image: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The two-way transformer. Returns tokens B × T × C and the updated image tokens B × N × C."""
        transformer = self.decoder.transformer
        pe, q = tokens, tokens
        for index, layer in enumerate(transformer.layers):
            if layer.skip_first_layer_pe:
                q = layer.norm1(layer.self_attn(q=q, k=q, v=q))
            else:
                q = layer.norm1(q + layer.self_attn(q=q + pe, k=q + pe, v=q))
            attention = layer.cross_attn_token_to_image
            if image is None:
                update = self._tokens_to_shared_image(attention, q + pe)
            else:
                update = self._tokens_to_image(attention, q + pe, image, self.positional_keys[index])
            q = layer.norm2(q + update)
            q = layer.norm3(q + layer.mlp(q))
            image = layer.norm4(self._updated_image(layer.cross_attn_image_to_token, q + pe, q, image, index))
        final = transformer.final_attn_token_to_image
        assert image is not None
        q = transformer.norm_final_attn(q + self._tokens_to_image(final, q + pe, image, self.positional_keys[-1]))
        return q, image

    def _tokens_to_shared_image(self, attention: Any, q: torch.Tensor) -> torch.Tensor:
        b, t, _ = q.shape
        d = attention.internal_dim // self.heads

        def split(x: torch.Tensor) -> torch.Tensor:  # rows × D -> 1 × H × rows × d
            return x.reshape(-1, self.heads, d).transpose(0, 1)[None]

        out = F.scaled_dot_product_attention(
            split(attention.q_proj(q)), split(self.shared_keys), split(self.shared_values)
        )
        return attention.out_proj(out[0].transpose(0, 1).reshape(b, t, -1))

    def _tokens_to_image(
        self, attention: Any, q: torch.Tensor, image: torch.Tensor, positional_keys: torch.Tensor
    ) -> torch.Tensor:
        b, t, _ = q.shape
        heads, d = self.heads, attention.internal_dim // self.heads
        q = attention.q_proj(q).view(b, t, heads, d).transpose(1, 2) / math.sqrt(d)  # B × H × T × d
        queries = torch.einsum("bhtd,hdc->bhtc", q, attention.k_proj.weight.view(heads, d, -1))
        scores = torch.bmm(queries.reshape(b, heads * t, -1), image.transpose(1, 2)).view(b, heads, t, -1)
        scores = scores + torch.einsum("bhtd,hdn->bhtn", q, positional_keys.view(-1, heads, d).permute(1, 2, 0))
        weights = torch.softmax(scores, -1).view(b, heads * t, -1).to(image.dtype)
        pooled = torch.bmm(weights, image).view(b, heads, t, -1)  # B × H × T × C
        out = torch.einsum("bhtc,hdc->bhtd", pooled, attention.v_proj.weight.view(heads, d, -1))
        out = out + attention.v_proj.bias.view(1, heads, 1, d)
        return attention.out_proj(out.transpose(1, 2).reshape(b, t, -1))

    def _updated_image(
        self, attention: Any, keys: torch.Tensor, values: torch.Tensor, image: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        """Image tokens plus their attention to the prompt tokens (before the norm): B × N × C."""
        b, t, _ = keys.shape
        heads, d = self.heads, attention.internal_dim // self.heads
        k = attention.k_proj(keys).view(b, t, heads, d) / math.sqrt(d)
        if image is None:
            scores = torch.einsum("nhd,bthd->bnht", self.shared_queries.view(-1, heads, d), k)
        else:
            queries = torch.einsum("bthd,hdc->bhtc", k, attention.q_proj.weight.view(heads, d, -1))
            queries = queries.reshape(b, heads * t, -1)
            scores = torch.bmm(image, queries.transpose(1, 2)).view(b, -1, heads, t)
            scores = scores + torch.einsum("nhd,bthd->bnht", self.positional_queries[index].view(-1, heads, d), k)
        weights = torch.softmax(scores, -1).view(b, -1, heads * t)
        v = attention.v_proj(values).view(b, t, heads, d)
        v = torch.einsum("bthd,chd->bhtc", v, attention.out_proj.weight.view(-1, heads, d)).reshape(b, heads * t, -1)
        if image is None:
            base = (self.image_tokens + attention.out_proj.bias)[None].expand(b, -1, -1)
        else:
            base = image + attention.out_proj.bias
        return torch.baddbmm(base.to(v.dtype), weights.to(v.dtype), v)

    def _logits(self, image: torch.Tensor, mask_tokens: torch.Tensor, outputs: range) -> torch.Tensor:
        """B × M × h × w low-resolution logits of the chosen outputs."""
        b = len(image)
        if b == 0:
            return image.new_zeros(0, len(outputs), *self.logits_size)
        source = image.transpose(1, 2).reshape(b, -1, self.height, self.width)
        if self.decoder.use_high_res_features:
            first, norm, act1, second, act2 = self.decoder.output_upscaling
            stride4, stride8 = self.high_res
            up = act2(second(act1(norm(first(source) + stride8))) + stride4)
        else:
            up = self.decoder.output_upscaling(source)
        rows = [self.decoder.output_hypernetworks_mlps[i](mask_tokens[:, i]) for i in outputs]
        return (torch.stack(rows, 1) @ up.flatten(2)).view(b, len(outputs), *up.shape[-2:])


def _above(predicted_iou: torch.Tensor, threshold: float) -> torch.Tensor:
    # Meta's generator: `>`, and no filter at all at 0.
    return predicted_iou > threshold if threshold > 0 else torch.ones_like(predicted_iou, dtype=torch.bool)
