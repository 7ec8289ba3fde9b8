"""Collecting in a folder of a test's own, and what was found in short."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from PIL import Image

from densecli.sources.collecting import Collection, Item, Problem

NAME = st.text(st.sampled_from("aAbß1.~"), min_size=1, max_size=4)
SUFFIX = st.sampled_from([".jpg", ".png", ".JPG", ".jpg.png", ".mp4"])


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that every test runs in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def files(*names: str) -> None:
    """Make images with these names."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (200, 10, 10)).save(name, "PNG")


def items(*inputs: str, output_dir: str = "out", **options: object) -> list[Item]:
    found = list(Collection(inputs, output_dir=output_dir, **options))  # type: ignore[arg-type]
    assert all(isinstance(item, Item) for item in found), found
    return found  # type: ignore[return-value]


def problems(*inputs: str, **options: object) -> list[Problem]:
    return [found for found in Collection(inputs, output_dir="out", **options) if isinstance(found, Problem)]  # type: ignore[arg-type]


def stems(found: Iterable[Item]) -> list[str]:
    return [item.stem for item in found]
