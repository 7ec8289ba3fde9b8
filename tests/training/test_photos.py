"""COCO panoptic photos: reading, packing, levels that nest, and scenes made of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from training.photos import Photo, bank_of, levels_of, pack, photos_in
from training.scenes import OBJECT, WHOLE, make_scene

THING, STUFF = 1, 2


@pytest.fixture(scope="session")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as COCO's, with one photo: two things that touch, stuff in two pieces, a void strip."""
    split = tmp_path_factory.mktemp("coco") / "tiny2017"
    (split / "images").mkdir(parents=True)
    (split / "panoptic").mkdir()
    pixels = cv2.resize(skimage.data.astronaut(), (256, 192), interpolation=cv2.INTER_AREA)
    ids = np.zeros((192, 256), np.int64)
    ids[:, :60], ids[:, 180:] = 70_000, 70_000  # stuff, left and right
    ids[40:150, 60:120], ids[40:150, 120:180] = 300, 301  # things, side by side
    coded = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)  # R, G, B
    cv2.imwrite(str(split / "images" / "one.jpg"), pixels[..., ::-1])
    cv2.imwrite(str(split / "panoptic" / "one.png"), coded[..., ::-1])
    listed = [(70_000, STUFF), (300, THING), (301, THING)]
    infos = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in listed]
    document = {
        "categories": [{"id": THING, "isthing": 1}, {"id": STUFF, "isthing": 0}],
        "annotations": [{"file_name": "one.png", "segments_info": infos}],
    }
    (split / "panoptic.json").write_text(json.dumps(document))
    return split.parent


def test_levels_of_a_photo(panoptic: Path) -> None:
    (photo,) = photos_in(panoptic)
    details, parts, objects, wholes = levels_of(photo).astype(int)
    assert len(np.unique(objects[objects > 0])) == 4, "two things and two pieces of stuff"
    assert (objects[:40, 60:180] == 0).all(), "void is no object"
    things = objects[100, 90], objects[100, 150]
    assert things[0] != things[1] and wholes[100, 90] == wholes[100, 150] > 0, "neighbours of a kind are a whole"
    for fine, coarse in ((details, parts), (parts, objects), (objects, wholes)):
        for i in np.unique(fine[fine > 0]):
            assert len(np.unique(coarse[fine == i])) == 1


def test_a_packed_file_is_the_folder(panoptic: Path, tmp_path: Path) -> None:
    assert pack(panoptic, tmp_path / "photos.npz") == 1
    (original,), (packed) = list(photos_in(panoptic)), list(photos_in(tmp_path / "photos.npz"))
    assert isinstance(packed[0], Photo)
    assert np.array_equal(original.segments, packed[0].segments)
    assert np.array_equal(original.thing, packed[0].thing) and np.array_equal(original.category, packed[0].category)
    assert np.abs(original.pixels.astype(int) - packed[0].pixels).mean() < 4


def test_scenes_take_photos_and_cutouts(panoptic: Path) -> None:
    bank = bank_of(panoptic)
    assert len(bank.cutouts) == 2 and len(bank.photos) == 1 and len(bank.colours)
    scenes = [make_scene(np.random.default_rng(seed), bank, 128) for seed in range(10)]
    photos = [s for s in scenes if s.photo]
    assert 0 < len(photos) < 10
    assert all((s.level(OBJECT) > 0).any() for s in photos)
    assert any((s.level(WHOLE) > 0).any() for s in photos)


def test_an_empty_folder_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="panoptic.json"):
        list(photos_in(tmp_path))
