"""State of one image's run, and of one crop in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from densecli.engine import grid, memory
from densecli.engine.candidates import Candidates
from densecli.engine.clock import Clock
from densecli.engine.decoder import PromptDecoder
from densecli.engine.selection import Funnel
from densecli.engine.upsampling import Upsampling

Wanted = Callable[[Candidates, torch.Tensor], torch.Tensor]
"""Which candidates of a batch count (N bool), by numbers and low-resolution logits (N × h × w)."""


@dataclass
class Run:
    """State of one image's run: what is counted and timed along the way."""

    funnel: Funnel = field(default_factory=Funnel)
    clock: Clock = field(default_factory=Clock)
    warnings: list[str] = field(default_factory=list)
    batch: memory.BatchSize | None = None
    loop_limit: memory.LoopSize | None = None
    progress: Callable[[int, int], None] | None = None
    all_points: int = 0
    raised: BaseException | None = None
    """What `progress` raised: the caller's own, as to call a run off, and nothing that another way would mend."""

    def report(self, done: int) -> None:
        """Tell whoever wants to know how many points are done. Raises what that one raises."""
        if self.progress is None:
            return
        try:
            self.progress(done, self.all_points)
        except BaseException as error:
            self.raised = error
            raise

    @property
    def tile(self) -> int:
        assert self.batch is not None
        return self.batch.tile

    def timed(self, stage: str, device: torch.device, *, wait: bool = True) -> AbstractContextManager[None]:
        return self.clock.timed(stage, device, wait=wait)


@dataclass(frozen=True)
class Prompted:
    """One crop, encoded, with its point prompts: N × 2 float32, in pixels of the crop and of the model's input."""

    crop: grid.Crop
    decoder: PromptDecoder
    upsampling: Upsampling
    points: torch.Tensor
    prompts: torch.Tensor
