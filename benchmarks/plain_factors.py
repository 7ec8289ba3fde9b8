"""Plain PyTorch on a GPU with the image tokens as factors: what it would gain over `device_decoder.py`, and its error.

    python benchmarks/plain_factors.py                  # on a GPU: errors, then times; two minutes by guess
    python benchmarks/plain_factors.py --dry-run-cpu    # errors, and that it runs, with the starter on the CPU

A prototype, in no installation: the order of work of `engine/factored.py` (symbols are explained there), in half
precision and with plain operators whose shapes do not depend on a value. Of what plain PyTorch moves, 45 MB a prompt
for the transformer and 57 for a survivor's upscaling, much is image tokens (N × C) that go through norms and softmaxes
at a third of the memory's speed. With factors (N × K, a quarter of that) it is 43 and 59 MB (counted by operator,
official shape), but nearly all in products and sums, which reach most of that speed: by the rates in NOTES.md the
transformer would take 22 µs in place of 37, and 4,096 points 60 ms less of 270. If a GPU says so too, it belongs into
the engine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from common import CPU, official, photo, starter, table

from densecli.engine import grid
from densecli.engine.device_decoder import DeviceDecoder, SharedImage, Transformed, storage_dtype
from densecli.engine.device_loop import DeviceLoop
from densecli.engine.device_steps import Steps, token_products
from densecli.engine.encoder import Features, encode
from densecli.engine.memory import LoopSize
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.two_way import after_attention, self_attended
from densecli.engine.upsampling import Upsampling


class Places(NamedTuple):
    """What all prompts of one crop share, in `storage`; D × N, but for `squares…`, `bias` (N float32), values (N × D)
    and the pixels of the first convolution (N × 4·C/4).
    """

    queries0: torch.Tensor
    crossed0: torch.Tensor
    squares0: torch.Tensor
    keys1: torch.Tensor
    positional_keys1: torch.Tensor
    values1: torch.Tensor
    queries1: torch.Tensor
    positional_queries1: torch.Tensor
    crossed01: torch.Tensor
    crossed11: torch.Tensor
    squares1: torch.Tensor
    bias1: torch.Tensor
    keys2: torch.Tensor
    positional_keys2: torch.Tensor
    values2: torch.Tensor
    pixels: torch.Tensor
    pixel_bias: torch.Tensor


class Factors(NamedTuple):
    """Image tokens of B prompts before the last norm's weight and bias: s ⊙ X₁ + aᵀ v.

    a: B × 2·K × N, both layers' weights, already scaled. v: B × 2·K × C. s: B × 1 × N. tokens, pe: B × T × C, before
    the last attention.
    """

    a: torch.Tensor
    v: torch.Tensor
    s: torch.Tensor
    tokens: torch.Tensor
    pe: torch.Tensor


class FactoredDeviceDecoder(DeviceDecoder):
    """`DeviceDecoder` of plain PyTorch, for transformers of two layers."""

    @torch.no_grad()
    def __init__(self, network: Any, multimask_output: bool, storage: torch.dtype) -> None:
        super().__init__(network, multimask_output, storage)
        first, second = self.transformer.layers
        self.norm_eps = first.norm4.eps, second.norm4.eps
        g1, b1, self.g2, b2 = first.norm4.weight, first.norm4.bias, second.norm4.weight, second.norm4.bias
        out0, out1 = (layer.cross_attn_image_to_token.out_proj for layer in (first, second))
        self.channels = len(g1)
        to_image, to_tokens = second.cross_attn_token_to_image, second.cross_attn_image_to_token
        final = self.transformer.final_attn_token_to_image
        # D × C each. A norm's variance is of a mean, so what is squared is divided by the channels beforehand: half
        # precision ends at 65,504.
        self.out0, self.out1 = _centred(out0.weight.t()), _centred(out1.weight.t())
        self.out01 = _centred(self.out0 * g1)
        self.layer_bias1 = _centred(b1 + out1.bias)
        self.image_bias = out0.bias
        self.g1 = g1
        self.key1, self.value1, self.query1 = to_image.k_proj.weight, to_image.v_proj.weight, to_tokens.q_proj.weight
        self.key2, self.value2 = final.k_proj.weight, final.v_proj.weight
        self.value_bias1 = to_image.v_proj.bias + self.value1 @ b1
        self.value_bias2 = final.v_proj.bias + self.value2 @ b2
        self.query_bias1 = (to_tokens.q_proj.bias + self.query1 @ b1)[:, None]
        self.stored = {
            name: self._stored(weight)
            for name, weight in {
                "out0": self.out0,
                "out0, g1": self.out0 * g1,
                "out1": self.out1,
                "key1": self.key1,
                "value1": self.value1.t(),
                "query1": self.query1,
                "key2": self.key2 * self.g2,
                "value2": (self.value2 * self.g2).t(),
            }.items()
        }
        self.pixel_weight = self.g2[:, None] * self.weight1.float()
        self.stored_pixel_weight = self._stored(self.pixel_weight)
        self.last_bias = b2 @ self.weight1.float()

    @torch.no_grad()
    def shared(self, features: Any) -> tuple[SharedImage, Places]:  # type: ignore[override]
        plain = super().shared(features)
        embedding = features.embedding[0].float() + self.prompt_encoder.no_mask_embed.weight.reshape(-1, 1, 1)
        x = _centred(embedding.flatten(1).t() + self.image_bias)
        x1 = _centred(x * self.g1)
        x2, by_mean, stored = x1 * self.g2, 1 / self.channels, self._stored
        places = Places(
            queries0=plain.queries,
            crossed0=stored(2 * by_mean * (self.out0 @ x.t())),
            squares0=x.square().mean(1)[None],
            keys1=stored((self.key1 * self.g1) @ x.t()),
            positional_keys1=stored(self.key1 @ self.pe.t()),
            values1=stored(x @ (self.value1 * self.g1).t()),
            queries1=stored((self.query1 * self.g1) @ x.t()),
            positional_queries1=stored(self.query1 @ self.pe.t() + self.query_bias1),
            crossed01=stored(2 * by_mean * (self.out01 @ x1.t())),
            crossed11=stored(2 * by_mean * (self.out1 @ x1.t())),
            squares1=x1.square().mean(1)[None],
            bias1=(2 * by_mean * (x1 @ self.layer_bias1))[None],
            keys2=stored(self.key2 @ x2.t()),
            positional_keys2=stored(self.key2 @ self.pe.t()),
            values2=stored(x2 @ self.value2.t()),
            pixels=stored(x1 @ self.pixel_weight),
            pixel_bias=stored(plain.added1.float() + self.last_bias),
        )
        return plain, places

    @torch.no_grad()
    def transform(self, tokens: torch.Tensor, count: torch.Tensor, shared: Any) -> Transformed:
        plain, places = shared
        first, second = self.transformer.layers
        pe, by_mean = tokens, 1 / self.channels
        started = self_attended(first, tokens, pe)
        update = self._tokens_to_shared_image(first.cross_attn_token_to_image, started + pe, plain)
        started = after_attention(first, started, update)

        # Layer 0's image side: a0 and s1.
        attention = first.cross_attn_image_to_token
        k, v = self._scaled(attention, attention.k_proj(started + pe)), self._by_head(attention.v_proj(started))
        a0 = self._over_tokens(k @ places.queries0)
        wide = v @ self.stored["out0"]
        squares = (v @ places.crossed0).baddbmm_(by_mean * wide @ wide.mT, a0)
        s1 = (places.squares0 + _weighted(squares, a0) + self.norm_eps[0]).rsqrt_()[:, None]
        low_s1 = self._low(s1)

        # Layer 1's token side.
        q = self_attended(second, started, pe)
        attention = second.cross_attn_token_to_image
        whole0 = v @ self.stored["out0, g1"]
        q0 = self._scaled(attention, attention.q_proj(q + pe))
        scores = (q0 @ places.keys1).baddbmm_(q0 @ self.stored["key1"] @ whole0.mT, a0)
        weights = torch.addcmul(q0 @ places.positional_keys1, scores, low_s1, out=scores).softmax(-1).mul_(low_s1)
        pooled = torch.bmm(weights, a0.mT) @ whole0 @ self.stored["value1"] + weights @ places.values1
        q = after_attention(second, q, attention.out_proj(self._own(pooled, q.shape[1]) + self.value_bias1))

        # Its image side: a1 and s2.
        attention = second.cross_attn_image_to_token
        k, low_v1 = self._scaled(attention, attention.k_proj(q + pe)), self._by_head(attention.v_proj(q))
        scores = (k @ places.queries1).baddbmm_(k @ self.stored["query1"] @ whole0.mT, a0)
        scores = torch.addcmul(k @ places.positional_queries1, scores, low_s1, out=scores)
        a1, v0 = self._over_tokens(scores), _centred(whole0)
        v1 = low_v1 @ self.stored["out1"] + self._low(self.layer_bias1 / self.heads)
        squares = (v @ places.crossed01).baddbmm_(by_mean * v0 @ v0.mT, a0)
        variance = s1[:, 0] * (s1[:, 0] * (places.squares1 + _weighted(squares, a0)) + places.bias1)
        squares = (low_v1 @ places.crossed11).baddbmm_(2 * by_mean * v1 @ v0.mT, a0).mul_(low_s1)
        squares.baddbmm_(by_mean * v1 @ v1.mT, a1)
        s2 = (variance + _weighted(squares, a1) + self.norm_eps[1]).rsqrt_()[:, None]

        low_s2, low_s = self._low(s2), self._low(s1 * s2)
        b, rows, n = a0.shape
        a = a0.new_empty(b, 2 * rows, n)
        torch.mul(a0, low_s, out=a[:, :rows])
        torch.mul(a1, low_s2, out=a[:, rows:])
        image = Factors(a, torch.cat((v0, v1), 1), low_s, q, pe)
        which = 1 if self.decoder.pred_obj_scores else 0
        iou = self._finally(image, slice(which, which + 1), places)[:, 0]
        predicted_iou = self.decoder.iou_prediction_head(iou)[:, self.outputs.start : self.outputs.stop]
        return Transformed(predicted_iou.contiguous(), q, image)  # type: ignore[arg-type]

    @torch.no_grad()
    def upscale(
        self, image: Any, rows: torch.Tensor, chosen: torch.Tensor, count: torch.Tensor, shared: Any
    ) -> torch.Tensor:
        plain, places = shared
        image = Factors(*(factor.index_select(0, chosen) for factor in image))
        first = 2 if self.decoder.pred_obj_scores else 1
        wanted = slice(first + self.outputs.start, first + self.outputs.stop)
        tokens, networks = self._finally(image, wanted, places), self.decoder.output_hypernetworks_mlps
        rows = torch.stack([networks[i](tokens[:, n]) for n, i in enumerate(self.outputs)], 1).to(self.storage)
        x = torch.addcmul(places.pixel_bias, places.pixels, image.s.mT)
        x.baddbmm_(image.a.mT, image.v @ self.stored_pixel_weight)
        return self._logits(x, rows, plain)

    def _finally(self, image: Factors, some: slice, places: Places) -> torch.Tensor:
        """B × t × C: some of the tokens after the last attention."""
        final, tokens = self.transformer.final_attn_token_to_image, image.tokens[:, some]
        q = self._scaled(final, final.q_proj(tokens + image.pe[:, some]))
        scores = torch.addcmul(q @ places.positional_keys2, q @ places.keys2, image.s)
        weights = scores.baddbmm_(q @ self.stored["key2"] @ image.v.mT, image.a).softmax(-1)
        pooled = torch.bmm(weights, image.a.mT) @ image.v
        out = pooled @ self.stored["value2"] + weights.mul_(image.s) @ places.values2
        update = final.out_proj(self._own(out, tokens.shape[1]) + self.value_bias2)
        return self.transformer.norm_final_attn(tokens + update)

    def _low(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.storage)

    def _scaled(self, attention: Any, x: torch.Tensor) -> torch.Tensor:
        """Keys or queries by head, B × T·H × D."""
        return self._by_head(x / math.sqrt(attention.internal_dim // self.heads))

    def _own(self, x: torch.Tensor, tokens: int) -> torch.Tensor:
        """B × T × D float32 of B × T·H × D: of each row its head's own columns."""
        x = x.view(len(x), tokens, self.heads, self.heads, -1) * self.own_head
        return x.sum(2).reshape(len(x), tokens, -1).float()

    def _over_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        b, rows, n = scores.shape
        return scores.view(b, rows // self.heads, self.heads, n).softmax(1).view(b, rows, n)


def _centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(-1, keepdim=True)


def _weighted(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """B × N float32, sum over K of x · weights; x is lost."""
    return x.mul_(weights).sum(1, dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run-cpu", action="store_true")
    dry = parser.parse_args().dry_run_cpu
    device = CPU if dry else torch.device("cuda")
    if dry:
        shapes = {"starter": starter(), "large": official("large")}
    else:
        shapes = {"starter": starter().to(device), "large": official("large", smooth=True).to(device)}
    for name, network in shapes.items():
        table(f"Error against float32, {name}, of logits and predicted IoU", _ERROR_HEADER, errors(network))
    table("Microseconds a prompt", _TIME_HEADER, steps(network, (8,) if dry else (64, 128, 256, 512)))
    table("Whole loop, milliseconds", _LOOP_HEADER, loops(network, (4, 5) if dry else (32, 64)))


_ERROR_HEADER = ["decoder, storage", "logits, relative", "predicted IoU, largest", "… root mean square"]
_TIME_HEADER = ["prompts", "transformer", "… factors", "upscaling", "… factors"]
_LOOP_HEADER = ["points", "plain", "factors", "candidates", "… factors"]
_DECODERS: dict[str, type[DeviceDecoder]] = {"plain": DeviceDecoder, "factors": FactoredDeviceDecoder}


def _decoded(network: Any, kind: str, storage: torch.dtype, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    decoder = _DECODERS[kind](network, True, storage)
    shared, count = (
        decoder.shared(encode(network, photo(), network.device, torch.float32)),
        torch.tensor(len(points), device=points.device),
    )
    with token_products(storage):
        tile = decoder.transform(decoder.tokens(points), count, shared)
        chosen = torch.arange(len(points), device=points.device)
        return decoder.upscale(tile.image, tile.rows, chosen, count, shared).double(), tile.predicted_iou.double()


def errors(network: Any) -> list[list[str]]:
    """Of 32 points, every way against plain PyTorch's in float32."""
    points = torch.rand(32, 2, generator=torch.Generator().manual_seed(0)).to(network.device) * network.image_size
    logits, predicted_iou = _decoded(network, "plain", torch.float32, points)
    rows = []
    for kind, storage in (("factors", torch.float32), ("plain", torch.float16), ("factors", torch.float16)):
        found, scores = _decoded(network, kind, storage, points)
        relative, off = (found - logits).norm() / logits.norm(), scores - predicted_iou
        rms = off.square().mean().sqrt()
        rows.append([f"{kind}, {storage}", f"{relative:.1e}", f"{off.abs().max():.1e}", f"{rms:.1e}"])
    return rows


def steps(network: Any, sizes: tuple[int, ...]) -> list[list[str]]:
    """Both steps by the number of prompts, median of five."""
    features, rows = encode(network, photo(), network.device, _dtype(network)), []
    for n in sizes:
        times = [_step_times(make, network, features, n) for make in _DECODERS.values()]
        rows.append([str(n), *(f"{1e6 * seconds:.1f}" for step in zip(*times, strict=True) for seconds in step)])
    return rows


def _step_times(make: type[DeviceDecoder], network: Any, features: Features, n: int) -> tuple[float, float]:
    """Seconds a prompt of the transformer, of n prompts, and of the upscaling, of at most 128."""
    decoder = make(network, True, storage_dtype(_dtype(network)))
    points = torch.rand(n, 2, device=network.device) * network.image_size
    shared, count = decoder.shared(features), torch.tensor(n, device=points.device)
    tokens, every = decoder.tokens(points), torch.arange(min(n, 128), device=points.device)
    with token_products(_dtype(network)):
        tile = decoder.transform(tokens, count, shared)
        transformer = _seconds(decoder.transform, tokens, count, shared) / n
        return transformer, _seconds(decoder.upscale, tile.image, tile.rows, every, count, shared) / len(every)


def loops(network: Any, sides: tuple[int, ...]) -> list[list[str]]:
    """Both point loops with their scores, half of the points surviving; median of five."""
    features, rows = encode(network, photo(), network.device, _dtype(network)), []
    for side in sides:
        times, counts = zip(*(_loop(make, network, features, side) for make in _DECODERS.values()), strict=True)
        rows.append([str(side * side), *times, *counts])
    return rows


def _loop(make: type[DeviceDecoder], network: Any, features: Features, side: int) -> tuple[str, str]:
    """Milliseconds, and candidates."""
    tile = 128 if network.device.type == "cuda" else 8
    steps = Steps(network, True, _dtype(network), LoopSize(tile, tile))
    steps.decoder = make(network, True, steps.decoder.storage)
    steps._transform = _called(steps.decoder.transform)  # type: ignore[assignment]
    steps._upscale = _called(steps.decoder.upscale)  # type: ignore[assignment]
    steps.begin(features)
    points = torch.from_numpy(grid.point_grid(side)).float().to(network.device) * network.image_size
    upsampling = Upsampling(steps.decoder.logits_size, photo().shape[:2], network.device)
    with token_products(_dtype(network)):
        parameters = GeneratorParameters(points_per_side=side, pred_iou_thresh=0.0)
        scores = DeviceLoop(steps, points, upsampling, parameters).all_scores(_untold)
        best = scores.predicted_iou[: len(points)].amax(1).median()
        parameters = GeneratorParameters(points_per_side=side, pred_iou_thresh=float(best))
        loop = DeviceLoop(steps, points, upsampling, parameters)
        seconds = _seconds(loop.candidates, _untold)
        return f"{1e3 * seconds:.1f}", str(len(loop.candidates(_untold)[0]))


def _dtype(network: Any) -> torch.dtype:
    return torch.bfloat16 if network.device.type == "cuda" else torch.float32


def _untold(points: int) -> None:
    """What is told of progress."""


def _called(step: Callable[..., Any]) -> Callable[..., Any]:
    """As `Steps` calls it."""
    return lambda *args, fixed, slot: step(*args, *fixed)


def _seconds(work: Callable[..., object], *args: object) -> float:
    times = []
    for _ in range(6):
        _wait()
        begin = time.perf_counter()
        work(*args)
        _wait()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
