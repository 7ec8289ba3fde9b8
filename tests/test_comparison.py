"""Several presets on one photo: how often the model runs, that nothing differs from single runs, and the sheet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from densecli import Segmenter
from densecli.comparison import Comparison, compare
from densecli.contact_sheet import contact_sheet, shades
from densecli.engine import generator
from densecli.engine.proposals import same_candidates
from densecli.presets import load_preset
from densecli.segmenter import _loaded
from tests.conftest import FIRST_STARTER
from tests.same_masks import assert_same_masks

GRID = ["points_per_side=8", "min_mask_region_area=20"]
# The small starter, which is done three times as soon, and thresholds at which it finds something.
FINDS = ["pred_iou_thresh=0.45", "stability_score_thresh=0.65"]
LOOSE = ["pred_iou_thresh=0.3", "stability_score_thresh=0.5", "box_nms_thresh=0.9"]


def segmenter(*overrides: str, preset: str = "dense") -> Segmenter:
    return Segmenter(preset, str(FIRST_STARTER[0]), "cpu", overrides=[*FINDS, *overrides])


@pytest.fixture(scope="module")
def pair(photo: np.ndarray) -> Comparison:
    return compare(_loaded(photo), [segmenter(*GRID), segmenter(*GRID, *LOOSE)])


@pytest.mark.parametrize(
    ("wishes", "runs"),
    [
        ([GRID], 1),
        ([GRID, GRID], 1),
        ([GRID, [*GRID, *LOOSE], [*GRID, "parts=wholes"]], 1),
        ([GRID, ["points_per_side=4"]], 2),
        ([GRID, ["points_per_side=4"], [*GRID, *LOOSE], ["points_per_side=4", *LOOSE]], 2),
        # The first layer of the second is all there is of the first: the second one leads, wherever it comes.
        ([GRID, [*GRID, "crop_n_layers=1"]], 1),
        ([[*GRID, "crop_n_layers=1"], GRID], 1),
        ([GRID, [*GRID, "mask_threshold=0.5"]], 2),
        # What only the model can answer is asked on top of the shared run.
        ([["points_per_side=3"], ["points_per_side=3", "fill=true"], ["points_per_side=3", "ask_for_wholes=true"]], 1),
    ],
)
def test_one_run_a_grid_and_the_masks_of_single_runs(photo: np.ndarray, wishes: list[list[str]], runs: int) -> None:
    segmenters = [segmenter(*wish) for wish in wishes]
    compared = compare(_loaded(photo), segmenters)
    assert compared.runs == runs
    for alone, result in zip(segmenters, compared.results, strict=True):
        single = alone(photo)
        assert_same_masks(result.summary()["masks"], single.summary()["masks"])
        assert result.masks
        assert (result.funnel, result.preset, result.fill) == (single.funnel, single.preset, single.fill)


def test_the_image_is_encoded_once_a_run_and_once_for_questions(photo: np.ndarray, monkeypatch) -> None:
    encodings = []
    real = generator.encode
    monkeypatch.setattr(generator, "encode", lambda *args: encodings.append(1) or real(*args))
    grid = "points_per_side=3"
    wishes = [[grid], [grid, "fill=true"], [grid, "ask_for_wholes=true"], [grid, "fill=true", "ask_for_wholes=true"]]
    assert compare(_loaded(photo), [segmenter(*wish) for wish in wishes]).runs == 1
    assert len(encodings) <= 2


def test_one_network_by_two_names(photo: np.ndarray) -> None:
    """As the weights of a checkpoint that are named once by its name and once by their path."""
    one, other = segmenter("points_per_side=3"), segmenter("points_per_side=3")
    other.model = replace(other.model, name="forklift")
    compared = compare(_loaded(photo), [one, other])
    assert one.network is other.network
    assert [result.model["name"] for result in compared.results] == ["first_starter", "forklift"]


def test_runs_that_share_nothing_to_move_keep_nothing(photo: np.ndarray) -> None:
    compared = compare(_loaded(photo), [segmenter(*GRID), segmenter(*GRID)])
    assert compared.results[0] is compared.results[1] and compared.results[0].proposals is None


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 12])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (1, 400), (400, 1)])
def test_sheet_of_any_number_and_shape(n: int, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = segmenter("points_per_side=4", *LOOSE)(pixels)
    sheet = contact_sheet([(f"preset {i}", result) for i in range(n)])
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert 600 < sheet.shape[1] <= 2600 and sheet.shape[0] > 150


def test_same_candidate_same_colour_in_every_panel(pair: Comparison) -> None:
    first, second = pair.results
    of_first, of_second = shades([first, second])
    assert of_first == [mask.color for mask in first.masks] and len(second.masks) > len(first.masks)
    by_scores = {(m.predicted_iou, m.stability_score): c for m, c in zip(first.masks, of_first, strict=True)}
    shared = [
        (by_scores[m.predicted_iou, m.stability_score], c)
        for m, c in zip(second.masks, of_second, strict=True)
        if (m.predicted_iou, m.stability_score) in by_scores
    ]
    assert len(shared) > 1 and all(one == other for one, other in shared)
    assert of_second != [mask.color for mask in second.masks]  # ids alone would colour the same thing differently


def test_title_with_everything_in_it(pair: Comparison) -> None:
    name = "ä名\n\0\x1b" + 300 * "x"
    assert contact_sheet([(name, result) for result in pair.results]).size


@pytest.mark.parametrize("shape", [(40, 60), (600, 60), (60, 600)])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_long_names_stay_in_their_panels(n: int, shape: tuple[int, int]) -> None:
    result = segmenter("points_per_side=2", *LOOSE)(np.full((*shape, 3), 128, np.uint8))
    result.image["path"] = "line_" * 40 + "photo.png"
    sheet = contact_sheet([(f"{'solder-joints-' * 20}v{i}", result) for i in range(n)])
    ground = (sheet == sheet[0, 0]).all(2)
    assert bool(ground[:, :48].all()) and bool(ground[:, -48:].all())
    columns = int(np.diff(ground.all(0).astype(int)).clip(min=0).sum())
    assert columns == {(600, 60): max(2, n), (60, 600): 2 if n == 1 else 1}.get(shape, 2)  # with room between them


def test_presets_of_the_package_share_their_runs() -> None:
    presets = [load_preset(name).resolve("starter").generator for name in ("dense", "keyboard-fix")]
    assert same_candidates((200, 300), *presets) and same_candidates((200, 300), *presets[::-1])
