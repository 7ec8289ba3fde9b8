"""The generator's behaviour beside parity: empty results, odd sizes, memory, progress, parts."""

from __future__ import annotations

import copy
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from densecli.engine import memory, proposals
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import GeneratorParameters, Limits
from densecli.engine.proposals import Floor
from tests.conftest import FIRST_STARTER

SMALL = {"points_per_side": 6, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5}


@pytest.mark.parametrize("crops", [0, 1])
@pytest.mark.parametrize("filter_", [{"pred_iou_thresh": 1.0}, {"stability_score_thresh": 1.0}])
def test_nothing_left_is_a_result(first_starter, photos, crops: int, filter_: dict) -> None:
    parameters = GeneratorParameters(**{**SMALL, **filter_, "crop_n_layers": crops})
    generated = MaskGenerator(first_starter, parameters).generate(photos["coffee"])
    assert generated.masks == []
    assert generated.funnel.candidates == 3 * 36 * (1 + 4 * crops)
    assert generated.funnel.best_predicted_iou > 0.3


def test_some_crops_without_survivors(starter) -> None:
    """sam2 issues 482 and 681: one empty crop must not cost the others."""
    pixels = np.zeros((300, 300, 3), dtype=np.uint8)
    pixels[60:120, 60:120] = 255
    parameters = GeneratorParameters(**{**SMALL, "pred_iou_thresh": 0.6, "crop_n_layers": 1})
    generated = MaskGenerator(starter, parameters).generate(pixels)
    assert generated.masks


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 4000), (4000, 1), (7, 5), (3, 1500)])
@pytest.mark.parametrize("crops", [0, 1])
def test_any_size(starter, size: tuple[int, int], crops: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    parameters = GeneratorParameters(
        points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0, crop_n_layers=crops
    )
    generated = MaskGenerator(starter, parameters).generate(pixels)
    for mask in generated.masks:
        decoded = mask.decode()
        assert decoded.shape == size and decoded.sum() == mask.area > 0


def test_ids_areas_and_boxes(starter, photos) -> None:
    from pycocotools import mask as coco

    masks = (
        MaskGenerator(starter, GeneratorParameters(**{**SMALL, "points_per_side": 12})).generate(photos["coffee"]).masks
    )
    assert [m.id for m in masks] == list(range(1, len(masks) + 1))
    assert [m.area for m in masks] == sorted((m.area for m in masks), reverse=True)
    for m in masks:
        rle = dict(m.segmentation)
        assert np.array_equal(coco.decode(rle), m.decode())
        assert coco.area(rle) == m.area and list(coco.toBbox(rle)) == list(m.bbox)


def test_batch_size_does_not_change_the_masks(starter, photos) -> None:
    parameters = GeneratorParameters(**SMALL)
    runs = [
        MaskGenerator(starter, parameters, limits=Limits(points_per_batch=n)).generate(photos["coffee"]).masks
        for n in (1, 7, 36)
    ]
    # Products of matrices round otherwise for other sizes, by which a pixel in ten thousand may tip.
    for other in runs[1:]:
        assert len(other) == len(runs[0])
        for mask, expected in zip(other, runs[0], strict=True):
            assert np.count_nonzero(mask.decode() != expected.decode()) <= max(1, expected.area // 10_000)


def test_progress_ends_with_all_points(starter, photos) -> None:
    calls: list[tuple[int, int]] = []
    parameters = GeneratorParameters(**{**SMALL, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2})
    MaskGenerator(starter, parameters).generate(photos["coffee"], lambda done, total: calls.append((done, total)))
    assert calls[-1] == (36 + 4 * 9, 36 + 4 * 9)
    assert calls == sorted(calls)


@pytest.fixture
def without_numbers(first_starter):
    """A network that gives NaN for predicted IoU of the last of its three outputs."""
    network = copy.deepcopy(first_starter)
    network.sam_mask_decoder.iou_prediction_head.layers[-1].bias[3] = torch.nan
    return network


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.99])
def test_candidates_that_are_no_numbers_are_left_out(without_numbers, photos, threshold: float, loop: bool) -> None:
    settings = {**SMALL, "pred_iou_thresh": threshold}
    limits = Limits(points_per_batch=16)  # told once, not once a batch
    generator = MaskGenerator(without_numbers, GeneratorParameters(**settings), limits=limits)
    generator.device_loop = loop
    generated = generator.generate(photos["coffee"])
    assert all(0 <= mask.predicted_iou <= 1 for mask in generated.masks)
    assert bool(generated.masks) == (threshold < 0.9)
    assert 0.4 < generated.funnel.best_predicted_iou < 1
    assert len(generated.warnings) == 1 and "no numbers (NaN)" in generated.warnings[0]


@pytest.mark.parametrize("short_at", [(0, 1), (2,)])
def test_progress_never_passes_all_points(starter, photos, monkeypatch, short_at: tuple[int, ...]) -> None:
    """Memory that runs out after a batch was scored has it scored again, and the batches before it counted still."""
    pack, calls, told = proposals.pack, [], []

    def short(*arguments):
        calls.append(arguments)
        if len(calls) - 1 in short_at:
            raise MemoryError
        return pack(*arguments)

    monkeypatch.setattr(proposals, "pack", short)
    limits = Limits(points_per_batch=8)
    generator = MaskGenerator(starter, GeneratorParameters(**{**SMALL, "points_per_side": 5}), limits=limits)
    generated = generator.generate(photos["coffee"], lambda done, of: told.append((done, of)), keep=Floor())
    assert told[-1] == (25, 25) == max(told)
    assert (generated.funnel.points, generated.funnel.candidates) == (25, 75)
    assert len(generated.warnings) == len(short_at)


def test_less_memory_smaller_batches() -> None:
    official = memory.DecoderShape(tokens=4096, channels=256, outputs=3, element_size=4)
    cpu = torch.device("cpu")
    sizes = [memory.choose_batch_size("auto", cpu, budget, official) for budget in (1 << 34, 1 << 28, 1 << 26, 0)]
    assert [s.points for s in sizes] == sorted((s.points for s in sizes), reverse=True)
    assert sizes[0].points == 64 and sizes[-1] == memory.BatchSize(1, 1)
    assert memory.choose_batch_size(500, cpu, 0, official).points == 500


def test_what_prompts_share_counts_against_the_budget() -> None:
    official = memory.DecoderShape(tokens=4096, channels=256, outputs=3, element_size=4)
    cpu = torch.device("cpu")
    most = memory.choose_batch_size("auto", cpu, 1 << 34, official)
    needed = most.points * official.batch_bytes + most.tile * official.tile_bytes
    assert memory.choose_batch_size("auto", cpu, needed + official.shared_bytes, official) == most
    assert memory.choose_batch_size("auto", cpu, needed, official).points < most.points


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "could not create a primitive",  # oneDNN's own, seen from an activation in a process short of memory
    ],
)
def test_what_running_out_of_memory_looks_like(words: str) -> None:
    assert memory.is_out_of_memory(RuntimeError(words)) and not memory.is_out_of_memory(ValueError(words))
    assert not memory.is_out_of_memory(RuntimeError("shapes differ"))


_RUN_WITH_LITTLE_MEMORY = """
import resource, sys, torch, numpy as np
torch.set_num_threads(1)
from pathlib import Path
from densecli import model
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import GeneratorParameters, Limits
network = model.load(model.Choice("first", Path(sys.argv[2]), Path(sys.argv[3])), torch.device("cpu"), "fp32").network
pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)

class Encoded(MaskGenerator):
    '''Short of memory from here on: what the encoder takes depends on what the allocator has left over.'''
    def prompted(self, *arguments):
        made = super().prompted(*arguments)
        now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]), resource.RLIM_INFINITY))
        return made

run = lambda kind, n: kind(network, GeneratorParameters(points_per_side=24, pred_iou_thresh=0.0,
    stability_score_thresh=0.5), limits=Limits(points_per_batch=n)).generate(pixels)
alone, limited = run(MaskGenerator, 16), run(Encoded, 576)
same = [(m.area, m.bbox) for m in alone.masks] == [(m.area, m.bbox) for m in limited.masks]
print(same, len(limited.masks), limited.warnings)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    """A real allocation failure in a process that may not take more address space."""
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    arguments = [str(12 << 20), *map(str, FIRST_STARTER)]
    run = subprocess.run(
        [sys.executable, "-c", _RUN_WITH_LITTLE_MEMORY, *arguments], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    same, masks, warnings = run.stdout.split(maxsplit=2)
    assert same == "True" and int(masks) > 0, run.stdout
    assert "out of memory: went on with" in warnings


_RUN_UNDER_A_CEILING = """
import sys, torch, numpy as np
from densecli import checkpoints, model
from densecli.engine import memory
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import GeneratorParameters, Limits
weights, config = checkpoints.starter_files()
network = model.load(model.Choice("starter", weights, config), torch.device("cpu"), "fp32").network
pixels = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
parameters = GeneratorParameters(points_per_side=32, pred_iou_thresh=0.0, stability_score_thresh=0.9)

def peak(limits):
    open("/proc/self/clear_refs", "w").write("5")  # starts the high-water mark anew
    MaskGenerator(network, parameters, limits=limits).generate(pixels)
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

MaskGenerator(network, parameters, limits=Limits(points_per_batch=8)).generate(pixels)
# The encoder alone takes 85 MB, of which up to 60 stay with the allocator; it has no batches to make smaller.
ceiling = memory.used_bytes(torch.device("cpu")) + 110_000_000
print(peak(Limits(max_memory_gb=ceiling / 1e9)) - ceiling, peak(Limits(points_per_batch=1024)) - ceiling)
"""


def test_a_ceiling_that_cannot_be_kept_is_told(first_starter, photos) -> None:
    parameters = GeneratorParameters(points_per_side=2, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    for crops in (0, 1):
        few = parameters.model_copy(update={"crop_n_layers": crops})
        told = MaskGenerator(first_starter, few, limits=Limits(max_memory_gb=0.05)).generate(photos["coffee"])
        (said,) = told.warnings
        assert re.fullmatch(r"max_memory_gb 0.05 is not kept: \d\S* GB are in use before the first point", said)
    assert not MaskGenerator(first_starter, few, limits=Limits(max_memory_gb=900.0)).generate(photos["coffee"]).warnings


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/self/clear_refs")
def test_memory_ceiling_is_kept() -> None:
    run = subprocess.run([sys.executable, "-c", _RUN_UNDER_A_CEILING], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    with_ceiling, without = map(int, run.stdout.split())
    assert with_ceiling <= 0 < without, (with_ceiling, without)
