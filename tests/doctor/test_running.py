"""sam2, numba and the test run: what is said of each way in which they fail."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest

from densecli.doctor import commands, examination, nvidia, probes, running, source
from densecli.doctor.children import ERROR, Failure, Outcome, Step
from densecli.doctor.report import Check
from tests.doctor.faults import LIMIT

IMPORTED = {"version": "1", "file": None}
GOOD_RUN = {"masks": 4, "seconds": 1.0, "precision": "fp32", "as_cpu": 4, "of_cpu": 4}


def outcome(**failures: Failure) -> Outcome:
    """A run probe on a machine without a GPU; keyword: step that fails, with its spaces as _."""
    facts: dict[str, dict[str, Any]] = {
        "torch": IMPORTED,
        "cv2": IMPORTED,
        "sam2": IMPORTED | {"cuda_extension": False},
        "numba": {"why_not": None},
        "run on cpu": GOOD_RUN,
    }
    steps = {}
    for name, found in facts.items():
        steps[name] = Step(name, 1.0, found, failures.get(name.replace(" ", "_")))
        if steps[name].failure is not None:
            break
    return Outcome(steps)


def with_step(name: str, facts: dict[str, Any]) -> Outcome:
    found = outcome()
    return Outcome({**found.steps, name: Step(name, 1.0, facts)})


def row(name: str, found: Outcome) -> Check:
    return {check.name: check for check in running.judge_run(found)}[name]


def importing(name: str, text: str) -> Failure:
    file = f"{sysconfig.get_path('purelib')}/{name}/__init__.py"
    return Failure(ERROR, text, (file,), None, (file,))


def reinstalling(name: str) -> str:
    return commands.pip_install("--force-reinstall", "--no-cache-dir", name)


def test_a_run_is_tried_without_torchvision() -> None:
    class Names:
        def __init__(self) -> None:
            self.names: list[str] = []

        def step(self, name: str, action: object, *, limits: float = 1.0) -> bool:
            self.names.append(name)
            return not name.startswith("run")

    reporter = Names()
    probes._probe_run(reporter)  # type: ignore[arg-type]
    assert reporter.names == ["torch", "cv2", "sam2", "numba", "run on cpu"]


@pytest.mark.parametrize(
    ("package", "distribution"), [("safetensors", "safetensors"), ("pydantic_core", "pydantic"), ("yaml", "pyyaml")]
)
def test_a_library_that_a_run_imports(package: str, distribution: str) -> None:
    failed = outcome(run_on_cpu=importing(package, "ImportError: DLL load failed while importing it"))
    check = row("run on cpu", failed)
    assert check.status == "problem" and package in check.seen and "DLL load failed" in check.seen
    assert check.fix == reinstalling(distribution)


def test_a_library_that_sam2_imports() -> None:
    check = row("sam2", outcome(sam2=importing("hydra", "ImportError: half of it")))
    assert check.status == "problem" and "the fault lies in hydra" in check.seen
    assert check.fix == reinstalling("hydra-core")


def test_a_damaged_starter_is_brought_back() -> None:
    text = "CheckpointError: /x/starter.safetensors: cannot be read as weights"
    assert row("run on cpu", outcome(run_on_cpu=Failure(ERROR, text))).fix == source.restore_starter()


def test_a_run_that_fails_by_itself() -> None:
    check = row("run on cpu", outcome(run_on_cpu=Failure(ERROR, "RuntimeError: no mask found in the test image")))
    assert check.fix == commands.densecli("segment", "IMAGE", "-d", "cpu", "-v")


def test_numba_that_can_be_used() -> None:
    assert row("numba", outcome()).status == "ok"


@pytest.mark.parametrize(
    ("why", "fix"),
    [
        ("Numba needs NumPy 2.2 or less. Got NumPy 2.3.", reinstalling("numba")),
        ("cannot cache function 'parents': no locator available for file '/x'", "export NUMBA_CACHE_DIR="),
        ("NUMBA_DISABLE_JIT is set", "unset NUMBA_DISABLE_JIT"),
    ],
)
def test_numba_that_cannot_be_used(why: str, fix: str) -> None:
    check = row("numba", with_step("numba", {"why_not": why}))
    assert check.status == "warning" and why in check.seen and "several times longer" in check.seen
    assert (check.fix or "").startswith(fix)


def test_where_others_may_write_compiled_code_is_kept_under_a_name_that_nobody_can_foresee(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert commands.own_folder("loops") == tmp_path / "loops"
    monkeypatch.setenv("HOME", "/nobody")
    assert commands.own_folder("loops") != commands.own_folder("loops")


def test_numba_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "version_of", lambda module: None)
    assert row("numba", with_step("numba", {"why_not": "No module named 'numba'"})).fix == commands.pip_install(
        "numba>=0.60"
    )


def test_whether_the_cpu_suffices() -> None:
    assert running.cpu_suffices(outcome())
    assert not running.cpu_suffices(outcome(run_on_cpu=Failure(ERROR, "RuntimeError: no")))
    assert not running.cpu_suffices(outcome(torch=Failure(ERROR, "ImportError: no")))
    assert not running.cpu_suffices(with_step("run on cuda:0", GOOD_RUN))


@pytest.mark.parametrize(("run", "status"), [(outcome(), "warning"), (with_step("run on mps", GOOD_RUN), "problem")])
def test_what_the_cpu_does_without(run: Outcome, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = Failure(ERROR, "RuntimeError: operator torchvision::nms does not exist")
    broken = Failure(ERROR, "AttributeError: module 'mpmath' has no attribute 'rational'")
    devices = {"cuda_build": None, "hip_build": None, "cuda_available": False, "gpus": [], "mps": False}
    outcomes = {
        "run": run,
        "sympy": Outcome({"sympy": Step("sympy", failure=broken)}),
        "torch": Outcome(
            {
                "torch": Step("torch", 1.0, IMPORTED),
                "devices": Step("devices", 1.0, devices),
                "memory": Step("memory", 1.0, {}),
                "torchvision": Step("torchvision", failure=hangs),
            }
        ),
        "images": Outcome({name: Step(name) for name in ("numpy", "cv2", "PIL.Image", "pycocotools.mask")}),
    }
    monkeypatch.setattr(examination, "run_probe", lambda name, limit: outcomes[name])
    monkeypatch.setattr(nvidia, "look", lambda limit: None)
    checks = {check.name: check for check in examination.examine(limit=LIMIT)}
    for name in ("sympy", "torchvision"):
        assert checks[name].status == status, checks[name]
        assert ("runs on the CPU do without" in checks[name].seen) is (status == "warning")
        assert "pip install" in (checks[name].fix or "")
