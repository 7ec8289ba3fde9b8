"""densecli inside other programs: what they set, how they fork, and threads that outlive the main one."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.modeling.sam2_base import SAM2Base

import densecli
from densecli import Segmenter
from densecli.batch import BatchJob
from densecli.comparison import compare
from densecli.console import Console
from densecli.engine.threads import over_threads
from densecli.errors import UsageError
from densecli.model import LoadedModel
from densecli.refiltering import Refiltered
from densecli.sources import read_image
from tests.conftest import FIRST_STARTER

OVERRIDES = ("points_per_side=5", "pred_iou_thresh=0.4", "stability_score_thresh=0.6")
MODEL = str(FIRST_STARTER[0])


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("dense", MODEL, "cpu", overrides=OVERRIDES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_hosts_default_type_changes_nothing(segmenter: Segmenter, photo: np.ndarray, dtype: torch.dtype) -> None:
    """Programs set it while they build a model of their own."""
    whole = segmenter(photo, keep_candidates=True)
    torch.set_default_dtype(dtype)
    try:
        found = segmenter(photo, keep_candidates=True)
        again = Segmenter.refilter(found.proposals, "dense", OVERRIDES)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert list(found.masks) == list(again.masks) == list(whole.masks)


_LOADED = f"""
import torch
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
from densecli import model
from pathlib import Path
choice = model.choose({MODEL!r}, None, torch.device("cpu"), None, None)
network = model.load(choice, torch.device("cpu"), "fp32").network
torch.set_default_dtype(torch.float32)
from safetensors.torch import load_file
state = load_file({MODEL!r})
own = network.state_dict()
print(all(own[key].dtype == torch.float32 and torch.equal(own[key], value) for key, value in state.items()))
first = torch.rand(1)
torch.manual_seed(0)
print(torch.equal(first, torch.rand(1)))
"""


def test_weights_are_whole_whatever_the_default_type_and_draw_nobodys_numbers(
    clean_environment: dict[str, str],
) -> None:
    command = [sys.executable, "-c", _LOADED]
    done = subprocess.run(command, env=clean_environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_the_hosts_default_device_changes_nothing(segmenter: Segmenter, photo: np.ndarray) -> None:
    whole = segmenter(photo, keep_candidates=True)
    with torch.device("meta"):
        found = segmenter(photo, keep_candidates=True)
        again = Segmenter.refilter(found.proposals, "dense", OVERRIDES)
        assert torch.empty(1).device.type == "meta"
    assert list(found.masks) == list(again.masks) == list(whole.masks)


_FORKED = """
import os, torch
from densecli.engine.threads import over_threads, single_threads, worker_threads
torch.set_num_threads(2)
items = list(range(9))
assert over_threads(str, items) == [str(item) for item in items]
assert single_threads(2).submit(abs, -1).result() == 1
if os.fork() == 0:
    print(over_threads(str, items), single_threads(2).submit(abs, -2).result(), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own(clean_environment: dict[str, str]) -> None:
    """Those of its parent are not there: it would wait for them for ever."""
    command = [sys.executable, "-c", _FORKED]
    done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"{[str(n) for n in range(9)]} 2", done.stderr


_FORKED_AFTER_A_RUN = f"""
import faulthandler, os, threading, numpy as np, torch
from densecli import Segmenter

photo = np.full((90, 120, 3), 30, np.uint8)
photo[20:70, 30:80] = 220
new = lambda: Segmenter("dense", {MODEL!r}, "cpu", overrides={OVERRIDES!r})
segmenter = new()
expected = segmenter(photo, keep_candidates=True)
if os.fork() == 0:
    faulthandler.dump_traceback_later(60, exit=True)
    other = threading.Thread(target=segmenter, args=[photo])  # torch keeps its number of threads by thread
    other.start()
    other.join()
    for here in (segmenter, new()):
        found = here(photo, keep_candidates=True)
        again = Segmenter.refilter(found.proposals, here.preset)
        print(len(found.masks) == len(again.masks) == len(expected.masks) > 0, torch.get_num_threads(), flush=True)
    os._exit(0)
os.wait()
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_child_forked_after_a_run_runs_too(clean_environment: dict[str, str]) -> None:
    """OpenMP would wait there for threads that only the parent has: pools of multiprocessing hung."""
    command = [sys.executable, "-c", _FORKED_AFTER_A_RUN]
    environment = {**clean_environment, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == ["True 1", "True 1", "2"], done.stderr


_LAST_LINE = f"""
import threading, time, numpy as np
from densecli import Segmenter

def work():
    threading.main_thread().join()
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    result = Segmenter("dense", {MODEL!r}, "cpu", overrides=["points_per_side=4", "pred_iou_thresh=0"])(photo)
    print(result.points)

threading.Thread(target=work).start()
"""


def test_a_thread_may_outlive_the_main_one(clean_environment: dict[str, str]) -> None:
    """As in a script whose last line starts it."""
    command = [sys.executable, "-c", _LAST_LINE]
    done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "16", done.stderr


def test_what_was_made_of_other_masks_is_made_anew(segmenter: Segmenter, photo: np.ndarray) -> None:
    result = segmenter(photo)
    assert result.coverage > 0 and len(result.masks) > 2
    result.masks = result.masks[-1:]
    assert set(np.unique(result.labels())) == {0, result.masks[0].id}
    assert result.coverage == result.masks[0].area / photo[..., 0].size == result.summary()["coverage"]
    assert result.overlay().shape == photo.shape


def test_the_hosts_warnings_filters_are_back(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    before = list(warnings.filters)
    console = Console()
    for _ in range(2):
        with console:
            warnings.warn("noise", UserWarning, stacklevel=1)
        assert warnings.filters == before
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            read_image(tmp_path / "a.png")

    thread = threading.Thread(target=read)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        thread.start()
        for _ in range(300):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
            assert warnings.filters[0][0] == "default"
        stop.set()
        thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize("given", ["points_per_side=4", [("points_per_side", 4)], [4], [b"points_per_side=4"]])
def test_overrides_that_are_none(given: Any) -> None:
    with pytest.raises(UsageError, match="allowed: (a list of )?KEY=VALUE"):
        Segmenter("dense", MODEL, "cpu", overrides=given)


def test_jobs_from_python(tmp_path: Path) -> None:
    job = BatchJob([tmp_path, "x.png"], str(tmp_path / "out"))  # type: ignore[list-item, arg-type]
    assert job.inputs == [str(tmp_path), "x.png"] and job.output_dir == tmp_path / "out"
    for inputs in ("photos", Path("photos")):
        with pytest.raises(UsageError, match="inputs .*photos.*: give a list"):
            BatchJob(inputs, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", ["coco,overlay", ["coco", "overlay"], ("overlay", "json", "coco")])
def test_kinds_of_jobs_from_python(tmp_path: Path, kinds: Any) -> None:
    assert BatchJob(["x.png"], tmp_path, kinds).kinds == ("overlay", "json", "coco")


def test_work_that_fails_does_so_on_any_thread() -> None:
    with pytest.raises(ZeroDivisionError):
        over_threads(lambda n: 1 // n, [1, 0, 2])


@pytest.mark.parametrize("name", sorted(set(densecli.__all__) - {"__version__"}))
def test_types_of_the_public_names_resolve(name: str) -> None:
    public = getattr(densecli, name)
    assert typing.get_type_hints(public) or name == "Segmenter"  # whose attributes have their types in __init__
    for member in vars(public).values() if isinstance(public, type) else ():
        function = getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
        if inspect.isfunction(function):
            typing.get_type_hints(function)


def test_types_that_are_imported_late_are_the_right_ones() -> None:
    assert typing.get_type_hints(Refiltered)["proposals"] == densecli.ImageCandidates | None
    assert typing.get_type_hints(Segmenter.network.fget)["return"] is SAM2Base  # type: ignore[attr-defined]
    assert typing.get_type_hints(LoadedModel)["network"] is SAM2Base
    assert typing.get_type_hints(compare)["segmenters"] == Sequence[Segmenter]
