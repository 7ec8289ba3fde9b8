"""Files and folders that take the place of a package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from densecli.doctor import commands, host
from tests.doctor.faults import Package


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
