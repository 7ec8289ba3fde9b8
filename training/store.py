"""Cached scenes on the training device: shards are taken in as they appear, and batches are drawn from all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.cache import finished_shards, open_shard


@dataclass(frozen=True)
class Batch:
    """pixels: B×S×S×3 uint8. atoms: B×S×S int16. tables: B×A×4 int16. photo: B bool. All on one device."""

    pixels: torch.Tensor
    atoms: torch.Tensor
    tables: torch.Tensor
    photo: torch.Tensor


class SceneStore:
    """A scene of 512 pixels takes 1.3 MB; on a GPU they are kept in its memory, so that no step waits for the host.

    On a CPU the shards stay memory-mapped files. most: scenes taken in at most; later shards are then left alone.
    """

    def __init__(self, cache: Path, device: torch.device, most: int) -> None:
        self.cache, self.device, self.most = cache, device, most
        self._seen: set[Path] = set()
        self._shards: list[Batch] = []
        self._ends = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def refresh(self, at_a_time: int = 4) -> None:
        """Take in shards that were finished since, a few at a time so that the GPU does not wait long."""
        for path in [p for p in finished_shards(self.cache) if p not in self._seen][:at_a_time]:
            if len(self) >= self.most:
                return
            self._seen.add(path)
            self.add(path)

    def add(self, path: Path) -> None:
        """Take in one shard."""
        shard = open_shard(path)
        on_gpu = self.device.type != "cpu"
        arrays = [np.array(a) if on_gpu else a for a in (shard.pixels, shard.atoms, shard.tables, shard.photo)]
        self._shards.append(Batch(*(torch.from_numpy(a).to(self.device) for a in arrays)))
        self._ends = np.cumsum([len(s.photo) for s in self._shards])

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """Scenes at random, with repetition."""
        chosen = rng.integers(len(self), size=count)
        shards = np.searchsorted(self._ends, chosen, side="right")
        begins = np.concatenate([[0], self._ends])
        return self._gathered([(int(s), int(i - begins[s])) for s, i in zip(shards, chosen, strict=True)])

    def first(self, count: int) -> Batch:
        """The first scenes in their order."""
        places = [(s, i) for s, shard in enumerate(self._shards) for i in range(len(shard.photo))]
        return self._gathered(places[:count])

    def _gathered(self, places: list[tuple[int, int]]) -> Batch:
        pixels, atoms, tables, photo = (
            torch.stack([getattr(self._shards[s], name)[i] for s, i in places])
            for name in ("pixels", "atoms", "tables", "photo")
        )
        return Batch(pixels, atoms, tables, photo.bool())
