"""The mask decoder for GPUs: the same function as `decoder.py`, in steps whose shapes depend on the network alone.

A GPU is bound by memory, not by arithmetic, so this differs from the CPU's order of work:

- What belongs to an image token (N × C for every prompt: 2 MB each in half precision for an official shape) is kept in
  `storage`; only the few prompt tokens are float32. There is no autocast, whose float32 norms and softmaxes would
  double what is read and written: by count 47 MB a prompt for the transformer, 47 MB more for the upscaling.
- `storage` is float16 also where the encoder runs in bfloat16: scores, weights and normalised tokens are small numbers,
  of which float16 keeps eleven bits and bfloat16 eight.
- The heads of an attention are not taken apart: a token's row is repeated for every head, with zeros outside of that
  head's own columns, so that each projection is one product of matrices for all heads and prompts (`_by_head`).

Nothing here reads a value, so nothing waits for the device and every step can be compiled or captured. The work on
image tokens can be fused (`decoder_kernels.py`); without, plain PyTorch does the same.

Symbols as in decoder.py: B prompts of a tile, T tokens a prompt, N image tokens, C channels, H heads, D width of an
attention, d = D / H, M outputs a prompt.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from densecli.engine.encoder import Features
from densecli.engine.triton_kernels import decoder_kernels, shared_memory
from densecli.engine.two_way import after_attention, self_attended

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base


class SharedImage(NamedTuple):
    """What all prompts of one crop share, in `storage`.

    image: N × C image tokens before the first layer. keys, values: 1 × H × N × d, layer 0, tokens to image.
    queries: D × N, layer 0, image to tokens. added1: N × 4·C/4 and added2: 4·N × 4·C/8, what is added to the two
    transposed convolutions of the upscaling: bias and high-resolution features.
    """

    image: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    queries: torch.Tensor
    added1: torch.Tensor
    added2: torch.Tensor


class Transformed(NamedTuple):
    """A tile after the transformer: predicted_iou B × M float32, rows B × M × C/8 (of the hyper-networks), image
    B × N × C; the latter two in `storage`."""

    predicted_iou: torch.Tensor
    rows: torch.Tensor
    image: torch.Tensor


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of image tokens for a run in `dtype`: float32, or float16 for either half precision."""
    return torch.float32 if dtype == torch.float32 else torch.float16


def serves(network: SAM2Base, multimask_output: bool) -> bool:
    """Whether fixed shapes can serve: not where the output that counts depends on the masks themselves."""
    return multimask_output or not network.sam_mask_decoder.dynamic_multimask_via_stability


def fusable(network: SAM2Base, storage: torch.dtype) -> bool:
    """Whether the fused kernels can serve: sides that are powers of two from 16, as the official ones, and exact GELUs.

    float32 tiles do not fit a GPU's shared memory; the interpreter, on the CPU, has no such limit.
    """
    decoder: Any = network.sam_mask_decoder
    if storage == torch.float32 and network.device.type == "cuda":
        return False
    width, heads = decoder.transformer.final_attn_token_to_image.internal_dim, decoder.transformer.num_heads
    sides = (decoder.transformer_dim // 8, width, 8 * heads)
    _, _, act1, _, act2 = decoder.output_upscaling
    # Of the kernels' four outputs a prompt: sam2's networks give three, or one.
    return (
        decoder.num_mask_tokens <= 5
        and all(side >= 16 and side & (side - 1) == 0 for side in sides)
        and all(isinstance(act, torch.nn.GELU) and act.approximate == "none" for act in (act1, act2))
    )


class DeviceDecoder:
    """The mask decoder of `network`, on the network's device, with its weights for image tokens in `storage`.

    fused: use the fused kernels, where they can serve this network.
    """

    @torch.no_grad()
    def __init__(self, network: SAM2Base, multimask_output: bool, storage: torch.dtype, *, fused: bool = False) -> None:
        self.prompt_encoder: Any = network.sam_prompt_encoder
        self.decoder: Any = network.sam_mask_decoder
        self.transformer: Any = self.decoder.transformer
        self.storage = storage
        self.heads: int = self.transformer.num_heads
        self.outputs = range(1, self.decoder.num_mask_tokens) if multimask_output else range(1)
        layers = list(self.transformer.layers)
        self.pe = self.prompt_encoder.get_dense_pe()[0].flatten(1).t().float()  # N × C
        self.height, self.width = self.prompt_encoder.image_embedding_size
        self.own_head = torch.eye(self.heads, dtype=storage, device=self.pe.device).view(1, 1, self.heads, -1, 1)
        self.stored_pe = self._stored(self.pe)
        to_image = [layer.cross_attn_token_to_image for layer in layers] + [self.transformer.final_attn_token_to_image]
        to_tokens = [layer.cross_attn_image_to_token for layer in layers]
        # D × N each. Layer 0 works on the shared image, where position is part of it already.
        self.positional_keys = [self._stored(F.linear(self.pe, a.k_proj.weight).t()) for a in to_image[1:]]
        self.positional_queries = [self._stored(a.q_proj(self.pe).t()) for a in to_tokens[1:]]
        self.query_biases = [self._stored(a.q_proj.bias) for a in to_tokens]
        self.key_weights = [self._stored(a.k_proj.weight) for a in to_image[1:]]  # D × C
        self.value_weights = [self._stored(a.v_proj.weight.t()) for a in to_image[1:]]  # C × D
        self.query_weights = [self._stored(a.q_proj.weight) for a in to_tokens]  # D × C
        self.out_weights = [self._stored(a.out_proj.weight.t()) for a in to_tokens]  # D × C
        # A head's weights sum to 1, so a share of the bias in each of its values adds up to the bias.
        self.out_biases = [self._stored(a.out_proj.bias / self.heads) for a in to_tokens]
        self.norms = [(self._stored(n.weight), self._stored(n.bias), n.eps) for n in (la.norm4 for la in layers)]
        first, norm, self.act1, second, self.act2 = self.decoder.output_upscaling
        weight, bias = _as_matrix(first)
        # The norm after it takes the mean of a pixel's channels away: taken from the weights, there is none.
        self.weight1, self.bias1 = self._stored(_centred(weight)), _centred(bias)
        weight, self.bias2 = _as_matrix(second)
        self.weight2 = self._stored(weight)
        self.norm = self._stored(norm.weight), self._stored(norm.bias), norm.eps
        self.kernels = decoder_kernels() if fused and fusable(network, storage) else None
        if self.kernels is not None:
            # Asked here: what is compiled or captured must not ask.
            on_gpu = self.pe.device.type == "cuda"
            self.tiles = self.kernels.tiles_for(shared_memory(self.pe.device) if on_gpu else 0)

    def _stored(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().to(self.storage).contiguous()

    @property
    def logits_size(self) -> tuple[int, int]:
        """(h, w) of the low-resolution logits: four times the embedding's."""
        return 4 * self.height, 4 * self.width

    @torch.no_grad()
    def shared(self, features: Features) -> SharedImage:
        """What the prompts of one crop share. features: as the encoder gives them, in any float type."""
        embedding = features.embedding[0].float() + self.prompt_encoder.no_mask_embed.weight.reshape(-1, 1, 1)
        image = embedding.flatten(1).t()
        first = self.transformer.layers[0]
        to_image, to_tokens = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        keys, values = to_image.k_proj(image + self.pe), to_image.v_proj(image)
        by_head = len(image), self.heads, -1
        added1, added2 = self.bias1.expand(len(image), -1), self.bias2.expand(4 * len(image), -1)
        if self.decoder.use_high_res_features:
            h, w = self.height, self.width
            stride4, stride8 = (level[0].float() for level in features.high_res)
            pixels = stride8.view(-1, h, 2, w, 2).permute(1, 3, 2, 4, 0)
            added1 = added1 + _centred(pixels.reshape(h * w, -1))
            pixels = stride4.view(-1, h, 2, 2, w, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
            added2 = added2 + pixels.reshape(4 * h * w, -1)
        return SharedImage(
            self._stored(image),
            self._stored(keys.view(by_head).transpose(0, 1)[None]),
            self._stored(values.view(by_head).transpose(0, 1)[None]),
            self._stored(to_tokens.q_proj(image + self.pe).t()),
            self._stored(added1),
            self._stored(added2),
        )

    @torch.no_grad()
    def tokens(self, points: torch.Tensor) -> torch.Tensor:
        """B × T × C float32 tokens of single positive points, B × 2 float32 (x, y) in pixels of the model's input."""
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse = self.prompt_encoder._embed_points(points[:, None], labels, pad=True)
        learned = [self.decoder.iou_token.weight, self.decoder.mask_tokens.weight]
        if self.decoder.pred_obj_scores:
            learned.insert(0, self.decoder.obj_score_token.weight)
        return torch.cat([torch.cat(learned)[None].expand(len(points), -1, -1), sparse], 1).float()

    @torch.no_grad()
    def transform(self, tokens: torch.Tensor, count: torch.Tensor, shared: SharedImage) -> Transformed:
        """The two-way transformer, predicted IoU and the hyper-networks. tokens: B × T × C float32.

        count: 0-dimensional int64: the fused kernels leave out what belongs to later prompts, which costs nothing and
        makes no sense; plain PyTorch does all.
        """
        pe, q = tokens, tokens
        image = shared.image
        for index, layer in enumerate(self.transformer.layers):
            q = self_attended(layer, q, pe)
            attention = layer.cross_attn_token_to_image
            if index == 0:
                update = self._tokens_to_shared_image(attention, q + pe, shared)
            else:
                update = self._tokens_to_image(attention, q + pe, image, index - 1, count)
            q = after_attention(layer, q, update)
            image = self._updated_image(layer.cross_attn_image_to_token, q + pe, q, image, index, shared, count)
        final = self.transformer.final_attn_token_to_image
        q = self.transformer.norm_final_attn(q + self._tokens_to_image(final, q + pe, image, -1, count))
        first = 1 if self.decoder.pred_obj_scores else 0
        predicted_iou = self.decoder.iou_prediction_head(q[:, first])[:, self.outputs.start : self.outputs.stop]
        networks = self.decoder.output_hypernetworks_mlps
        rows = torch.stack([networks[i](q[:, first + 1 + i]) for i in self.outputs], 1)
        return Transformed(predicted_iou.contiguous(), rows.to(self.storage), image)

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """B × T × D to B × T·H × D in `storage`: a row for every head, zero outside of the head's own columns."""
        b, t, _ = x.shape
        spread = x.to(self.storage).view(b, t, 1, self.heads, -1) * self.own_head
        return spread.view(b, t * self.heads, -1)

    def _tokens_to_shared_image(self, attention: Any, q: torch.Tensor, shared: SharedImage) -> torch.Tensor:
        """B × T × C: what the tokens get from the image tokens that all prompts have in common, in one attention."""
        b, t, _ = q.shape
        queries = attention.q_proj(q).to(self.storage).view(1, b * t, self.heads, -1).transpose(1, 2)
        out = F.scaled_dot_product_attention(queries, shared.keys, shared.values)
        return attention.out_proj(out.transpose(1, 2).reshape(b, t, -1).float())

    def _tokens_to_image(
        self, attention: Any, q: torch.Tensor, image: torch.Tensor, index: int, count: torch.Tensor
    ) -> torch.Tensor:
        """B × T × C: what the tokens get from their prompt's own image tokens B × N × C."""
        b, tokens, _ = q.shape
        d = attention.internal_dim // self.heads
        q = self._by_head(self._filled_up(attention.q_proj(q) / math.sqrt(d)))
        queries = q @ self.key_weights[index]  # B × T·H × C
        if self.kernels is not None:
            position = self.positional_keys[index]
            pooled = self.kernels.attend(queries, q, image, position, count, self.tiles.attend)  # B × T·H × C
        else:
            scores = _plus_product(q @ self.positional_keys[index], queries, image.transpose(1, 2))  # B × T·H × N
            pooled = torch.bmm(scores.softmax(-1), image)
        out = (pooled @ self.value_weights[index]).view(b, -1, self.heads, self.heads, d) * self.own_head
        out = out.sum(2)[:, :tokens].reshape(b, tokens, -1).float()
        return attention.out_proj(out + attention.v_proj.bias)

    def _filled_up(self, x: torch.Tensor) -> torch.Tensor:
        """x (B × T × D) with as many tokens as the kernels want, a power of two; the last ones are zeros."""
        tokens = x.shape[1]
        more = (1 << (tokens - 1).bit_length()) - tokens
        return F.pad(x, (0, 0, 0, more)) if self.kernels is not None and more else x

    def _updated_image(
        self,
        attention: Any,
        keys: torch.Tensor,
        values: torch.Tensor,
        image: torch.Tensor,
        index: int,
        shared: SharedImage,
        count: torch.Tensor,
    ) -> torch.Tensor:
        """B × N × C image tokens plus their attention to the prompt tokens, normalised."""
        b, t, _ = keys.shape
        d = attention.internal_dim // self.heads
        k = self._by_head(self._filled_up(attention.k_proj(keys) / math.sqrt(d)))
        v = self._by_head(self._filled_up(attention.v_proj(values))) @ self.out_weights[index] + self.out_biases[index]
        if self.kernels is not None:
            absorbed, biases = k @ self.query_weights[index], k @ self.query_biases[index]
            pe, norm = self.stored_pe, self.norms[index]
            return self.kernels.update(absorbed, biases, v, image, pe, norm, self.heads, t, count, self.tiles.update)
        if index == 0:
            scores = k @ shared.queries
        else:
            absorbed = k @ self.query_weights[index]
            scores = _plus_product(k @ self.positional_queries[index - 1], absorbed, image.transpose(1, 2))
        weights = scores.view(b, t, self.heads, -1).softmax(1).view(b, t * self.heads, -1)
        weights = weights.transpose(1, 2)
        # Nobody else needs the tokens of a layer before; the first layer's are everybody's.
        updated = _plus_product(image, weights, v) if index else torch.bmm(weights, v).add_(image)
        weight, bias, eps = self.norms[index]
        return F.layer_norm(updated, updated.shape[-1:], weight, bias, eps)

    @torch.no_grad()
    def upscale(
        self, image: torch.Tensor, rows: torch.Tensor, chosen: torch.Tensor, count: torch.Tensor, shared: SharedImage
    ) -> torch.Tensor:
        """U × M × 4h × 4w logits in `storage` of the prompts `chosen` (U int64) of a tile.

        image: B × N × C image tokens; rows: B × M × C/8 of the hyper-networks. count: 0-dimensional int64; the fused
        kernels upscale so many of `chosen`, plain PyTorch all.
        """
        if self.kernels is not None:
            first, second = (self.weight1, shared.added1), (self.weight2, shared.added2)
            size = self.height, self.width
            return self.kernels.upscale(image, rows, chosen, count, size, first, self.norm, second, self.tiles.upscale)
        image, rows = image.index_select(0, chosen), rows.index_select(0, chosen)
        x = image @ self.weight1
        x += shared.added1
        return self._logits(x, rows, shared)

    def _logits(self, x: torch.Tensor, rows: torch.Tensor, shared: SharedImage) -> torch.Tensor:
        """Logits as `upscale` gives them, of what the first convolution gave: B × N × 4·C/4, which is lost."""
        b, n, _ = x.shape
        weight, bias, eps = self.norm
        x = x.view(b, 4 * n, -1)
        # F.layer_norm takes a block of threads for a pixel's few channels: twice as long, on an H200. The mean is 0.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        x *= (length * length / x.shape[-1] + eps).rsqrt_().to(x.dtype)
        x = self.act1(torch.addcmul(bias, x, weight))
        x = x @ self.weight2
        x += shared.added2
        x = self.act2(x).view(b, 16 * n, -1)
        # Not by @, for which torch.compile copies the pixels.
        logits = torch.bmm(rows, x.transpose(1, 2))  # B × M × (h, w, 2, 2, 2, 2)
        logits = logits.view(b, -1, self.height, self.width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(b, -1, 4 * self.height, 4 * self.width)


def _plus_product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """x + a @ b of batches of matrices; x is lost. torch.compile takes the sum into what comes next, if it may."""
    return x + torch.bmm(a, b) if torch.compiler.is_compiling() else x.baddbmm_(a, b)


def _as_matrix(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A ConvTranspose2d of kernel 2 and stride 2 as C × 4·C' weights and 4·C' biases, float32, pixel by pixel."""
    channels, out = layer.weight.shape[:2]
    return layer.weight.permute(0, 2, 3, 1).reshape(channels, 4 * out), layer.bias.repeat(4)


def _centred(x: torch.Tensor) -> torch.Tensor:
    """x (… × 4·C') without the mean of each pixel's channels."""
    pixels = x.view(*x.shape[:-1], 4, -1)
    return (pixels - pixels.mean(-1, keepdim=True)).view_as(x)
