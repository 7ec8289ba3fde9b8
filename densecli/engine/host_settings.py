"""PyTorch's settings that a host program may have made its own: what the engine does must not depend on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Generic, TypeVar

import torch

from densecli.engine.threads import use_threads_that_are_there

T = TypeVar("T")


class Switch(Generic[T]):
    """A setting of the whole process: the first block in sets it, the last one out resets it."""

    def __init__(self, get: Callable[[], T], put: Callable[[T], object], wanted: T) -> None:
        self._get, self._put, self._wanted = get, put, wanted
        self._lock, self._inside = threading.Lock(), 0
        self._before = wanted

    @contextmanager
    def on(self) -> Iterator[None]:
        """The block. Threads may be in such blocks at the same time."""
        with self._lock:
            if self._inside == 0 and (before := self._get()) != self._wanted:
                self._before = before
                self._put(self._wanted)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0 and self._before != self._wanted:
                    self._put(self._before)
                    self._before = self._wanted


_DTYPE = Switch(torch.get_default_dtype, torch.set_default_dtype, torch.float32)


@contextmanager
def own_defaults() -> Iterator[None]:
    """Tensors of which nothing is said are float32 on the CPU, as where the host program set nothing.

    Other threads see the type too, meanwhile; the device is this thread's. Loads and runs begin here, so threads that
    a fork has lost are seen to, too.
    """
    use_threads_that_are_there()
    # As a mode it would cost a call of Python for every operator.
    elsewhere = torch.get_default_device().type != "cpu"
    with _DTYPE.on(), torch.device("cpu") if elsewhere else nullcontext():
        yield
