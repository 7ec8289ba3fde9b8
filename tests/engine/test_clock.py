"""Seconds by stage: nested stages, and a GPU that is still at one stage while the next one's work is queued."""

from __future__ import annotations

import time

import pytest
import torch

from densecli.engine.clock import Clock

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Device:
    """Plays a CUDA device with one stream: work takes its time after what was queued before. In seconds of a clock
    that only `pass_by` and waiting move."""

    def __init__(self, monkeypatch) -> None:
        self.now = self.busy_until = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: object) -> None:
                self.at = max(device.now, device.busy_until)

            def elapsed_time(self, other: Event) -> float:
                assert device.now >= other.at, "an event that is not past has no time"
                return (other.at - self.at) * 1e3

        monkeypatch.setattr(torch.cuda, "Event", Event)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    def queue(self, seconds: float) -> None:
        self.busy_until = max(self.now, self.busy_until) + seconds

    def wait(self, device: torch.device) -> None:
        self.now = max(self.now, self.busy_until)


@pytest.fixture
def gpu(monkeypatch) -> Device:
    return Device(monkeypatch)


def test_a_stage_inside_another_counts_for_itself_only(gpu: Device) -> None:
    clock = Clock()
    with clock.timed("postprocess", CPU):
        gpu.pass_by(1)
        with clock.timed("decode", CPU):
            gpu.pass_by(2)
        gpu.pass_by(4)
    assert clock.seconds == {"encode": 0, "decode": 2, "postprocess": 5}


@pytest.mark.parametrize("queued_in", [0.0, 1.0, 20.0])
def test_a_stage_that_is_not_waited_for_gets_the_devices_time(gpu: Device, queued_in: float) -> None:
    """However long the host takes to queue the next stage: what the device was at then is the first one's."""
    clock = Clock()
    with clock.timed("encode", CUDA, wait=False):
        gpu.pass_by(1)
        gpu.queue(10)
    assert gpu.now == 1, "nobody waited"
    with clock.timed("decode", CUDA):
        gpu.pass_by(queued_in)
        gpu.queue(5)
    # The host's 1 s, then the device's 10; of the 5 s after them all, and what the device waited for its work.
    assert clock.seconds["encode"] == pytest.approx(11)
    assert clock.seconds["decode"] == pytest.approx(max(10, queued_in) + 5 - 10)
    assert sum(clock.seconds.values()) == pytest.approx(gpu.now)


def test_a_device_that_is_done_first_adds_nothing(gpu: Device) -> None:
    clock = Clock()
    for _ in range(2):
        with clock.timed("encode", CUDA, wait=False):
            gpu.queue(1)
            gpu.pass_by(3)
        with clock.timed("decode", CUDA):
            gpu.queue(5)
    assert clock.seconds == pytest.approx({"encode": 6, "decode": 10, "postprocess": 0})


def test_what_fails_is_counted_too(gpu: Device) -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError), clock.timed("encode", CUDA, wait=False):
        gpu.pass_by(2)
        raise ZeroDivisionError
    with clock.timed("decode", CUDA):
        gpu.queue(1)
    assert clock.seconds == {"encode": 2, "decode": 1, "postprocess": 0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_stages_on_a_gpu() -> None:
    """A device that is busy for a while: it is the first stage's time, and the host goes on at once."""
    clock = Clock()
    x = torch.rand(8192, 8192, device="cuda")
    torch.mm(x, x)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with clock.timed("encode", CUDA, wait=False):
        for _ in range(20):
            torch.mm(x, x)
    queued = time.perf_counter() - begin
    with clock.timed("decode", CUDA):
        x[0, 0].neg_()
    taken = time.perf_counter() - begin
    assert queued < taken / 2
    assert clock.seconds["encode"] == pytest.approx(taken, rel=0.2)
    assert 0 <= clock.seconds["decode"] < 0.2 * taken
