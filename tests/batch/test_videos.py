"""The overlay videos of runs: whose they are, which frames are in them, and what stays where something is damaged."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from densecli.batch.rehearsal import rehearse
from densecli.console import Console
from densecli.places import Here
from densecli.sinks.images import save_png
from densecli.sinks.shown_frames import ShownFrame
from densecli.sinks.video import OverlayVideos
from densecli.sources.collecting import Collection
from tests.batch.conftest import batch_job, run
from tests.batch.test_runs import interrupt_when
from tests.batch.test_spanning import clip, frames_of, pictures_of
from tests.sinks.test_overlay_videos import without_pyav

KINDS = ("overlay", "json")


@pytest.fixture
def video(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`clip.mp4` in the current folder: three frames, ten a second."""
    monkeypatch.chdir(tmp_path)
    clip(Path("clip.mp4"), photo, 3)
    return Path("clip.mp4")


def test_frames_of_a_video_called_by_dots_stay_in_the_output_folder(video: Path) -> None:
    video.rename("...mp4")
    assert run(batch_job("...mp4", out="a/out", kinds=("json",))).done == 3
    assert [path.name for path in Path("a").iterdir()] == ["out"]


# --- whose they are --------------------------------------------------------------------------------------------------


def test_a_video_of_the_user_is_not_replaced(
    video: Path, photo: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path("clip_overlay.mp4")
    clip(mine, photo, 2)
    clip(Path("other.mp4"), photo, 1)
    before = mine.read_bytes()
    job = batch_job(".", out=".", kinds=KINDS, report=True)
    told = "clip_overlay.mp4: is there and was not written by densecli; move it away"
    with Console() as console:
        assert rehearse(job, console) == 0
    assert f"warning: {told}" in capsys.readouterr().err
    outcome = run(job, quiet=False)
    assert (outcome.done, outcome.exit_code) == (6, 3)  # it is an input as well
    assert f"warning: {told}" in (said := capsys.readouterr().err) and f"error: {told}" in said
    assert mine.read_bytes() == before
    assert frames_of(Path("other_overlay.mp4")) == 1 and Path("report.html").exists()
    mine.rename("mine.mp4")
    outcome = run(batch_job("clip.mp4", out=".", kinds=KINDS))
    assert (outcome.complete, outcome.exit_code, frames_of(mine)) == (3, 0, 3)


@pytest.mark.parametrize("with_pyav", [True, False])
def test_overlay_videos_are_known_wherever_they_are(
    with_pyav: bool, video: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_pyav:
        without_pyav(monkeypatch)
    run(batch_job(video, kinds=KINDS))
    made = Path("out/clip_overlay.mp4").stat()
    outcome = run(batch_job(video, kinds=KINDS, max_frames=2))  # its own may be replaced
    assert (outcome.exit_code, frames_of(Path("out/clip_overlay.mp4"))) == (0, 2)
    assert Path("out/clip_overlay.mp4").stat().st_mtime_ns != made.st_mtime_ns
    Path("else").mkdir()
    shutil.copy("out/clip_overlay.mp4", "else/clip_overlay.mp4")
    clip(Path("else/my_overlay.mp4"), photo, 1)
    for given in ("else", f"local://{Path.cwd()}/else"):
        collection = Collection([given], output_dir="elsewhere")
        assert [item.name.removesuffix("#0") for item in collection] == [f"{given}/my_overlay.mp4"]
        assert collection.skipped == {"densecli output": 1}


def test_overlay_videos_of_earlier_versions_are_known(video: Path, photo: np.ndarray) -> None:
    """Their last words are a comment; what marks them now comes behind that."""
    run(batch_job(video, kinds=KINDS))
    made = Path("out/clip_overlay.mp4")
    data = made.read_bytes()
    made.write_bytes(data[: data.rindex(b"free") - 4])
    Path("else").mkdir()
    shutil.copy(made, "else")
    collection = Collection(["else"], output_dir="elsewhere")
    assert (list(collection), collection.skipped) == ([], {"densecli output": 1})
    outcome = run(batch_job(video, kinds=KINDS))
    assert (outcome.complete, outcome.exit_code) == (3, 0)
    # x264 does not always make the same bytes of the same pictures.
    assert made.read_bytes().endswith(data[data.rindex(b"free") - 4 :])


# --- which frames are in them ----------------------------------------------------------------------------------------


def test_frames_that_only_an_earlier_run_over_shards_took_are_not_in_the_video(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip(Path("clip.mp4"), photo, 10)
    shown = []
    for every, most in ((1, None), (5, None), (1, 4)):
        for part in (1, 2):
            run(batch_job("clip.mp4", kinds=KINDS, shard=(part, 2), every=every, max_frames=most))
        capture = cv2.VideoCapture("out/clip_overlay.mp4")
        shown.append((frames_of(Path("out/clip_overlay.mp4")), capture.get(cv2.CAP_PROP_FPS)))
    assert shown == [(10, pytest.approx(10)), (2, pytest.approx(2)), (4, pytest.approx(10))]


@pytest.mark.parametrize("shard", [None, (1, 1)])
def test_a_video_that_was_replaced_by_a_shorter_one(
    shard: tuple[int, int] | None, video: Path, photo: np.ndarray
) -> None:
    job = batch_job(video, kinds=(*KINDS, "coco", "yolo", "labelme"), report=True, shard=shard)
    run(job)
    video.unlink()
    clip(video, photo[:, ::-1], 2)
    assert run(job).done == 2
    assert pictures_of(Path("out")) == ["frame_000000.png", "frame_000001.png"]
    for folder in ("dataset_images", "yolo/images", "yolo/labels", "labelme"):
        assert len([path for path in Path("out", folder).rglob("*") if path.is_file()]) == 2, folder
    assert frames_of(Path("out/clip_overlay.mp4")) == 2
    report = Path("out/report.html").read_text()
    assert "clip.mp4#1" in report and "clip.mp4#2" not in report


def test_machines_may_have_copies_of_a_video_of_different_times(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip(Path("clip.mp4"), photo, 6)
    for part in (1, 2):
        os.utime("clip.mp4", ns=(part * 10**9,) * 2)
        assert run(batch_job("clip.mp4", kinds=(*KINDS, "coco"), shard=(part, 2), report=True)).done > 0
    assert frames_of(Path("out/clip_overlay.mp4")) == len(pictures_of(Path("out"))) == 6
    assert all(f"clip.mp4#{number}" in Path("out/report.html").read_text() for number in range(6))


def test_frames_of_a_video_that_a_run_does_not_take_stay_in_the_data_sets(video: Path, photo: np.ndarray) -> None:
    clip(Path("other.mp4"), photo, 2)
    for name in ("clip.mp4", "other.mp4"):
        run(batch_job(name, kinds=(*KINDS, "coco", "yolo")))
    assert len(pictures_of(Path("out"))) == 5
    assert len(list(Path("out/yolo/labels").rglob("*.txt"))) == 5


def test_a_video_that_is_replaced_while_it_is_watched(video: Path, photo: np.ndarray) -> None:
    clip(Path("next.mp4"), photo[:, ::-1], 2)

    def replace() -> bool:
        done = sum(line["status"] == "done" for line in lines())
        if done == 3 and Path("next.mp4").exists():
            Path("next.mp4").rename(video)
        return done == 5

    interrupt_when(replace, signal.SIGINT)
    job = batch_job(video, kinds=(*KINDS, "coco"), report=True, watch=True, poll_seconds=0.1)
    assert run(job).done == 5
    assert pictures_of(Path("out")) == ["frame_000000.png", "frame_000001.png"]
    assert frames_of(Path("out/clip_overlay.mp4")) == 2
    report = Path("out/report.html").read_text()
    assert "clip.mp4#1" in report and "clip.mp4#2" not in report


def test_the_video_shows_the_file_that_was_there_last(tmp_path: Path) -> None:
    """As with --watch, where frames of the one and the other come from the same run, in any order."""
    (tmp_path / "clip").mkdir()
    for number in range(4):
        save_png(np.full((16, 16, 3), 60 * number, np.uint8), tmp_path / "clip" / f"frame_{number:06d}_overlay.png")
    videos = OverlayVideos(Here(tmp_path))
    for number, fps, index in ((0, 25.0, 0), (0, 5.0, 4), (3, 25.0, 3), (1, 5.0, 5)):
        videos.add("clip", ShownFrame(number, fps), f"at {fps} a second", (1, index))
    (path,) = videos.finish()
    assert frames_of(path) == 2 and cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(5)


@pytest.mark.parametrize("with_pyav", [True, False])
def test_the_manifest_tells_when_a_frame_is_shown(
    with_pyav: bool, tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_pyav:
        without_pyav(monkeypatch)
    monkeypatch.chdir(tmp_path)
    clip(Path("clip.mp4"), photo, 5)
    save_png(photo, Path("photo.png"))
    run(batch_job("clip.mp4", "photo.png", kinds=KINDS, every=2))
    told = {line["frame"]: line.get("seconds_in_video") for line in lines()}
    assert told == {0: 0.0, 2: pytest.approx(0.2), 4: pytest.approx(0.4), None: None}


# --- files that arrive slowly ----------------------------------------------------------------------------------------


def test_what_failed_while_it_arrived_is_no_failure_in_the_end(
    video: Path, photo: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    data = video.read_bytes()
    video.write_bytes(data[:2000])

    def arrive() -> bool:
        failed = [line for line in lines() if line["status"] == "failed"]
        if len(failed) == 3 and not Path("sub/a.png").exists():  # a video, a pattern, a picture
            video.write_bytes(data)
            save_png(photo, Path("sub/a.png"))
            save_png(photo, Path("b.png"))
        return sum(line["status"] == "done" for line in lines()) == 5

    Path("sub").mkdir()
    Path("b.png").write_bytes(b"\x89PNG")
    interrupt_when(arrive, signal.SIGINT)
    job = batch_job("clip.mp4", "b.png", "sub/*.png", kinds=KINDS, report=True, watch=True, poll_seconds=0.1)
    outcome = run(job, quiet=False)
    assert (outcome.done, outcome.failed) == (5, 0)
    told = capsys.readouterr().err.splitlines()
    assert "failed" not in told[-1] and not any(line.endswith(" failed:") for line in told)
    report = Path("out/report.html").read_text()
    assert "nothing matches" not in report and "is not a video" not in report and "sub/a.png" in report


def test_what_fails_again_is_a_failure_in_the_end(video: Path) -> None:
    data = video.read_bytes()
    video.write_bytes(data[:2000])

    def arrive() -> bool:
        failed = sum(line["status"] == "failed" for line in lines())
        if failed == 1 and video.stat().st_size == 2000:
            video.write_bytes(data[:2500])
        return failed == 2

    interrupt_when(arrive, signal.SIGINT)
    outcome = run(batch_job(video, kinds=KINDS, report=True, watch=True, poll_seconds=0.1))
    assert (outcome.done, outcome.failed) == (0, 1)
    assert "is not a video" in Path("out/report.html").read_text()


def lines() -> list[dict[str, Any]]:
    with Path("out/manifest.jsonl").open() if Path("out/manifest.jsonl").exists() else io.StringIO() as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


# --- pictures that are damaged ---------------------------------------------------------------------------------------


def test_a_torn_picture_is_made_anew(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a crash leaves it."""
    run(batch_job(video, kinds=KINDS))
    torn = Path("out/clip/frame_000001_overlay.png")
    before = torn.read_bytes()
    torn.write_bytes(before[: len(before) // 2])
    outcome = run(batch_job(video, kinds=KINDS))
    assert (outcome.done, outcome.complete, outcome.exit_code) == (1, 2, 0)
    assert torn.read_bytes() == before and frames_of(Path("out/clip_overlay.mp4")) == 3


def test_a_damaged_picture_costs_its_video_only(
    video: Path, photo: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    clip(Path("other.mp4"), photo, 2)
    job = batch_job(video, "other.mp4", kinds=KINDS, report=True)
    run(job)
    for name in ("clip_overlay.mp4", "other_overlay.mp4", "report.html"):
        Path("out", name).unlink()
    damaged = Path("out/clip/frame_000001_overlay.png")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    damaged.write_bytes(data)
    assert run(job).exit_code == 3
    assert "error: out/clip/frame_000001_overlay.png: is damaged (" in capsys.readouterr().err
    assert frames_of(Path("out/other_overlay.mp4")) == 2 and Path("out/report.html").exists()
    assert not Path("out/clip_overlay.mp4").exists()
    damaged.unlink()
    assert run(job).exit_code == 0 and frames_of(Path("out/clip_overlay.mp4")) == 3
