"""Seconds by stage of one image's run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class _Ahead:
    """A stage whose work a GPU may still be at: when it began, when the host left it, and its events."""

    stage: str
    begin: float
    left: float
    events: tuple[torch.cuda.Event, torch.cuda.Event]

    def late(self) -> float:
        """Seconds for which the device was at it after the host had left; both events must be past."""
        first, last = self.events
        return max(0.0, self.begin + first.elapsed_time(last) / 1e3 - self.left)


@dataclass
class Clock:
    """seconds: by stage. A stage inside another counts for itself only."""

    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0, "postprocess": 0.0})
    _inside: float = 0.0
    _ahead: list[_Ahead] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str, device: torch.device, *, wait: bool = True) -> Iterator[None]:
        """Count the block for a stage; work that a GPU still has to do is waited for.

        wait: without, the next stage's work is queued while a GPU is at this one's. What that takes is known at the
        end of the next stage that waits, which gives it back. The device must have nothing to do at the beginning.
        """
        begin, before = time.perf_counter(), self._inside
        self._inside = 0.0
        events = None
        if device.type == "cuda" and not wait:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record(torch.cuda.current_stream(device))
        late = 0.0
        try:
            yield
            if events is not None:
                events[1].record(torch.cuda.current_stream(device))
                self._ahead.append(_Ahead(stage, begin, time.perf_counter(), events))
            elif device.type == "cuda":
                torch.cuda.synchronize(device)
                late = self._settled()
        finally:
            taken = time.perf_counter() - begin
            self.seconds[stage] += taken - self._inside - late
            self._inside = before + taken

    def _settled(self) -> float:
        """Give stages that were not waited for what they took beyond their blocks: the sum of it."""
        total = 0.0
        for one in self._ahead:
            late = one.late()
            self.seconds[one.stage] += late
            total += late
        self._ahead.clear()
        return total
