"""`make bench` runs what README's tables name, and says what it leaves out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import run_all
from tests.conftest import CHECKOUT


def readme_commands() -> list[list[str]]:
    """Scripts and arguments of README's tables for the CPU: the last column of their rows."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    return [shlex.split(found) for found in re.findall(r"\| `benchmarks/([^`]+)` \|$", text, re.M)]


def test_rows_of_the_readme(tmp_path: Path) -> None:
    truck = tmp_path / "truck.jpg"
    truck.touch()
    found, left_out = run_all.commands(cuda=False, truck=truck)
    shown = [[argument.replace(str(truck), "truck.jpg") for argument in command] for command in found]
    wanted = readme_commands()
    assert len(wanted) >= 5 and shown[: len(wanted)] == wanted
    assert [line.partition(":")[0] for line in left_out] == ["left out"] * 2
    assert all("gpu.py" in line and "CUDA" in line for line in left_out)


def test_rows_of_the_readme_for_a_gpu() -> None:
    found, left_out = run_all.commands(cuda=True, truck=Path(__file__))
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    commands = [shlex.join(command) for command in found if command[0] == "gpu.py"]
    assert left_out == [] and len(commands) == 2
    assert f"`benchmarks/{commands[0]}`" in text and f"`{commands[1].removeprefix('gpu.py ')}`" in text


def test_without_the_photo_another_is_taken_and_said(tmp_path: Path) -> None:
    (whole_image, *_), (said, *_) = run_all.commands(cuda=True, truck=tmp_path / "truck.jpg")
    assert whole_image == ["whole_image.py", "--every", "16", "--runs", "3"]
    assert "astronaut" in said and str(tmp_path / "truck.jpg") in said


def test_every_benchmark_is_run() -> None:
    folder = CHECKOUT / "benchmarks"
    scripts = {file.name for file in folder.glob("*.py") if "__main__" in file.read_text(encoding="utf-8")}
    found, _ = run_all.commands(cuda=True)
    assert {command[0] for command in found} == scripts - {"run_all.py"}


def test_a_benchmark_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    (tmp_path / "good.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.setattr(run_all, "FOLDER", tmp_path)
    monkeypatch.setattr(run_all, "commands", lambda cuda: ([["bad.py"], ["good.py", "--runs", "1"]], ["left out: x"]))
    monkeypatch.setattr("sys.argv", ["run_all.py"])
    with pytest.raises(SystemExit, match=r"failed: python benchmarks/bad\.py$"):
        run_all.main()
    said = capfd.readouterr()
    assert "['--runs', '1']" in said.out and said.err == "left out: x\n"
