"""Probes in child processes that raise, hang, die, or do not even start."""

from __future__ import annotations

import time

import pytest

from densecli.doctor import children, commands, packages, pytorch, running
from densecli.doctor.children import CRASH, ERROR, HANG, run_probe
from densecli.errors import UsageError
from tests.doctor.faults import LIMIT, Package


def test_a_probe_that_raises(fake: Package) -> None:
    file = fake("torch/__init__.py", "print('noise on stdout')\nraise ImportError('no such thing')")
    outcome = run_probe("torch", LIMIT)
    step = outcome.steps["torch"]
    assert step.failure == children.Failure(ERROR, "ImportError: no such thing", (str(file),), None, (str(file),))
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
    ("text", "said"), [("import os; os.abort()", "SIGABRT"), ("import os; os._exit(3)", "exit code 3")]
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
