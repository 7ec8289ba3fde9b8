"""Cached scenes on the training device: shards are taken in as they appear, and batches are drawn from all of them."""

from __future__ import annotations

import threading
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

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.pixels, self.atoms, self.tables, self.photo


class SceneStore:
    """A scene of 512 pixels takes 1.3 MB; on a GPU they are kept in its memory, so that no step waits for the host.

    On a CPU the shards stay memory-mapped files. most: scenes taken in at most; later shards are then left alone. On a
    GPU the memory for that many is taken with the first shard, and a batch is drawn from it at once.
    """

    def __init__(self, cache: Path, device: torch.device, most: int) -> None:
        self.cache, self.device, self.most = cache, device, most
        self._seen: set[Path] = set()
        self._shards: list[Batch] = []
        self._together: Batch | None = None
        self._thread: threading.Thread | None = None
        self._ends = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def refresh(self, *, beside: bool = False) -> None:
        """Take in shards that were finished since. beside: in a thread of its own, while training goes on."""
        if self._thread is not None and self._thread.is_alive():
            if beside:
                return
            self._thread.join()
        if beside and self.device.type != "cpu":
            self._thread = threading.Thread(target=self._take_in, daemon=True)
            self._thread.start()
        else:
            self._take_in()

    def _take_in(self) -> None:
        for path in [p for p in finished_shards(self.cache) if p not in self._seen]:
            if len(self) >= self.most:
                return
            self._seen.add(path)
            self.add(path)

    def add(self, path: Path) -> None:
        """Take in one shard."""
        shard = open_shard(path)
        arrays = Batch(*(torch.from_numpy(a) for a in (shard.pixels, shard.atoms, shard.tables, shard.photo)))
        begin, count = len(self), len(shard)
        if self.device.type == "cpu":
            self._shards.append(arrays)
        else:
            count = min(count, self.most - begin)
            if self._together is None:
                self._together = Batch(*(_room_for(self.most, a, self.device) for a in arrays.tensors))
            stream = torch.cuda.Stream(self.device)
            with torch.cuda.stream(stream):
                for all_of_them, new in zip(self._together.tensors, arrays.tensors, strict=True):
                    all_of_them[begin : begin + count].copy_(new[:count])
            stream.synchronize()  # before anybody may draw them
        self._ends = np.append(self._ends, begin + count)

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """Scenes at random, with repetition."""
        return self._gathered(rng.integers(len(self), size=count))

    def first(self, count: int) -> Batch:
        """The first scenes in their order."""
        return self._gathered(np.arange(min(count, len(self))))

    def _gathered(self, chosen: np.ndarray) -> Batch:
        if self._together is not None:
            places = torch.from_numpy(chosen).pin_memory().to(self.device, non_blocking=True)
            pixels, atoms, tables, photo = (t.index_select(0, places) for t in self._together.tensors)
        else:
            shards = np.searchsorted(self._ends, chosen, side="right") - 1
            within = chosen - self._ends[shards]
            pixels, atoms, tables, photo = (
                torch.stack([tensors[s][i] for s, i in zip(shards, within, strict=True)])
                for tensors in zip(*(shard.tensors for shard in self._shards), strict=True)
            )
        return Batch(pixels, atoms, tables, photo.bool())


def _room_for(scenes: int, like: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty(scenes, *like.shape[1:], dtype=like.dtype, device=device)
