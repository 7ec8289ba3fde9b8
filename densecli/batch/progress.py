"""How far a run is: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from tqdm import tqdm

from densecli.console import Console
from densecli.wording import shown_input

PLAIN_SECONDS = 30.0
_REDRAW_SECONDS = 0.2


class Progress:
    """Call `tick` often; it decides when something is to be shown. total: inputs of the run, None while unknown."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._begin = self._shown = clock()
        self.done = self.failed = self.complete = 0
        self.total: int | None = None

    def tick(self, current: Mapping[int, tuple[str, float]]) -> None:
        """current: name and fraction of what each worker is at."""
        now = self._clock()
        terminal = self._console.shows_progress
        if now - self._shown < (_REDRAW_SECONDS if terminal else PLAIN_SECONDS):
            return
        self._shown = now
        if terminal:
            self._console.status(self._bar(now - self._begin, current))
        else:
            self._console.notice(self._line(now - self._begin, current))

    @property
    def _ended(self) -> int:
        return self.done + self.failed

    def _rate(self, elapsed: float) -> float:
        return self._ended / elapsed if elapsed > 0 else 0.0

    def _bar(self, elapsed: float, current: Mapping[int, tuple[str, float]]) -> str:
        # Inputs that were complete already took no time: they must not make the rate look better than it is.
        at = " ".join(
            f"{shown_input(name)} {fraction:.0%}" if fraction else shown_input(name)
            for name, fraction in list(current.values())[:1]
        )
        tail = ", ".join(filter(None, [f"{self.failed} failed" if self.failed else "", at]))
        total = None if self.total is None else max(self.total - self.complete, self._ended)
        return tqdm.format_meter(
            self._ended,
            total,
            elapsed,
            ncols=self._console.width - 1,
            unit="image",
            rate=self._rate(elapsed) or None,
            postfix=tail or None,
        )

    def _line(self, elapsed: float, current: Mapping[int, tuple[str, float]]) -> str:
        rate = self._rate(elapsed)
        ended = self._ended + self.complete
        parts = [f"{ended:,} of {self.total:,}" if self.total is not None else f"{ended:,}"]
        parts[0] += " images"
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        parts.append(f"{rate:.2f} images/s" if rate >= 0.1 or not rate else f"{1 / rate:.0f} s an image")
        if self.total is not None and rate:
            parts.append(f"{tqdm.format_interval(max(0, self.total - ended) / rate)} left")
        if current:
            parts.append(f"now {shown_input(next(iter(list(current.values())))[0])}")
        return ", ".join(parts)
