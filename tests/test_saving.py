"""`densecli.save`: the files of a result, as the command writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densecli
from densecli.errors import OutputError, UsageError
from densecli.masks import Segmentation
from tests.sinks.conftest import segmentation_of


@pytest.fixture
def result() -> Segmentation:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:6] = True
    return segmentation_of(np.full((6, 8, 3), 99, np.uint8), [mask])


def test_all_kinds(result: Segmentation, tmp_path: Path) -> None:
    paths = densecli.save(result, tmp_path / "out", "a/desk", ["json", "overlay", "masks"], alpha=0.3)
    out = tmp_path / "out" / "a"
    assert paths == {
        "overlay": out / "desk_overlay.png",
        "masks": out / "desk_masks",
        "json": out / "desk_masks.json",
    }
    assert np.array_equal(np.asarray(Image.open(paths["overlay"])), result.overlay(0.3))
    assert json.loads(paths["json"].read_text())["masks"] == result.summary()["masks"]
    assert len(list(paths["masks"].iterdir())) == 1
    assert densecli.save(result, str(tmp_path / "out"), "a/desk") == {k: paths[k] for k in ("overlay", "json")}


@pytest.mark.parametrize(
    ("name", "kinds", "said"),
    [
        ("desk", ["coco"], "of all images of a run"),
        ("desk", ["picture"], "unknown kind 'picture'"),
        ("desk", ["candidates"], "keep_candidates=True"),
        ("../desk", ["json"], "give one under"),
        ("/desk", ["json"], "give one under"),
        ("", ["json"], "give one under"),
        (".", ["json"], "give one under"),
        ("a\0b", ["json"], "give one under"),
        (7, ["json"], "name 7: give one under"),
    ],
)
def test_what_cannot_be_saved(result: Segmentation, tmp_path: Path, name: str, kinds: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        densecli.save(result, tmp_path, name, kinds)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["s3://bucket/out", "memory://out", "https://example.org/out"])
def test_urls_are_no_folders(result: Segmentation, folder: str, tmp_path: Path, monkeypatch) -> None:
    """A folder `s3:` was made here."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="run_batch|nothing can be written to https"):
        densecli.save(result, folder, "desk")
    assert list(tmp_path.iterdir()) == []


def test_names_of_many_forms(result: Segmentation, tmp_path: Path) -> None:
    expected = {"json": tmp_path / "a" / "desk_masks.json"}
    assert densecli.save(result, tmp_path.as_uri(), Path("a/desk"), "json") == expected
    assert densecli.save(result, tmp_path, "a/desk", {"json"}) == expected


def test_what_densecli_did_not_write_stays(result: Segmentation, tmp_path: Path) -> None:
    (tmp_path / "desk_overlay.png").write_text("mine")
    with pytest.raises(OutputError, match="was not written by densecli"):
        densecli.save(result, tmp_path, "desk")
    assert (tmp_path / "desk_overlay.png").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
