"""What waits for an engine: bounded, in order, and able to take back what a worker could not finish."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Work:
    """One input on its way through the engine."""

    item: Any
    """densecli.sources.collecting.Item"""
    image: Future[Any]
    """A LoadedImage, or what densecli.batch.pipeline knows to do without one."""
    deaths: int = 0
    """Workers that ended while they had it."""
    failed_on: set[int] = field(default_factory=set)
    """Workers that reported an error about it which may be their own."""


class WorkList:
    """Handed from one feeder to several workers. Work given back comes before work that nobody has had."""

    def __init__(self, workers: int, room: int) -> None:
        self._condition = threading.Condition()
        self._new: deque[Work] = deque()
        self._returned: deque[Work] = deque()
        self._room = room
        self._out = 0
        self._closed = self._stopped = False
        self._workers = set(range(workers))

    def put(self, make: Callable[[], Work]) -> bool:
        """Add `make()` when there is room, so that nothing is decoded too early. False: nobody wants more."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopped or len(self._new) + len(self._returned) < self._room)
            if self._stopped:
                return False
            self._new.append(make())
            self._condition.notify_all()
            return True

    def get(self, worker: int) -> Work | None:
        """The next piece for a worker, which then owes `done` or `give_back`; None: there will be no more."""
        with self._condition:
            while True:
                work = self._take(worker)
                if work is not None:
                    self._out += 1
                    self._condition.notify_all()
                    return work
                if self._closed and not self._out and not self._new and not self._returned:
                    return None
                self._condition.wait()

    def _take(self, worker: int) -> Work | None:
        for work in self._returned:
            # Another worker should try; where there is none left that has not, anyone may.
            if worker not in work.failed_on or not self._workers - work.failed_on:
                self._returned.remove(work)
                return work
        return self._new.popleft() if self._new else None

    def done(self) -> None:
        """A piece that was taken is finished with."""
        with self._condition:
            self._out -= 1
            self._condition.notify_all()

    def give_back(self, work: Work) -> None:
        """A piece that was taken must be done again."""
        with self._condition:
            self._out -= 1
            self._returned.append(work)
            self._condition.notify_all()

    def leave(self, worker: int) -> int:
        """A worker goes for good. Returns how many are left."""
        with self._condition:
            self._workers.discard(worker)
            self._condition.notify_all()
            return len(self._workers)

    def others_left(self, worker: int) -> bool:
        """Whether some other worker is there."""
        with self._condition:
            return bool(self._workers - {worker})

    def close(self) -> None:
        """Nothing more will be put."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def stop(self) -> list[Work]:
        """Take everything back that no worker has, and accept no more."""
        with self._condition:
            self._stopped = self._closed = True
            left = [*self._returned, *self._new]
            self._returned.clear()
            self._new.clear()
            self._condition.notify_all()
            return left
