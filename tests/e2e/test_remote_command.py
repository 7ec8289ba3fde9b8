"""`-o s3://bucket/out` and other URLs, as processes: sent, taken up, killed, refused, full; the same in the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.batch.conftest import MODEL, SETTINGS, entries, make_photos, timeless
from tests.conftest import CHECKOUT, Command, Finished, obeying_permissions, room_of, small_disk
from tests.e2e.test_segment_command import plain
from tests.s3_server import S3Server, s3_server

RUN = ("-m", MODEL, *(word for value in SETTINGS for word in ("-s", value)), "-d", "cpu")
KINDS = "overlay,masks,candidates,json,coco,yolo,labelme"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _willing(request: pytest.FixtureRequest) -> None:
    if "s3" in request.fixturenames:
        server = request.getfixturevalue("s3")
        server.refuse = server.refuse_after = None


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """`tmp_path`, with a folder `frames` of four photos."""
    make_photos(tmp_path / "frames", photo, 4)
    return tmp_path


class Runs:
    """`densecli` with a cache folder of its own: other ones are other machines."""

    def __init__(self, run: Command, cwd: Path, s3: S3Server | None = None) -> None:
        self.run, self.cwd, self.s3 = run, cwd, s3

    def environment(self, machine: str) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.cwd / machine), **(self.s3.environment if self.s3 else {})}

    def __call__(self, *arguments: str, machine: str = "here", **options: Any) -> Finished:
        environment = {**self.environment(machine), **options.pop("environment", {})}
        return self.run(*arguments, *RUN, cwd=self.cwd, environment=environment, **options)

    def staged(self, machine: str = "here") -> list[str]:
        """What lies where outputs are made before they are sent."""
        place = self.cwd / machine / "densecli" / "uploads"
        return sorted(path.name for path in place.rglob("*") if path.is_file())


def is_one_line(done: Finished, code: int, said: str) -> None:
    plain(done)
    assert done.code == code, done.stderr
    assert len(done.errors) == 1 and said in done.errors[0], done.stderr


# --- S3 --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_s3_has_what_a_folder_has_and_a_second_run_does_nothing(
    folder: Path, run_densecli: Command, s3: S3Server
) -> None:
    (folder / "frames" / "text.png").write_text("I am no picture\n")
    run = Runs(run_densecli, folder, s3)
    # By URL in both: what data sets point at does not depend on where they lie then.
    frames = f"local://{folder}/frames"
    here = run("batch", frames, "-o", "out", "--save", KINDS)
    there = run("batch", frames, "-o", "s3://bucket/all/out", "--save", KINDS)
    assert (here.code, there.code) == (3, 3), there.stderr
    plain(there)
    assert there.stdout == here.stdout.replace("out/", "s3://bucket/all/out/")
    assert "report: s3://bucket/all/out/report.html" in there.stderr
    assert there.stderr.splitlines()[-1].endswith("s3://bucket/all/out/manifest.jsonl")
    down = s3.download("bucket/all/out", folder / "down")
    assert timeless(down) == timeless(folder / "out")
    assert len(json.loads((down / "annotations_coco.json").read_text())["images"]) == 4
    _same_report(folder / "out", down)
    assert run.staged() == []

    (folder / "frames" / "text.png").unlink()
    first = run("batch", frames, "-o", "s3://bucket/all/out/", "--save", KINDS)
    assert first.code == 0 and first.stdout == ""
    assert "0 done; 4 complete already" in first.stderr
    before = s3.objects("bucket/all/out")
    again = run("batch", frames, "-o", "s3://bucket/all/out", "--save", KINDS, machine="another")
    assert again.code == 0 and "0 done; 4 complete already" in again.stderr
    assert s3.objects("bucket/all/out") == before
    planned = run("batch", frames, "-o", "s3://bucket/all/out", "--save", KINDS, "--dry-run")
    assert planned.code == 0 and len(planned.lines) == 4
    assert all(line.endswith(": complete already") for line in planned.lines)
    assert s3.objects("bucket/all/out") == before


def _same_report(here: Path, there: Path) -> None:
    ours, theirs = ({path.relative_to(f).as_posix() for path in (f / "report").rglob("*.*")} for f in (here, there))
    assert ours == theirs and len(ours) == 8
    for name in ours:
        if name.endswith(".jpg"):
            assert (here / name).read_bytes() == (there / name).read_bytes()
        else:  # the first line tells times, and the rest how long it took
            parts = [(f / name).read_text().split("\n")[1].split('"seconds"') for f in (here, there)]
            assert parts[0][0] == parts[1][0]
            assert parts[0][1].partition("}")[2] == parts[1][1].partition("}")[2]
    page = (there / "report.html").read_text()
    assert all(f"img{number}.png" in page for number in range(4)) and "is a text file" in page


@pytest.mark.slow
def test_s3_that_refuses_in_mid_run(folder: Path, run_densecli: Command, s3: S3Server) -> None:
    run = Runs(run_densecli, folder, s3)
    s3.refuse_after = "half/out/img1_masks.json"
    done = run("batch", "frames", "-o", "s3://bucket/half/out")
    plain(done)
    assert done.code == 3, done.stderr
    assert 1 <= len(done.lines) < 4
    assert all("s3://bucket/half/out: permission denied (" in line for line in done.errors)
    assert "the same command goes on from there" in done.stderr
    assert "manifest.jsonl" in run.staged()
    s3.refuse = s3.refuse_after = None
    again = run("batch", "frames", "-o", "s3://bucket/half/out")
    assert again.code == 0, again.stderr
    assert f"{len(done.lines)} complete already" in again.stderr
    down = s3.download("bucket/half/out", folder / "down")
    outputs = [f"img{number}{ending}" for number in range(4) for ending in ("_masks.json", "_overlay.png")]
    assert sorted(timeless(down)) == sorted(outputs)
    assert all(entry["status"] == "done" for entry in entries(down).values())
    assert run.staged() == []


@pytest.mark.slow
def test_a_network_that_goes_in_mid_run(tmp_path: Path, photo: np.ndarray, run_densecli: Command, s3: S3Server) -> None:
    make_photos(tmp_path / "frames", photo, 12)
    run = Runs(run_densecli, tmp_path, s3)
    process = start(run, "-o", "s3://bucket/gone/out")
    wait_until(lambda: any(name.endswith("gone/out/img1_masks.json") for name in s3.writes), process)
    s3.close()
    try:
        stdout, stderr = process.communicate(timeout=200)
    finally:
        s3.open()
    assert process.returncode == 3, stderr
    errors = [line for line in stderr.decode().splitlines() if line.startswith("densecli: error: ")]
    assert errors and all("s3://bucket/gone/out: cannot be used (" in line for line in errors), stderr
    assert b"Traceback" not in stderr and b"the same command goes on from there" in stderr
    again = run("batch", "frames", "-o", "s3://bucket/gone/out")
    assert again.code == 0, again.stderr
    assert f"{len(stdout.splitlines())} complete already" in again.stderr
    assert sum(name.endswith("_overlay.png") for name in s3.objects("bucket/gone/out")) == 12


def test_what_is_said_of_places_that_cannot_be_used(folder: Path, run_densecli: Command, s3: S3Server) -> None:
    run = Runs(run_densecli, folder, s3)
    (folder / "shadow").mkdir()
    (folder / "shadow" / "s3fs.py").write_text("raise ImportError(\"No module named 's3fs'\")\n")
    without_s3fs = {"PYTHONPATH": f"{folder / 'shadow'}:{CHECKOUT}"}
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    places = (
        ("s3://nowhere/out", {}, 4, "s3://nowhere/out: cannot be used (The specified bucket does not exist); make"),
        ("s3://bucket/x", nobody, 4, "s3://bucket/x: no credentials for s3:// are set"),
        ("s3://bucket/x", without_s3fs, 4, "writing s3:// needs s3fs; run: "),
        ("wtf://bucket/x", {}, 2, "--output-dir wtf://bucket/x: wtf:// is not a known kind of URL"),
        ("s3:/bucket/x", {}, 2, "--output-dir s3:/bucket/x: a URL has two slashes"),
        ("https://example.org/x", {}, 2, "nothing can be written to https://"),
    )
    for command, given, some in (("batch", "frames", places), ("segment", "frames/img0.png", places[::3])):
        for url, environment, code, said in some:
            is_one_line(run(command, given, "-o", url, environment=environment), code, said)
    assert run.staged() == []
    assert sorted(path.name for path in folder.iterdir() if path.name != "here") == ["frames", "shadow"]


@pytest.mark.slow
def test_segment_to_s3(folder: Path, run_densecli: Command, s3: S3Server) -> None:
    run = Runs(run_densecli, folder, s3)
    arguments = ("segment", "frames/img0.png", "frames/img1.png", "--save", "overlay,masks,json,coco")
    done = run(*arguments, "-o", "s3://bucket/seg", "--json")
    assert done.code == 0, done.stderr
    assert [summary["image"]["path"] for summary in json.loads(done.stdout)] == ["frames/img0.png", "frames/img1.png"]
    down = s3.download("bucket/seg", folder / "down")
    here = run(*arguments, "-o", "out")
    assert here.code == 0
    ours, theirs = timeless(folder / "out"), timeless(down)
    coco, remote_coco = ours.pop("annotations_coco.json"), theirs.pop("annotations_coco.json")
    copies = [name for name in theirs if name.startswith("dataset_images/")]
    assert {name: data for name, data in theirs.items() if name not in copies} == ours
    # In a bucket the pictures go along, as what lies on this machine cannot be pointed at.
    assert copies == ["dataset_images/img0.png", "dataset_images/img1.png"]
    assert json.loads(remote_coco)["annotations"] == json.loads(coco)["annotations"]
    assert json.loads(remote_coco)["info"]["images_directory"] == "dataset_images"
    before = s3.objects("bucket/seg")
    skipped = run(*arguments[:-1], "overlay,masks,json", "-o", "s3://bucket/seg", "--skip-existing", "--json")
    assert [found["image"]["path"] for found in json.loads(skipped.stdout)] == [f"frames/img{n}.png" for n in (0, 1)]
    assert skipped.code == 0 and skipped.stderr.count("skipped, its outputs are there") == 2
    assert s3.objects("bucket/seg") == before


# --- a store that is a folder elsewhere, whose files do not appear as a whole by themselves --------------------------


def start(run: Runs, *arguments: str, machine: str = "here") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        run.run.argv("batch", "frames", *RUN, *arguments),
        cwd=run.cwd,
        env={**run.run.environment, **run.environment(machine)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("same_machine", [True, False])
def test_killed_and_taken_up(same_machine: bool, tmp_path: Path, photo: np.ndarray, run_densecli: Command) -> None:
    make_photos(tmp_path / "frames", photo, 12)
    run = Runs(run_densecli, tmp_path)
    bucket = tmp_path / "bucket"
    url, out = f"local://{bucket}/out", bucket / "out"
    options = ("-o", url, "--save", "overlay,masks,json,coco")
    process = start(run, *options)
    wait_until((out / "img2_masks.json").exists, process)
    other = run("batch", "frames", *options, machine="another")
    is_one_line(other, 1, f"{url}: process {process.pid} on ")
    if process.poll() is None:
        process.kill()
    _, stderr = process.communicate()
    assert process.returncode == -9, stderr
    for picture in out.rglob("*.png"):  # whatever has its name is whole
        if not picture.name.startswith(".densecli-tmp-"):
            with Image.open(picture) as image:
                image.load()
    # Only what was under way had not left this machine.
    assert sum(name.endswith("_overlay.png") for name in run.staged()) <= 3
    if not same_machine:
        shutil.rmtree(tmp_path / "here")
    again = run("batch", "frames", *options)
    assert again.code == 0, again.stderr
    if same_machine:
        assert "complete already" in again.stderr
    assert run("batch", "frames", "-o", "out", "--save", "overlay,masks,json").code == 0
    found = timeless(out)
    assert len(json.loads(found.pop("annotations_coco.json"))["images"]) == 12
    assert {name: data for name, data in found.items() if not name.startswith(("dataset_images/", ".densecli"))} == (
        timeless(tmp_path / "out")
    )
    assert [path.name for path in out.iterdir() if path.name.startswith(".densecli")] == [".densecli-finished"]
    assert run.staged() == []


@pytest.mark.slow
def test_a_store_that_becomes_full(folder: Path, run_densecli: Command) -> None:
    run = Runs(run_densecli, folder)
    assert run("batch", "frames/img0.png", "-o", "one", "--no-report").code == 0
    one = room_of((folder / "one").rglob("*"))
    with small_disk(folder / "disk", f"size={one * 5 // 2}"):
        done = run("batch", "frames", "-o", f"local://{folder}/disk/out", "--no-report")
        assert done.code == 3, done.stderr
        plain(done)
        count = len(done.lines)
        assert 1 <= count < 4
        assert all("there is no space left; free some" in line for line in done.errors)
        subprocess.run(["mount", "-o", "remount,size=8m", str(folder / "disk")], check=True)
        again = run("batch", "frames", "-o", f"local://{folder}/disk/out", "--no-report")
        assert again.code == 0, again.stderr
        assert f"{count} complete already" in again.stderr
        assert [path.name for path in (folder / "disk").rglob(".densecli-tmp-*")] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs POSIX permissions, and Linux to lower root's")
def test_a_store_that_may_only_be_read(folder: Path, run_densecli: Command) -> None:
    run = Runs(run_densecli, folder)
    (folder / "bucket").mkdir(mode=0o500)
    url = f"local://{folder}/bucket"
    for arguments in (("batch", "frames"), ("segment", "frames/img0.png")):
        done = run(*arguments, "-o", url, preexec_fn=obeying_permissions)
        if done.code == 99:
            pytest.skip("root's permissions cannot be lowered here")
        is_one_line(done, 4, f"{url}: permission denied (Permission denied); check your credentials for local://")
        assert done.stdout == ""
    assert os.listdir(folder / "bucket") == [] and run.staged() == []
