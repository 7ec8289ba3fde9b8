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


def test_it_ends_a_run_of_segment(tmp_path: Path) -> None:
    """It is no failure of the input at hand, after which the others would go on."""
    fsspec.register_implementation("interrupted", Interrupted, clobber=True)
    job = Job(["interrupted://desk.png", "interrupted://other.png"], tmp_path, ["overlay"], WriteOptions())
    with Console(quiet=True) as console, pytest.raises(KeyboardInterrupt):
        segment_all(job, console, preset="dense", model="starter", device="cpu")
    assert not list(tmp_path.iterdir())


_START = """
import sys, fsspec
from fsspec.spec import AbstractFileSystem
from densecli.cli.app import main

def library():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise SystemError("returned a result with an exception set") from error

def text():  # as dataclasses and named tuples run it while something is imported
    exec("raise KeyboardInterrupt")

class Interrupted(AbstractFileSystem):
    def __init__(self, **options):
        super().__init__(**options)
        if MOMENT == "at once":
            strike()

    def _open(self, path, mode="rb", **options):
        strike()

    def ls(self, path, **options):
        if MOMENT == "after a failure":
            raise NotImplementedError
        raise FileNotFoundError(path)

    def info(self, path, **options):
        raise FileNotFoundError(path)

def strike():
    print("struck")
    PLACE()

fsspec.register_implementation("interrupted", Interrupted)
sys.argv = ["densecli", "segment", "desk.png", "-o", "interrupted://out"]
main()
"""


@pytest.mark.parametrize("moment", ["at once", "later", "after a failure"])
@pytest.mark.parametrize("place", ["library", "text"])
def test_it_ends_any_command(moment: str, place: str, tmp_path: Path) -> None:
    """With our exit code, though Python would end by a signal after `text`; and what it struck is not tried again."""
    Image.new("RGB", (32, 32)).save(tmp_path / "desk.png")
    (tmp_path / "start.py").write_text(_START.replace("MOMENT", repr(moment)).replace("PLACE", place))
    done = subprocess.run([sys.executable, "-m", "start"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "struck\n"), done.stderr
    assert done.stderr.splitlines()[-1] == "densecli: error: interrupted"
