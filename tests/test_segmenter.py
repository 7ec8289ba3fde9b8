"""The Python API."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
import weakref
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

from densecli import Segmenter, model
from densecli.errors import InputError, UsageError
from densecli.masks import summary_schema
from densecli.model_names import Choice
from densecli.presets import load_preset
from densecli.sources import LoadedImage
from tests.conftest import FIRST_STARTER


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("dense", "starter", "cpu", overrides=["points_per_side=6"])


def test_summary_of_an_array_is_whole(segmenter, photo) -> None:
    result = segmenter(photo)
    summary = result.summary()
    jsonschema.validate(summary, summary_schema())
    stages = {k: v for k, v in summary["seconds"].items() if k != "total"}
    assert summary["seconds"]["total"] == pytest.approx(sum(stages.values()), abs=1e-3)
    assert result.masks[0].decode().shape == photo.shape[:2] and result.overlay().shape == photo.shape
    result.written_in(1.5)
    assert result.seconds["total"] == pytest.approx(summary["seconds"]["total"] + 1.5)


def test_load_time_is_told_once(photo, tmp_path) -> None:
    weights = first_starter_in(tmp_path, "a")
    first = Segmenter("dense", weights, "cpu", overrides=["points_per_side=2"])
    assert first(photo).seconds["load"] > 0 == first(photo).seconds["load"]
    second = Segmenter("dense", weights, "cpu", overrides=["points_per_side=2"])
    assert second(photo).seconds["load"] == 0, "it was loaded before"


def first_starter_in(folder: Path, name: str) -> Path:
    weights, config = FIRST_STARTER
    shutil.copy(config, folder / f"{name}.yaml")
    return Path(shutil.copy(weights, folder / f"{name}{weights.suffix}"))


def test_one_file_by_two_names(tmp_path) -> None:
    weights = first_starter_in(tmp_path, "w")
    by_path = Segmenter("dense", weights, "cpu")
    by_name = model.load(Choice("forklift", weights, weights.with_suffix(".yaml")), torch.device("cpu"), "fp32")
    assert by_name.network is by_path.network and (by_name.name, by_path.model.name) == ("forklift", "w")
    assert by_name.sha256 == by_path.model.sha256


def test_a_model_goes_when_nobody_uses_it(tmp_path) -> None:
    """But for the last one: a program may make a Segmenter a photo."""
    one, other = (Segmenter("dense", first_starter_in(tmp_path, name), "cpu") for name in "ab")
    kept = weakref.ref(other.network)
    gone = weakref.ref(one.network)
    del one, other
    gc.collect()
    assert gone() is None and kept() is not None
    assert Segmenter("dense", tmp_path / f"b{FIRST_STARTER[0].suffix}", "cpu").network is kept()


def test_network_is_shared(segmenter) -> None:
    other = Segmenter("default", "starter", "cpu")
    assert other.network is segmenter.network


def test_results_keep_their_own_picture(segmenter, photo) -> None:
    """As where a video is read into one array, frame after frame."""
    frame = photo.copy()
    result = segmenter(frame, keep_candidates=True)
    before = result.overlay()
    frame[:] = 0
    assert np.array_equal(result.pixels, photo) and np.array_equal(result.overlay(), before)
    assert np.array_equal(result.proposals.read_pixels(), photo)


def test_pictures_of_pillow(segmenter, photo) -> None:
    expected = [mask.segmentation for mask in segmenter(photo).masks]
    picture = Image.fromarray(photo)
    assert [mask.segmentation for mask in segmenter(picture).masks] == expected
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(photo, 1)))
    turned.getexif()[0x0112] = 6  # as a camera writes it
    assert np.array_equal(segmenter(turned).pixels, photo)
    with pytest.raises(InputError, match="has no pixels"):
        segmenter(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("given", [b"\x89PNG" * 1000, None, [1, 2], torch.zeros(3, 4, 4)])
def test_what_is_no_image_is_named_by_its_kind(segmenter, given) -> None:
    with pytest.raises(InputError, match=rf"a \w+\.{type(given).__qualname__} is no image; give a path") as caught:
        segmenter(given)
    assert len(str(caught.value)) < 200


def test_slips_of_the_api_are_told(segmenter, photo) -> None:
    assert Segmenter("dense", "starter", torch.device("cpu")).network is segmenter.network
    with pytest.raises(UsageError, match="device 0: give auto, cuda"):
        Segmenter("dense", "starter", 0)  # type: ignore[arg-type]
    for slip in ({"preset": None}, {"preset": 3}, {"model": None}, {"checkpoint_dir": 3}, {"config": 1.5}):
        (name, value), *_ = slip.items()
        with pytest.raises(UsageError, match=f"{name} {value}: give a (name|path)"):
            Segmenter(**{"model": "starter", **slip})
    assert Segmenter("dense", "Starter", "cpu").network is segmenter.network
    with pytest.raises(UsageError, match=r"keep_candidates 0.5: give True, False or"):
        segmenter(photo, keep_candidates=0.5)
    with pytest.raises(UsageError, match=r"a builtins.bytes holds no candidates"):
        Segmenter.refilter(b"abc", "dense")  # type: ignore[arg-type]
    for values in (load_preset("dense"), "dense"):  # else the run goes to its end before it fails
        with pytest.raises(UsageError, match=r"give those of Preset.resolve\(model\), or make another Segmenter"):
            segmenter.with_values(values)
    result = segmenter(photo)
    for alpha in (70, -0.1, float("nan")):
        with pytest.raises(ValueError, match="no opacity; give a number from 0 to 1"):
            result.overlay(alpha)
    with pytest.raises(ValueError, match="choose from all, wholes, leaves"):
        result.labels("foo")


@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
@pytest.mark.filterwarnings("ignore")  # Meta's
def test_annotations_are_those_of_metas_generator(photo, mode) -> None:
    segmenter = Segmenter("default", "starter", "cpu", overrides=["points_per_side=6", "pred_iou_thresh=0.5"])
    network = segmenter.network
    theirs = SAM2AutomaticMaskGenerator(
        network, points_per_side=6, pred_iou_thresh=0.5, stability_score_thresh=0.95, output_mode=mode
    )
    theirs.predictor._bb_feat_sizes = [(network.image_size // n,) * 2 for n in (4, 8, 16)]
    expected = sorted((m for m in theirs.generate(photo) if m["area"]), key=lambda m: -m["area"])
    actual = segmenter(photo).annotations(mode)
    assert len(actual) == len(expected) >= 3
    for mine, meta in zip(actual, expected, strict=True):
        assert list(mine) == list(meta) and type(mine["segmentation"]) is type(meta["segmentation"])
        assert np.count_nonzero(decoded(mine) != decoded(meta)) <= 2
        assert mine["area"] == pytest.approx(meta["area"], abs=2)
        assert mine["bbox"] == pytest.approx(
            [meta["bbox"][0], meta["bbox"][1], *(n + 1 for n in meta["bbox"][2:])], abs=1
        )
        assert mine["point_coords"] == meta["point_coords"] and mine["crop_box"] == meta["crop_box"]
        for score in ("predicted_iou", "stability_score"):
            assert mine[score] == pytest.approx(meta[score], abs=2e-3)


def decoded(annotation: dict) -> np.ndarray:
    found = annotation["segmentation"]
    if isinstance(found, np.ndarray):
        assert found.dtype == bool
        return found
    if isinstance(found["counts"], list):
        found = coco.frPyObjects(found, *found["size"])
    return coco.decode(found).astype(bool)


def test_annotations_of_another_mode(segmenter, photo) -> None:
    with pytest.raises(ValueError, match="output_mode 'polygons': choose from binary_mask, uncompressed_rle, coco_rle"):
        segmenter(photo).annotations("polygons")


def test_results_can_be_compared_and_counted(segmenter, photo) -> None:
    result = segmenter(photo, keep_candidates=True)
    again = Segmenter.refilter(result.proposals, "dense", ["points_per_side=6"])
    other = copy.deepcopy(result)
    assert result == result and result != other and again == again and again != result
    assert list(result.masks) == list(other.masks) == list(segmenter(photo).masks)
    assert len({*result.masks, *result.masks, *other.masks}) == len(result.masks) > 1
    pickled = pickle.loads(pickle.dumps(result))
    assert pickled.summary() == result.summary()
    summary = result.summary()
    summary["masks"][0]["segmentation"]["size"][0] = 1
    summary["preset"]["parameters"].clear()
    assert result.masks[0].decode().shape == photo.shape[:2] and result.summary()["preset"]["parameters"]


def test_what_a_notebook_prints_is_a_line(segmenter, photo) -> None:
    """And not the run lengths of every mask."""
    result = segmenter(photo, keep_candidates=True)
    height, width = photo.shape[:2]
    told = f"of '<array>', {width}×{height}: {len(result.masks)} masks, preset dense, model starter>"
    assert repr(result) == f"<Segmentation {told}"
    again = Segmenter.refilter(result.proposals, "dense", ["points_per_side=6"])
    assert repr(again) == f"<Refiltered {told}"
    assert repr(result.masks[0]).startswith(f"Mask(id=1, area={result.masks[0].area}, bbox=(")
    assert result.masks[0].segmentation["counts"] not in repr(result.masks[0])
    assert repr(segmenter) == "<Segmenter: preset dense, model starter, cpu, fp32>"


def test_what_holds_pictures_can_be_compared_and_counted(segmenter, photo) -> None:
    kept = segmenter(photo, keep_candidates=True).proposals
    assert kept == kept and kept != copy.deepcopy(kept) and len({kept, kept}) == 1
    image = LoadedImage("a.png", photo, "0" * 64, ())
    assert image == copy.deepcopy(image) and len({image, copy.deepcopy(image)}) == 1 and len(repr(image)) < 200
    assert image != LoadedImage("a.png", photo, "1" * 64, ())


def test_overrides_lie_over_a_preset_at_hand_too(segmenter, photo) -> None:
    preset = load_preset("dense", ["points_per_side=6"])
    assert (
        Segmenter(preset, "starter", "cpu", overrides=["pred_iou_thresh=0.3"]).resolved.generator.pred_iou_thresh == 0.3
    )
    with pytest.raises(UsageError, match="pred_iou_thresh"):
        Segmenter(preset, "starter", "cpu", overrides=["pred_iou_thresh=3"])
    kept = segmenter(photo, keep_candidates=True).proposals
    assert Segmenter.refilter(kept, preset, ["pred_iou_thresh=0.97"]).preset["parameters"]["pred_iou_thresh"] == 0.97
    with pytest.raises(UsageError, match=r"choose with --set points_per_side=6, or segment the photo again"):
        Segmenter.refilter(kept, "dense")


def test_under_the_callers_autocast(photo) -> None:
    """Notebooks of SAM 2 switch it on for all that follows."""
    plain = Segmenter("dense", "starter", "cpu", overrides=["points_per_side=5"])
    expected = plain(photo).masks
    with torch.autocast("cpu", torch.bfloat16):
        actual = plain(photo).masks
    assert [mask.segmentation for mask in actual] == [mask.segmentation for mask in expected]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(segmenter, array) -> None:
    with pytest.raises(InputError, match="H×W×3 uint8") as caught:
        segmenter(array)
    taken = array.dtype == np.uint8 and array.size
    assert ("PIL.Image.fromarray(array)" in str(caught.value)) == bool(taken)
    if taken:
        assert segmenter(Image.fromarray(array)).size == array.shape[:2]


def test_read_only_and_strided_arrays(segmenter, photo) -> None:
    frozen = photo[::2, ::-1]
    frozen.flags.writeable = False
    assert segmenter(frozen).masks
