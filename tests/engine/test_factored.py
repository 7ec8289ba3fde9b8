"""Image tokens in factors against image tokens written out, and against sam2's own transformer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.modeling.sam.transformer import TwoWayTransformer as Official

from densecli.engine.factor_steps import TensorSteps
from densecli.engine.factored import FactoredTransformer
from densecli.engine.image_tokens import FirstConvolution
from densecli.engine.in_place import Buffers
from densecli.engine.two_way import TwoWayTransformer


def official(channels: int, heads: int, seed: int, depth: int = 2) -> Official:
    torch.manual_seed(seed)
    transformer = Official(depth=depth, embedding_dim=channels, num_heads=heads, mlp_dim=2 * channels)
    with torch.no_grad():
        for p in transformer.parameters():
            # Signals keep their size; biases and norms are random too, to be seen.
            p.add_(0.3 * torch.randn_like(p)) if p.dim() < 2 else p.normal_(0, p.shape[1] ** -0.5)
    return transformer.requires_grad_(False)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@settings(max_examples=30, deadline=None)
@given(
    channels=st.sampled_from([64, 96, 256]),
    heads=st.sampled_from([1, 2, 8]),
    prompts=st.integers(1, 4),
    tokens=st.integers(2, 9),
    side=st.integers(2, 12),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    reused=st.booleans(),
    compiled=st.booleans(),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_is_the_transformer(channels, heads, prompts, tokens, side, scale, reused, compiled, seed):
    transformer = official(channels, heads, seed)
    torch.manual_seed(seed + 1)
    n = side * side
    image, pe = scale * torch.randn(n, channels) + 2, torch.randn(n, channels)
    first = FirstConvolution(torch.randn(channels, 4 * 8), torch.randn(n, 4 * 8))
    points = torch.randn(prompts, tokens, channels)

    def as_map(x: torch.Tensor) -> torch.Tensor:
        return x.T.reshape(1, channels, side, side).expand(prompts, -1, -1, -1)

    expected_tokens, expected_image = transformer.double()(as_map(image).double(), as_map(pe).double(), points.double())
    transformer.float()
    plain = TwoWayTransformer(transformer, image, pe, first, Buffers(used=reused))
    started = plain.started(points)
    factored = FactoredTransformer(plain)
    if not compiled:
        factored.steps = TensorSteps(plain.buffers)
    for path in (factored.transform(points, started), plain.transform(points, started, None)):
        updated, found = path
        assert relative_error(found.attended(updated, points), expected_tokens.float()) < 1e-5
        pixels = (expected_image @ first.weight.double() + first.added.double()).float()
        every = slice(None)
        assert relative_error(found.first_pixels()(every, every), pixels) < 1e-5
        chosen = torch.arange(prompts) % 2 == 0
        some = found[chosen]
        assert relative_error(some.attended(updated[chosen], points[chosen]), expected_tokens[chosen].float()) < 1e-5
        window = some.first_pixels()(slice(0, 1), slice(side, 2 * side))
        assert relative_error(window, pixels[:1, side : 2 * side]) < 1e-5


@pytest.mark.parametrize(("depth", "tokens", "serves"), [(2, 7, True), (2, 16, True), (2, 17, False), (3, 7, False)])
def test_serves_two_layers_and_few_tokens(depth: int, tokens: int, serves: bool):
    assert FactoredTransformer.serves(official(256, 8, 0, depth), tokens) == serves


@torch.no_grad()
def test_weights_next_to_nothing_are_none():
    """Denormal numbers, which sharp attention makes, cost products of matrices ten times their time."""
    scores = torch.tensor([[0.0, -50.0, -95.0, 1.0]])
    assert (scores.softmax(-1) != 0).all()
    weights = Buffers(used=True).softmax("weights", scores, -1)
    assert weights[0, 1] == weights[0, 2] == 0
    torch.testing.assert_close(weights, scores.softmax(-1))
