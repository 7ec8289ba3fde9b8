"""Repairs that `--fix` makes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from densecli.doctor import repair
from densecli.doctor.report import Check, Repair, problem
from densecli.errors import EnvironmentProblem


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
