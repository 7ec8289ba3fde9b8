"""Runs of batch inside the test process, where the model is loaded once; and what finished folders have in common."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densecli.batch import BatchJob, Outcome, run_batch
from densecli.batch.job import SegmenterOptions
from densecli.batch.manifest import Record
from densecli.console import Console
from densecli.presets import load_preset
from tests.conftest import FIRST_STARTER

SETTINGS = ("points_per_side=4", "min_mask_region_area=40", "pred_iou_thresh=0.4", "stability_score_thresh=0.6")
# The first starter takes a fifth of the time for a photo that the one that ships takes.
MODEL = str(FIRST_STARTER[0])


def batch_job(*inputs: str | Path, out: str | Path = "out", **changes: Any) -> BatchJob:
    """A job for the first starter with a small grid, without report unless asked for."""
    options = SegmenterOptions(load_preset("dense", changes.pop("overrides", SETTINGS)), MODEL)
    job = BatchJob([os.fspath(given) for given in inputs], Path(out), segmenter=options, devices=("cpu",), report=False)
    return replace(job, **changes)


def run(job: BatchJob, **console: Any) -> Outcome:
    with Console(**{"quiet": True, **console}) as shown:
        return run_batch(job, shown)


def entries(out: Path) -> dict[str, dict[str, Any]]:
    """The latest manifest line of each input, by input."""
    with Record(out) as record:
        return {entry["input"]: entry for entry in record.entries()}


def timeless(out: Path) -> dict[str, Any]:
    """All outputs by relative path: summaries without times and memory, everything else as bytes."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or name.startswith(("manifest", "report", ".densecli-lock")):
            continue
        if name.endswith("_masks.json"):
            summary = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: value for key, value in summary.items() if key not in ("seconds", "peak_memory_mb")}
        else:
            found[name] = path.read_bytes()
    return found


def leftovers(out: Path) -> list[Path]:
    """What a run must not leave: temporary files, and name tags of locks."""
    hidden = out.rglob(".densecli-*")
    return [path for path in hidden if path.suffix == ".json" or not path.name.startswith(".densecli-lock")]


@pytest.fixture
def frames(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `frames` of six photos in the current folder, `tmp_path`."""
    make_photos(tmp_path / "frames", photo, 6)
    monkeypatch.chdir(tmp_path)
    return Path("frames")


def make_photos(folder: Path, photo: np.ndarray, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(np.roll(photo, 7 * number, axis=1)).save(folder / f"img{number}.png")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Iterator[Callable[[], dict[str, Any]]]:
    """What `run(batch_job("frames"))` gives over the six photos, from one run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made: dict[str, Any] = {}

    def outputs() -> dict[str, Any]:
        if not made:
            make_photos(folder / "frames", photo, 6)
            before = os.getcwd()
            os.chdir(folder)
            try:
                assert run(batch_job("frames")).exit_code == 0
            finally:
                os.chdir(before)
            made.update(timeless(folder / "out"))
        return dict(made)

    yield outputs
    shutil.rmtree(folder)
