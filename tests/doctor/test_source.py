"""Where densecli came from, and what brings it back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from densecli import checkpoints
from densecli.doctor import commands, source
from tests.conftest import CHECKOUT
from tests.doctor.faults import Package


def test_the_shipped_starter_is_the_one_that_doctor_knows() -> None:
    """Where another starter is shipped, source.py has to say so."""
    weights, _ = checkpoints.starter_files()
    content = weights.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (source.STARTER_SIZE, source.STARTER_SHA256)


def test_a_checkout_is_installed_from_itself() -> None:
    assert source.install_densecli() == commands.pip_install("--no-deps", "-e", str(CHECKOUT))


@pytest.mark.parametrize(
    ("origin", "last"),
    [
        ({"url": "file:///wheels/densecli-1-py3-none-any.whl", "archive_info": {}}, "densecli-1-py3-none-any.whl"),
        ({"url": "https://x.org/d", "vcs_info": {"vcs": "git", "commit_id": "1a2b"}}, " git+https://x.org/d@1a2b"),
        (None, "from the wheel or folder that it came from"),
    ],
)
def test_an_installed_one_is_installed_from_where_pip_found_it(
    origin: dict[str, object] | None, last: str, fake: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("densecli-1.dist-info/METADATA", "Name: densecli\nVersion: 1\n")
    if origin is not None:
        fake("densecli-1.dist-info/direct_url.json", json.dumps(origin))
    monkeypatch.setattr(source, "_FOLDER", tmp_path)
    assert source.install_densecli().endswith(last)
    assert source.restore_starter() == source.install_densecli()


def test_the_starter_of_a_clone_comes_from_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_FOLDER", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    assert source.restore_starter().startswith("copy ")  # an unpacked archive has no git to ask
    (tmp_path / ".git").mkdir()
    files = "checkpoints/starter.safetensors checkpoints/starter.yaml"
    assert source.restore_starter() == f"git -C {tmp_path} checkout -- {files}"
