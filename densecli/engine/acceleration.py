"""`compile: true`: functions of tensors of fixed shapes, compiled and captured in CUDA graphs, kept with the network.

Opt-in, because compiling takes up to minutes for the first photo of a process; it pays where many follow. What is
compiled has shapes that depend on the network and on the loop's sizes, never on a photo, so nothing compiles again.
Where the fused kernels serve, capturing them is all: seconds. Both were run on an H100.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# Before a capture, lazily made handles and workspaces must exist; three is what torch.cuda.make_graphed_callables runs.
_WARM_UP_RUNS = 3
SLOTS = 2
# PyTorch captures one graph at a time in a process, whatever the network and the device.
_CAPTURING = threading.Lock()
_OF_A_GRAPH = "_densecli_of_a_graph"


@dataclass(frozen=True)
class Acceleration:
    """How functions run. backend: of torch.compile, or None for plain PyTorch. captured: in CUDA graphs.

    fused: with the Triton kernels for image tokens, where they can be had. That alone is nothing to keep or to warm.
    """

    backend: str | None = None
    captured: bool = False
    fused: bool = False

    def __bool__(self) -> bool:
        return self.backend is not None or self.captured


PLAIN = Acceleration()


@dataclass
class Kept:
    """What a network keeps for as long as it lives: compiled and captured functions, and the memory of the latter.

    One pool of memory for each slot. Graphs of one pool share it for what they need only while they run; they must not
    run between another one's answer and its use. Hold `lock` while working with any of them. refused: acceleration was
    tried with this network and failed. loop_refused: types in which the point loop was. unasked: what is captured
    without being wished for. seen: what came up once so far, and is worth capturing when it comes again.
    """

    lock: Any = field(default_factory=threading.RLock)
    made: dict[Any, Any] = field(default_factory=dict)
    pools: list[Any] = field(default_factory=list)
    refused: bool = False
    loop_refused: set[torch.dtype] = field(default_factory=set)
    unasked: bool = True
    seen: set[Any] = field(default_factory=set)

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()  # a copy of the network starts with nothing: graphs belong to this one's memory

    @staticmethod
    def by(network: torch.nn.Module) -> Kept:
        return vars(network).setdefault("_densecli_kept", Kept())

    def drop(self, *kinds: str) -> None:
        """Forget what was made (of these kinds: "steps", "encoder", "size", "unasked"; without any everything).

        What is captured next gets pools of its own: one whose last graph is gone cannot be captured into again.
        """
        with self.lock:
            self.pools = []
            for key in self.keys(*kinds):
                self.made.pop(key, None)

    def keys(self, *kinds: str) -> list[Any]:
        """Keys of what is made at this moment (of these kinds); other threads may be making more."""
        return [key for key in list(self.made) if not kinds or key[0] in kinds]

    def pool(self, slot: int) -> Any:
        if not self.pools:
            self.pools = [torch.cuda.graph_pool_handle() for _ in range(SLOTS)]
        return self.pools[slot]


class Function:
    """One function of tensors, as `acceleration` wants it; where captured, once for each slot.

    function: takes the tensors that are given to a call, then `fixed`, which are the same memory at every call.
    Where captured, an answer stays until the next call for its slot, or for another function of that slot.
    """

    def __init__(
        self, function: Callable[..., Any], acceleration: Acceleration, kept: Kept, *, fullgraph: bool = True
    ) -> None:
        self.kept, self.captured = kept, acceleration.captured
        self.function = function
        if acceleration.backend is not None:
            self.function = torch.compile(function, backend=acceleration.backend, fullgraph=fullgraph, dynamic=False)
        self.graphs: dict[int, _Captured] = {}

    def __call__(self, *given: torch.Tensor, fixed: tuple[Any, ...] = (), slot: int = 0) -> Any:
        if not self.captured:
            return self.function(*given, *fixed)
        if slot not in self.graphs:
            self.graphs[slot] = _Captured(lambda *places: self.function(*places, *fixed), given, self.kept.pool(slot))
        return self.graphs[slot](*given)


class _Captured:
    """A CUDA graph of a function: it reads and answers in the same memory every time."""

    def __init__(self, function: Callable[..., Any], given: Sequence[torch.Tensor], pool: Any) -> None:
        # What another graph answered stays where it is: reading it there saves a copy at every call.
        self.places = [x if getattr(x, _OF_A_GRAPH, False) else x.clone() for x in given]
        with _CAPTURING:
            self._capture(function, pool)
        for x in [self.answer] if isinstance(self.answer, torch.Tensor) else self.answer:
            setattr(x, _OF_A_GRAPH, True)

    def _capture(self, function: Callable[..., Any], pool: Any) -> None:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP_RUNS):
                function(*self.places)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        # Another thread may be asking for memory: it is none of this graph's business.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.answer = function(*self.places)

    def __call__(self, *given: torch.Tensor) -> Any:
        for own, one in zip(self.places, given, strict=True):
            if own is not one:
                own.copy_(one, non_blocking=True)
        self.graph.replay()
        return self.answer
