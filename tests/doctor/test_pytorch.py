"""PyTorch, torchvision, and whether they can use the GPU that there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from densecli.doctor import pytorch
from densecli.doctor.children import run_probe
from tests.doctor.faults import LIMIT, SMI, Package, looked


def test_torchvision_of_another_torch(fake: Package) -> None:
    fake("torchvision/__init__.py", "__version__ = '0.1'")  # imports, and has no operators
    fake("torchvision-0.1.dist-info/METADATA", "")
    outcome = run_probe("torch", LIMIT)
    assert pytorch.judge_torch(outcome, LIMIT).status == "ok"
    row = pytorch.judge_torchvision(outcome)
    assert row is not None and row.status == "problem" and "does not belong to torch" in row.seen
    minor = int(torch.__version__.split(".")[1])
    assert f"torchvision==0.{minor + 15}.*" in (row.fix or "")


def test_a_fault_of_sympy_is_not_blamed_on_torch(fake: Package) -> None:
    fake("sympy/__init__.py", "raise AttributeError(\"module 'mpmath' has no attribute 'rational'\")")
    fake("torch/__init__.py", "import sympy")
    row = pytorch.judge_torch(run_probe("torch", LIMIT), LIMIT)
    assert row.status == "problem" and "sympy" in row.seen and "'mpmath>=1.3,<1.4'" in (row.fix or "")


@pytest.mark.parametrize(
    ("capability", "arch_list", "fits"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a"], False),
        ((12, 0), ["sm_75", "sm_120"], True),
        ((12, 1), ["sm_120", "compute_120"], True),
        ((9, 0), [], False),
    ],
)
def test_compute_capability(capability: tuple[int, int], arch_list: list[str], fits: bool) -> None:
    assert pytorch.runs_on(capability, arch_list) is fits


def torch_facts(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "cuda_build": "13.0",
        "hip_build": None,
        "cuda_available": False,
        "cuda_warning": "",
        "arch_list": [],
        "gpus": [],
        "mps": False,
    }
    return facts | changes


def test_a_driver_that_is_too_old(smi: Callable[[str], None]) -> None:
    smi(SMI.format(driver="470.82.01", cuda="11.4", free=7900))
    seen = looked()
    assert (seen.driver, seen.cuda) == ("470.82.01", (11, 4))
    cuda, gpu = pytorch.judge_gpus(torch_facts(), seen)
    assert cuda.status == "warning" and "470.82.01" in cuda.seen and "too old for this PyTorch (CUDA 13.0)" in cuda.seen
    assert "https://download.pytorch.org/whl/cu118" in (cuda.fix or "")
    assert gpu.status == "ok" and "blender (pid 4711, 7000 MiB)" in gpu.seen


def test_a_driver_of_the_same_major_version_is_new_enough(
    smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(SMI.format(driver="525.60", cuda="12.0", free=7900))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda = pytorch.judge_gpus(torch_facts(cuda_build="12.8", cuda_warning="CUDA unknown error"), looked())[0]
    assert cuda.status == "warning" and "too old" not in cuda.seen and "CUDA unknown error" in cuda.seen


def test_a_gpu_that_somebody_else_fills(smi: Callable[[str], None]) -> None:
    smi(SMI.format(driver="580.1", cuda="13.0", free=300))
    gpu = pytorch.judge_gpus(torch_facts(), looked())[1]
    assert gpu.status == "warning" and "0.3 of 8.0 GiB free" in gpu.seen and "blender" in gpu.seen


def test_a_cpu_build_beside_a_gpu(smi: Callable[[str], None]) -> None:
    smi(SMI.format(driver="550.1", cuda="12.4", free=7900))
    cuda = pytorch.judge_gpus(torch_facts(cuda_build=None), looked())[0]
    assert cuda.status == "warning" and "CPU-only build" in cuda.seen and "whl/cu126" in (cuda.fix or "")


def test_a_hidden_gpu(smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    smi(SMI.format(driver="580.1", cuda="13.0", free=7900))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cuda = pytorch.judge_gpus(torch_facts(), looked())[0]
    assert (cuda.status, cuda.fix) == ("warning", "unset CUDA_VISIBLE_DEVICES")


def test_a_gpu_that_this_build_has_no_code_for() -> None:
    gpus = [{"index": 0, "name": "Tesla V100", "capability": [7, 0]}]
    facts = torch_facts(cuda_available=True, arch_list=["sm_75", "sm_80"], gpus=gpus)
    (cuda,) = pytorch.judge_gpus(facts, None)
    assert cuda.status == "problem" and "no code for Tesla V100 (compute 7.0)" in cuda.seen
    assert "whl/cu126" in (cuda.fix or "")
    (cuda,) = pytorch.judge_gpus(facts | {"arch_list": ["sm_70"]}, None)
    assert cuda.status == "ok"


def test_a_driver_in_trouble(smi: Callable[[str], None]) -> None:
    smi("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    (cuda,) = pytorch.judge_gpus(torch_facts(), looked())
    assert (cuda.status, cuda.fix) == ("warning", "sudo reboot") and "mismatch" in cuda.seen


def test_no_gpu_at_all() -> None:
    (cuda,) = pytorch.judge_gpus(torch_facts(), None)
    assert cuda.status == "ok" and "runs on the CPU" in cuda.seen
