"""Compiled steps of the factored transformer against the same steps as tensor operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.engine import factor_steps as module
from densecli.engine import upscaler
from densecli.engine.compiled import factor_kernels
from densecli.engine.decoder import PromptDecoder
from densecli.engine.encoder import encode
from densecli.engine.factor_steps import CompiledSteps, FirstLayer, SecondLayer, Shown, TensorSteps, steps_for
from densecli.engine.in_place import Buffers

loops = factor_kernels()
pytestmark = pytest.mark.skipif(loops is None, reason="torch's BLAS cannot be called from compiled loops here")
sizes = {
    "prompts": st.integers(1, 3),
    "heads": st.sampled_from([1, 2, 8]),
    "tokens": st.integers(1, 9),
    "n": st.integers(1, 140),
    "width": st.integers(1, 5),
    "scale": st.sampled_from([0.1, 1.0, 30.0]),
    "seed": st.integers(0, 1000),
}


def both() -> tuple[TensorSteps, CompiledSteps]:
    return TensorSteps(Buffers(used=True)), CompiledSteps(Buffers(used=True), loops)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    # Weights below 1e-18 are dropped by both, but not those just above and just below alike.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-17)


@settings(max_examples=60, deadline=None)
@given(**sizes)
@torch.no_grad()
def test_weights_of_both_layers(prompts, heads, tokens, n, width, scale, seed):
    torch.manual_seed(seed)
    k = heads * tokens

    def of_prompts(times: float = 1.0) -> torch.Tensor:
        return times * torch.randn(prompts, heads, tokens, width)

    def shared() -> torch.Tensor:
        return torch.randn(heads, width, n)

    def gram() -> torch.Tensor:
        values = torch.randn(prompts, k, 4)
        return values @ values.mT

    # Squares so large that a variance stays above 0, whatever the products are.
    squares = torch.full((n,), 1e4)
    layer0 = FirstLayer(shared(), shared(), squares, 32, 1e-5)
    layer1 = SecondLayer(shared(), shared(), shared(), shared(), squares, torch.randn(n), 32, 1e-5)
    first = of_prompts(scale), of_prompts(), gram()
    second = of_prompts(scale), torch.randn(prompts, k, k), (of_prompts(), of_prompts()), (gram(), gram(), gram())
    (a0, s1), (found_a0, found_s1) = (steps.first_weights(layer0, *first) for steps in both())
    close(found_s1, s1)
    close(found_a0, a0)
    (a1, s2), (found_a1, found_s2) = (steps.second_weights(layer1, *second, a0, s1) for steps in both())
    close(found_s2, s2)
    close(found_a1, a1)
    torch.testing.assert_close(
        found_a1.view(prompts, heads, tokens, n).sum(2), torch.ones(prompts, heads, n), rtol=1e-5, atol=1e-5
    )
    for found in (found_a0 / found_s1[:, None], found_a1):
        assert not ((found != 0) & (found.abs() < 1e-19)).any(), "too small for a product to be fast"


@settings(max_examples=60, deadline=None)
@given(last=st.booleans(), **sizes)
@torch.no_grad()
def test_attention(prompts, heads, tokens, n, width, scale, seed, last):
    torch.manual_seed(seed)
    image = Shown(torch.randn(heads, width, n), torch.randn(heads, width, n), torch.randn(heads, n, width))
    queries = scale * torch.randn(prompts, heads, tokens, width)
    factors = tuple(
        (torch.rand(prompts, 6, n), torch.randn(prompts, heads * tokens, 6)) for _ in range(2 if last else 1)
    )
    s1, s2 = 0.1 + torch.rand(2, prompts, n)
    results = [steps.attention(image, queries, factors, s1, s2 if last else None) for steps in both()]
    (pooled, update), (found_pooled, found_update) = results
    assert len(pooled) == len(found_pooled) == len(factors)
    for found, expected in zip([*found_pooled, found_update], [*pooled, update], strict=True):
        close(found, expected)


def test_exponentials():
    x = -torch.cat([torch.linspace(0, 45, 100_000), torch.tensor([0.0, 1e-30, 46.0, 1e4, float("inf")])])
    found = x.clone()
    assert loops is not None
    loops._exponentials(found.numpy(), np.empty(len(x), np.int32))
    torch.testing.assert_close(found.double(), x.double().clamp(-45).exp(), rtol=3e-7, atol=0)


def test_nan_stays_nan():
    """A broken network must not look like a sound one that finds nothing."""
    image = Shown(torch.randn(2, 3, 50), torch.randn(2, 3, 50), torch.randn(2, 50, 3))
    queries = torch.randn(1, 2, 4, 3)
    queries[0, 1, 2, 0] = float("nan")
    factors = ((torch.rand(1, 8, 50), torch.randn(1, 8, 8)),)
    _, update = both()[1].attention(image, queries, factors, torch.ones(1, 50), None)
    assert update[0, 1, 2].isnan().all() and not update[0, 0].isnan().any()


def test_where_blas_cannot_be_called(first_starter, photos, monkeypatch):
    """Tensor operations then; the candidates are the same."""
    features = encode(first_starter, photos["coffee"], torch.device("cpu"), torch.float32)
    points = torch.rand(12, 2, generator=torch.Generator().manual_seed(1)) * first_starter.image_size
    options = {"tile": 8, "multimask_output": True, "pred_iou_thresh": 0.4}
    expected = PromptDecoder(first_starter, features, torch.float32).decode(points, **options)
    assert isinstance(steps_for(Buffers(used=True)), CompiledSteps)
    for where in (module, upscaler):
        monkeypatch.setattr(where, "factor_kernels", lambda: None)
    assert isinstance(steps_for(Buffers(used=True)), TensorSteps)
    decoder = PromptDecoder(first_starter, features, torch.float32)
    found = decoder.decode(points, keep=expected.keep, **options)
    assert len(found.logits) == len(expected.logits) > 5
    torch.testing.assert_close(found.predicted_iou, expected.predicted_iou, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-3)
