"""Asking again for wholes: a known network on a drawn keyboard of which only the keys were found."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.engine.asking import _settled, without_known
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.proposals import Floor
from densecli.engine.reasons import Loss, Reasons
from densecli.engine.second_look import SecondLook
from densecli.engine.selection import Funnel, Winner, finished
from densecli.masks import Runs
from tests.same_masks import assert_same_masks

SIZE = HEIGHT, WIDTH = 360, 480
BOARD = 72, 92, 337, 177
"""x, y, width, height."""
LOW = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.6}
# The single-mask output at these points gives keys and no keyboard.
ONLY_KEYS = GeneratorParameters(points_per_side=12, multimask_output=False, ask_for_wholes=True, **LOW)
CLEANUP = CleanupParameters(min_mask_region_area=30)


@pytest.fixture(scope="module")
def keyboard() -> np.ndarray:
    """Two rows of four light keys on a dark board on green."""
    picture = np.full((*SIZE, 3), (120, 150, 110), dtype=np.uint8)
    x, y, w, h = BOARD
    cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), (40, 40, 45), -1)
    for kx, ky, side in keys():
        cv2.rectangle(picture, (kx, ky), (kx + side - 1, ky + side - 1), (225, 225, 220), -1)
    noise = np.random.default_rng(0).normal(0, 4, picture.shape)
    return cv2.GaussianBlur(np.clip(picture + noise, 0, 255).astype(np.uint8), (3, 3), 0)


def keys() -> list[tuple[int, int, int]]:
    return [(72 + 8 + 80 * c + 5, 92 + 8 + 80 * r + 5, 71) for r in range(2) for c in range(4)]


def found(x: int, y: int, w: int, h: int, predicted_iou: float = 0.9) -> Winner:
    runs = Runs.of(np.ones((h, w), dtype=bool))
    return Winner(x, y, runs, predicted_iou, 0.95, ((x + w / 2, y + h / 2),), (0, 0, WIDTH, HEIGHT))


def overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """IoU of boxes x, y, w, h."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def select(first_starter, keyboard, winners: list[Winner], parts: str = "keep", **values: Any):
    parameters = GeneratorParameters(ask_for_wholes=True, **(LOW | values))
    cleanup = CleanupParameters(min_mask_region_area=30, parts=parts)
    look, funnel = SecondLook(MaskGenerator(first_starter), keyboard), Funnel()
    return finished(winners, 1, SIZE, parameters, cleanup, funnel, look=look), funnel


def test_the_keyboard_is_found_and_its_keys_go(first_starter, keyboard) -> None:
    of_keys = [found(x, y, side, side) for x, y, side in keys()]
    masks, funnel = select(first_starter, keyboard, of_keys)
    assert (funnel.asked, funnel.answered, len(masks)) == (1, 1, 9)
    board = masks[0]
    assert overlap(board.bbox, BOARD) > 0.85 and board.predicted_iou > 0.3
    assert {m.parent for m in masks[1:]} == {1}
    # It says what it was asked with: the keys' joint box, or middles of keys.
    x0, y0, x1, y1 = keys()[0][0], keys()[0][1], keys()[-1][0] + 71, keys()[-1][1] + 71
    if board.prompt_box is not None:
        assert board.prompt_box == (x0, y0, x1 - 1 - x0, y1 - 1 - y0) and board.point_coords == ()
        assert board.summary()["prompt_box"] == list(board.prompt_box)
    else:
        middles = {(x + 35.5, y + 35.5) for x, y, _ in keys()}
        assert set(board.point_coords) <= middles and len(board.point_coords) == 8
    assert board.crop_box == (0, 0, WIDTH, HEIGHT)
    dropped, _ = select(first_starter, keyboard, [found(x, y, side, side) for x, y, side in keys()], "drop")
    assert [m.segmentation for m in dropped] == [board.segmentation]


def test_nothing_is_asked_where_the_whole_is_there_or_the_rows_are_short(first_starter, keyboard) -> None:
    of_keys = [found(x, y, side, side) for x, y, side in keys()]
    masks, funnel = select(first_starter, keyboard, [found(*BOARD), *of_keys])
    assert (funnel.asked, funnel.answered, len(masks)) == (0, 0, 9)
    masks, funnel = select(first_starter, keyboard, of_keys[:3])
    assert (funnel.asked, len(masks)) == (0, 3)


@pytest.mark.parametrize(
    "filter_", [{"pred_iou_thresh": 0.99}, {"stability_score_thresh": 1.0}, {"pred_iou_thresh": 1.0}]
)
def test_answers_below_the_thresholds_do_not_count(first_starter, keyboard, filter_: dict[str, float]) -> None:
    masks, funnel = select(first_starter, keyboard, [found(x, y, side, side) for x, y, side in keys()], **filter_)
    assert (funnel.asked, funnel.answered, len(masks)) == (1, 0, 8)


def test_box_nms_decides_between_an_answer_and_a_mask_of_the_same_box(first_starter, keyboard) -> None:
    """A board with holes where its keys are has the keyboard's box; the higher predicted IoU stays."""
    x, y, w, h = BOARD
    with_holes = np.ones((h, w), dtype=bool)
    for kx, ky, side in keys():
        with_holes[ky - y : ky - y + side, kx - x : kx - x + side] = False
    for predicted_iou, answered in ((0.99, 0), (0.1, 1)):
        frame = found(*BOARD, predicted_iou)
        frame.place(x, y, Runs.of(with_holes))
        masks, funnel = select(first_starter, keyboard, [frame, *(found(x, y, side, side) for x, y, side in keys())])
        assert (funnel.asked, funnel.answered, len(masks)) == (1, answered, 9)
        assert (predicted_iou in [m.predicted_iou for m in masks]) == (answered == 0)


def test_a_whole_run(first_starter, keyboard) -> None:
    plain = MaskGenerator(first_starter, ONLY_KEYS.model_copy(update={"ask_for_wholes": False}), CLEANUP).generate(
        keyboard
    )
    run = MaskGenerator(first_starter, ONLY_KEYS, CLEANUP).generate(keyboard)
    assert (run.funnel.asked, run.funnel.answered) == (1, 1)
    before = {m.segmentation["counts"] for m in plain.masks}
    (board,) = [m for m in run.masks if m.segmentation["counts"] not in before]
    assert overlap(board.bbox, BOARD) > 0.85 and len(run.masks) == len(plain.masks) + 1
    assert sum(m.parent == board.id for m in run.masks) >= 8
    assert plain.funnel.asked == plain.funnel.answered == 0
    assert run.funnel.candidates == plain.funnel.candidates and run.funnel.points == plain.funnel.points


def test_kept_candidates_with_the_model_at_hand_give_the_same(first_starter, keyboard) -> None:
    fresh = MaskGenerator(first_starter, ONLY_KEYS, CLEANUP).generate(keyboard)
    other = ONLY_KEYS.model_copy(update={"ask_for_wholes": False, "pred_iou_thresh": 0.9})
    run = MaskGenerator(first_starter, other, CLEANUP)
    proposals = run.generate(keyboard, keep=Floor(0.2, 0.3)).proposals
    assert proposals is not None
    masks, funnel = proposals.select(ONLY_KEYS, CLEANUP, look=SecondLook(run, keyboard))
    assert_same_masks([m.summary() for m in masks], [m.summary() for m in fresh.masks])
    assert funnel == fresh.funnel
    keeping = MaskGenerator(first_starter, ONLY_KEYS, CLEANUP).generate(keyboard, keep=Floor(0.2, 0.3))
    assert_same_masks([m.summary() for m in keeping.masks], [m.summary() for m in fresh.masks])
    assert keeping.funnel == fresh.funnel


def test_the_reason_of_a_mask_that_gave_way_to_an_answer_is_known(first_starter, keyboard) -> None:
    run = MaskGenerator(first_starter, ONLY_KEYS, CLEANUP)
    proposals = run.generate(keyboard, keep=Floor(0.2, 0.3)).proposals
    assert proposals is not None
    journal = Reasons(proposals, ONLY_KEYS)
    masks, funnel = proposals.select(ONLY_KEYS, CLEANUP, journal, look=SecondLook(run, keyboard))
    # Every candidate is a mask or has a reason, and the mask that no candidate made is the answer.
    lost = [journal.loss(i) for i in range(len(proposals))]
    assert sum(loss is None for loss in lost) == len(masks) - 1 and funnel.answered == 1
    weak, answer = found(*BOARD, 0.1), found(*BOARD, 0.5)
    weak.candidate = lost.index(None)
    journal = Reasons(proposals, ONLY_KEYS)
    assert _settled([weak], [answer], 0.7, journal) == [answer]
    assert journal.loss(weak.candidate) == Loss("nms_after_cleanup", 1.0, 0.7, None)


def test_without_the_model_it_says_how_many_groups_it_would_have_asked(first_starter, keyboard) -> None:
    proposals = MaskGenerator(first_starter, ONLY_KEYS, CLEANUP).generate(keyboard, keep=Floor(0.2, 0.3)).proposals
    assert proposals is not None and proposals.refusal(ONLY_KEYS) is None
    masks, funnel = proposals.select(ONLY_KEYS, CLEANUP)
    assert (funnel.asked, funnel.answered, funnel.unasked) == (0, 0, 1)
    plain, without = proposals.select(ONLY_KEYS.model_copy(update={"ask_for_wholes": False}), CLEANUP)
    assert [m.summary() for m in masks] == [m.summary() for m in plain] and without.unasked == 0


def test_seconds_add_up_and_nothing_counts_twice(first_starter, keyboard) -> None:
    import time

    begin = time.perf_counter()
    run = MaskGenerator(first_starter, ONLY_KEYS, CLEANUP).generate(keyboard)
    assert sum(run.seconds.values()) <= time.perf_counter() - begin
    assert min(run.seconds.values()) > 0


boxes = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30))
winners = st.lists(st.builds(lambda b, s: found(*b, s), boxes, st.sampled_from([0.2, 0.5, 0.5, 0.8, 0.9])), max_size=6)


@settings(max_examples=100)
@given(winners, winners, st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_duplicates_are_settled_as_said(known: list[Winner], new: list[Winner], threshold: float) -> None:
    def iou(a: Winner, b: Winner) -> float:
        w = max(0, min(a.box[2], b.box[2]) - max(a.box[0], b.box[0]))
        h = max(0, min(a.box[3], b.box[3]) - max(a.box[1], b.box[1]))
        area = [(c.box[2] - c.box[0]) * (c.box[3] - c.box[1]) for c in (a, b)]
        union = sum(area) - w * h
        return w * h / union if union else 0.0

    left = without_known(new, known, threshold)
    assert all(iou(a, b) <= threshold + 1e-6 for a in left for b in [*known, *(c for c in left if c is not a)])
    for gone in (w for w in new if w not in left):
        assert any(iou(gone, b) > threshold - 1e-6 for b in [*known, *left])
    if not known:
        return
    settled = _settled(known, new, threshold)
    for a in (w for w in new if w in settled):
        rivals = [b for b in settled if b is not a and iou(a, b) > threshold + 1e-6]
        assert not rivals
    for gone in (w for w in known if w not in settled):
        assert any(
            a.predicted_iou > gone.predicted_iou for a in new if a in settled and iou(a, gone) > threshold - 1e-6
        )
