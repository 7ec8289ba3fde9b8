"""How far a run is, and what that means: resolution, batch, learning rate, kind of loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Until this share of the run: views of `side` pixels, `images` a step, `points` an image."""

    until: float
    side: int
    images: int
    points: int


def phases_of(text: str) -> list[Phase]:
    """`0.2:128:192:16,1:512:32:16` as phases. Raises ValueError, in one line, for something else."""
    try:
        rows = [part.split(":") for part in text.split(",")]
        phases = [Phase(float(until), int(side), int(images), int(points)) for until, side, images, points in rows]
    except ValueError:
        raise ValueError(f"--phases {text}: write SHARE:SIDE:IMAGES:POINTS, separated by commas") from None
    if phases[-1].until != 1 or sorted(p.until for p in phases) != [p.until for p in phases]:
        raise ValueError(f"--phases {text}: shares must rise and end with 1")
    return phases


class Budget:
    """A run's length: so many minutes of training, or so many steps. Interruptions do not count."""

    def __init__(self, minutes: float | None = None, steps: int | None = None) -> None:
        if (minutes is None) == (steps is None):
            raise ValueError("give either minutes or steps")
        self.minutes, self.steps = minutes, steps
        self.step, self.seconds = 0, 0.0
        """Steps done, and seconds that they took, in this process and those before it."""
        self._begin = time.monotonic()

    def start(self) -> None:
        """A step begins now: what was before it, since the last one ended, does not count."""
        self._begin = time.monotonic()

    def stepped(self) -> None:
        """A step has ended, and the next one begins."""
        now = time.monotonic()
        self.step, self.seconds, self._begin = self.step + 1, self.seconds + now - self._begin, now

    @property
    def progress(self) -> float:
        """From 0 to 1 and beyond."""
        if self.steps is not None:
            return self.step / self.steps
        assert self.minutes is not None
        return self.seconds / (60 * self.minutes)

    def state(self) -> dict[str, float]:
        return {"step": self.step, "seconds": self.seconds}

    def resume(self, state: dict[str, float]) -> None:
        self.step, self.seconds = int(state["step"]), state["seconds"]


@dataclass(frozen=True)
class Recipe:
    """The numbers of a run. Shares are of the whole run."""

    phases: list[Phase]
    lr: float = 1e-3
    trunk_lr: float = 0.5  # of lr, for the downward half of the trunk where its weights were given; 0 leaves it alone
    warmup_steps: int = 150
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    focal_until: float = 0.4  # then cross-entropy, for crisper logits
    balance_steps: int = 600
    iou_weight: float = 2.0
    other_prompts: float = 0.2  # share of steps that ask with boxes, several clicks or masks, too
    similarity_weight: float = 0.5
    similarity_until: float = 0.9
    log_every: int = 50

    def phase(self, progress: float) -> Phase:
        return next((p for p in self.phases if progress < p.until), self.phases[-1])

    def learning_rate(self, step: int, progress: float) -> float:
        """One cycle: a short rise, then half a cosine down to 1 %."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.lr * min(1.0, (step + 1) / self.warmup_steps) * (0.01 + 0.99 * cosine)

    def ema_decay(self, step: int) -> float:
        """Short at first, so that the start is soon forgotten."""
        return min(self.ema, (1 + step) / (10 + step))

    def gamma(self, progress: float) -> float:
        return 2.0 if progress < self.focal_until else 0.0

    def balance(self, step: int) -> float:
        return max(0.0, 1 - step / self.balance_steps)
