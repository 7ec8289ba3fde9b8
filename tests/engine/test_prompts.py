"""Boxes and several points: the same answers as SAM2ImagePredictor's, up to float rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from densecli.engine.decoder import PromptDecoder
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.prompts import Prompt, as_tensors
from densecli.engine.second_look import SecondLook
from densecli.masks import Runs
from tests.engine.test_decoder import features, network, relative_error  # noqa: F401  (a fixture)

CPU = torch.device("cpu")
HEIGHT, WIDTH = 600, 900
BOX = (100.0, 50.0, 640.0, 420.0)
POINTS = ((120.5, 80.0), (300.0, 200.5), (555.0, 399.0))
PROMPTS = {
    "box": Prompt(box=BOX),
    "points": Prompt(points=POINTS),
    "one point": Prompt(points=POINTS[:1]),
    "box and points": Prompt(points=POINTS, box=BOX),
}
EVERYTHING = GeneratorParameters(pred_iou_thresh=0.0, stability_score_thresh=0.0)


def arguments(prompt: Prompt) -> dict:
    """What the predictor wants for a prompt."""
    points = np.array(prompt.points) if prompt.points else None
    labels = None if points is None else np.ones(len(points), dtype=np.int32)
    return {"point_coords": points, "point_labels": labels, "box": None if prompt.box is None else np.array(prompt.box)}


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_float32_on_official_shapes(network, name: str, multimask: bool) -> None:  # noqa: F811
    of = features(network)
    predictor = SAM2ImagePredictor(network)
    predictor._features = {"image_embed": of.embedding, "high_res_feats": list(of.high_res)}
    predictor._orig_hw, predictor._is_image_set = [(HEIGHT, WIDTH)], True
    _, expected_iou, expected = predictor.predict(
        **arguments(PROMPTS[name]), multimask_output=multimask, return_logits=True
    )
    places, labels = as_tensors([PROMPTS[name]] * 3, CPU)
    decoded = PromptDecoder(network, of, torch.float32).decode(
        places / torch.tensor([WIDTH, HEIGHT]) * network.image_size,
        labels=labels,
        tile=2,
        multimask_output=multimask,
        pred_iou_thresh=0.0,
    )
    ours = decoded.logits.view(3, -1, *decoded.logits.shape[1:]).clamp(-32, 32)
    for answer, predicted_iou in zip(ours, decoded.predicted_iou, strict=True):
        assert relative_error(answer, torch.from_numpy(expected)) < 1e-5
        assert np.allclose(predicted_iou.numpy(), expected_iou, atol=1e-5)


def test_a_single_point_is_the_same_either_way(network) -> None:  # noqa: F811
    decoder = PromptDecoder(network, features(network), torch.float32)
    places, labels = as_tensors([Prompt(points=(p,)) for p in POINTS], CPU)
    keys = {"tile": 3, "multimask_output": True, "pred_iou_thresh": 0.0}
    plain, general = decoder.decode(places[:, 0], **keys), decoder.decode(places, labels=labels, **keys)
    assert torch.equal(plain.logits, general.logits) and torch.equal(plain.predicted_iou, general.predicted_iou)


@pytest.fixture(scope="module")
def predictor(starter, photos) -> SAM2ImagePredictor:
    predictor = SAM2ImagePredictor(starter)
    side = starter.image_size
    # The reference fixes these to a 1024-pixel input.
    predictor._bb_feat_sizes = [(side // k, side // k) for k in (4, 8, 16)]
    predictor.set_image(photos["coffee"])
    return predictor


@pytest.mark.parametrize("name", PROMPTS)
def test_masks_are_those_of_the_predictor(starter, photos, predictor, name: str) -> None:
    height, width = photos["coffee"].shape[:2]
    scale = width / WIDTH
    prompt = Prompt(
        tuple((x * scale, y * scale) for x, y in PROMPTS[name].points),
        None if PROMPTS[name].box is None else tuple(v * scale for v in BOX),  # type: ignore[arg-type]
    )
    look = SecondLook(MaskGenerator(starter), photos["coffee"])
    # Of several questions each has its own answers, whatever their lengths.
    other = Prompt(points=((5.0, 5.0), (10.0, 10.0)))
    found = look.answers([other, prompt, other], EVERYTHING)[1]
    assert len(found) == 4
    for multimask, answers in ((False, found[:1]), (True, found[1:])):
        masks, expected_iou, _ = predictor.predict(**arguments(prompt), multimask_output=multimask)
        assert np.allclose([a.predicted_iou for a in answers], expected_iou, atol=1e-5)
        for answer, expected in zip(answers, masks.astype(bool), strict=True):
            mask = np.zeros((height, width), dtype=bool)
            h, w = answer.runs.size
            mask[answer.y : answer.y + h, answer.x : answer.x + w] = answer.runs.decode()
            assert np.count_nonzero(mask != expected) <= 2
            assert (answer.points, answer.prompt_box) == (prompt.points, prompt.xywh)


def test_thresholds_choose_among_the_answers(starter, photos) -> None:
    look = SecondLook(MaskGenerator(starter), photos["coffee"])
    prompt = Prompt(box=(60.0, 20.0, 240.0, 160.0))
    every = look.answers([prompt], EVERYTHING)[0]
    likely = sorted(a.predicted_iou for a in every)[1:3]
    wish = GeneratorParameters(pred_iou_thresh=sum(likely) / 2, stability_score_thresh=0.0)
    some = look.answers([prompt], wish)[0]
    assert [a.predicted_iou for a in some] == [a.predicted_iou for a in every if a.predicted_iou > wish.pred_iou_thresh]
    assert 0 < len(some) < len(every)
    crisp = GeneratorParameters(pred_iou_thresh=0.0, stability_score_thresh=max(a.stability for a in every))
    assert len(look.answers([prompt], crisp)[0]) == 1


def test_points_give_what_a_run_over_them_gives(starter, photos) -> None:
    parameters = GeneratorParameters(points_per_side=6, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    generated = MaskGenerator(starter, parameters).generate(photos["coffee"])
    height, width = photos["coffee"].shape[:2]
    from densecli.engine.grid import point_grid

    look = SecondLook(MaskGenerator(starter), photos["coffee"])
    winners = look.at_points(point_grid(6) * [width, height], parameters)
    found = sorted((w.area, w.box[:2], w.points) for w in winners)
    assert found == sorted((m.area, m.bbox[:2], m.point_coords) for m in generated.masks) and len(found) > 5


def test_progress_counts_on(starter, photos) -> None:
    calls: list[tuple[int, int]] = []
    look = SecondLook(MaskGenerator(starter), photos["coffee"])
    look.progress = lambda done, total: calls.append((done, total))
    for n in (3, 2):
        look.at_points(np.full((n, 2), 50.0), EVERYTHING)
    assert calls == [(3, 3), (5, 5)]
    # Whoever asks next is told of the own points only.
    look.progress = look.progress
    look.at_points(np.full((4, 2), 50.0), EVERYTHING)
    assert calls[2:] == [(4, 4)]


def test_an_empty_question_costs_nothing(starter, photos) -> None:
    look = SecondLook(MaskGenerator(starter), photos["coffee"])
    assert look.answers([], EVERYTHING) == [] and look._whole is None


def test_box_has_its_corners_first() -> None:
    places, labels = as_tensors([PROMPTS["box and points"]], CPU)
    assert places[0, :2].tolist() == [list(BOX[:2]), list(BOX[2:])] and labels.tolist() == [[2, 3, 1, 1, 1]]
    assert PROMPTS["box"].xywh == (100.0, 50.0, 540.0, 370.0) and PROMPTS["points"].xywh is None
    assert len(PROMPTS["box and points"]) == 5


def test_an_answer_without_a_pixel_is_harmless(starter, photos) -> None:
    wish = GeneratorParameters(pred_iou_thresh=0.0, stability_score_thresh=0.0, mask_threshold=99.0)
    answers = SecondLook(MaskGenerator(starter), photos["coffee"]).answers([Prompt(box=BOX)], wish)[0]
    assert [a.area for a in answers] == [0] * 4 and all(a.runs.size == Runs.empty().size for a in answers)
