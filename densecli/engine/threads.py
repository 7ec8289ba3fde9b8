"""Work on all threads: compiled loops, which let go of the GIL, and small products of matrices side by side.

And what becomes of them where the process forks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any, TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")
# Slices that a thread takes one after the other, so that one with big masks does not hold up the rest.
_SLICES = 4


class _Inline(Executor):
    """Does the work where it is given."""

    def submit(self, work: Callable[..., A], /, *arguments: Any, **more: Any) -> Future[A]:
        done: Future[A] = Future()
        try:
            done.set_result(work(*arguments, **more))
        except BaseException as error:
            done.set_exception(error)
        return done


def worker_threads(n: int) -> Executor:
    """n threads for compiled loops."""
    return _Inline() if _is_ending() else _worker_threads(n)


def single_threads(n: int) -> Executor:
    """n threads in each of which torch itself uses one.

    For many small products: shared by all threads, every single one of them ends with waiting for the slowest.
    """
    return _Inline() if _is_ending() else _single_threads(n)


def _is_ending() -> bool:
    """Whether the main thread has ended, from when on pools take no work; others may go on for long."""
    return not threading.main_thread().is_alive()


@cache
def _worker_threads(n: int) -> Executor:
    return ThreadPoolExecutor(n, thread_name_prefix="densecli-loops")


@cache
def _single_threads(n: int) -> Executor:
    def alone() -> None:
        torch.get_num_threads()  # a thread's first question gives it the number for all: before, not after
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(n, thread_name_prefix="densecli-products", initializer=alone)
    all_there = Barrier(n + 1)
    for _ in range(n):
        pool.submit(all_there.wait)
    all_there.wait()
    # torch keeps the number by thread, and the last that was set for threads to come: those must not have one.
    torch.set_num_threads(n)
    return pool


_used = False
"""Whether torch may have started threads of its own in this process."""
_lost = False
"""Whether it did so in a process that this one is a fork of."""


def use_threads_that_are_there() -> None:
    """To be called before torch works: in a fork of a process where it worked, it keeps to the calling thread.

    OpenMP would wait there for ever for threads that only the parent has. Stays so for this thread and those to come,
    as in DataLoader's workers.
    """
    global _used
    _used = True
    if _lost and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _forget_threads() -> None:
    """A forked child has the pools, and none of their threads."""
    global _lost
    _worker_threads.cache_clear()
    _single_threads.cache_clear()
    _lost = _lost or _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def without_gradients(work: Callable[..., A]) -> Callable[..., A]:
    """`work` for another thread: in inference mode where this thread is, else as under torch.no_grad."""
    inference = torch.is_inference_mode_enabled()

    def there(*arguments: Any) -> A:
        with torch.inference_mode() if inference else torch.no_grad():
            return work(*arguments)

    return there


def over_threads(work: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """[work(item) for item in items], on several threads where there are several of both.

    `work` must not come here itself: it would wait for threads that wait for it.
    """
    n = torch.get_num_threads()
    return list(worker_threads(n).map(work, items) if n > 1 and len(items) > 1 else map(work, items))


def slices(n: int, least: int) -> list[slice]:
    """0 to n in slices for `over_threads`: four a thread, none of them shorter than `least` but for a lone one.

    Where work on one item takes microseconds, many of them in one compiled call: threads that come back for the GIL
    after every item wait for each other longer than they work (COCO counts, 16 threads: 96 masks in 64 slices 20 ms,
    42 in one slice 6).
    """
    parts = max(1, min(n // least, _SLICES * torch.get_num_threads()))
    return [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)] if n else []
