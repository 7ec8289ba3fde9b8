"""The upscaling against sam2's layers one by one, with compiled loops and without, on any number of threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.sam2_utils import MLP, LayerNorm2d
from torch import nn

from densecli.engine import upscaler as module
from densecli.engine.compiled import upscaling_kernels
from densecli.engine.factored import Factors
from densecli.engine.in_place import Buffers
from densecli.engine.threads import single_threads
from densecli.engine.two_way import WrittenOut
from densecli.engine.upscaler import Upscaler


class Decoder(nn.Module):
    """What an upscaler asks of sam2's mask decoder."""

    def __init__(self, channels: int, high_res: bool, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.use_high_res_features = high_res
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, 2),
            LayerNorm2d(channels // 4),
            activation(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, 2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(channels, channels, channels // 8, 3) for _ in range(4))
        with torch.no_grad():
            for p in self.parameters():
                p.add_(0.3 * torch.randn_like(p))

    def logits(self, image: torch.Tensor, tokens: torch.Tensor, high_res: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """As MaskDecoder.predict_masks; image: B × C × h × w, tokens: B × 3 × C, of outputs 1 to 3."""
        first, norm, act1, second, act2 = self.output_upscaling
        fine, middle = high_res or (0, 0)
        x = act2(second(act1(norm(first(image) + middle))) + fine)
        rows = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, i - 1]) for i in (1, 2, 3)], 1)
        return (rows @ x.flatten(2)).unflatten(2, x.shape[2:])


@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([32, 64, 192]),
    prompts=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window=st.sampled_from([1, 10, 1024]),
    threads=st.integers(1, 3),
    high_res=st.booleans(),
    compiled=st.booleans(),
    activation=st.sampled_from([nn.GELU, nn.ReLU]),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_is_the_official_upscaling(
    channels, prompts, height, width, window, threads, high_res, compiled, activation, seed
):
    torch.manual_seed(seed)
    decoder = Decoder(channels, high_res, activation)
    image, tokens = torch.randn(prompts, channels, height, width), torch.randn(prompts, 3, channels)
    maps = (torch.randn(1, channels // 8, 4 * height, 4 * width), torch.randn(1, channels // 4, 2 * height, 2 * width))
    keep = torch.rand(prompts, 3) < 0.5  # a prompt of which nothing is kept may be among them
    keep[-1, 1] = True
    expected = decoder.double().logits(
        image.double(), tokens.double(), tuple(m.double() for m in maps) if high_res else ()
    )
    decoder.float()
    before, windows = torch.get_num_threads(), module._TOKENS_OF_WINDOW
    torch.set_num_threads(threads)
    module._TOKENS_OF_WINDOW = window
    try:
        made = Upscaler(decoder, maps if high_res else (), (height, width), torch.float32, Buffers(used=True))
        if not compiled:
            made.loops = None
        logits = torch.full((int(keep.sum()) + 1, 4 * height, 4 * width), 7.0)
        made(_tokens(made, image), tokens, range(1, 4), keep, logits)
    finally:
        torch.set_num_threads(before)
        module._TOKENS_OF_WINDOW = windows
    assert (logits[-1] == 7).all(), "wrote beyond what is kept"
    wanted = expected[keep]
    assert float((logits[:-1] - wanted).abs().max()) < 1e-5 * float(wanted.abs().max()) + 1e-6


def _tokens(upscaler: Upscaler, image: torch.Tensor) -> WrittenOut:
    """Image tokens B × N × C, of which an upscaler asks for the first convolution alone."""

    class Transformer:
        first, buffers = upscaler.first, upscaler.buffers

    return WrittenOut(Transformer(), image.flatten(2).mT.contiguous())  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(
    channels=st.sampled_from([32, 64, 192]),
    prompts=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window=st.sampled_from([1, 10, 1024]),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_of_factors_in_one_compiled_call(channels, prompts, height, width, window, seed):
    """The same as window by window from the first convolution's pixels, which the tests above have."""
    torch.manual_seed(seed)
    made = Upscaler(Decoder(channels, high_res=False), (), (height, width), torch.float32, Buffers(used=True))
    image, tokens = _factors(made, prompts, height * width), torch.randn(prompts, 3, channels)
    keep = torch.rand(prompts, 3) < 0.5
    expected, found = torch.full((2, int(keep.sum()) + 1, 4 * height, 4 * width), 7.0)
    made._in_windows(image, made.rows(tokens, range(1, 4)), keep, expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TOKENS_OF_COMPILED_WINDOW", window)
        patch.setattr(made, "_in_windows", None)
        made(image, tokens, range(1, 4), keep, found)
    assert (found[-1] == 7).all(), "wrote beyond what is kept"
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def _factors(upscaler: Upscaler, prompts: int, n: int) -> Factors:
    """Image tokens of five factors a layer."""
    channels = len(upscaler.first.weight)

    class Transformer:
        buffers, pixel_weight = upscaler.buffers, upscaler.first.weight
        pixels, pixel_bias = torch.randn(2, n, channels)

    a0, a1 = torch.rand(2, prompts, 5, n)
    v0, v1 = torch.randn(2, prompts, 5, channels) / 9
    return Factors(Transformer(), a0, v0, a1, v1, *(0.1 + torch.rand(2, prompts, n)))  # type: ignore[arg-type]


@torch.no_grad()
def test_the_number_of_threads_changes_next_to_nothing():
    """The hyper-networks' own products may be summed up in another order."""
    torch.manual_seed(1)
    decoder = Decoder(64, high_res=False)
    image, tokens = torch.randn(6, 64, 40, 40), torch.randn(6, 3, 64)
    keep = torch.ones(6, 3, dtype=torch.bool)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = Upscaler(decoder, (), (40, 40), torch.float32, Buffers(used=True))
            logits = torch.empty(18, 160, 160)
            made(_tokens(made, image), tokens, range(1, 4), keep, logits)
            found.append(logits)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert (other - found[0]).abs().max() < 3e-6 * found[0].abs().max()


def test_gelu_is_torchs():
    """16 numbers at a time: four pixels of four pixels of one channel, times 1."""
    loops = upscaling_kernels()
    assert loops is not None
    special = [0.0, -0.0, 1e-30, -1e-30, 1e30, -30.0, float("inf"), float("nan")]
    x = torch.cat([torch.linspace(-12, 12, 19_992), torch.tensor(special)]).view(-1, 4, 4)
    one, nothing, found = np.ones((1, 1), np.float32), np.zeros((4, 4), np.float32), torch.empty_like(x)
    for block, written in zip(x.numpy(), found, strict=True):
        logits = np.empty((1, 4, 4), np.float32)
        loops.activate_and_multiply(block, nothing, one, logits, 1, 0)
        written.copy_(torch.from_numpy(logits[0].reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)))
    torch.testing.assert_close(found.double(), F.gelu(x.double()), rtol=1e-6, atol=1e-6, equal_nan=True)


def test_other_threads_keep_all_their_threads():
    """Worker threads have one each; torch then gives that number to every new thread unless it is told otherwise."""
    before = torch.get_num_threads()
    seen: list[int] = []
    torch.set_num_threads(3)
    try:
        assert list(single_threads(3).map(lambda _: torch.get_num_threads(), range(6))) == [1] * 6
        assert torch.get_num_threads() == 3
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [3]
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_an_error_in_a_thread_is_raised():
    decoder = Decoder(64, high_res=False)
    made = Upscaler(decoder, (), (8, 8), torch.float32, Buffers(used=True))
    tokens = _tokens(made, torch.randn(4, 64, 4, 4))  # fewer places than the upscaler was made for
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        made(tokens, torch.randn(4, 3, 64), range(1, 4), torch.ones(4, 3, dtype=torch.bool), torch.empty(12, 32, 32))
