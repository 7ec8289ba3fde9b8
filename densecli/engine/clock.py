"""Seconds by stage of one image's run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Clock:
    """seconds: by stage. A stage inside another counts for itself only."""

    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0, "postprocess": 0.0})
    _inside: float = 0.0

    @contextmanager
    def timed(self, stage: str, device: torch.device) -> Iterator[None]:
        """Count the block for a stage; work that a GPU still has to do is waited for."""
        begin, before = time.perf_counter(), self._inside
        self._inside = 0.0
        try:
            yield
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        finally:
            taken = time.perf_counter() - begin
            self.seconds[stage] += taken - self._inside
            self._inside = before + taken
