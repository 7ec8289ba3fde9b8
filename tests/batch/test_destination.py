"""Runs whose outputs go to a store: the manifest that travels, who may write there, shards, videos, what is said."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.batch import BatchJob
from densecli.batch import destination as destination_module
from densecli.batch.fetched_manifests import merge
from densecli.batch.lock import this_process
from densecli.batch.rehearsal import rehearse
from densecli.console import Console
from densecli.errors import OutputError
from densecli.remote.staging import staging_folder
from tests.batch.conftest import batch_job, entries, run, timeless
from tests.batch.test_runs import interrupt_when
from tests.batch.test_spanning import clip, frames_of, pictures_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def job_to(url: str, *inputs: str | Path, **changes: Any) -> BatchJob:
    out = staging_folder(url, changes.get("shard"))
    return batch_job(*inputs, out=out, output_url=url, **changes)


def no_staging(cache: Path) -> bool:
    return not [path for path in cache.rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_written_is_told_with_what_to_set(frames: Path, tmp_path: Path, cache: Path) -> None:
    """Another --output-dir, as a URL that could be written, would not help."""
    cache.touch()
    with pytest.raises(OutputError, match=rf"^{cache}/.* is a file, not a folder; choose .* XDG_CACHE_HOME$"):
        run(job_to(f"local://{tmp_path}/bucket/out", frames / "img0.png"))


# --- the manifest ----------------------------------------------------------------------------------------------------

LINES = st.lists(st.integers(0, 20), max_size=12)


@given(both=LINES, here=LINES, there=LINES, torn=st.booleans())
@settings(max_examples=60)
def test_merged_manifests_lose_no_line(
    both: list[int], here: list[int], there: list[int], torn: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    ours = b"".join(b'{"line": %d}\n' % line for line in both + here)
    theirs = b"".join(b'{"line": %d}\n' % line for line in both + there)
    (folder / "ours").write_bytes(ours + (b'{"torn' if torn else b""))
    (folder / "theirs").write_bytes(theirs.removesuffix(b"\n") if torn else theirs)
    same = merge(folder / "ours", folder / "theirs")
    found = (folder / "ours").read_bytes().splitlines()
    assert found[: len(both + there)] == theirs.splitlines()
    assert set(found) == set((ours + theirs).splitlines())
    assert same == (set(ours.splitlines()) <= set(theirs.splitlines()))


def test_what_could_not_be_sent_is_not_lost(frames: Path, tmp_path: Path, cache: Path) -> None:
    """The manifest of a run that was killed is here, that of another machine's later run in the store."""
    url = f"local://{tmp_path}/bucket/out"
    assert run(job_to(url, frames / "img0.png", frames / "img1.png")).done == 2
    store, here = tmp_path / "bucket" / "out" / "manifest.jsonl", staging_folder(url)
    first, second = store.read_text().splitlines()
    here.mkdir(parents=True)
    (here / "manifest.jsonl").write_text(f"{first}\n")
    (here / "img0_overlay.png").write_text("half of it")
    store.write_text(f"{second}\n")
    outcome = run(job_to(url, frames / "img0.png", frames / "img1.png"))
    assert (outcome.done, outcome.complete) == (0, 2)
    assert sorted(store.read_text().splitlines()) == sorted([first, second])
    assert no_staging(cache)


def test_the_manifest_is_sent_while_the_run_goes_on(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination_module, "_INTERVAL_SECONDS", 0.02)
    seen: list[int] = []
    real = Console.result

    def result(self: Console, line: str, document: str) -> None:
        real(self, line, document)
        manifest, until, lines = tmp_path / "bucket" / "manifest.jsonl", time.monotonic() + 10, 0
        while lines <= len(seen) and time.monotonic() < until:
            time.sleep(0.02)
            lines = len(manifest.read_text().splitlines()) if manifest.exists() else 0
        seen.append(lines)

    monkeypatch.setattr(Console, "result", result)
    assert run(job_to(f"local://{tmp_path}/bucket", frames)).done == 6
    assert seen == [1, 2, 3, 4, 5, 6]


def test_interrupted_it_is_all_there(frames: Path, tmp_path: Path, cache: Path) -> None:
    url, out = f"local://{tmp_path}/bucket/out", tmp_path / "bucket" / "out"
    interrupt_when((out / "img0_masks.json").exists, signal.SIGINT)
    outcome = run(job_to(url, frames))
    assert outcome.exit_code == 130 and 1 <= outcome.done < 6
    assert len(entries(out)) == len(list(out.glob("*_masks.json"))) == outcome.done
    assert no_staging(cache) and not list(out.glob(".densecli*"))
    assert run(job_to(url, frames)).complete == outcome.done


# --- who may write there ---------------------------------------------------------------------------------------------


def test_another_machines_run_keeps_this_one_out_until_it_is_silent(frames: Path, tmp_path: Path, cache: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    job = job_to(f"local://{bucket}", frames / "img0.png")
    owner = this_process() | {"host": "elsewhere", "pid": 7, "beat": time.time() - 60}
    for name, mine in ((".densecli-lock.json", job), (".densecli-lock.1-of-2.json", job)):
        (bucket / name).write_text(json.dumps(owner))
        with pytest.raises(OutputError, match=r"/bucket: process 7 on elsewhere, started .*, is writing there; wait"):
            run(mine)
        assert (bucket / name).exists() and no_staging(cache)
        (bucket / name).unlink()
    (bucket / ".densecli-lock.1-of-2.json").write_text(json.dumps(owner))
    other_part = job_to(f"local://{bucket}", frames / "img0.png", shard=(2, 2))
    assert run(other_part).exit_code == 0  # shards work side by side
    (bucket / ".densecli-lock.1-of-2.json").unlink()
    for text in (json.dumps(owner | {"beat": time.time() - 3600}), "no JSON", "[]"):
        (bucket / ".densecli-lock.json").write_text(text)
        assert run(job).exit_code == 0
        assert not (bucket / ".densecli-lock.json").exists()


# --- what spans a run ------------------------------------------------------------------------------------------------


def test_shards_make_the_whole_between_them(frames: Path, tmp_path: Path, cache: Path) -> None:
    url = f"local://{tmp_path}/bucket/out"
    kinds = ("overlay", "json", "coco", "yolo")
    done = [run(job_to(url, frames, shard=(part, 2), kinds=kinds, report=True)).done for part in (1, 2)]
    assert sum(done) == 6 and min(done) > 0
    out = tmp_path / "bucket" / "out"
    assert sorted(pictures_of(out)) == [f"img{number}.png" for number in range(6)]
    assert len(list(out.glob("report/*/*.jpg"))) == 6
    assert sorted(path.name for path in out.glob("manifest*")) == ["manifest.1-of-2.jsonl", "manifest.2-of-2.jsonl"]
    assert run(batch_job(frames)).done == 6
    ours = {name: data for name, data in timeless(Path("out")).items() if "_overlay" in name or "_masks" in name}
    assert {name: data for name, data in timeless(out).items() if name in ours} == ours
    whole = run(job_to(url, frames, kinds=kinds))
    assert (whole.done, whole.complete) == (0, 6) and no_staging(cache)


def test_a_video_goes_there_too(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clip(Path("clip.mp4"), photo, 5)
    url, out = f"local://{tmp_path}/bucket/out", tmp_path / "bucket" / "out"
    job = job_to(url, "clip.mp4", kinds=("overlay", "json", "coco"), every=2)
    here = batch_job("clip.mp4", kinds=("overlay", "json", "coco"), every=2)
    assert (run(job).done, run(here).done) == (3, 3)
    (out / ".densecli-finished").unlink()
    found = timeless(out)
    assert found.pop("clip_overlay.mp4") and frames_of(out / "clip_overlay.mp4") == 3
    ours = timeless(Path("out"))
    del ours["clip_overlay.mp4"]  # encoders write times into it
    assert found == ours  # frames have copies in either
    assert (run(replace(job, every=1)).done, frames_of(out / "clip_overlay.mp4")) == (2, 5)
    assert len(pictures_of(out)) == 5


def test_data_sets_and_report_asked_for_later_are_made_of_what_is_there(frames: Path, tmp_path: Path) -> None:
    url, out = f"local://{tmp_path}/bucket/out", tmp_path / "bucket" / "out"
    first = job_to(url, f"local://{frames.resolve()}", kinds=("overlay", "json", "coco"))
    assert run(first).done == 6
    masks = {path.name: path.stat().st_mtime_ns for path in out.glob("*_masks.json")}
    outcome = run(replace(first, kinds=("overlay", "json", "coco", "yolo", "labelme"), report=True))
    assert (outcome.done, outcome.complete) == (0, 6)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*_masks.json")} == masks
    assert len(list(out.glob("yolo/images/*.png"))) == len(list(out.glob("labelme/*.json"))) == 6
    assert len(list(out.glob("report/*/*.jpg"))) == 6 and (out / "report.html").exists()
    everything = ("overlay", "json", "coco", "yolo", "labelme")
    assert run(batch_job(f"local://{frames.resolve()}", kinds=everything)).done == 6
    (out / ".densecli-finished").unlink()
    assert timeless(out) == timeless(Path("out"))


# --- what is said, and what is never done ----------------------------------------------------------------------------


def test_what_densecli_did_not_write_is_not_replaced(frames: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "bucket" / "out"
    (out / "img1_masks").mkdir(parents=True)
    (out / "img1_masks" / "precious.txt").write_text("precious")
    (out / "img0_overlay.png").write_text("precious")
    outcome = run(job_to(f"local://{out}", frames, kinds=("overlay", "masks", "json")))
    assert (outcome.exit_code, outcome.done, outcome.failed) == (3, 4, 2)
    for name, output in (("img0.png", "img0_overlay.png"), ("img1.png", "img1_masks")):
        error = entries(out)[f"frames/{name}"]["error"]
        assert error.startswith(f"local://{out}/{output}: is there and was not written by densecli")
    assert (out / "img0_overlay.png").read_text() == (out / "img1_masks" / "precious.txt").read_text() == "precious"
    assert not (out / "img1_overlay.png").exists() and no_staging(cache)


def test_dry_run_looks_and_does_nothing(
    frames: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, out = f"local://{tmp_path}/bucket/out", tmp_path / "bucket" / "out"
    run(job_to(url, frames / "img2.png"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    with Console() as console:
        assert rehearse(job_to(url, frames), console) == 0
    printed, said = capsys.readouterr()
    assert f"frames/img0.png: would write {url}/img0_overlay.png, {url}/img0_masks.json" in printed.splitlines()
    assert "frames/img2.png: complete already" in printed.splitlines()
    assert said.splitlines()[-1] == "5 to do; 1 complete already"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before and no_staging(cache)
