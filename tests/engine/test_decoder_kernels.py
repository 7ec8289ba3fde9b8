"""The fused kernels give what plain PyTorch gives: under Triton's interpreter, compiled for GPUs, and on one."""

from __future__ import annotations

import sys

import pytest
import torch

from densecli import checkpoints, model
from densecli.engine.device_decoder import DeviceDecoder
from densecli.engine.encoder import Features
from tests.conftest import FIRST_STARTER
from tests.engine.test_scoring import needs_triton, run_python

_INTERPRETED = """
import torch, torch.nn.functional as F
from densecli import model
from densecli.engine import decoder_kernels
from densecli.engine.device_decoder import DeviceDecoder
from densecli.engine.encoder import Features
from tests.conftest import FIRST_STARTER

# A number of image tokens that fills no tile, seven tokens of eight places.
torch.manual_seed(0)
b, n, c, d, h, t, tp = 2, 100, 32, 16, 4, 7, 8
q, r, x, p = torch.randn(b, h * tp, c) / 3, torch.randn(b, h * tp, d) / 3, torch.randn(b, n, c), torch.randn(d, n)
v, weight, bias = torch.randn(b, h * tp, c), torch.randn(c), torch.randn(c)
expected = (q @ x.transpose(1, 2) + r @ p).softmax(-1) @ x
assert torch.allclose(decoder_kernels.attend(q, r, x, p), expected, atol=1e-5)
for keys, image in ((q, x), (None, x[0].contiguous())):
    scores = r @ p if keys is None else r @ p + keys @ x.transpose(1, 2)
    weights = F.pad(scores.view(b, h, tp, n)[:, :, :t].softmax(2), (0, 0, 0, tp - t)).reshape(b, h * tp, n)
    expected = F.layer_norm(weights.transpose(1, 2) @ v + image, (c,), weight, bias, 1e-5)
    assert torch.allclose(decoder_kernels.update(keys, r, v, image, p, (weight, bias, 1e-5), h, t), expected, atol=1e-5)

network = model.load(model.Choice("first", *FIRST_STARTER), torch.device("cpu"), "fp32").network
features = Features(torch.randn(1, 128, 24, 24), (torch.randn(1, 16, 96, 96), torch.randn(1, 32, 48, 48)))
points = 384 * torch.rand(2, 2)
for storage, error in ((torch.float32, 1e-6), (torch.float16, 2e-3)):
    found = []
    for fused in (False, True):
        decoder = DeviceDecoder(network, True, storage, fused=fused)
        assert (decoder.kernels is not None) == fused
        shared = decoder.shared(features)
        tile = decoder.transform(decoder.tokens(points), shared)
        logits = decoder.upscale(tile.image, tile.rows, torch.tensor([1, 0, 1]), shared)
        found.append((tile.predicted_iou, tile.image, logits))
    for plain, fused in zip(*found, strict=True):
        difference = float((fused.float() - plain.float()).norm() / plain.float().norm())
        assert plain.shape == fused.shape and plain.dtype == fused.dtype and difference < error, difference
        print(storage, difference)
"""


@needs_triton
@pytest.mark.slow
def test_under_the_interpreter() -> None:
    assert len(run_python(_INTERPRETED, TRITON_INTERPRET="1").splitlines()) == 6


_COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from densecli.engine import decoder_kernels as k

half = "*fp16"
official, starter = dict(C=256, D=128), dict(C=128, D=64)
jobs = []
for shape, tokens in ((official, 8), (starter, 7)):
    attend = {**shape, "HT": 64, "BLOCK": k._ATTEND_TOKENS}
    jobs.append((k._attend, [half] * 5 + ["i32"], attend, k._ATTEND_WARPS, k.attend_stages))
    update = {**shape, "H": 8, "T": tokens, "TP": 8, "BLOCK": k._UPDATE_TOKENS}
    for absorbed in (True, False):
        sizes = {**update, "ABSORBED": absorbed}
        jobs.append((k._update, [half] * 8 + ["fp32", "i32", "i32"], sizes, k._UPDATE_WARPS, lambda most: 1))
    sizes = dict(C=shape["C"], M=3, MP=16, STEP=64, BLOCK=k._UPSCALE_TOKENS)
    kinds = [half, half, "*i64"] + [half] * 7 + ["fp32", "i32", "i32"]
    jobs.append((k._upscale, kinds, sizes, k._UPSCALE_WARPS, lambda most: 2))
for kernel, kinds, sizes, warps, stages in jobs:
    names = [*kernel.arg_names[: len(kinds)], *sizes]
    signature = {name: kind for name, kind in zip(names, kinds + ["constexpr"] * len(sizes), strict=True)}
    assert sorted(signature) == sorted(kernel.arg_names)
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds) if kind != "fp32"}
    for capability, most in ((80, 163 << 10), (90, 227 << 10)):
        made = triton.compile(
            ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, sizes, aligned),
            target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": stages(most)})
        assert made.metadata.shared <= most, (kernel, capability, made.metadata.shared)
        assert "mma" in made.asm["ptx"], "no tensor cores"
        print(kernel, capability, made.metadata.shared)
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="triton's compiler is for Linux")
def test_compiled_for_real_gpus_they_fit_the_shared_memory(tmp_path) -> None:
    assert len(run_python(_COMPILED, TRITON_CACHE_DIR=str(tmp_path)).splitlines()) == 16


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["tiny", "first starter"])
@torch.inference_mode()
def test_on_a_gpu(name: str) -> None:
    if name == "first starter":
        network = model.load(model.Choice("first", *FIRST_STARTER), torch.device("cuda"), "fp32").network
    else:
        network = model.build_network(model.config_path(checkpoints.load_registry().entry(name)))
        torch.manual_seed(1)
        for p in [*network.sam_mask_decoder.parameters(), *network.sam_prompt_encoder.parameters()]:
            p.add_(0.1 * torch.randn_like(p)) if p.dim() < 2 else p.normal_(0, p[0].numel() ** -0.5)
        network = network.cuda()
    c, side = network.hidden_dim, network.image_size // 16
    features = Features(
        torch.randn(1, c, side, side).cuda(),
        (torch.randn(1, c // 8, 4 * side, 4 * side).cuda(), torch.randn(1, c // 4, 2 * side, 2 * side).cuda()),
    )
    points = torch.rand(24, 2).cuda() * network.image_size
    chosen = torch.tensor([3, 0, 23, 7]).cuda()
    exact = DeviceDecoder(network, True, torch.float32)
    shared = exact.shared(features)
    tile = exact.transform(exact.tokens(points), shared)
    expected = tile.predicted_iou, tile.image, exact.upscale(tile.image, tile.rows, chosen, shared)
    for fused in (False, True):
        decoder = DeviceDecoder(network, True, torch.float16, fused=fused)
        assert (decoder.kernels is not None) == fused
        shared = decoder.shared(features)
        tile = decoder.transform(decoder.tokens(points), shared)
        found = tile.predicted_iou, tile.image, decoder.upscale(tile.image, tile.rows, chosen, shared)
        for a, b in zip(found, expected, strict=True):
            assert (a.float() - b).norm() < 5e-3 * b.norm()
