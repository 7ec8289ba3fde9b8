"""The same run over a local Ray cluster of two workers, also when one of them is killed in the middle of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from densecli.batch.processes import Process
from densecli.batch.workers import Description, WorkerDied
from densecli.console import Console
from densecli.errors import UsageError
from tests.batch.conftest import batch_job, entries, leftovers, run, timeless


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def actor_pids() -> list[int]:
    """Processes of actors that hold a model."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if command.startswith(b"ray::_Actor"):
            found.append(int(entry.name))
    return found


def kill_one_when(condition: Callable[[], bool], pids: Callable[[], list[int]]) -> list[int]:
    """Kill a worker, one that is at work, once. Returns a list in which its pid will be."""
    killed: list[int] = []

    def wait() -> None:
        until = time.monotonic() + 90
        while time.monotonic() < until and not killed:
            if condition() and (alive := pids()):
                os.kill(alive[0], signal.SIGKILL)
                killed.append(alive[0])
            time.sleep(0.01)

    threading.Thread(target=wait, daemon=True).start()
    return killed


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the actors in /proc")
def test_killing_a_ray_worker_loses_nothing(
    cluster: Any, frames: Path, undisturbed: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    killed = kill_one_when(lambda: any(Path("out").glob("*_masks.json")), actor_pids)
    outcome = run(batch_job(frames, engine="ray", workers=2, report=True), quiet=False)
    assert killed
    assert (outcome.exit_code, outcome.done, outcome.failed) == (0, 6, 0)
    assert timeless(Path("out")) == undisturbed()
    assert leftovers(Path("out")) == [] and Path("out/report.html").exists()
    assert {entry["status"] for entry in entries(Path("out")).values()} == {"done"}
    assert "a Ray worker ended" in capsys.readouterr().err
    again = run(batch_job(frames))  # one manifest for all engines
    assert (again.done, again.complete) == (0, 6)


@pytest.mark.slow
def test_failures_and_candidates_come_back_as_they_are(cluster: Any, frames: Path) -> None:
    (frames / "text.png").write_text("I am no picture\n")
    kinds = ("overlay", "candidates", "json")
    outcome = run(batch_job(frames, engine="ray", workers=1, kinds=kinds))
    assert run(batch_job(frames, out="here", kinds=kinds)).done == 6
    assert timeless(Path("out")) == timeless(Path("here"))
    assert (outcome.exit_code, outcome.done, outcome.failed) == (3, 6, 1)
    assert entries(Path("out"))["frames/text.png"]["error"].startswith("is a text file")


def test_devices_are_rays_to_choose(frames: Path) -> None:
    with pytest.raises(UsageError, match="--device cuda:0,cuda:1: with --engine ray"):
        run(batch_job(frames, engine="ray", devices=("cuda:0", "cuda:1")))
    assert not Path("out").exists()


@pytest.mark.slow
def test_killing_a_worker_process_loses_nothing(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of our own: one is killed when it has an image, and a third takes its place."""
    started: list[int] = []
    real = Process.start

    def start(self: Process, *arguments: Any) -> Description:
        description = real(self, *arguments)
        assert self._child is not None
        started.append(self._child.pid)
        return description

    monkeypatch.setattr(Process, "start", start)
    killed = kill_one_when(lambda: any(Path("out").glob("*_masks.json")), lambda: started[:1])
    kinds = ("overlay", "candidates", "json")
    assert run(batch_job(frames, devices=("cpu", "cpu"), kinds=kinds)).exit_code == 0
    assert killed
    assert run(batch_job(frames, out="here", kinds=kinds)).exit_code == 0
    assert timeless(Path("out")) == timeless(Path("here"))


def test_an_image_that_kills_every_worker_is_given_up(
    frames: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from densecli.batch import workers

    real = workers.InProcess.segment

    def deadly(self: workers.InProcess, image: Any, progress: Any) -> Any:
        if image.name.endswith("img3.png"):
            raise WorkerDied("the worker process was ended by SIGKILL")
        return real(self, image, progress)

    monkeypatch.setattr(workers.InProcess, "segment", deadly)
    with Console() as console:
        from densecli.batch import run_batch

        outcome = run_batch(batch_job(frames), console)
    assert (outcome.exit_code, outcome.done, outcome.failed) == (3, 5, 1)
    error = entries(Path("out"))["frames/img3.png"]["error"]
    assert "was ended by SIGKILL, 3 times with this image" in error
    assert "frames/img3.png goes to another" in capsys.readouterr().err
