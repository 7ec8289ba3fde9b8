"""Run-length encoding of windows, labels, overlay and colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from densecli.masks import MOST_LABELS, Mask, Runs, Segmentation, color_of, counts_of, decode_rle, encode_rle
from densecli.sinks import WriteOptions
from densecli.sinks.one_image import outputs_of, write_outputs


@given(
    seed=st.integers(0, 2**20),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    extent=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    fill=st.floats(0, 1),
)
def test_window_rle_equals_pycocotools_on_the_full_image(seed, size, corner, extent, fill) -> None:
    height, width = size
    y, x = int(corner[0] * (height - 1)), int(corner[1] * (width - 1))
    h, w = 1 + int(extent[0] * (height - y - 1)), 1 + int(extent[1] * (width - x - 1))
    window = np.random.default_rng(seed).random((h, w)) < fill
    full = np.zeros(size, dtype=bool)
    full[y : y + h, x : x + w] = window
    rle = encode_rle(window, x, y, size)
    assert rle["counts"] == coco.encode(np.asfortranarray(full.view(np.uint8)))["counts"].decode()
    assert np.array_equal(decode_rle(rle), full)
    runs, expected = Runs.from_rle(rle), Runs.of(full)
    assert runs.size == size
    for name in ("column", "top", "bottom"):
        assert np.array_equal(getattr(runs, name), getattr(expected, name))
    assert runs.rle() == rle == Runs.from_rle({**rle, "counts": rle["counts"].encode()}).rle()


@pytest.mark.parametrize("counts", ["", "~", "/", "0", "P", "52", "99", "1O1", "P" * 40, "P" * 12 + "0"])
def test_counts_of_no_picture_of_that_size(counts: str) -> None:
    for read in (Runs.from_rle, decode_rle):
        with pytest.raises(ValueError, match="counts"):
            read({"size": [2, 3], "counts": counts})


@pytest.mark.parametrize("size", [(6000, 7000), (60_000, 65_000)])
def test_counts_of_large_pictures(size: tuple[int, int]) -> None:
    """Six and seven digits of five bits."""
    pixels = size[0] * size[1]
    for counts in ([pixels], [0, pixels], [pixels - 3, 3], [5, pixels - 12, 1, 6], [1, 2, pixels - 9, 4, 1, 1]):
        rle = coco.frPyObjects({"size": list(size), "counts": counts}, *size)
        assert counts_of(rle).tolist() == counts


@pytest.mark.filterwarnings("error")
def test_decoding_warns_of_nothing() -> None:
    """pycocotools' decode does under NumPy 2, which ended the tests of programs that take warnings for errors."""
    full = np.random.default_rng(0).random((30, 20)) < 0.4
    rle = encode_rle(full)
    assert np.array_equal(decode_rle(rle), full)
    assert np.array_equal(Runs.of(full).decode(), full)
    frame = (0, 0, 20, 30)
    mask = Mask(1, int(full.sum()), frame, 0.9, 0.9, (), frame, rle, rle["counts"].encode())
    assert np.array_equal(mask.decode(), full)


def test_empty_masks() -> None:
    assert decode_rle(encode_rle(np.zeros((0, 0), dtype=bool))).shape == (0, 0)
    assert not decode_rle(encode_rle(np.zeros((0, 0), dtype=bool), 3, 4, (9, 8))).any()


def test_neighbouring_ids_have_different_colours() -> None:
    colours = [color_of(i) for i in range(1, 400)]
    assert len(set(colours)) > 390
    channels = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours])
    assert np.abs(np.diff(channels, axis=0)).sum(1).min() > 60


SIDE = 258


@pytest.fixture
def crowd() -> Segmentation:
    """More masks than 16 bits can tell apart: one of everything, and one for each pixel but for the last rows."""
    whole = encode_rle(np.ones((SIDE, SIDE), dtype=bool))
    dot, frame = encode_rle(np.ones((1, 1), dtype=bool))["counts"].encode(), (0, 0, SIDE, SIDE)
    masks = [Mask(1, SIDE * SIDE, frame, 0.9, 0.9, (), frame, whole, whole["counts"].encode())]
    for i in range(MOST_LABELS + 10):
        x, y = i % SIDE, i // SIDE
        rle = {"size": [SIDE, SIDE], "counts": ""}
        masks.append(Mask(i + 2, 1, (x, y, 1, 1), 0.9, 0.9, ((x, y),), frame, rle, dot, parent=1))
    image = {"path": "crowd.png", "width": SIDE, "height": SIDE, "sha256": "0" * 64}
    return Segmentation(np.zeros((SIDE, SIDE, 3), np.uint8), masks, image, {}, {}, {}, 1, {}, 0)


def test_more_masks_than_labels_can_tell(crowd: Segmentation) -> None:
    """All count for the coverage and are in the overlay; of the labels the smallest are left out, with a warning."""
    assert crowd.coverage == 1.0 and crowd.summary()["coverage"] == 1.0
    assert crowd.warnings == []
    overlay = crowd.overlay(1.0).reshape(-1, 3)
    for mask in (crowd.masks[5], crowd.masks[-1]):
        x, y, _, _ = mask.bbox
        assert "#" + bytes(overlay[y * SIDE + x]).hex() == mask.color
    for which, rest in (("all", 1), ("leaves", 0)):
        flat = crowd.labels(which).ravel()  # type: ignore[arg-type]
        assert flat.dtype == np.uint16
        assert np.array_equal(flat[: MOST_LABELS - 1], np.arange(2, MOST_LABELS + 1))
        assert set(flat[MOST_LABELS - 1 :]) == {rest}, "what cannot be told is not there"
    assert (crowd.labels("wholes") == 1).all()
    assert crowd.warnings == [
        "labels have 16 bits: of 65,546 masks the 11 smallest are not in them; they are in the summary"
    ]


def test_outputs_of_more_masks_than_labels_can_tell(crowd: Segmentation, tmp_path: Path) -> None:
    outputs = outputs_of("crowd", tmp_path, ["labels", "json"])
    write_outputs(crowd, outputs, WriteOptions())
    assert all(path.is_file() for path in outputs.values())
    summary = json.loads(outputs["json"].read_text(encoding="utf-8"))
    assert len(summary["masks"]) == len(crowd.masks) and len(summary["warnings"]) == 1
    with Image.open(outputs["labels"]) as picture:
        assert np.array_equal(np.asarray(picture), crowd.labels())
