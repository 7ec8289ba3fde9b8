"""Other kinds of outputs after a run: made from the summaries, the same to the byte, and no model runs for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densecli.batch.rehearsal import rehearse
from densecli.console import Console
from densecli.engine.generator import MaskGenerator
from densecli.one_by_one import Job, segment_all
from densecli.sinks import WriteOptions
from tests.batch.conftest import MODEL, SETTINGS, batch_job, entries, run, timeless
from tests.batch.test_destination import job_to
from tests.batch.test_spanning import clip

FIRST = ("overlay", "json")
ALL = ("overlay", "labels", "labels-wholes", "labels-leaves", "masks", "cutouts", "json", "coco", "yolo", "labelme")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and whatever runs the model from then on fails."""

    def generate(*given: Any, **more: Any) -> None:
        raise AssertionError("the model ran")

    return lambda: monkeypatch.setattr(MaskGenerator, "generate", generate)


def test_the_same_as_if_all_were_asked_for_at_once(
    frames: Path, no_model: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(batch_job(frames, kinds=ALL, out="whole")).done == 6
    assert run(batch_job(frames, kinds=FIRST)).done == 6
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*") if path.name != "manifest.jsonl"}
    lines = entries(Path("out"))
    no_model()
    capsys.readouterr()
    more = batch_job(frames, kinds=("overlay", "labels", "json"), write_options=WriteOptions(0.2))
    with Console() as console:
        assert rehearse(more, console) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert told == "frames/img0.png: would write out/img0_labels.png, out/img0_overlay.png, without the model"
    outcome = run(batch_job(frames, kinds=ALL), quiet=False)
    assert (outcome.done, outcome.redone, outcome.failed) == (6, 6, 0)
    assert timeless(Path("out")) == timeless(Path("whole"))
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what was there is not written again
    for name, line in entries(Path("out")).items():
        assert set(line["outputs"]) == set(entries(Path("whole"))[name]["outputs"]) > set(lines[name]["outputs"])
        for key in ("masks", "sha256", "alpha", "seconds"):
            assert line[key] == lines[name][key]
    said = capsys.readouterr()
    assert said.err.count("masks as they are in its summary; no model ran") == 1
    assert "img0.png: Found " in said.out and "out/img0_labels.png" in said.out and "_overlay" not in said.out
    again = run(batch_job(frames, kinds=ALL))
    assert (again.done, again.complete) == (0, 6)


def test_another_opacity_and_an_overlay_that_is_gone(frames: Path, no_model: Callable[[], None]) -> None:
    light = batch_job(frames, kinds=FIRST, write_options=WriteOptions(0.3))
    assert run(replace(light, output_dir=Path("light"))).done == 6
    assert run(batch_job(frames, kinds=FIRST)).done == 6
    Path("out/img4_overlay.png").unlink()
    no_model()
    assert run(batch_job(frames, kinds=FIRST)).done == 1
    assert run(light).done == 6
    assert timeless(Path("out")) == timeless(Path("light"))
    assert entries(Path("out"))["frames/img4.png"]["alpha"] == 0.3


def test_frames_of_a_video(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, no_model: Callable[[], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    clip(Path("clip.mp4"), photo, 3)
    # Their pictures are kept for data sets only.
    kinds = ("overlay", "masks", "json", "coco")
    assert run(batch_job("clip.mp4", kinds=kinds, out="whole")).done == 3
    assert run(batch_job("clip.mp4", kinds=FIRST)).done == 3
    no_model()
    assert run(batch_job("clip.mp4", kinds=kinds)).done == 3
    found, whole = timeless(Path("out")), timeless(Path("whole"))
    assert found.pop("clip_overlay.mp4") and whole.pop("clip_overlay.mp4")
    assert found == whole and len([name for name in found if name.startswith("dataset_images/")]) == 3


def test_in_a_bucket(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_model: Callable[[], None]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url, out = f"local://{tmp_path}/bucket/out", tmp_path / "bucket" / "out"
    job = job_to(url, frames, kinds=FIRST, report=True)
    assert run(job).done == 6
    no_model()
    assert run(replace(job, kinds=ALL)).done == 6
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(batch_job(frames, kinds=ALL)).done == 6
    found, ours = timeless(out), timeless(Path("out"))
    for name in ("img3_labels.png", "img3_overlay.png", "img3_masks/0001.png", "img3_masks.json", "labelme/img3.json"):
        assert name in ours
    differing = {name for name in ours if found[name] != ours[name]}
    # In a bucket, data sets point at copies of the pictures.
    assert all(name.startswith(("yolo/images/", "labelme/", "annotations_coco.json")) for name in differing)
    assert len(list(out.glob("report/*/*.jpg"))) == 6


def _count(summary: Path) -> int:
    return len(json.loads(summary.read_text())["masks"])


WAYS = ["damaged", "other masks", "of another picture", "gone", "not recorded", "of other settings", "one less", "odd"]


@pytest.mark.parametrize("what", [*WAYS, "of another threshold", "another schema", "of another size", "no funnel"])
def test_where_the_summary_does_not_tell_the_model_runs(frames: Path, what: str) -> None:
    for name in ("img0.png", "img1.png"):
        run(batch_job(frames / name, kinds=FIRST, out="truth"))
    photo, summary = frames / "img0.png", Path("out/img0_masks.json")
    kinds: tuple[str, ...] = ("overlay",) if what == "not recorded" else FIRST
    run(batch_job(photo, kinds=kinds))
    if what == "damaged":
        text = summary.read_text()
        summary.write_text(text.replace('"area"', '"erea"', 1))
    elif what == "other masks":
        document = json.loads(summary.read_text())
        document["masks"][0]["bbox"][0] += 1
        summary.write_text(json.dumps(document) + "\n")
    elif what == "of another picture":
        summary.write_bytes(Path("truth/img1_masks.json").read_bytes())
    elif what == "gone":
        summary.unlink()
    elif what == "of other settings":  # by a run of segment, of which the manifest knows nothing
        segment(photo, overrides=("points_per_side=2", *SETTINGS[1:]))
    elif what in ("one less", "odd", "of another threshold", "another schema", "of another size", "no funnel"):
        document = json.loads(summary.read_text())
        if what == "one less":
            document["masks"].pop()
        elif what == "odd":
            document["masks"][0]["id"] = "1"
        elif what == "of another threshold":  # which would give as many masks
            document["preset"]["parameters"]["box_nms_thresh"] = 0.71
        elif what == "another schema":
            document["schema"] = "densecli/summary/2"
        elif what == "of another size":
            document["masks"][0]["segmentation"]["size"][0] *= 2
        else:
            del document["funnel"]["after_nms"]
        summary.write_text(json.dumps(document) + "\n")
    else:  # of other settings, by a run before this one
        run(batch_job(photo, kinds=("json",), overrides=(*SETTINGS, "pred_iou_thresh=0.7"), out="other"))
        summary.write_bytes(Path("other/img0_masks.json").read_bytes())
    kinds = ("overlay", "masks") if what == "not recorded" else ("overlay", "masks", "json")
    assert run(batch_job(photo, kinds=kinds)).done == 1
    if what == "not recorded":
        assert len(list(Path("out/img0_masks").iterdir())) == _count(Path("truth/img0_masks.json"))
        return
    assert timeless(Path("out"))["img0_masks.json"] == timeless(Path("truth"))["img0_masks.json"]
    assert len(list(Path("out/img0_masks").iterdir())) == _count(summary) > 0


def segment(photo: Path, overrides: Sequence[str]) -> None:
    job = Job([str(photo)], Path("out"), ("json",), WriteOptions())
    with Console(quiet=True) as console:
        assert segment_all(job, console, preset="dense", overrides=overrides, model=MODEL, device="cpu") == 0


def test_without_a_summary_it_is_said_that_the_model_runs(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(batch_job(frames, kinds=("overlay",))).done == 6
    capsys.readouterr()
    with Console() as console:
        assert rehearse(batch_job(frames, kinds=("overlay", "masks")), console) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "frames/img0.png: would write out/img0_overlay.png, out/img0_masks"


def test_overwrite_runs_the_model(frames: Path) -> None:
    """Whoever asks for it may have an overlay that somebody painted over."""
    assert run(batch_job(frames, kinds=FIRST)).done == 6
    before = timeless(Path("out"))
    Path("out/img2_overlay.png").write_bytes(before["img3_overlay.png"])
    summaries = {path: path.stat().st_mtime_ns for path in Path("out").glob("*_masks.json")}
    assert run(batch_job(frames, kinds=FIRST, overwrite=True)).done == 6
    assert timeless(Path("out")) == before
    assert not any(path.stat().st_mtime_ns == then for path, then in summaries.items())


def test_a_killed_run_leaves_no_overlay_of_another_opacity_behind(frames: Path) -> None:
    photo = frames / "img0.png"
    assert run(batch_job(photo, kinds=FIRST)).done == 1
    before = timeless(Path("out"))
    code = (
        "import os, signal; from densecli.sinks import cutouts; from densecli.cli.app import main; "
        "cutouts.write = lambda *given: os.kill(os.getpid(), signal.SIGKILL); main()"
    )
    settings = [word for key in SETTINGS for word in ("-s", key)]
    command = ["batch", str(photo), "-o", "out", "--save", "overlay,cutouts,json", "--alpha", "0.2", "-m", MODEL]
    killed = subprocess.run([sys.executable, "-c", code, *command, "-d", "cpu", *settings], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run(batch_job(photo, kinds=FIRST))
    assert {name: data for name, data in timeless(Path("out")).items() if name in before} == before


def test_another_picture_of_the_same_age_and_size(frames: Path) -> None:
    """What was saved of the old one is not taken for the new one's."""
    photo = frames / "img0.bmp"
    Image.open(frames / "img0.png").save(photo)
    status = photo.stat()
    run(batch_job(photo, kinds=FIRST))
    Image.open(frames / "img3.png").save(photo)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run(batch_job(photo, kinds=("labels", "json"))).done == 1
    assert run(batch_job(photo, kinds=FIRST)).done == 1
    run(batch_job(photo, kinds=("overlay", "labels", "json"), out="truth"))
    assert timeless(Path("out")) == timeless(Path("truth"))


@pytest.mark.slow
def test_with_several_workers_and_a_photo_that_is_damaged(frames: Path) -> None:
    run(batch_job(frames, kinds=FIRST))
    for number in (1, 2, 3):
        (frames / f"bad{number}.png").write_bytes((frames / "img0.png").read_bytes()[:2000])
    outcome = run(batch_job(frames, kinds=("overlay", "masks", "json"), workers=2))
    assert (outcome.done, outcome.failed) == (6, 3)


def test_candidates_take_the_model(frames: Path) -> None:
    assert run(batch_job(frames / "img0.png", kinds=FIRST)).done == 1
    assert run(batch_job(frames / "img0.png", kinds=("overlay", "candidates", "json"))).done == 1
    assert Path("out/img0.candidates").exists()
