"""With `--device cuda:1` that GPU is the current one while the engine works, as what has no tensor to tell it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from densecli.engine import current_device, device_loop, triton_kernels
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.prompts import Prompt
from densecli.engine.second_look import SecondLook

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
EVERY = GeneratorParameters(points_per_side=1, pred_iou_thresh=0.0, stability_score_thresh=0.0)


class Entered:
    """Stands in for torch.cuda.device: the devices that are current, the innermost last."""

    def __init__(self) -> None:
        self.now: list[torch.device] = []
        self.all: list[torch.device] = []

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        self.now.append(device)
        self.all.append(device)
        try:
            yield
        finally:
            self.now.pop()


@pytest.fixture
def entered(monkeypatch) -> Entered:
    fake = Entered()
    monkeypatch.setattr(torch.cuda, "device", fake)
    return fake


def test_only_a_cuda_device_is_made_current(entered: Entered) -> None:
    with current_device.current(CPU), current_device.current(torch.device("mps")):
        assert entered.now == []
    with pytest.raises(ZeroDivisionError), current_device.current(SECOND):
        assert entered.now == [SECOND]
        raise ZeroDivisionError
    assert entered.now == [] and entered.all == [SECOND]


ENTRIES: dict[str, Callable[[SecondLook], object]] = {
    "generate": lambda look: look._generator.generate(look._pixels),
    "at points": lambda look: look.at_points(np.array([[3.0, 4.0]]), EVERY),
    "answers": lambda look: look.answers([Prompt(box=(1.0, 2.0, 9.0, 9.0))], EVERY),
    "encoded": lambda look: look._encoded(),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_all_work_of_the_engine_is_done_with_its_device_current(starter, monkeypatch, name: str) -> None:
    """Also at a later question, for which nothing is encoded."""
    entered = Entered()
    monkeypatch.setattr(current_device, "current", entered)
    worked: list[list[torch.device]] = []
    for part in ("prompted", "winners", "in_batches", "_scored"):
        whole = getattr(MaskGenerator, part)

        def noted(*given, whole=whole, **named):
            worked.append(list(entered.now))
            return whole(*given, **named)

        monkeypatch.setattr(MaskGenerator, part, noted)
    look = SecondLook(MaskGenerator(starter, EVERY), np.zeros((12, 10, 3), dtype=np.uint8))
    for _ in range(2):
        ENTRIES[name](look)
        assert worked and all(devices and set(devices) == {CPU} for devices in worked)
        assert entered.now == []
        if name != "encoded":
            worked.clear()


def test_a_copy_to_the_host_is_waited_for_on_its_own_device(monkeypatch) -> None:
    recorded = []
    event = SimpleNamespace(record=lambda *given: recorded.append(given), synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream of", device))
    host = SimpleNamespace(copy_=lambda tensor, non_blocking: None)
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: host)
    tensor = SimpleNamespace(device=SECOND, shape=(), dtype=torch.int64)
    assert device_loop.OnTheWay(tensor).arrived() is host  # type: ignore[arg-type]
    assert recorded == [(("stream of", SECOND),)]


def test_each_device_tries_the_scoring_kernel_out(entered: Entered, monkeypatch) -> None:
    """An old card beside a new one gets none."""
    tried = []

    def try_out(device: torch.device) -> None:
        tried.append((device, entered.now[-1]))
        if device == FIRST:
            raise RuntimeError("no kernel image is available")

    fake = SimpleNamespace(try_out=try_out)
    monkeypatch.setitem(sys.modules, "densecli.engine.scoring_kernel", fake)
    monkeypatch.setattr(sys.modules["densecli.engine"], "scoring_kernel", fake, raising=False)
    triton_kernels.scoring_kernel.cache_clear()
    try:
        for _ in range(2):
            assert triton_kernels.scoring_kernel(FIRST) is None
            assert triton_kernels.scoring_kernel(SECOND) is fake
    finally:
        triton_kernels.scoring_kernel.cache_clear()
    assert tried == [(FIRST, FIRST), (SECOND, SECOND)]
