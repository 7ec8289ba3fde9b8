"""The pictures that sinks write: every pixel of overlay, labels, masks and cutouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from densecli.masks import Segmentation
from densecli.sinks import WriteOptions, cutouts, labels, labels_leaves, labels_wholes, overlay
from densecli.sinks import masks as mask_files


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.7, 1.0])
def test_overlay(alpha: float, segmentation: Segmentation, masks: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "desk_overlay.png"
    overlay.write(segmentation, path, WriteOptions(alpha=alpha))
    expected = segmentation.pixels.astype(float)
    for mask, where in zip(segmentation.masks, masks, strict=True):  # later masks are smaller, and lie on top
        color = np.array(ImageColor.getrgb(mask.color))
        expected[where] = segmentation.pixels[where] * (1 - alpha) + color * alpha
    drawn = read(path)
    assert drawn.dtype == np.uint8 and drawn.shape == segmentation.pixels.shape
    assert np.abs(drawn - expected).max() <= 0.501  # rounding, at most
    outside = ~np.any(masks, axis=0)
    np.testing.assert_array_equal(drawn[outside], segmentation.pixels[outside])
    if alpha == 0:
        np.testing.assert_array_equal(drawn, segmentation.pixels)


def test_overlay_leaves_the_image_itself_alone(segmentation: Segmentation, tmp_path: Path) -> None:
    before = segmentation.pixels.copy()
    overlay.write(segmentation, tmp_path / "o.png", WriteOptions(alpha=1.0))
    np.testing.assert_array_equal(segmentation.pixels, before)


def test_labels(segmentation: Segmentation, masks: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "desk_labels.png"
    labels.write(segmentation, path, WriteOptions())
    expected = np.zeros((12, 20), int)
    for number, mask in enumerate(masks, 1):
        expected[mask] = number
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_labels_of_wholes_and_of_leaves(segmentation: Segmentation, masks: list[np.ndarray], tmp_path: Path) -> None:
    """The second mask as a part of the first one: neither has the other's pixels where it is left out."""
    first, second, third = segmentation.masks
    segmentation.masks = [first, replace(second, parent=1), third]
    for sink, which, shown in ((labels_wholes, "wholes", (1, 3)), (labels_leaves, "leaves", (2, 3))):
        path = tmp_path / f"desk_labels_{which}.png"
        sink.write(segmentation, path, WriteOptions())
        expected = np.zeros((12, 20), int)
        for number in shown:
            expected[masks[number - 1]] = number
        np.testing.assert_array_equal(read(path), expected)
        np.testing.assert_array_equal(segmentation.labels(which), expected)  # type: ignore[arg-type]
    assert segmentation.labels().max() == 3 and not segmentation.labels("wholes").flags.writeable


def test_labels_hold_more_ids_than_a_byte(segmentation: Segmentation, masks: list[np.ndarray], tmp_path: Path) -> None:
    segmentation.masks = [replace(mask, id=60_000 + mask.id) for mask in segmentation.masks]
    labels.write(segmentation, tmp_path / "l.png", WriteOptions())
    assert set(np.unique(read(tmp_path / "l.png"))) == {0, 60_001, 60_002, 60_003}


def test_masks(segmentation: Segmentation, masks: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "desk_masks"
    mask_files.write(segmentation, path, WriteOptions())
    assert sorted(p.name for p in path.iterdir()) == ["0001.png", "0002.png", "0003.png"]
    for number, mask in enumerate(masks, 1):
        np.testing.assert_array_equal(read(path / f"{number:04d}.png"), np.where(mask, 255, 0))


def test_cutouts(segmentation: Segmentation, masks: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "desk_cutouts"
    cutouts.write(segmentation, path, WriteOptions())
    assert sorted(p.name for p in path.iterdir()) == ["0001.png", "0002.png", "0003.png"]
    for mask, where in zip(segmentation.masks, masks, strict=True):
        x, y, w, h = mask.bbox
        window = where[y : y + h, x : x + w]
        cutout = read(path / f"{mask.id:04d}.png")
        assert cutout.shape == (h, w, 4)
        np.testing.assert_array_equal(cutout[..., 3], np.where(window, 255, 0))
        colors = segmentation.pixels[y : y + h, x : x + w]
        np.testing.assert_array_equal(cutout[..., :3], np.where(window[..., None], colors, 0))


@pytest.mark.parametrize("sink", [mask_files, cutouts])
def test_folders_are_replaced_as_a_whole(sink, segmentation: Segmentation, empty: Segmentation, tmp_path: Path) -> None:
    path = tmp_path / "desk"
    sink.write(segmentation, path, WriteOptions())
    (path / "0009.png").touch()
    sink.write(segmentation, path, WriteOptions())
    assert sorted(p.name for p in path.iterdir()) == ["0001.png", "0002.png", "0003.png"]
    sink.write(empty, path, WriteOptions())
    assert list(path.iterdir()) == []
    assert list(tmp_path.iterdir()) == [path]


def test_without_masks(empty: Segmentation, tmp_path: Path) -> None:
    overlay.write(empty, tmp_path / "o.png", WriteOptions())
    labels.write(empty, tmp_path / "l.png", WriteOptions())
    np.testing.assert_array_equal(read(tmp_path / "o.png"), empty.pixels)
    assert not read(tmp_path / "l.png").any()
