"""Ctrl-C that strikes inside a library, which no command line can bring about at will."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem
from PIL import Image

from densecli.cli.app import main
from densecli.console import Console
from densecli.one_by_one import Job, segment_all
from densecli.sinks import WriteOptions


class Interrupted(AbstractFileSystem):
    """A library that Ctrl-C strikes in, and which makes an error of its own of it, as C code does (SystemError)."""

    protocol = "interrupted"

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": 9, "type": "file"}


class InterruptedAtOnce(Interrupted):
    protocol = "interrupted-at-once"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._open("")


@pytest.fixture(autouse=True)
def _known() -> None:
    for kind in (Interrupted, InterruptedAtOnce):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)


def test_it_ends_a_run_of_segment(tmp_path: Path) -> None:
    """It is no failure of the input at hand, after which the others would go on."""
    job = Job(["interrupted://desk.png", "interrupted://other.png"], tmp_path, ["overlay"], WriteOptions())
    with Console(quiet=True) as console, pytest.raises(KeyboardInterrupt):
        segment_all(job, console, preset="dense", model="starter", device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["interrupted://out", "interrupted-at-once://out"])
def test_it_ends_any_command(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "desk.png")
    monkeypatch.setattr(sys, "argv", ["densecli", "segment", str(tmp_path / "desk.png"), "-o", url])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "densecli: error: interrupted"


_INSIDE_OF_EXEC = """
import sys, fsspec
from fsspec.spec import AbstractFileSystem
from densecli.cli.app import main

class Interrupted(AbstractFileSystem):
    def __init__(self, **options):
        exec("raise KeyboardInterrupt")  # as dataclasses and named tuples run text while something is imported

fsspec.register_implementation("interrupted", Interrupted)
sys.argv = ["densecli", "segment", "desk.png", "-o", "interrupted://out"]
main()
"""


def test_inside_of_exec_it_has_its_exit_code_too(tmp_path: Path) -> None:
    """Python would otherwise end by a signal, although the interruption was dealt with."""
    Image.new("RGB", (32, 32)).save(tmp_path / "desk.png")
    (tmp_path / "start.py").write_text(_INSIDE_OF_EXEC)
    done = subprocess.run([sys.executable, "-m", "start"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "densecli: error: interrupted"
