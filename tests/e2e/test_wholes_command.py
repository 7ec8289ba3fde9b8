"""`--fill`, `ask_for_wholes` and the labels of wholes and leaves, as users run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest
from PIL import Image

from densecli.masks import summary_schema
from tests.conftest import FIRST_STARTER, Command

FEW = (
    "-m", str(FIRST_STARTER[0]), "-s", "points_per_side=3", "-s", "pred_iou_thresh=0.45",
    "-s", "stability_score_thresh=0.7", "-s", "min_mask_region_area=20",
)  # fmt: skip
# The single-mask output of this network at these points gives the keys of the drawn keyboard, and no keyboard.
ONLY_KEYS = (
    "-m", str(FIRST_STARTER[0]), "-s", "points_per_side=12", "-s", "multimask_output=false", "-s",
    "pred_iou_thresh=0.3", "-s", "stability_score_thresh=0.6", "-s", "min_mask_region_area=30",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """desk.png, a photo, and keys.png, a drawn keyboard."""
    folder = tmp_path_factory.mktemp("wholes")
    Image.fromarray(photo).save(folder / "desk.png")
    picture = np.full((360, 480, 3), (120, 150, 110), dtype=np.uint8)
    cv2.rectangle(picture, (72, 92), (408, 268), (40, 40, 45), -1)
    for x, y in ((85 + 80 * c, 105 + 80 * r) for r in range(2) for c in range(4)):
        cv2.rectangle(picture, (x, y), (x + 70, y + 70), (225, 225, 220), -1)
    noise = np.random.default_rng(0).normal(0, 4, picture.shape)
    blurred = cv2.GaussianBlur(np.clip(picture + noise, 0, 255).astype(np.uint8), (3, 3), 0)
    Image.fromarray(blurred).save(folder / "keys.png")
    return folder


def summary(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(document, summary_schema(), cls=jsonschema.Draft202012Validator)
    return document


def counts(document: dict[str, Any]) -> list[str]:
    return [mask["segmentation"]["counts"] for mask in document["masks"]]


@pytest.mark.parametrize("command", ["segment", pytest.param("batch", marks=pytest.mark.slow)])
def test_fill(folder: Path, run_densecli: Command, command: str) -> None:
    out = f"{command}-out"
    plain = run_densecli(command, "desk.png", *FEW, "-o", f"{out}/plain", "--no-fill", cwd=folder)
    filled = run_densecli(command, "desk.png", *FEW, "-o", f"{out}/filled", "--fill", "-v", cwd=folder)
    assert (plain.code, filled.code) == (0, 0), plain.stderr + filled.stderr
    before, after = (summary(folder / out / name / "desk_masks.json") for name in ("plain", "filled"))
    assert "fill" not in before and not before["preset"]["parameters"]["fill"]
    assert after["preset"]["parameters"]["fill"]
    assert set(counts(before)) < set(counts(after))
    fill = after["fill"]
    assert fill["masks_added"] == len(after["masks"]) - len(before["masks"]) > 0
    assert fill["coverage_before"] == before["coverage"] < fill["coverage_after"] == after["coverage"]
    plural = "" if fill["masks_added"] == 1 else "s"
    assert "; fill: coverage " in filled.stderr and f"{fill['masks_added']} mask{plural} more" in filled.stderr
    assert "fill: " not in plain.stderr


@pytest.mark.slow
def test_a_preset_that_fills_can_be_told_not_to(folder: Path, run_densecli: Command) -> None:
    (folder / "mine.yaml").write_text("extends: dense\ngenerator: {fill: true}\n")
    arguments = ("segment", "desk.png", "-p", "mine.yaml", *FEW, "-o", "mine", "--save", "json")
    assert run_densecli(*arguments, cwd=folder).code == 0
    assert "fill" in summary(folder / "mine/desk_masks.json")
    assert run_densecli(*arguments, "--no-fill", cwd=folder).code == 0
    assert "fill" not in summary(folder / "mine/desk_masks.json")


def test_keyboard_fix_asks_for_the_keyboard(folder: Path, run_densecli: Command) -> None:
    done = run_densecli("segment", "keys.png", "-p", "keyboard-fix", *ONLY_KEYS, "-o", "fixed", cwd=folder)
    assert done.code == 0, done.stderr
    fixed = summary(folder / "fixed/keys_masks.json")
    assert (fixed["funnel"]["asked"], fixed["funnel"]["answered"]) == (1, 1)
    (board,) = [mask for mask in fixed["masks"] if len(mask["point_coords"]) != 1]
    assert ("prompt_box" in board) == (board["point_coords"] == [])
    assert all(mask["parent"] != board["id"] for mask in fixed["masks"])


@pytest.mark.slow
def test_candidates_without_the_model(folder: Path, run_densecli: Command) -> None:
    kept = run_densecli(
        "segment", "keys.png", "-p", "dense", *ONLY_KEYS, "-o", "kept", "--save", "candidates", cwd=folder
    )
    assert kept.code == 0, kept.stderr
    again = ("segment", "kept/keys.candidates", *ONLY_KEYS[2:])  # without --model: the candidates know theirs
    done = run_densecli(*again, "-p", "keyboard-fix", "-o", "again", "--save", "json", cwd=folder)
    said = "1 group of similar masks has no whole among the masks, and without the model it cannot be asked for"
    assert done.code == 0 and said in done.stderr
    document = summary(folder / "again/keys_masks.json")
    assert document["funnel"]["asked"] == 0 and said in document["warnings"][0]
    plain = run_densecli(*again, "-p", "dense", "-o", "plain", "--save", "json", cwd=folder)
    assert plain.code == 0 and summary(folder / "plain/keys_masks.json")["warnings"] == []
    refused = run_densecli(*again, "--fill", "-o", "no", cwd=folder)
    assert refused.code == 2 and len(refused.errors) == 1
    assert "fill asks the model again; segment the photo again" in refused.errors[0]


@pytest.mark.slow
def test_labels_of_wholes_and_leaves(folder: Path, run_densecli: Command) -> None:
    save = "labels,labels-wholes,labels-leaves,json"
    done = run_densecli("segment", "keys.png", *ONLY_KEYS, "-s", "ask_for_wholes=true", "--save", save, cwd=folder)
    assert done.code == 0, done.stderr
    out = folder / "densecli-out"
    masks = summary(out / "keys_masks.json")["masks"]
    parents = {mask["parent"] for mask in masks} - {None}
    assert parents
    ids = {
        name: set(np.unique(np.asarray(Image.open(out / f"keys_labels{name}.png"))))
        for name in ("", "_wholes", "_leaves")
    }
    assert ids["_wholes"] <= {0, *(mask["id"] for mask in masks if mask["parent"] is None)}
    assert ids["_leaves"] <= {0, *(mask["id"] for mask in masks if mask["id"] not in parents)}
    assert ids["_wholes"] - {0} and ids["_leaves"] - {0} and ids["_wholes"] != ids["_leaves"]
    # They are outputs, never inputs.
    listed = run_densecli("batch", "densecli-out", "--dry-run", cwd=folder)
    assert "keys_labels_wholes" not in listed.stdout + listed.stderr
