"""The one thing at a time that needs the model: in a thread of its own, with progress, and it can be called off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from densecli.errors import DensecliError, UsageError
from densecli.wording import reason_of

Progress = Callable[[int, int], None]
State = Literal["running", "done", "failed", "cancelled"]


class _CalledOff(Exception):
    pass


@dataclass
class Job:
    """number: counts up. what: in words. done, total: points. result: what the work left for the page to go to."""

    number: int
    what: str
    state: State = "running"
    done: int = 0
    total: int = 0
    error: str = ""
    result: Any = None


class Jobs:
    """Runs one job at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._call_off = threading.Event()
        self._job: Job | None = None

    def start(self, what: str, work: Callable[[Progress], Any]) -> Job:
        """Begin. work: gets what to call with points done and points in all, and with 0 of 0 where nothing is counted.

        Raises UsageError while another runs.
        """
        with self._lock:
            if self._job is not None and self._job.state == "running":
                raise UsageError(f"the model is busy ({self._job.what}); wait for it, or stop it")
            job = self._job = Job(0 if self._job is None else self._job.number + 1, what)
            self._call_off.clear()
            # A daemon: whoever ends the command does not wait for an encoder that cannot be interrupted.
            self._thread = threading.Thread(target=self._run, args=(job, work), name="tune-model", daemon=True)
            self._thread.start()
            return job

    def latest(self) -> Job | None:
        return self._job

    def stop(self, wait_seconds: float = 0.0) -> bool:
        """Call the job off; it ends with its batch of points, or the edge it is at. Returns whether it has by then."""
        self._call_off.set()
        if self._thread is None:
            return True
        self._thread.join(wait_seconds)
        return not self._thread.is_alive()

    def _run(self, job: Job, work: Callable[[Progress], Any]) -> None:
        def progress(done: int, total: int) -> None:
            if total:
                job.done, job.total = done, total
            if self._call_off.is_set():
                raise _CalledOff

        try:
            job.result = work(progress)
            job.state = "done"
        except _CalledOff:
            job.state = "cancelled"
        except DensecliError as error:
            job.error, job.state = str(error), "failed"
        except Exception as error:
            job.error, job.state = f"unexpected {type(error).__name__}: {reason_of(error)}", "failed"
