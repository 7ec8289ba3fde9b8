"""`segment --save candidates`, `segment NAME.candidates` and `compare`, as users run them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densecli.image_candidates import ImageCandidates
from tests.conftest import CHECKOUT, FIRST_STARTER, Command, Finished
from tests.same_masks import assert_same_masks

GRID = ("-m", "starter", "-s", "points_per_side=8", "-s", "min_mask_region_area=20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray, run_densecli: Command) -> Path:
    """desk.png, and kept/ with its candidates and summary."""
    folder = tmp_path_factory.mktemp("candidates")
    Image.fromarray(photo).save(folder / "desk.png")
    done = run_densecli(
        "segment", "desk.png", *GRID, "-o", "kept", "--save", "overlay,json,candidates,labels", cwd=folder
    )
    assert done.code == 0, done.stderr
    assert "kept/desk.candidates" in done.stdout
    return folder


def summary(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def masks(path: Path) -> list[dict[str, Any]]:
    return summary(path)["masks"]


def one_error(done: Finished, code: int, said: str) -> None:
    assert done.code == code, done.stderr
    assert len(done.errors) == 1 and said in done.errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_chosen_again_it_is_what_the_run_gave(folder: Path, run_densecli: Command) -> None:
    again = run_densecli(
        "segment", "kept/desk.candidates", *GRID, "-o", "same", "--save", "overlay,json,labels", cwd=folder
    )
    assert again.code == 0 and "no model ran" in again.stderr
    assert again.lines[0].startswith("kept/desk.candidates: Found ")
    for name in ("desk_overlay.png", "desk_labels.png"):
        assert (folder / "same" / name).read_bytes() == (folder / "kept" / name).read_bytes()
    one, other = summary(folder / "kept/desk_masks.json"), summary(folder / "same/desk_masks.json")
    assert {k: one[k] for k in one if k not in ("seconds", "peak_memory_mb")} == {
        k: other[k] for k in other if k not in ("seconds", "peak_memory_mb")
    }


def test_other_values_are_those_of_a_fresh_run(folder: Path, run_densecli: Command) -> None:
    values = (*GRID, "-p", "keyboard-fix", "-s", "pred_iou_thresh=0.55", "-s", "box_nms_thresh=0.9", "--save", "json")
    again = run_densecli("segment", "kept/desk.candidates", *values, "-o", "again", cwd=folder)
    fresh = run_densecli("segment", "desk.png", *values, "-o", "fresh", cwd=folder)
    assert (again.code, fresh.code) == (0, 0), again.stderr + fresh.stderr
    assert_same_masks(masks(folder / "again/desk_masks.json"), masks(folder / "fresh/desk_masks.json"))
    assert masks(folder / "again/desk_masks.json")


def test_no_network_is_loaded(folder: Path, run_densecli: Command) -> None:
    done = run_densecli(
        "segment", "kept/desk.candidates", *GRID, "-o", "light", python=("-X", "importtime"), cwd=folder
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.code == 0 and "torch" in imported
    assert not imported & {"sam2", "hydra", "omegaconf"} and "starter" not in done.lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-s", "pred_iou_thresh=0.2"), "from pred_iou_thresh 0.5 up only, and 0.2 is below that; segment the photo"),
        (("-s", "points_per_side=16"), "of points_per_side 8, not of 16; choose with --set points_per_side=8, or "),
        (("-s", "mask_threshold=1.0"), "of mask_threshold 0, not of 1"),
        (("-m", "large"), "candidates of model starter, and --model large asks for another"),
        (("-m", str(FIRST_STARTER[0])), "first_starter.safetensors asks for another"),
        (("--save", "coco"), "--save coco needs the photo itself"),
    ],
)
def test_wishes_that_need_the_model_are_usage_errors(
    folder: Path, run_densecli: Command, arguments: tuple[str, ...], said: str
) -> None:
    base = ("-s", "points_per_side=8") if "points_per_side=16" not in arguments else ()
    one_error(run_densecli("segment", "kept/desk.candidates", *base, *arguments, "-o", "no", cwd=folder), 2, said)


def test_the_weights_that_made_them_may_be_named_by_their_file(folder: Path, run_densecli: Command) -> None:
    own = ("-m", str(CHECKOUT / "checkpoints" / "starter.safetensors"))
    done = run_densecli("segment", "kept/desk.candidates", *GRID, *own, "-o", "own", cwd=folder)
    assert done.code == 0, done.stderr


def test_candidates_beside_photos(folder: Path, run_densecli: Command) -> None:
    shutil.copy(folder / "desk.png", folder / "other.png")
    done = run_densecli(
        "segment", "kept/desk.candidates", "other.png", *GRID, "-o", "both", "--save", "json", "--json", cwd=folder
    )
    assert done.code == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert_same_masks(first["masks"], second["masks"])


def test_damaged_file_costs_only_itself(folder: Path, run_densecli: Command) -> None:
    (folder / "cut.candidates").write_bytes((folder / "kept/desk.candidates").read_bytes()[:3000])
    done = run_densecli("segment", "cut.candidates", "kept/desk.candidates", *GRID, "-o", "some", cwd=folder)
    one_error(done, 3, "cut.candidates: is cut off or damaged; make it again")


@pytest.mark.slow
def test_without_the_photo_all_but_pictures_can_be_had(folder: Path, run_densecli: Command, tmp_path: Path) -> None:
    shutil.copy(folder / "desk.png", tmp_path / "desk.png")
    kept = run_densecli("segment", "desk.png", *GRID, "-o", "kept", "--save", "candidates", cwd=tmp_path)
    assert kept.code == 0 and (tmp_path / "kept").is_dir()
    (tmp_path / "desk.png").unlink()
    overlay = run_densecli("segment", "kept/desk.candidates", *GRID, "-o", "a", cwd=tmp_path)
    one_error(overlay, 1, "desk.png is not there any more; put the photo beside it, or write --save json,labels,masks")
    rest = run_densecli(
        "segment", "kept/desk.candidates", *GRID, "-o", "b", "--save", "json,labels,masks", cwd=tmp_path
    )
    assert rest.code == 0, rest.stderr
    labels = np.asarray(Image.open(tmp_path / "b/desk_labels.png"))
    assert labels.shape == (107, 160) and labels.any()
    assert np.asarray(Image.open(tmp_path / "b/desk_masks/0001.png")).shape == (107, 160)


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_without_the_photo_there_is_no_sheet_and_no_page(
    command: str, folder: Path, run_densecli: Command, tmp_path: Path
) -> None:
    kept = ImageCandidates.load(folder / "kept" / "desk.candidates")
    replace(kept, photo=str(tmp_path / "desk.png")).save(tmp_path / "x.candidates")
    done = run_densecli(command, "x.candidates", cwd=tmp_path)
    one_error(
        done, 1, f"desk.png is not there any more; put the photo beside it, or give a photo: densecli {command} PHOTO"
    )


def test_candidates_are_never_written_over_themselves(folder: Path, run_densecli: Command) -> None:
    done = run_densecli("segment", "kept/desk.candidates", *GRID, "-o", "kept", "--save", "candidates", cwd=folder)
    one_error(done, 2, "would overwrite the input")
    copied = run_densecli("segment", "kept/desk.candidates", *GRID, "-o", "copy", "--save", "candidates", cwd=folder)
    assert copied.code == 0 and (folder / "copy/desk.candidates").stat().st_size > 1000


def test_batch_keeps_the_same_candidates(folder: Path, run_densecli: Command) -> None:
    done = run_densecli("batch", "desk.png", *GRID, "-o", "batch", "--save", "candidates", "--no-report", cwd=folder)
    assert done.code == 0 and "batch/desk.candidates" in done.stdout, done.stderr
    assert (folder / "batch/desk.candidates").read_bytes() == (folder / "kept/desk.candidates").read_bytes()


# --- compare ----------------------------------------------------------------------------------------------------------

PRESETS = ("--presets", "dense,keyboard-fix,default")


def test_compare_runs_once_and_writes_one_sheet(folder: Path, run_densecli: Command) -> None:
    done = run_densecli("compare", "desk.png", *GRID, *PRESETS, cwd=folder)
    assert done.code == 0 and "the model ran once for 3 presets" in done.stderr, done.stderr
    assert done.lines[0].endswith("densecli-out/desk_compare.png") and len(done.lines) == 1
    for name in ("dense", "keyboard-fix", "default"):
        assert f"desk.png: {name}: 64 points" in done.stderr
    with Image.open(folder / "densecli-out/desk_compare.png") as sheet:
        assert sheet.width > 1200 and sheet.height > 800


def test_compare_says_at_once_where_no_sheet_can_be_written(folder: Path, run_densecli: Command) -> None:
    done = run_densecli("compare", "desk.png", *GRID, *PRESETS, "-o", "desk.png/sheet.png", cwd=folder)
    assert (done.code, done.stdout) == (1, "")
    assert done.errors == ["desk.png: a part of this path is a file, not a folder; choose another --output"]


@pytest.mark.slow
def test_compare_of_candidates_runs_no_model_and_is_the_same_sheet(folder: Path, run_densecli: Command) -> None:
    fresh = run_densecli("compare", "desk.png", *GRID, *PRESETS, "-o", "one.png", cwd=folder)
    again = run_densecli("compare", "kept/desk.candidates", *GRID, *PRESETS, "-o", "two.png", cwd=folder)
    assert (fresh.code, again.code) == (0, 0) and "no model ran for 3 presets" in again.stderr
    assert (folder / "one.png").read_bytes() == (folder / "two.png").read_bytes()


@pytest.mark.slow
def test_own_preset_files_have_their_name_on_the_sheet(folder: Path, run_densecli: Command) -> None:
    (folder / "mine.yaml").write_text("extends: dense\ngenerator: {points_per_side: 8, pred_iou_thresh: 0.5}\n")
    done = run_densecli("compare", "desk.png", "-m", "starter", "--presets", "./mine.yaml", "-o", "m.png", cwd=folder)
    assert done.code == 0 and done.lines[0].startswith("desk.png: mine ")


def test_presets_of_one_name_have_their_places_on_the_sheet(folder: Path, run_densecli: Command) -> None:
    for name, area in (("x", 20), ("y", 500)):
        (folder / name).mkdir()
        (folder / name / "t.yaml").write_text(f"extends: dense\ncleanup: {{min_mask_region_area: {area}}}\n")
    presets = "x/t.yaml,y/t.yaml,dense"
    done = run_densecli(
        "compare", "kept/desk.candidates", "-s", "points_per_side=8", "--presets", presets, "-o", "t.png", cwd=folder
    )
    assert done.code == 0, done.stderr
    assert re.fullmatch(r".*: x/t.yaml \d+ masks, y/t.yaml \d+ masks, dense \d+ masks. t.png", done.lines[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--presets", " , "), "--presets: names no preset"),
        (("--presets", "dense,defualt"), "nearest: default"),
        (("-o", "sheet.jpg"), "give a name that ends in .png"),
        (("-o", "desk.png"), "would overwrite the input"),
        (("--alpha", "2"), "from 0 to 1"),
    ],
)
def test_compare_says_what_is_wrong_before_any_work(
    folder: Path, run_densecli: Command, arguments: tuple[str, ...], said: str
) -> None:
    one_error(run_densecli("compare", "desk.png", *GRID, *arguments, cwd=folder), 2, said)


@pytest.mark.slow
def test_compare_of_what_is_not_there(folder: Path, run_densecli: Command) -> None:
    one_error(run_densecli("compare", "desk.pgn", *GRID, cwd=folder), 1, "did you mean desk.png?")
    one_error(run_densecli("compare", "kept/desk.candidates", "-m", "starter", cwd=folder), 2, "not of 64")
