"""What spans a run: whole after it was taken up, over shards, and for videos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.batch.conftest import batch_job, entries, run

KINDS = ("overlay", "json", "coco", "yolo", "labelme")


def clip(path: Path, photo: np.ndarray, frames: int) -> None:
    height, width = photo.shape[0] // 2 * 2, photo.shape[1] // 2 * 2
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (width, height))  # type: ignore[attr-defined]
    for number in range(frames):
        writer.write(np.ascontiguousarray(np.roll(photo[:height, :width, ::-1], 6 * number, axis=1)))
    writer.release()


def pictures_of(out: Path) -> list[str]:
    data = COCO(str(out / "annotations_coco.json"))
    assert all(
        data.annToMask(annotation).sum() == annotation["area"] for annotation in data.loadAnns(data.getAnnIds()[:20])
    )
    return [Path(image["file_name"]).name for image in data.loadImgs(data.getImgIds())]


def frames_of(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_data_sets_hold_what_earlier_runs_did(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = batch_job(*(str(frames / f"img{number}.png") for number in (0, 1)), kinds=KINDS)
    assert run(first).done == 2
    assert pictures_of(Path("out")) == ["img0.png", "img1.png"]
    outcome = run(batch_job(frames, kinds=KINDS))
    assert (outcome.done, outcome.complete) == (4, 2)
    assert pictures_of(Path("out")) == [f"img{number}.png" for number in range(6)]
    assert len(list(Path("out/labelme").rglob("*.json"))) == 6
    assert len(list(Path("out/yolo/labels").rglob("*.txt"))) == 6


def test_a_damaged_summary_costs_its_image_and_says_what_mends_it(
    frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(batch_job(frames, kinds=("json",))).done == 6
    path = Path("out/img2_masks.json")
    path.write_text(path.read_text().replace('"area"', '"are"'))  # whole, as far as a glance tells
    job = batch_job(frames, kinds=("json", "coco"))
    run(job, quiet=False)
    told = capsys.readouterr().err
    assert "img2.png: is not in the data sets, its summary" in told and "run again with --overwrite" in told
    assert pictures_of(Path("out")) == [f"img{number}.png" for number in (0, 1, 3, 4, 5)]
    run(replace(job, overwrite=True))
    assert len(pictures_of(Path("out"))) == 6


def test_a_video_over_shards_and_runs(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clip(Path("clip.mp4"), photo, 9)
    job = batch_job("clip.mp4", kinds=("overlay", "json", "coco"), every=2)
    assert sum(run(replace(job, shard=(part, 2))).done for part in (1, 2)) == 5
    stems = [entry["stem"] for entry in entries(Path("out")).values()]
    assert sorted(stems) == [f"clip/frame_{number:06d}" for number in (0, 2, 4, 6, 8)]
    assert len(pictures_of(Path("out"))) == frames_of(Path("out/clip_overlay.mp4")) == 5
    summary = json.loads(Path("out/clip/frame_000004_masks.json").read_text())
    assert summary["image"]["path"] == "clip.mp4#4"
    outcome = run(replace(job, every=1))
    assert (outcome.done, outcome.complete) == (4, 5)
    assert len(pictures_of(Path("out"))) == frames_of(Path("out/clip_overlay.mp4")) == 9
    assert run(job).complete == 5


def test_the_report_forgets_failures_that_are_no_more(frames: Path) -> None:
    (frames / "text.png").write_text("I am no picture\n")
    assert run(batch_job(frames, report=True)).failed == 1
    report = Path("out/report.html")
    assert "is a text file" in report.read_text()
    (frames / "text.png").unlink()
    (frames / "img0.png").touch()
    Path("out/img1_masks.json").unlink()
    assert run(batch_job(frames, report=True)).exit_code == 0
    assert "is a text file" not in report.read_text()
    before = report.stat().st_mtime_ns
    assert run(batch_job(frames, report=True)).complete == 6
    assert report.stat().st_mtime_ns == before  # nothing was done, so there is nothing new to report
