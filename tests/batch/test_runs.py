"""Runs: what is done, recorded, skipped, redone and said, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densecli.batch import BatchJob
from densecli.batch import pipeline as pipeline_module
from densecli.batch.job import parse_shard
from densecli.batch.rehearsal import rehearse
from densecli.batch.run import StoppedAtOnce
from densecli.console import Console
from densecli.errors import InputError, OutputError, UsageError
from densecli.image_candidates import ImageCandidates
from densecli.one_by_one import Job, segment_all
from densecli.presets import load_preset
from densecli.refiltering import choose_again
from densecli.sinks import WriteOptions
from densecli.sources.collecting import Collection
from tests.batch.conftest import MODEL, SETTINGS, batch_job, entries, leftovers, make_photos, run, timeless


def counts(job: BatchJob) -> tuple[int, int, int, int]:
    """done, of these anew, complete already, failed."""
    outcome = run(job)
    return outcome.done, outcome.redone, outcome.complete, outcome.failed


# --- the same as segment, whichever way ------------------------------------------------------------------------------


def test_outputs_are_those_of_segment(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("overlay", "labels", "masks", "cutouts", "json")
    assert run(batch_job(frames, kinds=kinds)).exit_code == 0
    inputs = sorted(str(path) for path in frames.iterdir())
    job = Job(inputs, Path("segment"), kinds, WriteOptions())
    options: dict[str, Any] = {"preset": "dense", "overrides": SETTINGS, "model": MODEL, "device": "cpu"}
    with Console(quiet=True) as console:
        assert segment_all(job, console, **options) == 0
    ours = timeless(Path("out"))
    assert ours == timeless(Path("segment"))
    assert len(ours) > 6 * 5


def test_shards_make_the_whole_between_them(frames: Path, undisturbed: Callable[[], dict[str, Any]]) -> None:
    whole = batch_job(frames)
    done = [run(replace(whole, shard=(part, 3))).done for part in (1, 2, 3)]
    assert sum(done) == 6
    assert timeless(Path("out")) == undisturbed()
    assert not Path("out/manifest.jsonl").exists()
    assert counts(whole) == (0, 0, 6, 0)  # what shards did counts for a whole run too


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_a_line_an_input(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frames / "text.png").write_text("I am no picture\n")
    outcome = run(batch_job(frames), json=True, json_lines=True)
    assert (outcome.exit_code, outcome.done, outcome.failed) == (3, 6, 1)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    assert printed == written and len(written) == 7
    good, bad = entries(Path("out"))["frames/img3.png"], entries(Path("out"))["frames/text.png"]
    summary = json.loads(Path("out/img3_masks.json").read_text())
    assert good["schema"] == "densecli/manifest/1" and good["status"] == "done" and good["error"] is None
    assert good["outputs"] == ["img3_overlay.png", "img3_masks.json"]
    assert (good["masks"], good["coverage"]) == (len(summary["masks"]), summary["coverage"])
    assert (good["seconds"], good["sha256"]) == (summary["seconds"]["total"], summary["image"]["sha256"])
    stat = (frames / "img3.png").stat()
    assert (good["size"], good["mtime_ns"], good["index"]) == (stat.st_size, stat.st_mtime_ns, 3)
    assert bad["seconds"] is bad["masks"] is None
    assert (bad["status"], bad["outputs"]) == ("failed", []) and bad["error"].startswith("is a text file")
    again = run(batch_job(frames), json=True, json_lines=True)
    assert (again.done, again.complete, again.failed) == (0, 6, 1)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(line["status"] for line in printed) == ["failed"] + ["skipped"] * 6
    assert len(Path("out/manifest.jsonl").read_text().splitlines()) == 8  # complete ones need no second line


def test_what_is_said(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frames / "text.png").write_text("I am no picture\n")
    (frames / ".hidden.png").touch()
    (frames / "notes.md").touch()
    run(batch_job(frames), quiet=False)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6
    assert out.splitlines()[0].startswith("frames/img0.png: Found ")
    assert out.splitlines()[0].endswith(". out/img0_overlay.png, out/img0_masks.json")
    *_, title, listed, summary = err.splitlines()
    assert title == "1 failed:" and listed.startswith("  frames/text.png: is a text file")
    assert summary.startswith("6 done; 1 failed; 2 skipped (") and "hidden" in summary
    assert summary.endswith("; out/manifest.jsonl")
    run(batch_job(frames), quiet=False)
    out, err = capsys.readouterr()
    assert out == "" and "0 done; 6 complete already; 1 failed;" in err.splitlines()[-1]


def test_failures_of_inputs_that_are_named_twice_are_both_listed(
    frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("list.txt").write_text("gone.png\n")
    run(batch_job("list.txt", "gone.png", frames), quiet=False)
    *_, title, first, second, summary = capsys.readouterr().err.splitlines()
    assert title == "2 failed:" and first == second and "gone.png: does not exist" in first
    assert "2 failed" in summary


def test_no_manifest_is_named_where_there_is_none(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard may have no input."""
    assert run(batch_job(frames / "img0.png", shard=(2, 2)), quiet=False).done == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("0 done; ") and last.endswith(" s") and not list(Path("out").glob("*.jsonl"))


def test_long_lists_of_failures_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(25):
        (tmp_path / "in" / f"{number}.png").touch()
    outcome = run(batch_job(tmp_path / "in", out=tmp_path / "out"), quiet=False)
    assert (outcome.exit_code, outcome.failed) == (1, 25)
    assert "  and 5 more, each with its reason in the manifest" in capsys.readouterr().err


# --- taking up -------------------------------------------------------------------------------------------------------


def test_what_is_complete_is_skipped_and_what_changed_is_redone(frames: Path) -> None:
    job = batch_job(frames)
    assert counts(job) == (6, 0, 0, 0)
    assert counts(job) == (0, 0, 6, 0)
    before = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*_masks.json")}
    os.utime(frames / "img0.png")  # touched, but the same
    shutil.copy(frames / "img2.png", frames / "img1.png")  # changed
    Path("out/img3_overlay.png").unlink()
    Path("out/img4_masks.json").write_bytes(b"")  # as a power cut leaves it
    shutil.copy(frames / "img5.png", frames / "img6.png")  # new
    outcome = run(job)
    after = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*_masks.json")}
    changed = {name for name, mtime in after.items() if before.get(name) != mtime}
    assert changed == {f"img{number}_masks.json" for number in (1, 4, 6)} and Path("out/img3_overlay.png").exists()
    assert (outcome.done, outcome.redone, outcome.complete) == (4, 3, 3)
    assert counts(job) == (0, 0, 7, 0)


def test_settings_decide_but_limits_do_not(frames: Path) -> None:
    assert counts(batch_job(frames)) == (6, 0, 0, 0)
    assert counts(batch_job(frames, overrides=(*SETTINGS, "points_per_batch=2"))) == (0, 0, 6, 0)
    assert counts(batch_job(frames, kinds=("json",), write_options=WriteOptions(0.2))) == (0, 0, 6, 0)
    assert counts(batch_job(frames, write_options=WriteOptions(0.9))) == (6, 6, 0, 0)
    assert counts(batch_job(frames, overwrite=True, write_options=WriteOptions(0.9))) == (6, 6, 0, 0)


def test_more_kinds_are_added_and_fewer_need_nothing(frames: Path) -> None:
    assert counts(batch_job(frames, kinds=("overlay", "json"))) == (6, 0, 0, 0)
    assert counts(batch_job(frames, kinds=("overlay",))) == (0, 0, 6, 0)
    assert counts(batch_job(frames, kinds=("overlay", "labels", "json"))) == (6, 6, 0, 0)


def test_candidates_are_kept_and_are_an_output_like_others(frames: Path) -> None:
    kinds = ("overlay", "candidates", "json")
    job = batch_job(frames, kinds=kinds)
    assert counts(batch_job(frames)) == (6, 0, 0, 0)
    assert counts(job) == (6, 6, 0, 0)
    assert entries(Path("out"))["frames/img3.png"]["outputs"][1] == "img3.candidates"
    kept = ImageCandidates.load("out/img3.candidates")
    assert kept.photo == str((frames / "img3.png").resolve())
    again = choose_again(kept, load_preset("dense", SETTINGS).resolve("first_starter"))
    summary = json.loads(Path("out/img3_masks.json").read_text())
    assert [mask.summary() for mask in again.masks] == [
        {**mask, "point_coords": [list(point) for point in mask["point_coords"]]} for mask in summary["masks"]
    ]
    assert (again.overlay() == np.asarray(Image.open("out/img3_overlay.png"))).all()
    assert counts(job) == counts(batch_job(frames)) == (0, 0, 6, 0)
    Path("out/img3.candidates").unlink()
    assert counts(job) == (1, 1, 5, 0)
    collection = Collection(["out"], output_dir="elsewhere")  # all of it is known as densecli's own
    assert list(collection) == [] and dict(collection.skipped) == {
        "densecli output": 18,
        "hidden": 1,
        "not an image or video": 1,
    }


def test_the_same_files_by_another_path_are_complete(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counts(batch_job(frames)) == (6, 0, 0, 0)
    assert counts(batch_job(tmp_path / "frames")) == (0, 0, 6, 0)
    shutil.copytree(frames, "copied", copy_function=shutil.copyfile)  # other times
    assert counts(batch_job("copied")) == (0, 0, 6, 0)
    make_photos(Path("others"), np.asarray(Image.open(frames / "img1.png")), 6)
    assert counts(batch_job("others")) == (6, 6, 0, 0)


def test_dry_run_says_and_does_nothing(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = batch_job(frames)
    with Console() as console:
        assert rehearse(job, console) == 0
    assert not Path("out").exists()
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6
    assert out.splitlines()[0] == "frames/img0.png: would write out/img0_overlay.png, out/img0_masks.json"
    assert err.splitlines()[-1] == "6 to do; 0 complete already"
    run(replace(job, inputs=[str(frames / "img2.png")]))
    capsys.readouterr()
    before = timeless(Path("out"))
    with Console(json=True, json_lines=True) as console:
        assert rehearse(replace(job, inputs=[str(frames), "missing"]), console) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == ["planned"] * 6 + ["failed"]  # other names, as there are two inputs
    assert all(line["schema"] == "densecli/manifest/1" and line["seconds"] is line["masks"] is None for line in lines)
    assert timeless(Path("out")) == before


# --- things that must not happen -------------------------------------------------------------------------------------


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    with pytest.raises(InputError, match="no images found; -r looks into subfolders"):
        run(batch_job(tmp_path / "in", out=tmp_path / "out"))


def test_a_picture_that_densecli_did_not_write_is_never_replaced(frames: Path) -> None:
    shutil.copy(frames / "img0.png", frames / "img1_overlay.png")
    precious = (frames / "img1_overlay.png").read_bytes()
    outcome = run(batch_job(frames, out=frames))
    assert (outcome.exit_code, outcome.done, outcome.failed) == (3, 6, 1)
    assert "was not written by densecli" in entries(frames)["frames/img1.png"]["error"]
    assert (frames / "img1_overlay.png").read_bytes() == precious
    again = run(batch_job(frames, out=frames))  # what it wrote itself is neither input nor in the way
    assert (again.done, again.complete, again.failed) == (0, 6, 1)


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    frames: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[[], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = pipeline_module.write_outputs
    calls: list[int] = []

    def full(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 2:
            try:
                raise OSError(28, "No space left on device")
            except OSError as error:
                raise OutputError("out/x.png: the disk is full; free some space") from error
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline_module, "write_outputs", full)
        outcome = run(batch_job(frames), quiet=False)
    assert outcome.exit_code == 3 and outcome.done == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped: nothing could be written any more, data sets neither; the same command goes on from here"
    )
    assert len(calls) < 6  # it did not go through all the others to say the same
    assert run(batch_job(frames)).complete == 2
    assert timeless(Path("out")) == undisturbed()


def test_fail_fast(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frames / "img0a.png").touch()
    outcome = run(batch_job(frames, fail_fast=True), quiet=False)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped at the first failure (--fail-fast); the same command goes on from here"
    assert (outcome.exit_code, outcome.failed) == (3, 1)
    assert outcome.done < 6


def test_an_unexpected_error_is_one_inputs_failure(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline_module.write_outputs

    def broken(segmentation: Any, outputs: dict[str, Path], options: Any) -> None:
        if "img2" in str(outputs["json"]):
            raise RuntimeError("no\nluck")
        real(segmentation, outputs, options)

    monkeypatch.setattr(pipeline_module, "write_outputs", broken)
    assert run(batch_job(frames)).failed == 1
    error = entries(Path("out"))["frames/img2.png"]["error"]
    assert error == "unexpected RuntimeError: no luck (-v shows where; please report it)"


def test_a_system_that_gives_no_more_threads_ends_the_run(frames: Path) -> None:
    """And that is said, not that threads cannot be waited for that never were."""
    job = batch_job(frames / "img0.png")
    assert run(job).done == 1  # the model is there now, which needs a thread too
    threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            run(replace(job, overwrite=True))
    finally:
        threading.stack_size(0)


# --- interruption ----------------------------------------------------------------------------------------------------


def interrupt_when(condition: Callable[[], bool], *signals: int) -> None:
    def wait() -> None:
        until = time.monotonic() + 60
        while not condition() and time.monotonic() < until:
            time.sleep(0.005)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.15)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGINT, True), (signal.SIGHUP, False)])
def test_signals_that_a_shell_had_ignored(frames: Path, number: int, ends: bool) -> None:
    """nohup holds; Ctrl-C does not, which shells without job control ignore for what runs in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        interrupt_when(Path("out/img0_masks.json").exists, number)
        outcome = run(batch_job(frames))
        assert (outcome.exit_code, outcome.done == 6) == ((130, False) if ends else (0, True))
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_once_finishes_what_is_in_work(
    frames: Path, number: int, undisturbed: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # nohup may have started the tests
    try:
        interrupt_when(Path("out/img0_masks.json").exists, number)
        outcome = run(batch_job(frames), quiet=False)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert outcome.exit_code == 130 and 1 <= outcome.done < 6
    assert len([entry for entry in entries(Path("out")).values() if entry["status"] == "done"]) == outcome.done
    assert len(list(Path("out").glob("*_masks.json"))) == outcome.done  # nothing is there that is not recorded
    assert leftovers(Path("out")) == []
    assert "finishing what is in work; Ctrl-C again stops at once" in capsys.readouterr().err
    assert run(batch_job(frames)).complete == outcome.done
    assert timeless(Path("out")) == undisturbed()


@pytest.mark.parametrize("devices", [("cpu",), pytest.param(("cpu", "cpu"), marks=pytest.mark.slow)])
def test_twice_stops_now(frames: Path, devices: tuple[str, ...], undisturbed: Callable[[], dict[str, Any]]) -> None:
    job = batch_job(frames, devices=devices)
    # An image that takes long: a grid that would take minutes.
    slow = batch_job(frames, devices=devices, overrides=("points_per_side=64", "crop_n_layers=2"))
    sent: list[float] = []

    def at_work() -> bool:
        if not sent and list(Path("out").glob(".densecli-lock*.json")):  # from when the model is loaded
            sent.append(time.monotonic() + 1)
        return bool(sent) and time.monotonic() > sent[0]

    interrupt_when(at_work, signal.SIGINT, signal.SIGINT)
    with pytest.raises(StoppedAtOnce) as stopped:
        run(slow)
    assert not stopped.value.stuck
    assert time.monotonic() - sent[0] < 10
    assert leftovers(Path("out")) == []
    assert run(job).exit_code == 0
    assert timeless(Path("out")) == undisturbed()


def test_watch_takes_files_that_come_later(frames: Path, undisturbed: Callable[[], dict[str, Any]]) -> None:
    late = frames / "img5.png"
    late.rename("waiting.png")

    def bring() -> bool:
        if Path("out/img4_masks.json").exists() and Path("waiting.png").exists():
            Path("waiting.png").rename(late)
        return Path("out/img5_masks.json").exists()

    interrupt_when(bring, signal.SIGINT)
    outcome = run(batch_job(frames, watch=True, poll_seconds=0.1))
    assert (outcome.exit_code, outcome.done) == (130, 6)
    assert timeless(Path("out")) == undisturbed()


def test_watch_does_a_file_again_that_is_once_more_what_it_was(frames: Path, tmp_path: Path) -> None:
    shutil.rmtree(frames)
    frames.mkdir()
    watched, summary = frames / "x.png", Path("out/x_masks.json")
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    Image.new("RGB", (40, 30), (0, 0, 0)).save(first)
    Image.new("RGB", (50, 30), (255, 0, 0)).save(second)

    def width() -> int:
        return int(json.loads(summary.read_text())["image"]["width"])

    shutil.copy2(first, watched)
    assert run(batch_job(frames, kinds=("json",))).done == 1
    shutil.copy2(second, watched)

    def back() -> bool:
        if summary.exists() and width() == 50 and watched.stat().st_size == second.stat().st_size:
            shutil.copy2(first, watched.with_name(".next"))
            watched.with_name(".next").rename(watched)
            time.sleep(1)  # to be looked at a few times
            return True
        return False

    interrupt_when(back, signal.SIGINT)
    assert run(batch_job(frames, watch=True, poll_seconds=0.1, kinds=("json",))).done == 2
    assert width() == 40


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_are_checked() -> None:
    assert parse_shard("2/4") == (2, 4) and parse_shard(None) is None
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(UsageError, match="--shard"):
            parse_shard(text)
    for changes, said in (
        ({"engine": "slurm"}, "--engine slurm: unknown engine"),
        ({"workers": 0}, "--workers 0"),
        ({"every": 0}, "--every 0: give 1 or more"),
        ({"max_frames": 0}, "--max-frames 0: give 1 or more"),
        ({"kinds": ["overaly"]}, "--save overaly: unknown kind 'overaly'"),
        ({"kinds": []}, "no kind named"),
        ({"watch": True, "shard": (1, 2)}, "--watch and --shard"),
        ({"output_dir": Path("s3://bucket/out")}, "--output-dir s3:/bucket/out"),
        ({"output_dir": "s3://bucket/out"}, "--output-dir s3://bucket/out: is a URL; give it as output_url"),
        ({"output_url": "s3://bucket/out"}, r"give staging_folder\(URL, shard\)"),
    ):
        with pytest.raises(UsageError, match=said):
            BatchJob(**{"inputs": ["x"], "output_dir": Path("out"), **changes})
    assert BatchJob(["x"], Path("/a b").as_uri()).output_dir == Path("/a b")  # type: ignore[arg-type]


def test_a_preset_named_in_another_way_has_the_same_fingerprint(frames: Path) -> None:
    job = batch_job(frames)
    thresholds = "pred_iou_thresh: 0.4, stability_score_thresh: 0.6"
    values = f"generator: {{points_per_side: 4, {thresholds}}}\ncleanup: {{min_mask_region_area: 40}}\n"
    Path("own.yaml").write_text(f"extends: dense\n{values}")
    assert counts(job) == (6, 0, 0, 0)
    assert counts(replace(job, segmenter=replace(job.segmenter, preset=load_preset("own.yaml")))) == (0, 0, 6, 0)
