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
pe, biases = torch.randn(n, c) / 3, torch.randn(b, h * tp)
expected = (q @ x.transpose(1, 2) + r @ p).softmax(-1) @ x
both, first = torch.tensor(2), torch.tensor(1)
assert torch.allclose(decoder_kernels.attend(q, r, x, p, both), expected, atol=1e-5)
assert torch.allclose(decoder_kernels.attend(q, r, x, p, first)[:1], expected[:1], atol=1e-5)
for image in (x, x[0].contiguous()):
    scores = q @ (image + pe).transpose(-1, -2) + biases[..., None]
    weights = F.pad(scores.view(b, tp, h, n)[:, :t].softmax(1), (0, 0, 0, 0, 0, tp - t)).reshape(b, h * tp, n)
    expected = F.layer_norm(weights.transpose(1, 2) @ v + image, (c,), weight, bias, 1e-5)
    given = q, biases, v, image, pe, (weight, bias, 1e-5), h, t
    if image is x:
        x1 = x.clone()
        found = decoder_kernels.update(*given[:3], x1, *given[4:], first)
        assert torch.allclose(found[:1], expected[:1], atol=1e-5)
        assert torch.equal(found[1], x[1]), "the second prompt's are not touched"
    found = decoder_kernels.update(*given, both)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found.data_ptr() == image.data_ptr()) == (image is x), "in its own place"

network = model.load(model.Choice("first", *FIRST_STARTER), torch.device("cpu"), "fp32").network
features = Features(torch.randn(1, 128, 24, 24), (torch.randn(1, 16, 96, 96), torch.randn(1, 32, 48, 48)))
points = 384 * torch.rand(2, 2)
for storage, error in ((torch.float32, 1e-5), (torch.float16, 2e-3)):
    found = []
    for fused in (False, True):
        decoder = DeviceDecoder(network, True, storage, fused=fused)
        assert (decoder.kernels is not None) == fused
        shared = decoder.shared(features)
        tile = decoder.transform(decoder.tokens(points), both, shared)
        logits = decoder.upscale(tile.image, tile.rows, torch.tensor([1, 0, 1, 0]), torch.tensor(3), shared)
        found.append((tile.predicted_iou, tile.image, logits[:3]))
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
official, starter = dict(C=256), dict(C=128)
jobs = []
for most in (99 << 10, 227 << 10):
    cut = k.tiles_for(most)
    for shape, tokens in ((official, 8), (starter, 7)):
        sizes = {"D": shape["C"] // 2, "HT": 64}
        jobs.append((most, k._attend, [half] * 4 + ["*i64", half, "i32"], {**shape, **sizes}, cut.attend))
        sizes = dict(H=8, T=tokens, TP=8, TILES=k._UPDATES)
        kinds = [half] * 7 + ["*i64", half, "fp32", "i32", "i32"]
        jobs.append((most, k._update, kinds, {**shape, **sizes}, cut.update))
        kinds = [half, half, "*i64", "*i64"] + [half] * 7 + ["fp32", "i32", "i32"]
        jobs.append((most, k._upscale, kinds, {**shape, "M": 3, "STEP": k._STEP}, cut.upscale))
for most, kernel, kinds, sizes, tile in jobs:
    sizes = {**sizes, "BLOCK": tile.tokens, "STAGES": tile.stages}
    names = [*kernel.arg_names[: len(kinds)], *sizes]
    signature = {name: kind for name, kind in zip(names, kinds + ["constexpr"] * len(sizes), strict=True)}
    assert sorted(signature) == sorted(kernel.arg_names)
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds) if kind != "fp32"}
    for capability in (90,) if most > 200 << 10 else (80, 89, 90):
        made = triton.compile(
            ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, sizes, aligned),
            target=GPUTarget("cuda", capability, 32), options={"num_warps": tile.warps, **k._limits(tile)})
        assert made.metadata.shared <= most, (kernel, capability, made.metadata.shared)
        assert "mma" in made.asm["ptx"], "no tensor cores"
        print(kernel, capability, made.metadata.shared)
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="triton's compiler is for Linux")
def test_compiled_for_real_gpus_they_fit_the_shared_memory(tmp_path) -> None:
    assert len(run_python(_COMPILED, TRITON_CACHE_DIR=str(tmp_path)).splitlines()) == 24


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
    count, every = torch.tensor(len(chosen) - 1).cuda(), torch.tensor(len(points)).cuda()
    tile = exact.transform(exact.tokens(points), every, shared)
    expected = tile.predicted_iou, tile.image, exact.upscale(tile.image, tile.rows, chosen, count, shared)[:-1]
    # Of the kernels also as they are cut for smaller devices.
    for cut in (None, 99 << 10, 227 << 10):
        decoder = DeviceDecoder(network, True, torch.float16, fused=cut is not None)
        assert (decoder.kernels is not None) == (cut is not None)
        if decoder.kernels is not None:
            decoder.tiles = decoder.kernels.tiles_for(cut)
        shared = decoder.shared(features)
        tile = decoder.transform(decoder.tokens(points), every, shared)
        found = tile.predicted_iou, tile.image, decoder.upscale(tile.image, tile.rows, chosen, count, shared)[:-1]
        for a, b in zip(found, expected, strict=True):
            assert (a.float() - b).norm() < 5e-3 * b.norm()
