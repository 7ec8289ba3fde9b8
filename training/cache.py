"""Scenes made ahead by many processes, in shards of memory-mapped arrays; a shard is there once it has its final name.

Shard N always holds the same scenes for the same seed and photos, so making them can stop and go on at any time, and
training can begin with the first shards while others are still being made.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from training.scenes import Bank, make_scene
from training.scenes.canvas import SIZE
from training.scenes.labels import LEVELS, MAX_ATOMS

SHARD_SCENES = 128
_FIELDS = {"pixels": np.uint8, "atoms": np.int16, "tables": np.int16, "photo": np.uint8}
# Above every training shard, so that no scene is ever in both.
HELD_OUT = 1_000_000


@dataclass(frozen=True)
class Shard:
    """N scenes, memory-mapped.

    pixels: N×S×S×3 uint8. atoms: N×S×S int16. tables: N×MAX_ATOMS×4 int16. photo: N uint8.
    """

    pixels: np.ndarray
    atoms: np.ndarray
    tables: np.ndarray
    photo: np.ndarray

    def __len__(self) -> int:
        return len(self.photo)


def shard_path(cache: Path, number: int) -> Path:
    return cache / f"shard-{number:07d}"


def finished_shards(cache: Path) -> list[Path]:
    """Shards for training that are complete, in order of their numbers."""
    return [p for p in sorted(cache.glob("shard-???????")) if int(p.name[6:]) < HELD_OUT]


def open_shard(path: Path) -> Shard:
    return Shard(**{name: np.load(path / f"{name}.npy", mmap_mode="c") for name in _FIELDS})


def write_shard(cache: Path, number: int, bank: Bank, seed: int, scenes: int = SHARD_SCENES, size: int = SIZE) -> Path:
    """Make one shard, complete or not at all; nothing happens where it exists."""
    final = shard_path(cache, number)
    if final.exists():
        return final
    rng = np.random.default_rng([seed, number])
    made = [make_scene(rng, bank, size) for _ in range(scenes)]
    tables = np.zeros((scenes, MAX_ATOMS, len(LEVELS)), np.int16)
    for scene, table in zip(made, tables, strict=True):
        table[: len(scene.table)] = scene.table
    arrays = {
        "pixels": np.stack([s.pixels for s in made]),
        "atoms": np.stack([s.atoms for s in made]),
        "tables": tables,
        "photo": np.array([s.photo for s in made]),
    }
    temporary = cache / f"{final.name}.part-{os.getpid()}"
    temporary.mkdir(parents=True, exist_ok=True)
    for name, dtype in _FIELDS.items():
        np.save(temporary / f"{name}.npy", arrays[name].astype(dtype))
    temporary.rename(final)
    return final


def start_making(
    cache: Path, bank_file: Path, shards: int, seed: int, workers: int, size: int = SIZE
) -> list[BaseProcess]:
    """Processes that make one held-out shard and the shards 0 to `shards`, worker w every `workers`-th from w on.

    bank_file: a pickled Bank, which this run has written. They end by themselves, or with this process.
    """
    for left_over in cache.glob("*.part-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    context = multiprocessing.get_context("spawn")  # a fork would take the parent's GPU along
    processes: list[BaseProcess] = []
    for w in range(workers):
        numbers = [n for n in range(w, shards, workers) if not shard_path(cache, n).exists()]
        if w == workers - 1 and not shard_path(cache, HELD_OUT).exists():
            numbers.insert(0, HELD_OUT)
        if numbers:
            processes.append(context.Process(target=_make, args=(cache, bank_file, numbers, seed, size), daemon=True))
            processes[-1].start()
    return processes


def _make(cache: Path, bank_file: Path, numbers: list[int], seed: int, size: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    os.nice(5)  # the training loop's own thread comes first
    bank = pickle.loads(bank_file.read_bytes())
    for number in numbers:
        write_shard(cache, number, bank, seed, size=size)
