"""A run's own GPU as the current one, for streams, events, graphs and Triton's launches; and its own precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from densecli.engine.host_settings import own_defaults


class _OnADevice(Protocol):
    @property
    def device(self) -> torch.device: ...


S = TypeVar("S", bound=_OnADevice)
P = ParamSpec("P")
R = TypeVar("R")


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a CUDA device the current one of this thread within the block; nothing for other types."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def on_own_device(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method during which its object's device is the current one, and no autocast of the caller's is on.

    Notebooks of SAM 2 switch it on for all that follows; the engine does so itself where it wants it.
    """

    @wraps(method)
    def on_it(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with current(self.device), own_defaults(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return on_it
