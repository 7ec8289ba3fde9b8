"""`refine_edges`, as users set it: in a preset file, with --set, on a photo and on kept candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from tests.conftest import Command
from tests.same_masks import assert_same_masks

GRID = ("-m", "starter", "-s", "points_per_side=6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run_densecli: Command) -> Path:
    """cup.png, kept/ with its candidates, made with edges as they are, and guided/ with the masks of a guided run."""
    folder = tmp_path_factory.mktemp("edges")
    Image.fromarray(skimage.data.coffee()).save(folder / "cup.png")
    (folder / "sharp.yaml").write_text("extends: dense\ncleanup:\n  refine_edges: guided\n", encoding="utf-8")
    (folder / "plain.yaml").write_text("extends: ./sharp.yaml\ncleanup: {refine_edges: off}\n", encoding="utf-8")
    for arguments in (
        ("-p", "plain.yaml", "-o", "kept", "--save", "json,candidates"),
        ("-p", "sharp.yaml", "-o", "guided", "--save", "json"),
    ):
        done = run_densecli("segment", "cup.png", *GRID, *arguments, cwd=folder)
        assert done.code == 0, done.stderr
    return folder


def summary(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_summary_says_what_was_used(folder: Path) -> None:
    off, guided = (summary(folder / name / "cup_masks.json") for name in ("kept", "guided"))
    assert off["preset"]["parameters"]["refine_edges"] == "off"
    assert guided["preset"]["parameters"]["refine_edges"] == "guided"
    assert off["funnel"]["after_nms"] == guided["funnel"]["after_nms"]
    pixels = [[m["segmentation"] for m in s["masks"]] for s in (off, guided)]
    assert pixels[0] and pixels[1] and pixels[0] != pixels[1]


@pytest.mark.slow
def test_kept_candidates_give_what_a_fresh_run_gives(folder: Path, run_densecli: Command) -> None:
    for wish, fresh in (("guided", "guided"), ("off", "kept")):
        done = run_densecli(
            *("segment", "kept/cup.candidates", *GRID, "-p", "sharp.yaml", "-s", f"refine_edges={wish}"),
            *("-o", f"again-{wish}", "--save", "json"),
            cwd=folder,
        )
        assert done.code == 0, done.stderr
        again, first = (summary(folder / name / "cup_masks.json") for name in (f"again-{wish}", fresh))
        assert again["masks"]
        assert_same_masks(again["masks"], first["masks"])


@pytest.mark.slow
def test_without_the_photo_guided_edges_cannot_be_had(folder: Path, run_densecli: Command, tmp_path: Path) -> None:
    (tmp_path / "cup.candidates").write_bytes((folder / "kept/cup.candidates").read_bytes())
    photo, hidden = folder / "cup.png", folder / "cup.hidden"
    photo.rename(hidden)
    try:
        wish = ("segment", "cup.candidates", *GRID, "--save", "json")
        guided = run_densecli(*wish, "-s", "refine_edges=guided", "-o", "a", cwd=tmp_path)
        off = run_densecli(*wish, "-s", "refine_edges=off", "-o", "b", cwd=tmp_path)
    finally:
        hidden.rename(photo)
    assert guided.code == 2 and len(guided.errors) == 1, guided.stderr
    assert "cup.png is not there any more; put the photo beside it, or leave edges as they are" in guided.errors[0]
    assert "Traceback" not in guided.stderr
    assert off.code == 0, off.stderr


def test_another_word_is_an_error_that_names_those_allowed(folder: Path, run_densecli: Command) -> None:
    done = run_densecli("segment", "cup.png", *GRID, "-s", "refine_edges=on", cwd=folder)
    assert done.code == 2
    assert done.errors == ["--set: cleanup.refine_edges: true given; allowed: off or guided"]
