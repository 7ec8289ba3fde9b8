"""OpenCV, pycocotools, what pip left behind, and missing requirements."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from densecli.doctor import commands, packages
from densecli.doctor.children import run_probe
from densecli.doctor.report import Check
from tests.doctor.faults import LIMIT, Package


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


def test_versions_of_what_has_a_row_of_its_own(fake: Package) -> None:
    wanted = "torch>=99", "numpy>=1.0", "sam2>=77", "opencv-python>=88"
    lines = "".join(f"Requires-Dist: {requirement}\n" for requirement in wanted)
    fake("densecli-9.dist-info/METADATA", f"Name: densecli\nVersion: 9\n{lines}")
    row = packages.check_packages()
    assert row.status == "problem" and "torch is 2" in row.seen and ">=99 is required" in row.seen
    assert "numpy" not in row.seen
    assert row.fix == f"{commands.pip_install('torch>=99', 'opencv-python>=88')} && {commands.install_sam2()}"
