"""`make setup` where one before it did not come to its end. Pythons are scripts that note what they are asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")

# Makes an environment whose Python, a copy of it, has pip.
WHOLE = """#!/bin/sh
echo "$0 $*" >> asked
[ "$2" = venv ] && mkdir -p .venv/bin && cp python .venv/bin/python
exit 0
"""
WITHOUT_PIP = '#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n'


def script(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    script(tmp_path / "python", WHOLE)
    return tmp_path


def setup(folder: Path, *arguments: str, **environment: str) -> tuple[str, list[str]]:
    """stderr, and what Pythons were asked, of a `make setup` that succeeded."""
    asked = folder / "asked"
    asked.write_text("")
    done = subprocess.run(
        ["make", "setup", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHON"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr, asked.read_text().splitlines()


def test_an_unfinished_environment_is_made_again(folder: Path) -> None:
    """Debian's Python without python3-venv leaves one, and so does Ctrl-C."""
    script(folder / ".venv" / "bin" / "python", WITHOUT_PIP)
    said, asked = setup(folder, PYTHON="./python")
    assert "No module named pip" not in said
    assert asked[0] == "./python -m venv --clear .venv"
    assert all(line.startswith(".venv/bin/python -m pip install ") for line in asked[1:]) and len(asked) == 4


def test_a_second_setup_asks_no_python(folder: Path) -> None:
    setup(folder, PYTHON="./python")
    assert setup(folder, PYTHON="./python") == ("", [])
    # Nor does a changed pyproject.toml throw a good environment away.
    os.utime(folder / "pyproject.toml", (2**32, 2**32))
    _, asked = setup(folder, PYTHON="./python")
    assert asked[0] == ".venv/bin/python -m pip --version" and not any("venv --clear" in line for line in asked)


@pytest.mark.parametrize("how", ["environment", "argument"])
def test_an_empty_python_is_none_given(how: str, folder: Path) -> None:
    script(folder / "bin" / "python3.11", WHOLE)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    _, asked = setup(folder, "PYTHON=", PATH=path) if how == "argument" else setup(folder, PATH=path, PYTHON="")
    assert asked[0] == f"{folder / 'bin' / 'python3.11'} -m venv --clear .venv"
