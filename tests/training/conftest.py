"""A network small enough to train in seconds, and a cache of small scenes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))  # `training` is no part of the installed package

SIDE = 128


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter's config with fewer channels and blocks."""
    from training.network import CONFIG

    tree = OmegaConf.load(CONFIG)
    encoder = tree.model.image_encoder
    encoder.trunk.stem = 8
    encoder.trunk.stages = [[1, 8, 1, 1, 3], [2, 16, 1, 2, 3], [2, 24, 1, 2, 5], [2, 32, 1, 2, 3], [2, 48, 1, 2, 3]]
    encoder.trunk.top_down = [16, 24, 32, 48]
    encoder.neck.backbone_channel_list = [32, 24, 16]
    encoder.neck.d_model = 64
    encoder.neck.position_encoding.num_pos_feats = 64
    tree.model.image_size = SIDE
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    OmegaConf.save(tree, path)
    return path


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of four scenes, and a held-out one."""
    from training.cache import HELD_OUT, write_shard
    from training.scenes import Bank

    cache = tmp_path_factory.mktemp("cache")
    for number in (0, 1, HELD_OUT):
        write_shard(cache, number, Bank(), seed=3, scenes=4, size=SIDE)
    return cache
