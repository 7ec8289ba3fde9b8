"""A tile of prompts that is shared out to threads: the same candidates, in the same order, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densecli.engine.decoder import PromptDecoder
from densecli.engine.encoder import Features, encode
from densecli.engine.upscaler import Upscaler


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def features(first_starter, photos) -> Features:
    return encode(first_starter, photos["coffee"], torch.device("cpu"), torch.float32)


def decoded(network, features: Features, n: int, threads: int, tile: int = 64, **options):
    torch.set_num_threads(threads)
    points = torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) * network.image_size
    options = {"multimask_output": True, "pred_iou_thresh": 0.5} | options
    return PromptDecoder(network, features, torch.float32).decode(points, tile=tile, **options)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(2, 70),
    tile=st.integers(2, 70),
    threads=st.integers(2, 4),
    multimask=st.booleans(),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.6, 2.0]),
)
def test_the_same_as_one_after_the_other(first_starter, features, n, tile, threads, multimask, threshold):
    options = {"multimask_output": multimask, "pred_iou_thresh": threshold}
    alone = decoded(first_starter, features, n, 1, tile, **options)
    # Exactly these, as rounding could tip a candidate over the threshold.
    shared = decoded(first_starter, features, n, threads, tile, **options | {"keep": alone.keep})
    assert torch.equal(shared.keep, alone.keep)
    assert len(shared.logits) == len(alone.logits) == int(alone.keep.sum())
    torch.testing.assert_close(shared.predicted_iou, alone.predicted_iou, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shared.logits, alone.logits, rtol=1e-4, atol=1e-3)


def test_prompts_are_shared_out(first_starter, features, monkeypatch) -> None:
    """Else the tests here compare one thread with itself."""
    shares: list[int] = []
    share_out = PromptDecoder._on_all_threads
    monkeypatch.setattr(
        PromptDecoder, "_on_all_threads", lambda self, *a: shares.append(a[2] - a[1]) or share_out(self, *a)
    )
    decoded(first_starter, features, 64, 2)
    assert shares == [64]
    decoded(first_starter, features, 7, 2)
    decoded(first_starter, features, 64, 1)
    assert shares == [64], "too few prompts, or one thread"


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_a_share_is_raised_and_nobody_waits_for_it(first_starter, features, monkeypatch, failing: int):
    """Out of memory in one thread must reach the caller, which then halves the batch."""
    transformed, calls = PromptDecoder._transformed, []

    def fail(self, pe, prompts):
        calls.append(None)
        if len(calls) == failing + 1:
            raise MemoryError("as if")
        return transformed(self, pe, prompts)

    monkeypatch.setattr(PromptDecoder, "_transformed", fail)
    with pytest.raises(MemoryError, match="as if"):
        decoded(first_starter, features, 64, 3)
    monkeypatch.undo()
    assert decoded(first_starter, features, 64, 3).keep.any()


def test_an_error_behind_the_last_wait_is_raised_too(first_starter, features, monkeypatch) -> None:
    monkeypatch.setattr(Upscaler, "__call__", lambda *a: (_ for _ in ()).throw(MemoryError("as if")))
    with pytest.raises(MemoryError, match="as if"):
        decoded(first_starter, features, 64, 2)


def test_in_inference_mode(first_starter, features) -> None:
    """A user's own; tensors that are made there may be changed there only."""
    expected = decoded(first_starter, features, 64, 2)
    with torch.inference_mode():
        found = decoded(first_starter, features, 64, 2)
    assert torch.equal(found.logits, expected.logits)
