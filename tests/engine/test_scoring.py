"""The scoring operator, and the Triton kernel behind it: under Triton's interpreter, and compiled for real GPUs.

Triton reads TRITON_INTERPRET when it is imported, so each of the two takes a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densecli.engine import scoring
from densecli.engine.upsampling import Upsampling
from tests.engine.test_upsampling import smooth_logits

CPU = torch.device("cpu")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not to be had here")


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_wanted_candidates_only(kind: torch.dtype) -> None:
    logits = smooth_logits(3, 9, 24, 20, 3).to(kind)
    upsampling = Upsampling((24, 20), (70, 90), CPU)
    wanted = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 1], dtype=torch.bool)
    areas, boxes = scoring.areas_and_boxes(logits, wanted, upsampling, -1.0, 0.0, 1.0)
    low, high, expected = upsampling.areas_and_boxes(logits.float(), -1.0, 0.0, 1.0)
    assert low[wanted].any() and areas.dtype == boxes.dtype == torch.int64
    assert torch.equal(areas, torch.stack([low, high], 1).long() * wanted[:, None])
    assert torch.equal(boxes, expected * wanted[:, None])


def test_it_is_a_proper_operator() -> None:
    """Schema, fake and real results agree; so a compiler may trust it."""
    upsampling = Upsampling((8, 6), (20, 30), CPU)
    rows, columns = (
        [axis.index, axis.weight, axis.start, axis.first] for axis in (upsampling.rows, upsampling.columns)
    )
    arguments = (
        smooth_logits(1, 4, 8, 6, 2),
        torch.tensor([True, False, True, True]),
        [-1.0, 0.0, 1.0],
        rows,
        upsampling.rows.step,
        columns,
        upsampling.columns.step,
    )
    torch.library.opcheck(torch.ops.densecli.areas_and_boxes.default, arguments)


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": ".", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_run_on_the_cpu_needs_no_kernel() -> None:
    code = """
import sys, torch
from densecli.engine import scoring
assert "triton" not in sys.modules
from densecli.engine.upsampling import Upsampling
upsampling = Upsampling((4, 4), (9, 9), torch.device("cpu"))
scoring.areas_and_boxes(torch.ones(1, 4, 4), torch.ones(1, dtype=torch.bool), upsampling, -1.0, 0.0, 1.0)
print("densecli.engine.scoring_kernel" in sys.modules)
"""
    assert run_python(code) == "False\n"


_INTERPRETED = """
import torch
from densecli.engine import scoring_kernel
from densecli.engine.upsampling import Upsampling
from tests.engine.test_upsampling import smooth_logits

CPU = torch.device("cpu")
cases = [
    ((12, 9), (25, 31), 2, torch.float32), ((16, 17), (5, 60), 2, torch.float32), ((20, 8), (12, 9), 1, torch.float32),
    ((8, 8), (1, 1), 1, torch.float32), ((1, 1), (6, 7), 0, torch.float32), ((9, 11), (40, 1), 0, torch.float32),
    ((10, 10), (33, 21), 0, torch.float16),
]
for seed, (low_size, size, smoothness, kind) in enumerate(cases):
    logits = smooth_logits(seed, 6, *low_size, smoothness).to(kind)
    if seed == 5:
        logits = logits.round()  # plateaus that tie with the thresholds
    wanted = torch.tensor([True, True, False, True, True, True])
    thresholds = (-1.0, 0.25 * (seed % 2), 1.0)
    for compiled in (True, False):
        upsampling = Upsampling(low_size, size, CPU, compiled=compiled)
        low, high, boxes = upsampling.areas_and_boxes(logits.float(), *thresholds)
        expected = torch.stack([low, high], 1).long() * wanted[:, None], boxes * wanted[:, None]
        actual = scoring_kernel.areas_and_boxes(logits, wanted, thresholds, upsampling.rows, upsampling.columns)
        assert all(map(torch.equal, actual, expected)), (seed, compiled, actual, expected)
        print(seed, compiled, int(low.sum()))
scoring_kernel.try_out(CPU)
nothing = scoring_kernel.areas_and_boxes(
    torch.zeros(0, 10, 10), torch.zeros(0, dtype=torch.bool), (-1.0, 0.0, 1.0), upsampling.rows, upsampling.columns)
assert [tuple(x.shape) for x in nothing] == [(0, 2), (0, 4)]
"""


@needs_triton
@pytest.mark.slow
def test_the_kernel_gives_what_the_tensor_path_and_the_compiled_loops_give() -> None:
    pytest.importorskip("numba")
    lines = run_python(_INTERPRETED, TRITON_INTERPRET="1").splitlines()
    assert len(lines) == 14 and any(not line.endswith(" 0") for line in lines)


_COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from densecli.engine import scoring_kernel

kernel = scoring_kernel._strip
pointers = ["*u8", "*i64", "*fp32", "*i64", "*fp32", "*fp32", "*i32"]
for kind in ("*fp16", "*fp32"):
    for low_resolution in (256, 96):
        sizes = {"H": low_resolution, "W": low_resolution, "ROWS": scoring_kernel.STRIP, "FAR": 1 << 30,
            "BLOCK": triton.next_power_of_2(low_resolution)}
        kinds = [kind, *pointers, *["fp32"] * 4, *["constexpr"] * 5]
        for capability in (80, 90):
            source = ASTSource(kernel, dict(zip(kernel.arg_names, kinds, strict=True)), sizes)
            options = {"num_warps": 4, "enable_fp_fusion": False}
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            # No product and sum may become one rounding, or counts would differ from the CPU's.
            assert len(made.asm["cubin"]) > 1000 and "fma.rn.f32" not in made.asm["ptx"]
            print(kind, low_resolution, capability)
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="triton's compiler is for Linux")
def test_the_kernel_compiles_for_real_gpus(tmp_path) -> None:
    assert len(run_python(_COMPILED, TRITON_CACHE_DIR=str(tmp_path)).splitlines()) == 8


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [(1200, 1800), (31, 77), (4000, 3), (1, 1)])
def test_the_kernel_on_a_gpu(size: tuple[int, int]) -> None:
    logits = smooth_logits(1, 40, 96, 96, 4)
    wanted = torch.arange(40) % 3 > 0
    expected = scoring.areas_and_boxes(logits, wanted, Upsampling((96, 96), size, CPU), -1.0, 0.0, 1.0)
    cuda = torch.device("cuda")
    on_gpu = Upsampling((96, 96), size, cuda)
    actual = scoring.areas_and_boxes(logits.to(cuda), wanted.to(cuda), on_gpu, -1.0, 0.0, 1.0)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a.cpu(), b)
