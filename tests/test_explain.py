"""Advice for disappointing results: it names the filter at fault, and following it helps."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecli import Segmenter
from densecli.engine.generator import Funnel
from densecli.explain import many_parts, why_empty
from densecli.presets import load_preset
from tests.conftest import FIRST_STARTER

# Its predicted IoU stays below 1, so that a threshold of 1 leaves nothing.
BELOW_ONE = str(FIRST_STARTER[0])
DENSE = load_preset("dense").resolve("large").parameters()


def settings_in(advice: str) -> list[str]:
    """The KEY=VALUE words that an advice tells to set."""
    return re.findall(r"--set (\S+=[^\s;,]+)", advice)


FILTERS = {
    "pred_iou_thresh": ["pred_iou_thresh=1.0", "stability_score_thresh=0.5"],
    "stability_score_thresh": ["stability_score_thresh=1.0"],
    "min_mask_region_area": ["min_mask_region_area=9999999"],
    "max_mask_area_fraction": ["max_mask_area_fraction=0.00001", "min_mask_region_area=0"],
}


@pytest.mark.parametrize("key", FILTERS)
def test_following_the_advice_gives_a_mask(key: str, photo: np.ndarray) -> None:
    given, model = ["points_per_side=4", *FILTERS[key]], BELOW_ONE if key == "pred_iou_thresh" else "starter"
    result = Segmenter("default", model, "cpu", overrides=given)(photo)
    assert len(result.masks) == 0 and result.coverage == 0
    np.testing.assert_array_equal(result.overlay(), photo)
    assert result.advice is not None and "\n" not in result.advice
    assert key in result.advice
    changes = settings_in(result.advice)
    assert [change.partition("=")[0] for change in changes] == [key]
    again = Segmenter("default", model, "cpu", overrides=[*given, *changes])(photo)
    assert len(again.masks) >= 1


def test_with_crops_the_advice_leads_to_a_mask_in_the_end(photo: np.ndarray) -> None:
    # The best candidate may be one that a crop's edge cuts off, so the first advice may not be enough.
    given, said = ["points_per_side=3", "crop_n_layers=1", "pred_iou_thresh=1.0", "stability_score_thresh=0.5"], []
    for _ in range(3):
        result = Segmenter("default", BELOW_ONE, "cpu", overrides=given)(photo)
        if result.masks:
            break
        assert result.advice is not None
        said.append(result.advice)
        given += settings_in(result.advice)
    assert result.masks and said


def test_a_mask_threshold_that_nothing_passes(photo: np.ndarray) -> None:
    given = ["points_per_side=4", "mask_threshold=100", "stability_score_thresh=0", "pred_iou_thresh=0"]
    result = Segmenter("default", "starter", "cpu", overrides=given)(photo)
    assert len(result.masks) == 0
    assert result.advice is not None and "mask_threshold 100" in result.advice
    changes = settings_in(result.advice)
    assert changes == ["mask_threshold=0"]
    assert Segmenter("default", "starter", "cpu", overrides=[*given, *changes])(photo).masks


def test_crops_of_which_only_cut_off_candidates_survive() -> None:
    funnel = Funnel(points=80, candidates=240, after_pred_iou=9, after_stability=4)
    advice = why_empty(funnel, DENSE | {"crop_n_layers": 1})
    assert "edge of a crop" in advice
    assert settings_in(advice) == ["pred_iou_thresh=0.42", "stability_score_thresh=0.45"]


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_value_lets_the_best_candidate_through(best_iou: float, best_stability: float) -> None:
    (change,) = settings_in(why_empty(Funnel(candidates=3, best_predicted_iou=best_iou), DENSE))
    value = float(change.partition("=")[2])
    assert value == 0 or value < best_iou  # predicted IoU has to be greater; 0 switches the filter off
    assert value >= best_iou - 0.03  # and is no lower than it has to be
    funnel = Funnel(candidates=3, after_pred_iou=2, best_stability=best_stability)
    (change,) = settings_in(why_empty(funnel, DENSE))
    assert best_stability - 0.03 <= float(change.partition("=")[2]) <= best_stability


def _masks(*areas_and_parents: tuple[int, int | None]) -> list[Any]:
    return [SimpleNamespace(id=i, area=a, parent=p) for i, (a, p) in enumerate(areas_and_parents, 1)]


def test_a_keyboard_full_of_keys_points_to_keyboard_fix() -> None:
    advice = many_parts(_masks((10_000, None), (900, None), *[(80, 1)] * 30))
    assert advice is not None
    assert advice.startswith("30 of 32 masks are small parts of mask 1;") and "--preset keyboard-fix" in advice
    load_preset("keyboard-fix")  # it exists


@pytest.mark.parametrize(
    "masks",
    [
        _masks(),
        _masks((10_000, None), (900, None), (800, None)),
        _masks((10_000, None), (5_000, 1), (4_000, 1)),  # parts, but large ones
        _masks((10_000, None), (9_000, None), (80, 1), (70, 2)),  # not most of them in one whole
    ],
)
def test_ordinary_results_get_no_advice(masks: list[Any]) -> None:
    assert many_parts(masks) is None
