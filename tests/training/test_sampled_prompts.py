"""What is asked and what counts as right: points lie on masks, truths are those masks, and views keep both together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.augment import augmented, plain
from training.cache import open_shard, shard_path
from training.prompts import prompts_for
from training.scenes.labels import OBJECT
from training.store import Batch, SceneStore


@pytest.fixture
def store(small_cache: Path) -> SceneStore:
    store = SceneStore(small_cache, torch.device("cpu"), 100)
    store.refresh()
    return store


def test_held_out_scenes_are_never_trained_on(store: SceneStore, small_cache: Path) -> None:
    assert len(store) == 8
    first = store.first(8).pixels.numpy()
    assert np.array_equal(first[:4], open_shard(shard_path(small_cache, 0)).pixels)


def test_truths_are_the_masks_at_the_points(store: SceneStore) -> None:
    views = plain(store.first(4), 128)
    prompts = prompts_for(views, 6, torch.Generator().manual_seed(1))
    assert prompts.valid.any(1).float().mean() > 0.9
    q = 0
    for b in range(4):
        tables, atoms = views.tables[b], views.atoms[b]
        for p in range(6):
            x, y = prompts.points[b, p].long().tolist()
            ids = tables[atoms[y, x]]
            assert ids.any()
            for truth in prompts.truths[q][prompts.valid[q]]:
                masks = [(tables[:, level][atoms] == ids[level]).float() for level in range(4) if ids[level]]
                shares = [torch.nn.functional.avg_pool2d(m[None], 4)[0] for m in masks]
                assert any(torch.equal(truth, s) for s in shares)
            q += 1


def test_views_move_picture_and_truth_alike(store: SceneStore) -> None:
    """A scene whose colours are its atoms stays one, whatever crop, flip or turn; only colour is left out here."""
    from training.augment import _cropped, _frames

    batch = store.first(4)
    painted = (batch.atoms[..., None] * 7 % 251).expand(-1, -1, -1, 3).to(torch.uint8)
    batch = Batch(painted, batch.atoms, batch.tables, batch.photo)
    frames = _frames(batch, 128, torch.Generator().manual_seed(4))
    pixels, atoms = _cropped(batch, frames, 128)
    agrees = (pixels[:, 0] * 255 - (atoms * 7 % 251)).abs() < 1.5
    assert agrees.float().mean() > 0.75, "all but the pixels at edges, which are mixed"


def test_pasted_objects_bring_their_truth(store: SceneStore) -> None:
    batch = store.draw(16, np.random.default_rng(0))
    views = augmented(batch, 64, torch.Generator().manual_seed(2))
    pasted = views.atoms >= batch.tables.shape[1]
    assert pasted.any() and views.atoms.max() < views.tables.shape[1]
    for b in torch.nonzero(pasted.flatten(1).any(1))[:, 0].tolist():
        guests = views.tables[b][views.atoms[b][pasted[b]]]
        assert len(torch.unique(guests[:, OBJECT])) == 1, "one object is pasted at a time"
        hosts = views.tables[b][views.atoms[b][~pasted[b]]]
        assert not np.isin(guests[:, OBJECT].numpy(), hosts[:, OBJECT].numpy()).any()
    assert torch.isfinite(views.pixels).all()


def test_views_are_no_larger_than_the_scene(store: SceneStore) -> None:
    side = store.first(1).pixels.shape[1]
    with pytest.raises(ValueError, match=f"{side + 32} pixels"):
        plain(store.first(1), side + 32)


def test_views_of_any_side_show_the_scene(store: SceneStore) -> None:
    """Also of one that does not divide the scene's: pixels are means of what they cover, atoms lie where they lay."""
    batch = store.first(2)
    side = batch.pixels.shape[1]
    views = plain(batch, 3 * side // 4)
    assert views.pixels.shape[-1] == views.atoms.shape[-1] == 3 * side // 4
    whole = plain(batch, side)
    means = (views.pixels.mean((2, 3)) - whole.pixels.mean((2, 3))).abs()
    assert means.max() < 0.02
    shares = [torch.bincount(v.atoms.flatten(), minlength=1024) / v.atoms.numel() for v in (views, whole)]
    assert (shares[0] - shares[1]).abs().max() < 0.01
