"""What the driver says, by NVML and by nvidia-smi."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from densecli.doctor import nvidia
from tests.doctor.faults import SMI, Package, looked


def test_nvidia_smi_that_hangs(smi: Callable[[str], None]) -> None:
    smi("#!/bin/sh\nexec sleep 60\n")
    begin = time.monotonic()
    assert looked(0.5).error == "nvidia-smi does not answer within 0.5 s"
    assert time.monotonic() - begin < 5


NVML = """
class Memory: total, free = 24 << 30, 23 << 30
class Process: pid, usedGpuMemory = 12, 1 << 30
def nvmlInit(): {init}
def nvmlShutdown(): pass
def nvmlSystemGetCudaDriverVersion_v2(): return 12040
def nvmlSystemGetDriverVersion(): return "550.1"
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return b"NVIDIA L4"
def nvmlDeviceGetMemoryInfo(handle): return Memory
def nvmlDeviceGetComputeRunningProcesses(handle): return [Process]
"""


@pytest.mark.parametrize("init", ["pass", "raise RuntimeError", "import time; time.sleep(5)"])
def test_nvidia_ml_py(init: str, fake: Package, smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    smi(SMI.format(driver="525.60", cuda="12.0", free=7900))
    fake("pynvml.py", NVML.format(init=init))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    seen = nvidia.look(1)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert seen is not None
    if "sleep" in init:
        assert seen.error == "the NVIDIA driver does not answer within 1 s"
    elif "raise" in init:  # nvidia-smi is asked instead
        assert seen.driver == "525.60"
    else:
        gpu = nvidia.Gpu("NVIDIA L4", 24 << 10, 23 << 10, ("pid 12 (1024 MiB)",))
        assert seen == nvidia.Nvidia((gpu,), "550.1", (12, 4))
