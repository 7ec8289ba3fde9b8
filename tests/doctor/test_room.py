"""Memory: which networks fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from densecli.doctor import room


def test_what_fits_follows_the_memory_that_is_left() -> None:
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    device = torch.device("cpu")
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 1_300_000_000, before[1]))
    try:
        facts = room.what_fits(device)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert facts["points"]["large"] == 0 and facts["points"]["base-plus"] == 0
    assert 0 < facts["points"]["tiny"] <= facts["most"]
    row = room.judge_memory("cpu", {"total": None, **facts})
    assert row.status == "warning" and "large, base-plus: too big" in row.seen and "use small" in row.seen
    assert (row.fix or "").endswith("segment IMAGE -m small")


def test_what_fits_a_gpu_is_what_its_loop_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision, 4,096 points: as many a tile as the kernels of that GPU take where memory is no limit."""
    from densecli import model
    from densecli.engine import memory, triton_kernels

    monkeypatch.setattr(model, "resolve_precision", lambda asked, device: "bf16")
    for shared_memory, most in ((64 << 10, 128), (99 << 10, 512)):
        monkeypatch.setattr(triton_kernels, "shared_memory", lambda device, found=shared_memory: found)
        for free, whole in ((24_000_000_000, True), (2_600_000_000, False)):
            monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
            facts = room.what_fits(torch.device("cuda"))
            assert facts["most"] == most
            assert (facts["points"]["large"] == most) is whole
            assert facts["points"]["tiny"] > 0


def test_memory_in_words() -> None:
    sizes = {"tiny": 1, "large": 2}
    facts = {"free": 8e9, "total": 16e9, "most": 64, "points": {"tiny": 64, "large": 64}, "sizes": sizes}
    row = room.judge_memory("cpu", facts)
    assert (row.status, row.seen) == ("ok", "8.0 of 16.0 GB free; with dense, large, tiny fit")
    row = room.judge_memory("cuda:0", facts | {"points": {"tiny": 64, "large": 16}})
    assert row.status == "ok" and row.seen.endswith("with dense, tiny fits; large: will run in smaller tiles")
    row = room.judge_memory("cuda:0", facts | {"points": {"tiny": 0, "large": 0}})
    assert row.status == "warning" and "starter" in (row.fix or "")
