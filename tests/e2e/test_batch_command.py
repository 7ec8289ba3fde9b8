"""`densecli batch` as a process: killed, interrupted, started twice, without room, and on a terminal."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.batch.conftest import MODEL, SETTINGS, batch_job, entries, leftovers, make_photos, timeless
from tests.batch.conftest import run as run_here
from tests.conftest import Command, Finished, obeying_permissions, room_of, screen_of, small_disk
from tests.e2e.test_segment_command import plain

OPTIONS = ("-o", "out", "-m", MODEL, *(word for value in SETTINGS for word in ("-s", value)), "-d", "cpu")


@pytest.fixture
def frames(tmp_path: Path, photo: np.ndarray) -> Path:
    """`tmp_path`, with a folder `frames` of six photos."""
    make_photos(tmp_path / "frames", photo, 6)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray, run_densecli: Command) -> tuple[Path, Finished]:
    """An undisturbed run over six photos and a text, with report."""
    folder = tmp_path_factory.mktemp("whole")
    make_photos(folder / "frames", photo, 6)
    (folder / "frames" / "text.png").write_text("I am no picture\n")
    return folder, run_densecli("batch", "frames", *OPTIONS, cwd=folder)


def start(run: Command, cwd: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        run.argv("batch", "frames", *OPTIONS, *arguments),
        cwd=cwd,
        env=run.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        # A shell that started the tests in the background may have made SIGINT ignored, for all its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.002)


def test_a_whole_run(whole: tuple[Path, Finished]) -> None:
    folder, done = whole
    assert done.code == 3
    plain(done)
    assert [line.split(":")[0] for line in done.lines] == [f"frames/img{number}.png" for number in range(6)]
    assert len(done.errors) == 1 and done.errors[0].startswith("frames/text.png: is a text file")
    assert "6 done; 1 failed" in done.stderr.splitlines()[-1]
    assert (folder / "out" / "report.html").exists()
    assert len(entries(folder / "out")) == 7
    assert leftovers(folder / "out") == []


def test_with_the_starter_that_ships(frames: Path, run_densecli: Command) -> None:
    """And with nothing said of model and thresholds."""
    done = run_densecli("batch", "frames/img0.png", "-o", "shipped", "-s", "points_per_side=4", "-d", "cpu", cwd=frames)
    assert done.code == 0, done.stderr
    found = entries(frames / "shipped")
    assert [entry["status"] for entry in found.values()] == ["done"]
    summary = json.loads((frames / "shipped" / "img0_masks.json").read_text(encoding="utf-8"))
    assert summary["model"]["name"] == "starter"


@pytest.mark.parametrize("devices", ["cuda:7,cpu", "cpu,cuda:7"])
def test_one_of_several_devices_is_not_there(devices: str, frames: Path, run_densecli: Command) -> None:
    """It is told before anything is made, also where the first one would do all the work."""
    done = run_densecli("batch", "frames/img0.png", *OPTIONS[:-1], devices, "-o", "nodevice", cwd=frames)
    assert (done.code, done.stdout) == (4, ""), done.stderr
    (message,) = done.errors
    assert message.startswith("--device cuda:7: ") and "unexpected" not in message
    assert done.lines == [] and not (frames / "nodevice").exists()


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def _survives_kills(kills: int, count: int, folder: Path, photo: np.ndarray, run: Command) -> None:
    make_photos(folder / "frames", photo, count)
    chance = random.Random(5)
    options = ("--save", "overlay,masks,json,coco", "--no-report")
    killed = 0
    while killed < kills:
        process = start(run, folder, *options)
        begun = len(list((folder / "out").glob("*_overlay.png"))) if killed else 0
        # From the first thing it writes on, at any moment of the work.
        try:
            wait_for(lambda begun=begun: len(list((folder / "out").glob("*_overlay.png"))) > begun, process)
        except AssertionError:
            assert process.returncode == 0  # it had finished: nothing more to kill
            break
        time.sleep(chance.random() * 0.4)
        process.kill()
        process.communicate()
        killed += 1
    assert killed >= min(kills, 3)
    done = run("batch", "frames", *OPTIONS, *options, cwd=folder)
    assert done.code == 0, done.stderr
    assert re.search(r"[1-9]\d* complete already", done.stderr)
    assert leftovers(folder / "out") == []
    ended = entries(folder / "out")
    assert len(ended) == count and all(entry["status"] == "done" for entry in ended.values())
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert run_here(batch_job("frames", out="calm", kinds=("overlay", "masks", "json", "coco"))).exit_code == 0
    finally:
        os.chdir(here)
    assert timeless(folder / "out") == timeless(folder / "calm")
    assert len(json.loads((folder / "out" / "annotations_coco.json").read_text())["images"]) == count


def test_two_kills_lose_nothing(tmp_path: Path, photo: np.ndarray, run_densecli: Command) -> None:
    _survives_kills(2, 8, tmp_path, photo, run_densecli)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_twenty_kills_lose_nothing(tmp_path: Path, photo: np.ndarray, run_densecli: Command) -> None:
    _survives_kills(20, 90, tmp_path, photo, run_densecli)


# --- interruption, two runs ------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_and_ctrl_c_ends_the_first_well(
    tmp_path: Path, photo: np.ndarray, run_densecli: Command
) -> None:
    make_photos(tmp_path / "frames", photo, 60)
    process = start(run_densecli, tmp_path, "--json")
    out = tmp_path / "out"
    wait_for((out / "img0_masks.json").exists, process)
    other = run_densecli("batch", "frames", *OPTIONS, cwd=tmp_path)
    assert (other.code, other.stdout) == (1, "")
    assert f"out: process {process.pid} on " in other.errors[0] and len(other.errors) == 1
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr and stderr.endswith(b"stopped; the same command goes on from here\n")
    printed = [json.loads(line)["input"] for line in stdout.splitlines()]
    assert 1 <= len(printed) < 60
    assert sorted(printed) == sorted(entries(out))
    assert len(list(out.glob("*_masks.json"))) == len(printed)
    assert leftovers(out) == []


def test_ctrl_c_while_the_model_is_loading(frames: Path, run_densecli: Command) -> None:
    process = start(run_densecli, frames)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr and stderr.endswith(b"densecli: error: interrupted\n")


# --- places that cannot be written -----------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs POSIX permissions, and Linux to lower root's")
def test_a_read_only_output_folder(frames: Path, run_densecli: Command) -> None:
    (frames / "out").mkdir(mode=0o500)
    done = run_densecli("batch", "frames", *OPTIONS, cwd=frames, preexec_fn=obeying_permissions)
    if done.code == 99:
        pytest.skip("root's permissions cannot be lowered here")
    assert (done.code, done.stdout) == (1, "")
    assert done.errors == ["out: no permission to write there; choose another --output-dir"]
    assert list((frames / "out").iterdir()) == []


def test_a_terminal_that_is_closed_does_not_end_it_where_sighup_is_ignored(frames: Path, run_densecli: Command) -> None:
    """As after `trap '' HUP`. Between closing and SIGHUP, too, there is nobody to tell, and no reason to fail."""
    argv = [os.fspath(word) for word in run_densecli.argv("batch", "frames", *OPTIONS, "--no-report")]
    process, terminal = os.forkpty()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.chdir(frames)
        os.execve(argv[0], argv, dict(run_densecli.environment))
    until = time.monotonic() + 60
    while not list((frames / "out").glob("*_masks.json")) and time.monotonic() < until:
        time.sleep(0.01)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert len(entries(frames / "out")) == 6 and leftovers(frames / "out") == []


def test_a_terminal_that_is_closed_ends_it_as_sigterm_does(frames: Path, run_densecli: Command) -> None:
    """What is in work is finished and recorded, though there is nobody to tell."""
    make_photos(frames / "frames", np.asarray(Image.open(frames / "frames" / "img0.png")), 12)
    argv = [os.fspath(word) for word in run_densecli.argv("batch", "frames", *OPTIONS, "--no-report")]
    process, terminal = os.forkpty()
    if process == 0:
        os.chdir(frames)
        os.execve(argv[0], argv, dict(run_densecli.environment))
    until = time.monotonic() + 60
    while len(list((frames / "out").glob("*_masks.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    done = {name for name, entry in entries(frames / "out").items() if entry["status"] == "done"}
    assert 2 <= len(done) < 12 and leftovers(frames / "out") == []
    assert {
        f"frames/{path.name.replace('_masks.json', '.png')}" for path in (frames / "out").glob("*_masks.json")
    } == done


def test_a_full_disk(frames: Path, run_densecli: Command, whole: tuple[Path, Finished]) -> None:
    disk = frames / "out"
    of_six = room_of((whole[0] / "out").glob("img*"))
    with small_disk(disk, f"size={of_six // 2}"):
        done = run_densecli("batch", "frames", *OPTIONS, "--no-report", cwd=frames)
        assert done.code == 3
        plain(done)
        count = len(done.lines)
        assert 1 <= count < 6
        assert all("the disk is full; free some space" in line for line in done.errors) and len(done.errors) <= 3
        assert leftovers(disk) == []
        for path in disk.glob("*_overlay.png"):
            with Image.open(path) as picture:
                picture.load()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = run_densecli("batch", "frames", *OPTIONS, cwd=frames)
        assert again.code == 0, again.stderr
        assert f"{6 - count} done" in again.stderr and f"{count} complete already" in again.stderr


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_bar_on_a_terminal(frames: Path, run_densecli: Command) -> None:
    pty = pytest.importorskip("pty")
    (frames / "frames" / "img2a.png").touch()
    master, slave = pty.openpty()
    process = start(run_densecli, frames, stderr=slave)
    os.close(slave)
    screen = screen_of(master)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 3, screen
    assert len(stdout.splitlines()) == 6 and b"\r" not in stdout
    assert re.search(rb"\d/7 \[\d\d:\d\d<", screen)
    assert b"1 failed, frames/img" in screen


def test_a_list_by_pipe_while_a_terminal_shows_the_bar(frames: Path, run_densecli: Command) -> None:
    """The bar's total comes from the list as well, which a pipe gives once."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        run_densecli.argv("batch", "-", "--no-report", *OPTIONS),
        cwd=frames,
        env=run_densecli.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    assert process.stdin is not None
    process.stdin.write(b"frames/img1.png\nframes/img0.png\n")
    process.stdin.close()
    screen = screen_of(master).decode()
    assert process.wait(60) == 0, screen
    assert set(entries(frames / "out")) == {"frames/img0.png", "frames/img1.png"}
    assert "2 done" in screen and "/2 [" in screen  # what is done of how many


def test_usage_errors(frames: Path, run_densecli: Command) -> None:
    for arguments, said in (
        (["--shard", "3/2"], "--shard 3/2"),
        (["--every", "0"], "--every"),
        (["--engine", "slurm"], "--engine slurm"),
        (["-o", "s3:/bucket/out"], "a URL has two slashes"),
    ):
        done = run_densecli("batch", "frames", *arguments, cwd=frames)
        assert (done.code, done.stdout) == (2, "") and said in done.errors[0]
    assert [path.name for path in frames.iterdir()] == ["frames"]


def test_help_imports_nothing_heavy(run_densecli: Command, tmp_path: Path) -> None:
    done = run_densecli("batch", "--help", cwd=tmp_path, python=["-X", "importtime"], environment={"COLUMNS": "120"})
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"torch", "torchvision", "cv2", "sam2", "numpy", "hydra", "PIL", "yaml", "ray", "av"}
    for option in (
        "--recursive", "--preset", "--set", "--model", "--config", "--checkpoint-dir", "--device", "--precision",
        "--output-dir", "--save", "--overwrite", "--skip-existing", "--alpha", "--every", "--max-frames", "--fail-fast",
        "--shard", "--engine", "--workers", "--report", "--no-report", "--dry-run", "--watch", "--quiet", "--verbose",
        "--json",
    ):  # fmt: skip
        assert option in done.stdout


# --- memory ----------------------------------------------------------------------------------------------------------

MEASURE = """
import os, sys
from pathlib import Path
from densecli.batch import run_batch
from densecli.console import Console
from tests.batch.conftest import batch_job

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

seen = []
real = Console.result
def result(self, *arguments):
    seen.append(rss())
    real(self, *arguments)
Console.result = result
job = batch_job(sys.argv[1], out="out", overrides=("points_per_side=2", "min_mask_region_area=40"))
with Console(quiet=True, json=True, json_lines=True) as console:
    run_batch(job, console)
print(len(seen), max(seen[90:100]), max(seen[-10:]), file=sys.stderr)
"""


def _stays_flat(given: str, folder: Path, run_densecli: Command) -> None:
    """2,000 images, or frames: memory after the last is within 5 % of that after the first hundred."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, given],
        cwd=folder,
        env={**run_densecli.environment, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count, early, late = done.stderr.split()[-3:]
    print(f"{given}: {early} MB after 100, {late} MB at the end")
    assert int(count) == 2000
    assert float(late) <= 1.05 * float(early)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_over_2000_images(tmp_path: Path, photo: np.ndarray, run_densecli: Command) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(2000):
        Image.fromarray(np.roll(photo[:48, :64], number, axis=1)).save(tmp_path / "frames" / f"{number}.png")
    _stays_flat("frames", tmp_path, run_densecli)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_over_a_long_video(tmp_path: Path, photo: np.ndarray, run_densecli: Command) -> None:
    fourcc = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), fourcc, 30, (64, 48))
    for number in range(2000):
        writer.write(np.ascontiguousarray(np.roll(photo[:48, :64, ::-1], number, axis=1)))
    writer.release()
    _stays_flat("clip.mp4", tmp_path, run_densecli)
