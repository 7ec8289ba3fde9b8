"""The network's input and features are those of the reference."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.transforms import SAM2Transforms
from torch.utils._python_dispatch import TorchDispatchMode

from densecli.engine import encoder

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 4000), (4000, 1), (37, 53), (384, 384), (500, 333), (1200, 1800), (4000, 60)]
)
@pytest.mark.parametrize("strip", [1000, 4_000_000])
def test_input_equals_the_reference(size: tuple[int, int], strip: int, monkeypatch) -> None:
    """Also where the photo is resized in many strips."""
    monkeypatch.setattr(encoder, "_STRIP_PIXELS", strip)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = SAM2Transforms(resolution=384, mask_threshold=0.0)(pixels)[None]
    actual = encoder.model_input(pixels, 384, CPU)
    assert actual.shape == expected.shape and torch.allclose(actual, expected, atol=2e-6)


class Largest(TorchDispatchMode):
    """Notes the most numbers that an operator gave."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        result = function(*given, **(named or {}))
        self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize("size", [(20_000, 10), (500, 10), (300, 400), (10, 20_000)])
def test_nothing_is_larger_than_a_few_inputs_of_the_model(size: tuple[int, int], monkeypatch) -> None:
    """However tall and narrow the picture is: its rows, resized, would be six times all of it."""
    monkeypatch.setattr(encoder, "_STRIP_PIXELS", 10_000)
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    with Largest() as largest:
        encoder.model_input(pixels, 64, CPU)
    assert 3 * 64 * 64 <= largest.most <= 8 * 3 * 64 * 64


@pytest.mark.parametrize("which", ["starter", pytest.param("starter_that_ships", marks=pytest.mark.slow)])
def test_features_equal_the_reference(which: str, photos, request) -> None:
    starter = request.getfixturevalue(which)
    predictor = SAM2ImagePredictor(starter)
    side = starter.image_size
    predictor._bb_feat_sizes = [(side // k, side // k) for k in (4, 8, 16)]
    predictor.set_image(photos["coffee"])
    with torch.inference_mode():
        features = encoder.encode(starter, photos["coffee"], CPU, torch.float32)
    assert torch.allclose(features.embedding, predictor._features["image_embed"], atol=1e-5)
    for mine, theirs in zip(features.high_res, predictor._features["high_res_feats"], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("which", ["starter", pytest.param("starter_that_ships", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_products_kept_in_half_precision_change_nothing(which: str, photos, request) -> None:
    """Autocast would round their weights the same way, for every photo. Norms stay as they are."""
    network = request.getfixturevalue(which)
    other = copy.deepcopy(network)
    encoder.cast_products(other.image_encoder, torch.bfloat16)
    kinds = {type(m).__name__: m.weight.dtype for m in other.image_encoder.modules() if hasattr(m, "weight")}
    assert kinds["Conv2d"] == kinds["Linear"] == torch.bfloat16 and kinds["LayerNorm"] == torch.float32
    expected, actual = (encoder.encode(n, photos["coffee"], CPU, torch.bfloat16) for n in (network, other))
    for a, b in zip((actual.embedding, *actual.high_res), (expected.embedding, *expected.high_res), strict=True):
        assert torch.equal(a, b)


def test_read_only_pixels(starter) -> None:
    pixels = np.zeros((10, 10, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    assert torch.isfinite(encoder.model_input(pixels, 64, CPU)).all()
