"""Generated scenes (benchmarks/scenes): the same at every size, and their truth fits together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks import scenes

SIZE = (360, 240)


@pytest.mark.parametrize("kind", scenes.KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_truth_fits_together(kind: str, seed: int) -> None:
    scene = scenes.make(kind, seed, *SIZE)
    assert scene.pixels.shape == (240, 360, 3) and scene.pixels.dtype == np.uint8
    assert scene.pixels.std() > 10
    owners = np.zeros(SIZE[::-1], dtype=int)
    for i, thing in enumerate(scene.objects):
        mask = thing.mask
        assert mask.shape == SIZE[::-1] and mask.sum() == thing.area > 0
        assert thing.role in ("whole", "part", "lone_part", "small", "background")
        assert (thing.parent is not None) == (thing.role in ("part", "lone_part"))
        if thing.parent is None:
            owners += mask
        else:
            assert thing.parent < i
            assert not (mask & ~scene.objects[thing.parent].mask).any()
    # Wholes hold their parts, so what has no parent covers each pixel exactly once.
    assert (owners == 1).all()


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_each_kind_has_what_it_is_for(kind: str) -> None:
    roles = [o.role for seed in range(4) for o in scenes.make(kind, seed, *SIZE).objects]
    assert "background" in roles
    if kind in ("keyboard", "shelf", "tiles", "house"):
        assert roles.count("part") >= 4 * 4
    if kind in ("mug", "held_box", "house"):
        assert roles.count("lone_part") >= 4
    if kind == "clutter":
        assert roles.count("small") >= 30


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_the_same_scene_at_every_size(kind: str) -> None:
    small, large = scenes.make(kind, 1, *SIZE), scenes.make(kind, 1, 3 * SIZE[0], 3 * SIZE[1])
    assert [o.name for o in large.objects] == [o.name for o in small.objects]
    compared = 0
    for thing, larger in zip(small.objects, large.objects, strict=True):
        if thing.area < 150:
            continue
        shrunk = cv2.resize(larger.mask.astype(np.float32), SIZE, interpolation=cv2.INTER_AREA) > 0.5
        assert (shrunk & thing.mask).sum() > 0.8 * (shrunk | thing.mask).sum(), thing.name
        compared += 1
    assert compared >= 2


def test_deterministic_and_different() -> None:
    one, again, other = (scenes.make("mug", seed, *SIZE) for seed in (5, 5, 6))
    assert np.array_equal(one.pixels, again.pixels)
    assert [o.area for o in one.objects] == [o.area for o in again.objects]
    assert not np.array_equal(one.pixels, other.pixels)
