"""`densecli batch`: how much of the time the engine works, what a file costs beside it, workers, and taking up a run.

    python benchmarks/batch_overhead.py [--images 24] [--done 10000] [--no-ray]

With the starter on the CPU. Busy: time in which the engine segments, of the whole run's, from the first input that is
decoded to the last output that is written; in a long run these two ends no longer count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import photo, table
from PIL import Image

from densecli.batch import BatchJob, Outcome, run_batch
from densecli.batch.job import SegmenterOptions
from densecli.batch.manifest import Manifest, Record
from densecli.console import Console
from densecli.presets import load_preset


def folder_of(place: Path, count: int, megapixels: float) -> Path:
    """A folder of JPEGs that differ."""
    place.mkdir()
    pixels = photo(megapixels)
    for number in range(count):
        Image.fromarray(np.roll(pixels, 31 * number, axis=1)).save(place / f"img{number}.jpg", quality=92)
    return place


def job(inputs: Path, out: Path, points: int, **changes: object) -> BatchJob:
    options = SegmenterOptions(load_preset("dense", [f"points_per_side={points}"]), "starter")
    values: dict[str, Any] = {"devices": ("cpu",), "report": False, "segmenter": options, **changes}
    return BatchJob([str(inputs)], out, **values)


def quietly(asked: BatchJob) -> Outcome:
    """Run it; its lines go nowhere."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        with Console(quiet=True) as console:
            return run_batch(asked, console)
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def busy(place: Path, images: int) -> None:
    rows = []
    quietly(job(folder_of(place / "warm", 2, 0.3), place / "warm-out", 8))
    for megapixels, points, kinds in (
        (0.02, 4, ("overlay", "json")),
        (0.3, 16, ("overlay", "json")),
        (2.0, 32, ("overlay", "json")),
        (2.0, 32, ("overlay", "labels", "masks", "cutouts", "json")),
        (12.0, 64, ("overlay", "json")),
    ):
        count = max(4, images if megapixels < 2 else images // 2)
        name = f"{megapixels}-{len(kinds)}"
        done = quietly(job(folder_of(place / name, count, megapixels), place / f"{name}-out", points, kinds=kinds))
        beside = (done.seconds - done.busy_seconds) / done.done
        share = f"{done.busy_seconds / done.seconds:.1%}"
        rows.append(
            (
                f"{megapixels} MP",
                points,
                ",".join(kinds),
                count,
                f"{done.seconds / count:.2f} s",
                share,
                f"{1000 * beside:.0f} ms",
            )
        )
    header = ("Images", "points a side", "kinds", "number", "an image", "engine busy", "an image beyond the engine")
    table("Engine busy", header, rows)


def workers(place: Path, images: int, with_ray: bool) -> None:
    images = max(8, images)
    source = folder_of(place / "workers", images, 0.3)
    rows = []
    asked: list[tuple[str, dict[str, Any]]] = [("this process", {}), ("2 processes", {"devices": ("cpu", "cpu")})]
    if with_ray:
        asked += [
            ("Ray, 1 worker", {"engine": "ray", "workers": 1}),
            ("Ray, 2 workers", {"engine": "ray", "workers": 2}),
        ]
    for number, (name, changes) in enumerate(asked):
        out = place / f"workers-out{number}"
        done = quietly(job(source, out, 16, **changes))
        with Record(out) as record:
            ended = sorted(float(entry["finished"]) for entry in record.entries())
        # From the sixth image on, when all workers have loaded the model.
        rate = (len(ended) - 6) / (ended[-1] - ended[5])
        rows.append((name, images, f"{done.seconds:.1f} s", f"{rate:.2f} images/s"))
    table("Workers on one machine", ("Engine", "images", "whole run", "rate once loaded"), rows)


def resume(place: Path, count: int) -> None:
    """A run over `count` inputs that are all complete, made from one by linking."""
    place = place / "resume"
    source = folder_of(place.parent / "one", 1, 0.02)
    out = place.parent / "one-out"
    quietly(job(source, out, 4))
    with Record(out) as record:
        (entry,) = record.entries()
    (place / "in").mkdir(parents=True)
    (place / "out").mkdir()
    lines = []
    for number in range(count):
        os.link(source / "img0.jpg", place / "in" / f"x{number}.jpg")
        names = [output.replace("img0", f"x{number}") for output in entry["outputs"]]
        for old, new in zip(entry["outputs"], names, strict=True):
            os.link(out / old, place / "out" / new)
        path = place / "in" / f"x{number}.jpg"
        lines.append(
            {**entry, "input": f"in/x{number}.jpg", "stem": f"x{number}", "source": str(path), "outputs": names}
        )
    with Manifest(place / "out" / "manifest.jsonl") as manifest:
        manifest.append(lines[0])
    from densecli.batch.manifest import to_line

    with open(place / "out" / "manifest.jsonl", "a", encoding="utf-8") as file:
        file.writelines(to_line(line) + "\n" for line in lines[1:])
    begin = time.perf_counter()
    done = quietly(job(place / "in", place / "out", 4))
    inside = time.perf_counter() - begin
    assert (done.done, done.complete) == (0, count), done
    command = [
        sys.executable,
        "-m",
        "densecli",
        "batch",
        "in",
        "-o",
        "out",
        "-m",
        "starter",
        "-d",
        "cpu",
        "--no-report",
        "-q",
    ]
    whole = []
    for arguments in (command + ["-s", "points_per_side=4"], [sys.executable, "-c", "import densecli.model"]):
        begin = time.perf_counter()
        subprocess.run(arguments, cwd=place, check=True, capture_output=True)
        whole.append(time.perf_counter() - begin)
    rows = [
        (f"{count:,} complete inputs, the command", f"{whole[0]:.2f} s"),
        ("of it: importing torch", f"{whole[1]:.2f} s"),
        ("the run itself, model loaded", f"{inside:.2f} s"),
    ]
    table("Taking up a run in which nothing is left to do", ("", "seconds"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--done", type=int, default=10_000)
    parser.add_argument("--no-ray", action="store_true")
    asked = parser.parse_args(arguments)
    place = Path(tempfile.mkdtemp(prefix="densecli-bench-"))
    try:
        resume(place, asked.done)
        busy(place, asked.images)
        workers(place, asked.images, not asked.no_ray)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
