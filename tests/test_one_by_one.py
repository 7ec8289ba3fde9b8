"""`segment`'s loop over its inputs, where a command line cannot bring about what is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

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


def test_ctrl_c_inside_a_library_ends_the_run(tmp_path: Path) -> None:
    """It is no failure of the input at hand, after which the others would go on."""
    fsspec.register_implementation("interrupted", Interrupted, clobber=True)
    job = Job(["interrupted://desk.png", "interrupted://other.png"], tmp_path, ["overlay"], WriteOptions())
    with Console(quiet=True) as console, pytest.raises(KeyboardInterrupt):
        segment_all(job, console, preset="dense", model="starter", device="cpu")
    assert not list(tmp_path.iterdir())
