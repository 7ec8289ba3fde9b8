"""sympy and mpmath: shadowed, half installed, of versions that do not go together, hanging."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from densecli.doctor import commands, symbolic
from densecli.doctor.children import run_probe
from densecli.doctor.report import Check
from tests.doctor.faults import LIMIT, Package


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
    monkeypatch.setattr(sys, "path", [str(tmp_path), *bare, str(Path(__file__).parents[2])])
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
