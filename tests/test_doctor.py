"""densecli.doctor: each check against the fault that it is there for, made for real where a machine allows that."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from densecli.checkpoints import load_registry
from densecli.doctor import (
    children,
    commands,
    examination,
    failures,
    host,
    installed,
    nvidia,
    packages,
    pytorch,
    repair,
    room,
    running,
    smoke,
    symbolic,
    weights,
)
from densecli.doctor.children import CRASH, ERROR, HANG, run_probe
from densecli.doctor.report import Check, Repair, document, problem, stops_a_run, warning
from densecli.errors import EnvironmentProblem, UsageError

Package = Callable[[str, str], Path]
LIMIT = 300.0  # seconds; so long that no machine imports slowly enough for a warning


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """`fake("torch/__init__.py", "raise …")`: a file on Python's path before everything that is installed."""
    folder = tmp_path / "first"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    def write(name: str, text: str) -> Path:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


# --- report ----------------------------------------------------------------------------------------------------------


def test_document_and_exit() -> None:
    checks = [Check("a", "fine"), warning("b", "so-so", "do b")]
    assert not stops_a_run(checks)
    assert document(checks) == {
        "schema": "densecli/doctor/1",
        "ok": True,
        "checks": [
            {"name": "a", "seen": "fine", "status": "ok", "fix": None},
            {"name": "b", "seen": "so-so", "status": "warning", "fix": "do b"},
        ],
    }
    checks.append(problem("c", "bad", "do c"))
    assert stops_a_run(checks) and document(checks)["ok"] is False


@pytest.mark.parametrize(("status", "fix"), [("problem", None), ("warning", None), ("ok", "do")])
def test_what_is_not_ok_needs_a_fix(status: str, fix: str | None) -> None:
    with pytest.raises(ValueError, match="fix"):
        Check("a", "seen", status, fix)


# --- children --------------------------------------------------------------------------------------------------------


def test_a_probe_that_raises(fake: Package) -> None:
    file = fake("torch/__init__.py", "print('noise on stdout')\nraise ImportError('no such thing')")
    outcome = run_probe("torch", LIMIT)
    step = outcome.steps["torch"]
    assert step.failure == children.Failure(ERROR, "ImportError: no such thing", (str(file),))
    assert outcome.failed() is step and outcome.facts("torch") is None
    assert list(outcome.steps) == ["torch"]


def test_a_probe_that_hangs_is_ended_and_says_where(fake: Package) -> None:
    file = fake("torch/__init__.py", "import time\nwhile True: time.sleep(1)")
    begin = time.monotonic()
    failure = run_probe("torch", 1).steps["torch"].failure
    assert failure is not None and time.monotonic() - begin < 5
    assert failure.kind == HANG and str(file) in failure.text and "1 s" in failure.text
    row = pytorch.judge_torch(children.Outcome({"torch": children.Step("torch", failure=failure)}), 1)
    assert row.status == "problem" and "hangs" in row.seen
    assert row.fix == commands.rename_away(file.parent)


@pytest.mark.parametrize(
    ("text", "said"),
    [("import os; os.abort()", "SIGABRT"), ("import os; os._exit(3)", "exit code 3")],
)
def test_a_probe_that_dies(text: str, said: str, fake: Package) -> None:
    fake("mpmath/__init__.py", text)
    failure = run_probe("sympy", LIMIT).steps["mpmath"].failure
    assert failure is not None and failure.kind == CRASH and said in failure.text


def test_an_import_that_calls_exit_is_a_failure(fake: Package) -> None:
    fake("mpmath/__init__.py", "raise SystemExit(0)")
    failure = run_probe("sympy", LIMIT).steps["mpmath"].failure
    assert failure is not None and failure.text.startswith("SystemExit")


def test_a_child_that_does_not_even_start(fake: Package) -> None:
    file = fake("json.py", "raise RuntimeError('a file of mine')")  # shadows the standard library in the child
    outcome = run_probe("torch", LIMIT)
    failed = outcome.failed()
    assert failed is not None and failed.name == "start" and failed.failure is not None
    assert "a file of mine" in failed.failure.text
    assert pytorch.judge_torch(outcome, LIMIT).fix == commands.rename_away(file)
    assert pytorch.judge_torch(outcome, LIMIT).status == "problem"
    assert [row.status for row in running.judge_run(outcome)] == ["problem"]
    assert [row.status for row in packages.judge_images(outcome)] == ["problem"]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_time_limit_must_be_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(children.TIMEOUT_VARIABLE, text)
    with pytest.raises(UsageError, match=r"\$DENSECLI_DOCTOR_TIMEOUT"):
        children.time_limit()


def test_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(children.TIMEOUT_VARIABLE, raising=False)
    assert children.time_limit() == 60
    monkeypatch.setenv(children.TIMEOUT_VARIABLE, "2.5")
    assert children.time_limit() == 2.5


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "specifier", "fits"),
    [
        ("1.3.0", "<1.4,>=1.1.0", True),
        ("1.4.0a0", "<1.4,>=1.1.0", False),
        ("1.0", ">=1.1.0", False),
        ("1.14", ">=1.13.3", True),
        ("1.13.1", "==1.13.1", True),
        ("1.13.1", "==1.13.*", True),
        ("1.14.1", "==1.13.*", False),
        ("2.0", "!=2.0.0", False),
        ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("1.0", "", True),
    ],
)
def test_satisfies(version: str, specifier: str, fits: bool) -> None:
    assert installed.satisfies(version, specifier) is fits


_versions = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))


@given(_versions, _versions)
def test_satisfies_agrees_with_packaging(version: str, other: str) -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    for operator in ("==", "!=", "<", "<=", ">", ">="):
        expected = version in specifiers.SpecifierSet(operator + other)
        assert installed.satisfies(version, operator + other) is expected


def test_parse_requirement() -> None:
    assert installed.parse_requirement("sympy>=1.13.3") == ("sympy", ">=1.13.3")
    assert installed.parse_requirement('sympy (==1.13.1) ; python_version >= "3.9"') == ("sympy", "==1.13.1")
    assert installed.parse_requirement('sympy==1.12 ; python_version < "3.9"') is None
    assert installed.parse_requirement('scipy ; extra == "scipy"') is None


# --- sympy and mpmath ------------------------------------------------------------------------------------------------


def judged_symbolic(limit: float = LIMIT) -> Check:
    return symbolic.judge_symbolic(run_probe("sympy", limit), limit)


def test_sympy_is_ok_here() -> None:
    row = judged_symbolic()
    assert row.status == "ok" and "sympy 1." in row.seen and "mpmath 1." in row.seen


def test_sympy_shadowed_by_a_file(fake: Package) -> None:
    file = fake("sympy.py", "x = 1")
    row = judged_symbolic()
    assert (row.status, row.fix) == ("problem", commands.rename_away(file))
    assert str(file) in row.seen
    subprocess.run(row.fix, shell=True, check=True)  # the fix is a command that works
    assert judged_symbolic().status == "ok"


def test_sympy_with_a_record_and_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "sympy-1.13.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sympy\nVersion: 1.13.3\n")
    (info / "RECORD").write_text("sympy/__init__.py,,\nsympy/abc.py,,\nsympy-1.13.3.dist-info/METADATA,,\n")
    bare = [p for p in sys.path if "site-packages" not in p]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *bare, str(Path(__file__).parents[1])])
    faults = symbolic._half_installed("sympy")
    assert faults == [f"{info} is there, but the package is not"]
    # Half of the files: some are there.
    (tmp_path / "sympy").mkdir()
    (tmp_path / "sympy" / "__init__.py").touch()
    assert symbolic._half_installed("sympy") == [f"{tmp_path / 'sympy/abc.py'} missing"]


def test_sympy_with_files_and_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sympy").mkdir()
    (tmp_path / "sympy" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (fault,) = symbolic._half_installed("sympy")
    assert str(tmp_path / "sympy") in fault and "no record" in fault


def test_a_record_that_pip_cannot_use_goes_first(fake: Package) -> None:
    info = fake("sympy-1.12.dist-info/METADATA", "Name: sympy\nVersion: 1.12\n").parent  # and no RECORD
    row = judged_symbolic()
    assert row.status == "warning" and f"{info} is incomplete (no RECORD)" in row.seen
    assert row.repair is not None and row.repair.remove == (info,)
    assert row.fix is not None and row.fix.startswith(f"rm -r {info} && ")
    assert "'mpmath>=1.3,<1.4'" in row.fix and sys.executable in row.fix


def test_the_known_breakage_of_mpmath(fake: Package) -> None:
    fake("mpmath/__init__.py", "__version__ = '1.4.0a0'")  # has no `rational`, as 1.4 has not
    row = judged_symbolic()
    assert row.status == "problem" and "sympy fails" in row.seen and "mpmath" in row.seen


def test_versions_that_do_not_go_together(fake: Package) -> None:
    fake("mpmath-1.4.0a0.dist-info/METADATA", "Name: mpmath\nVersion: 1.4.0a0\n")
    fake("mpmath-1.4.0a0.dist-info/RECORD", "")
    assert any(fault.startswith("sympy requires mpmath") for fault in symbolic._unfit_versions())


def test_a_hanging_and_a_slow_sympy(fake: Package) -> None:
    fake("mpmath/__init__.py", "import time; time.sleep(60)")
    row = judged_symbolic(1)
    assert row.status == "problem" and "import mpmath hangs" in row.seen
    fake("mpmath/__init__.py", "import time; time.sleep(0.3)")
    fake("sympy/__init__.py", "import time; time.sleep(0.3)")
    row = judged_symbolic(3)  # slow is a sixth of that
    assert row.status == "warning" and "the import took 0.6 s" in row.seen and "compileall" in (row.fix or "")


# --- packages --------------------------------------------------------------------------------------------------------


def rows_of_images() -> dict[str, Check]:
    return {row.name: row for row in packages.judge_images(run_probe("images", LIMIT))}


def test_images_are_ok_here() -> None:
    assert {row.status for row in rows_of_images().values()} == {"ok"}


def test_missing_libgl(fake: Package) -> None:
    text = "libGL.so.1: cannot open shared object file: No such file or directory"
    fake("cv2/__init__.py", f"raise ImportError({text!r})")
    fake("opencv_python-4.9.0.dist-info/METADATA", "")  # the fake one is the installed one
    row = rows_of_images()["opencv"]
    assert row.status == "problem" and "libGL.so.1" in row.seen
    assert row.fix is not None and "uninstall -y opencv-python" in row.fix and "opencv-python-headless" in row.fix


def test_two_flavours_of_opencv(fake: Package) -> None:
    fake("opencv_python_headless-4.9.0.dist-info/METADATA", "")
    row = rows_of_images()["opencv"]
    assert row.status == "warning" and "opencv-python and opencv-python-headless" in row.seen
    assert row.fix is not None and row.fix.endswith("--force-reinstall --no-deps opencv-python")


@pytest.mark.parametrize(
    "text",
    [
        "numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88",
        "numpy.core.multiarray failed to import",
    ],
)
def test_numpy_abi(text: str, fake: Package) -> None:
    fake("pycocotools/__init__.py", "")
    fake("pycocotools/mask.py", f"raise ValueError({text!r})")
    fake("pycocotools-2.0.7.dist-info/METADATA", "")
    row = rows_of_images()["pycocotools"]
    assert row.status == "problem" and "built for another NumPy" in row.seen
    assert row.fix == commands.pip_install("--force-reinstall", "--no-cache-dir", "pycocotools", "numpy>=1.26")


def test_pip_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    (folder / "~ympy").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    row = packages.check_packages()
    assert (row.status, row.fix) == ("warning", f"rm -r '{folder / '~ympy'}'")


def test_a_missing_and_an_old_requirement(tmp_path: Path, fake: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(
        "densecli-9.dist-info/METADATA",
        "Name: densecli\nVersion: 9\nRequires-Dist: nosuch>=2\nRequires-Dist: tqdm>=99\n",
    )
    row = packages.check_packages()
    assert row.status == "problem" and "nosuch is not installed" in row.seen and "tqdm is 4" in row.seen
    assert row.fix == commands.pip_install("nosuch>=2", "tqdm>=99")


# --- shadowing -------------------------------------------------------------------------------------------------------


def test_nothing_is_shadowed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert host.check_shadowing().status == "ok"


def test_a_folder_sam2_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sam2").mkdir()
    row = host.check_shadowing()
    assert row.status == "warning" and str(tmp_path / "sam2") in row.seen and (row.fix or "").startswith("cd .. && ")


def test_a_folder_sam2_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent folder of a checkout of sam2, where sam2 is installed from that checkout."""
    (tmp_path / "sam2" / "sam2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    site = [p for p in sys.path if "site-packages" not in p]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *site])
    row = host.check_shadowing()
    assert row.status == "problem" and str(tmp_path / "sam2") in row.seen and (row.fix or "").startswith("cd .. && ")


def test_a_file_that_is_taken(fake: Package) -> None:
    file = fake("numpy.py", "")
    row = host.check_shadowing()
    assert (row.status, row.fix) == ("problem", commands.rename_away(file))


# --- torch and the GPU -----------------------------------------------------------------------------------------------


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


SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*) echo "NVIDIA GeForce RTX 2080, GPU-1, 8192, {free}" ;;
  --query-compute-apps=*) echo "GPU-1, 4711, /usr/bin/blender, 7000" ;;
  *) echo "| NVIDIA-SMI {driver}   Driver Version: {driver}   CUDA Version: {cuda} |" ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`smi(script)`: this is nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> None:
        (folder / "nvidia-smi").write_text(script)
        (folder / "nvidia-smi").chmod(0o755)

    return write


def looked(limit: float = LIMIT) -> nvidia.Nvidia:
    program = nvidia.shutil.which("nvidia-smi")
    assert program is not None
    return nvidia.by_program(program, limit)


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


def test_a_check_that_fails_itself_hides_no_other() -> None:
    def check() -> list[Check]:
        raise PermissionError(13, "Permission denied", "/etc/x")

    (row,) = examination._guarded("disk space", check)
    assert (row.name, row.status) == ("disk space", "warning") and "Permission denied" in row.seen


def test_no_gpu_at_all() -> None:
    (cuda,) = pytorch.judge_gpus(torch_facts(), None)
    assert cuda.status == "ok" and "runs on the CPU" in cuda.seen


# --- memory ----------------------------------------------------------------------------------------------------------


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


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint folder of our own, a registry with one small checkpoint `mine`, and an empty working folder."""
    content = b"weights" * 100
    entry = {"file": "mine.pt", "size": 700, "sha256": hashlib.sha256(content).hexdigest(), "config": "mine.yaml"}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"checkpoints": {"mine": entry}}))
    (tmp_path / "work").mkdir()
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "mine.pt").write_bytes(content)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("DENSECLI_REGISTRY", str(tmp_path / "registry.yaml"))
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def rows_of_weights(*, deep: bool = False) -> dict[str, Check]:
    return {row.name: row for row in weights.check_weights(deep=deep)}


def test_a_good_checkpoint(home: Path) -> None:
    rows = rows_of_weights()
    assert f"mine in {home} (right size); not here: tiny" in rows["checkpoints"].seen
    assert {name: row.status for name, row in rows.items()} == dict.fromkeys(
        ["starter", "checkpoints", "leftovers", "disk space", "checkpoint folder"], "ok"
    )
    assert f"mine in {home} (verified)" in rows_of_weights(deep=True)["checkpoints"].seen


def test_no_checkpoint(home: Path) -> None:
    (home / "mine.pt").unlink()
    row = rows_of_weights()["checkpoints"]
    assert (row.status, row.fix) == ("warning", commands.densecli("download-checkpoints", "large"))
    assert sys.executable in commands.densecli("doctor")


def test_a_truncated_checkpoint(home: Path) -> None:
    (home / "mine.pt").write_bytes(b"weig")
    row = rows_of_weights()["checkpoint mine"]
    assert (row.status, row.fix) == ("warning", commands.densecli("download-checkpoints", "mine"))
    assert "has 4 bytes instead of 700" in row.seen


def test_a_checkpoint_with_wrong_content_is_found_by_deep_only(home: Path) -> None:
    (home / "mine.pt").write_bytes(bytes(700))
    assert "checkpoint mine" not in rows_of_weights()
    row = rows_of_weights(deep=True)["checkpoint mine"]
    assert (row.status, row.fix) == ("problem", commands.densecli("download-checkpoints", "mine"))


def test_an_unfinished_download(home: Path) -> None:
    (home / "mine.pt").rename(home / "mine.pt.part")
    row = rows_of_weights()["leftovers"]
    assert (row.status, row.fix) == ("warning", commands.densecli("download-checkpoints", "mine"))
    assert str(home / "mine.pt.part") in row.seen


def test_temporary_files_of_a_killed_run(home: Path) -> None:
    file = Path(".densecli-tmp-abc.png").absolute()
    file.touch()
    assert rows_of_weights()["leftovers"].status == "ok"  # may belong to a run that is going on
    os.utime(file, (time.time() - 3600,) * 2)
    row = rows_of_weights()["leftovers"]
    assert row.status == "warning" and str(file) in row.seen
    subprocess.run(row.fix or "", shell=True, check=True)
    assert not file.exists()


def test_a_broken_registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(os.environ["DENSECLI_REGISTRY"]).write_text("checkpoints: [")
    (row,) = weights.check_weights(deep=False)
    assert (row.status, row.fix) == ("problem", "unset DENSECLI_REGISTRY") and "registry.yaml" in row.seen


def test_a_file_where_the_cache_folder_should_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(home / "mine.pt" / "folder"))
    row = weights.check_folder()
    assert row.status == "warning" and str(home / "mine.pt") in row.seen
    assert (row.fix or "").startswith("export DENSECLI_CHECKPOINTS=")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions count for root only when it is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_cache_folder_that_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        monkeypatch.setenv("DENSECLI_CHECKPOINTS", name)
        with as_nobody():
            row = weights.check_folder()
        folder.chmod(0o755)
    assert row.status == "warning" and f"{folder}: Permission denied" in row.seen


def test_a_disk_that_is_too_small(home: Path, tmp_path: Path) -> None:
    registry = load_registry()
    assert weights.check_space(registry).status == "ok"
    huge = {"file": "l.pt", "size": 10**18, "sha256": "0" * 64, "config": "l.yaml"}
    entry = type(registry.entry("large"))("large", *list(huge.values()), tmp_path)  # type: ignore[call-overload]
    registry.entries["large"] = entry
    row = weights.check_space(registry)
    assert row.status == "warning" and "too little for large" in row.seen


# --- smoke run, repair, causes ---------------------------------------------------------------------------------------


def test_found_again() -> None:
    square = np.zeros((20, 20), bool)
    square[2:12, 2:12] = True
    nearly, other = square.copy(), ~square
    nearly[2, 2] = False
    assert smoke.found_again([square], [other, nearly]) == 1
    assert smoke.found_again([square, other], [nearly]) == 1
    assert smoke.found_again([square], [np.zeros_like(square)]) == 0


def test_the_starter_finds_the_shapes_of_the_test_image() -> None:
    image = smoke._image()
    disc, box, _ = ((image == colour).all(-1) for colour in smoke.SHAPES)
    smoke.run_on("cpu")
    assert smoke.found_again([disc, box], smoke._on_cpu) == 2


def test_mend(tmp_path: Path) -> None:
    folder = tmp_path / "broken.dist-info"
    folder.mkdir()
    made = tmp_path / "made"
    one = Repair((sys.executable, "-c", f"open({str(made)!r}, 'w')"), (folder,))
    assert repair.repairs([Check("a", "b"), problem("c", "d", "do", one), problem("e", "f", "do", one)]) == [
        ("do", one)
    ]
    repair.mend(one)
    assert made.exists() and not folder.exists()
    with pytest.raises(EnvironmentProblem, match="exit code 7"):
        repair.mend(Repair((sys.executable, "-c", "raise SystemExit(7)")))
    with pytest.raises(EnvironmentProblem, match="No such file"):
        repair.mend(Repair((str(tmp_path / "nosuch"),)))


def test_causes_in_the_environment(fake: Package) -> None:
    fake("iopath/__init__.py", "raise OSError('libfoo.so.1: cannot open shared object file')")
    fake("triton/__init__.py", "[][1]")
    sys.modules.pop("iopath", None), sys.modules.pop("triton", None)
    for name in ("iopath", "triton", "nosuchmodule"):
        with pytest.raises(Exception) as caught:
            __import__(name)
        assert failures.is_environment_failure(caught.value)
    assert failures.is_environment_failure(RuntimeError("CUDA error: no kernel image is available"))
    assert not failures.is_environment_failure(ValueError("too many values to unpack"))
    assert not failures.is_environment_failure(ImportError("cannot import name 'x'", name="densecli.masks"))
    with pytest.raises(IndexError) as caught_here:
        [][1]
    assert not failures.is_environment_failure(caught_here.value)
