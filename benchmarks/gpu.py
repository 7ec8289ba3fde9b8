"""Row 6: rows 1 to 4 on a GPU: the large shape, 1,024 and 4,096 points, half precision, reference and ours.

    python benchmarks/gpu.py                   # all of it, by guess 10 minutes on an H100; every row prints as it ends
    python benchmarks/gpu.py whole accuracy    # only these, in this order; also decoder, postprocess, memory, compiled
    python benchmarks/gpu.py --profile         # also the kernels in which ours spends its time
    python benchmarks/gpu.py --dry-run-cpu     # the same code with the starter and few points on the CPU

If time is short: `whole` says most, then accuracy, decoder, postprocess, memory; `compiled` compiles for minutes.

On a fresh machine: a CUDA build of PyTorch, `SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2`, `pip install
-e .`, scikit-image. Then, before any figure, `pytest tests/engine -k gpu`: it takes a minute and says whether they mean
anything. With OUT set, rows also go to $OUT/gpu.json and the profile to $OUT/gpu_profile.txt.

Weights are random (the official config, signals kept at their size), so masks mean nothing, but they are smoothed until
a mask has as many runs as a real one (`official` in common.py). Thresholds are chosen from what the float32 network
gives: half of the points keep an output by predicted IoU, and then one of two funnels:

- "photo": of these candidates two thirds pass stability (or all that have a pixel), and NMS leaves fewer than 150. So
  it goes with a real photo: of the starter's 12,288 candidates on truck.jpg (`dense`) 8,824 pass predicted IoU, 5,785
  stability, and 87 NMS. Duplicates are many, as every object is hit by many points, and of each of them the reference
  makes an RLE.
- "few": 150 candidates or more pass stability (many masks are the whole photo, which is as stable as can be), and NMS
  keeps all of these (at a threshold of 1). As kind to the reference as can be.

Where a real photo matters (accuracy, post-processing) it is the starter with its own weights.

The reference runs under autocast, at the best of 64, 128 and 256 points a batch. Times are medians (spread) after a
warm-up, with nothing under way before and after; memory is torch.cuda.max_memory_allocated, the network included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import PeakMemory, official, photo, ratio, reference_decode, reference_generator, show, starter, table
from pycocotools import mask as coco
from sam2.utils import amg
from torchvision.ops.boxes import batched_nms

from densecli.engine import grid, memory
from densecli.engine.acceleration import PLAIN, Acceleration, Kept
from densecli.engine.candidates import stable, suppress
from densecli.engine.decoder import PromptDecoder
from densecli.engine.device_loop import DeviceLoop, OnTheWay
from densecli.engine.device_run import token_products
from densecli.engine.device_steps import Steps
from densecli.engine.encoder import cast_products, encode
from densecli.engine.generator import MaskGenerator
from densecli.engine.memory import LoopSize
from densecli.engine.parameters import GeneratorParameters, Limits
from densecli.engine.run import Run
from densecli.engine.scoring import areas_and_boxes
from densecli.engine.triton_kernels import scoring_kernel
from densecli.engine.upsampling import Upsampling
from densecli.presets import load_preset

ROWS = ["whole", "accuracy", "decoder", "postprocess", "memory", "compiled"]
FUSED, GRAPHS = Acceleration(fused=True), Acceleration(captured=True)
FUSED_GRAPHS, COMPILED = Acceleration(captured=True, fused=True), Acceleration("inductor", captured=True)
ON_A_GPU = [("fused", FUSED), ("graphs", GRAPHS), ("fused, graphs", FUSED_GRAPHS)]
WAYS = {"plain": PLAIN, **dict(ON_A_GPU)}
MASKS = 150
# Of the candidates that pass predicted IoU: the starter's on truck.jpg.
STABLE = 5785 / 8824


@dataclass
class Bench:
    """What to measure on, and where rows go."""

    device: torch.device
    dry: bool
    runs: int
    ways: list[tuple[str, Acceleration]]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def half(self) -> torch.dtype:
        """Half precision, which a CPU only imitates, slowly: not in a dry run."""
        return torch.float32 if self.dry else torch.bfloat16

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """What the reference's own examples run under."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=not self.dry):
            yield

    @property
    def sides(self) -> tuple[int, ...]:
        """Points a side of the grids."""
        return (3, 4) if self.dry else (32, 64)

    def megapixels(self, *sizes: float) -> list[float]:
        return [s / 100 for s in sizes] if self.dry else list(sizes)

    @cached_property
    def network(self):
        """The large shape with random weights; the starter in a dry run. Made once: that takes seconds."""
        return starter() if self.dry else official("large", smooth=True).to(self.device)

    def say(self, title: str, **values: object) -> None:
        """Print a row, and write all rows so far."""
        self.rows.setdefault(title, []).append(values)
        print(f"[{title}] " + ", ".join(f"{k}: {v}" for k, v in values.items()), flush=True)
        if folder := os.environ.get("OUT"):
            Path(folder, "gpu.json").write_text(json.dumps(self.rows, indent=1, default=str))

    def timed(self, function: Callable[[], object], runs: int | None = None) -> tuple[list[float], float]:
        """Seconds of each run after a warm-up, and peak memory in GB (on the CPU: what was added)."""
        function()
        if self.device.type != "cuda":
            with PeakMemory() as peak:
                seconds = [self._once(function) for _ in range(runs or self.runs)]
            return seconds, peak.added / 1e9
        torch.cuda.reset_peak_memory_stats()
        seconds = [self._once(function) for _ in range(runs or self.runs)]
        return seconds, torch.cuda.max_memory_allocated() / 1e9

    def _once(self, function: Callable[[], object]) -> float:
        self.settle()
        begin = time.perf_counter()
        function()
        self.settle()
        return time.perf_counter() - begin

    def settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def ours(
    network, parameters: GeneratorParameters, dtype: torch.dtype, acceleration: Acceleration = PLAIN
) -> MaskGenerator:
    generator = MaskGenerator(network, parameters, limits=Limits(), dtype=dtype)
    generator.device_loop, generator.acceleration = True, acceleration
    return generator


def half_surviving(bench: Bench, network, pixels: np.ndarray, side: int, funnel: str = "few") -> GeneratorParameters:
    """Thresholds at which half of the points keep an output; then as `funnel` says (see above)."""
    every = GeneratorParameters(
        points_per_side=side, pred_iou_thresh=0.0, stability_score_thresh=0.0, stability_score_offset=0.05
    )
    generator = ours(network, every, torch.float32)
    with torch.inference_mode():
        prompted = generator.prompted(pixels, grid.crops(*pixels.shape[:2], every)[0], Run())
        steps = Steps(network, True, torch.float32, LoopSize(32, 8))
        steps.begin(encode(network, pixels, bench.device, torch.float32))
        found, _ = DeviceLoop(steps, prompted.prompts, prompted.upsampling, every).candidates(lambda points: None)
    best = torch.zeros(side * side).scatter_reduce_(0, found.point, found.predicted_iou, "amax")
    iou = float(best.median())
    # Masks without a pixel have no stability.
    passing = found[(found.predicted_iou > iou) & (found.stability > 0)]
    wanted = round(STABLE * int((found.predicted_iou > iou).sum())) if funnel == "photo" else MASKS
    least = float(passing.stability.topk(min(wanted, len(passing))).values[-1])
    left = passing[passing.stability >= least]
    # The highest threshold at which NMS leaves fewer than MASKS: of many masks with the same box it may leave few.
    low, high = (0.0, 1.0) if funnel == "photo" else (1.0, 1.0)
    while high - low > 1e-3:
        middle = (low + high) / 2
        few = len(suppress(left.boxes, left.predicted_iou, middle)) < MASKS
        low, high = (middle, high) if few else (low, middle)
    return every.model_copy(update={"pred_iou_thresh": iou, "stability_score_thresh": least, "box_nms_thresh": low})


@contextmanager
def stored_in_half(bench: Bench, network) -> Iterator[None]:
    """The network as `densecli` loads it for a run in half precision on a GPU; the reference has its own way."""
    if bench.dry:
        yield
        return
    encoder = network.image_encoder
    before = {name: p.cpu() for name, p in encoder.state_dict().items()}
    cast_products(encoder, bench.half)
    try:
        yield
    finally:
        Kept.by(network).drop()
        encoder.float().load_state_dict(before)


def meta_parameters(parameters: GeneratorParameters) -> dict[str, Any]:
    """Those that the reference has, too."""
    own = {"ask_for_wholes", "fill"}
    return {k: v for k, v in parameters.model_dump().items() if k not in own}


def best_reference(bench: Bench, network, parameters: GeneratorParameters, pixels: np.ndarray) -> tuple[int, Any]:
    """The reference at its best points_per_batch."""
    tried = {}
    for points in (16,) if bench.dry else (64, 128, 256):
        generator = reference_generator(network, points_per_batch=points, **meta_parameters(parameters))
        with bench.autocast():
            try:
                tried[points] = statistics.median(bench.timed(partial(generator.generate, pixels), 1)[0]), generator
            except torch.OutOfMemoryError:
                print(f"reference with {points} points a batch: out of memory", flush=True)
    print("reference by points_per_batch: " + ", ".join(f"{n}: {t:.3f} s" for n, (t, _) in tried.items()), flush=True)
    best = min(tried, key=lambda n: tried[n][0])
    return best, tried[best][1]


def whole(bench: Bench, variants: Sequence[tuple[str, Acceleration]], reference: bool = True) -> None:
    """Row 1: a whole photo."""
    network = bench.network
    pixels = photo(2.16 if not bench.dry else 0.05)
    cases = []
    for side in bench.sides:
        for funnel in ("photo", "few"):
            parameters = half_surviving(bench, network, pixels, side, funnel)
            slow = None
            if reference:
                points_per_batch, generator = best_reference(bench, network, parameters, pixels)
                with bench.autocast():
                    slow, peak = bench.timed(partial(generator.generate, pixels))
                    masks = len(generator.generate(pixels))
                bench.say(
                    "whole",
                    points=side * side,
                    funnel=funnel,
                    who=f"reference, {points_per_batch} a batch",
                    ms=show(slow, 1e3, 1),
                    peak_gb=f"{peak:.2f}",
                    masks=masks,
                )
            cases.append((side, funnel, parameters, slow))
    with stored_in_half(bench, network):
        for side, funnel, parameters, slow in cases:
            for name, acceleration in variants:
                _whole_by_us(bench, pixels, parameters, acceleration, slow, side=side, funnel=funnel, name=name)


def _whole_by_us(
    bench: Bench,
    pixels: np.ndarray,
    parameters: GeneratorParameters,
    acceleration: Acceleration,
    slow: list[float] | None,
    *,
    side: int,
    funnel: str,
    name: str,
) -> None:
    # What the variant before had captured would count as this one's memory.
    Kept.by(bench.network).drop()
    memory.release_cached(bench.device)
    generator = ours(bench.network, parameters, bench.half, acceleration)
    begin = time.perf_counter()
    generator.generate(pixels)
    bench.settle()
    first = time.perf_counter() - begin
    fast, peak = bench.timed(partial(generator.generate, pixels), 1 if bench.dry else max(bench.runs, 9))
    last = generator.generate(pixels)
    bench.say(
        "whole",
        points=side * side,
        funnel=funnel,
        who=f"ours, {name}",
        ms=show(fast, 1e3, 1),
        peak_gb=f"{peak:.2f}",
        ratio=ratio(slow, fast) if slow else "",
        first_s=f"{first:.1f}",
        masks=len(last.masks),
        left=[last.funnel.candidates, last.funnel.after_pred_iou, last.funnel.after_stability, last.funnel.after_nms],
        stages={stage: f"{1e3 * s:.1f} ms" for stage, s in last.seconds.items()},
        warnings=last.warnings,
    )


def accuracy(bench: Bench) -> None:
    """Masks of half precision against those of float32, of the same prompts: reference under autocast, and ours."""

    def compared(who: str, what: str, exact: list, other: list) -> None:
        overlaps = []
        for point, rle in exact:
            same = [r for p, r in other if p == point]
            if same:
                overlaps.append(coco.iou(same, [rle], [0]).max())
        bench.say(
            "accuracy",
            network=what,
            who=who,
            mean_iou=f"{np.mean(overlaps):.5f}",
            lowest=f"{np.min(overlaps):.4f}",
            compared=len(overlaps),
            masks=len(other),
            masks_float32=len(exact),
        )

    def masks_of(generated) -> list:
        return [(tuple(round(v, 2) for v in m.point_coords[0]), m.segmentation) for m in generated.masks]

    pixels = photo(2.16 if not bench.dry else 0.05)
    cases = [("starter, real weights", starter().to(bench.device))]
    if not bench.dry:
        cases.append(("large, random weights", bench.network))
    for what, network in cases:
        side = bench.sides[0] if bench.dry else 32
        if what.startswith("starter"):
            parameters = load_preset("dense").resolve("starter").generator.model_copy(update={"points_per_side": side})
        else:
            parameters = half_surviving(bench, network, pixels, side)
        exact = masks_of(ours(network, parameters, torch.float32).generate(pixels))
        variants = [("bfloat16", bench.half, PLAIN)]
        if not bench.dry:
            variants += [("float16", torch.float16, PLAIN), ("bfloat16, fused", torch.bfloat16, FUSED)]
        for name, kind, acceleration in variants:
            found = ours(network, parameters, kind, acceleration).generate(pixels)
            compared(f"ours, {name}", what, exact, masks_of(found))
        reference = reference_generator(network, points_per_batch=64, **meta_parameters(parameters))
        with bench.autocast():
            reference_masks = reference.generate(pixels)
        theirs = [(tuple(round(v, 2) for v in m["point_coords"][0]), m["segmentation"]) for m in reference_masks]
        compared("reference, bfloat16", what, exact, theirs)


def decoder(bench: Bench) -> None:
    """Row 2: the decoder alone, 64 and 1,024 points, at survival rates of 0, 30 and 100 %."""
    network = bench.network
    pixels = photo(0.05)
    with torch.inference_mode():
        features = encode(network, pixels, bench.device, bench.half)
    for points in (8,) if bench.dry else (64, 1024):
        prompts = torch.rand(points, 2, device=bench.device) * network.image_size
        per_batch = min(points, 128)

        def reference(prompts=prompts, per_batch=per_batch) -> None:
            with bench.autocast():
                for part in prompts.split(per_batch):
                    reference_decode(network, features, part)

        slow, slow_peak = bench.timed(reference)
        shape = PromptDecoder(network, features, torch.float16).shape(True)
        for name, acceleration in bench.ways:
            prompt_size = memory.choose_loop_size("auto", 1 << 40, shape, points, fused=acceleration.fused)
            with torch.inference_mode():
                steps = Steps(network, True, bench.half, prompt_size, acceleration)
                steps.begin(features)
            for survive in (0.0, 0.3, 1.0):

                def decode(steps=steps, prompts=prompts, survive=survive) -> None:
                    with torch.inference_mode():
                        n, u = steps.size.prompts, steps.size.survivors
                        for number, begin in enumerate(range(0, len(prompts) // n * n, n)):
                            tokens = steps.decoder.tokens(prompts[begin : begin + n])
                            with token_products(bench.half):
                                tile = steps.transform(tokens, number % 2)
                            every, some = torch.arange(n, device=prompts.device), round(survive * n)
                            count = every.new_full((), some)
                            for first in range(0, some, u):
                                steps.upscale(tile, every[first : first + u], count, number % 2)

                fast, peak = bench.timed(decode)
                bench.say(
                    "decoder",
                    points=points,
                    kept=f"{survive:.0%}",
                    reference_ms=show(slow, 1e3, 2),
                    ours=name,
                    ms=show(fast, 1e3, 2),
                    ratio=ratio(slow, fast),
                    peaks_gb=f"{slow_peak:.2f}, {peak:.2f}",
                )


def postprocess(bench: Bench) -> None:
    """Row 3: post-processing alone, real logits of the starter, at 2, 12 and 50 megapixels."""
    network = starter().to(bench.device)
    p = load_preset("dense").resolve("starter").generator
    pixels = photo(0.5)
    with torch.inference_mode():
        features = encode(network, pixels, bench.device, torch.float32)
        prompts = torch.as_tensor(grid.point_grid(4 if bench.dry else 8), dtype=torch.float32, device=bench.device)
        decoded = PromptDecoder(network, features, torch.float32).decode(
            prompts * network.image_size, tile=16, multimask_output=True, pred_iou_thresh=p.pred_iou_thresh
        )
        logits, scores = decoded.logits, decoded.predicted_iou[decoded.keep]
    offset, middle = p.stability_score_offset, p.mask_threshold
    for megapixels in bench.megapixels(2.16, 12, 50):
        width = round((megapixels * 1e6) ** 0.5)
        size = width, width

        @torch.inference_mode()
        def reference(size=size) -> list:
            boxes, rles, kept_scores = [], [], []
            for part, score in zip(logits.split(16), scores.split(16), strict=True):
                masks = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]
                stability = amg.calculate_stability_score(masks, middle, offset)
                good = stability >= p.stability_score_thresh
                masks = masks[good] > middle
                boxes.append(amg.batched_mask_to_box(masks))
                kept_scores.append(score[good])
                rles += amg.mask_to_rle_pytorch(masks)
            found = torch.cat(boxes).float()
            kept = batched_nms(found, torch.cat(kept_scores), torch.zeros(len(found)), p.box_nms_thresh)
            return [amg.coco_encode_rle(rles[i]) for i in kept.tolist()]

        upsampling = Upsampling((logits.shape[1], logits.shape[2]), size, bench.device)

        @torch.inference_mode()
        def score(upsampling=upsampling) -> tuple[torch.Tensor, torch.Tensor]:
            wanted = torch.ones(len(logits), dtype=torch.bool, device=bench.device)
            return areas_and_boxes(logits, wanted, upsampling, middle - offset, middle, middle + offset)

        @torch.inference_mode()
        def mine(upsampling=upsampling, size=size, score=score) -> list:
            areas, boxes = score()
            stability = (areas[:, 1].double() / areas[:, 0]).float()
            good = stable(stability, p).nonzero()[:, 0]
            kept = good[suppress(boxes[good], scores[good], p.box_nms_thresh)]
            masks = upsampling.masks([OnTheWay(logits[kept]).arrived()], middle)
            return [runs.rle(x, y, size) for x, y, runs in masks]

        expected, actual = reference(), mine()
        overlaps = [coco.iou([a], [b], [0])[0, 0] for a, b in zip(expected, actual, strict=False)]
        slow, _ = bench.timed(reference)
        fast, _ = bench.timed(mine)
        alone, _ = bench.timed(score)
        bench.say(
            "postprocess",
            megapixels=megapixels,
            candidates=len(logits),
            reference_ms=show(slow, 1e3, 1),
            ours_ms=show(fast, 1e3, 2),
            ratio=ratio(slow, fast),
            scores_alone_ms=show(alone, 1e3, 3),
            by="triton" if scoring_kernel() and bench.device.type == "cuda" else "no triton",
            lowest_iou=f"{min(overlaps):.6f}",
            masks=f"{len(expected)} / {len(actual)}",
        )


def peak_memory(bench: Bench) -> None:
    """Row 4: peak memory over the size of the image; the reference with one batch of 64, where it fits."""
    network = bench.network
    parameters = half_surviving(bench, network, photo(0.05), bench.sides[0])
    sizes = bench.megapixels(2, 12, 50, 100)
    theirs = {}
    for megapixels in sizes:
        theirs[megapixels] = "does not fit"
        if bench.dry or 192 * 4 * megapixels * 1e6 * 2.5 < memory.free_bytes(bench.device):
            reference = reference_generator(network, 1 if bench.dry else 16, **meta_parameters(parameters))
            try:
                with bench.autocast():
                    peak = bench.timed(partial(reference.generate, photo(megapixels)), 1)[1]
                theirs[megapixels] = f"{peak:.2f}"
            except torch.OutOfMemoryError:
                memory.release_cached(bench.device)
    with stored_in_half(bench, network):
        for megapixels in sizes:
            Kept.by(network).drop()
            memory.release_cached(bench.device)
            generator = ours(network, parameters, bench.half, bench.ways[-1][1])
            # Three, so that all that is captured has been.
            seconds, peak = bench.timed(partial(generator.generate, photo(megapixels)), 1 if bench.dry else 3)
            row = {"megapixels": megapixels, "reference_gb": theirs[megapixels], "ours": bench.ways[-1][0]}
            bench.say("memory", **row, ours_gb=f"{peak:.2f}", ours_s=show(seconds, 1, 3))


def profile(bench: Bench) -> None:
    """The kernels in which the last of `ways` spends its time, at the smaller number of points."""
    network = bench.network
    pixels = photo(2.16 if not bench.dry else 0.05)
    name, acceleration = bench.ways[-1]
    generator = ours(network, half_surviving(bench, network, pixels, bench.sides[0], "photo"), bench.half, acceleration)
    print(f"profile of {name}", flush=True)
    generator.generate(pixels)
    activities = [torch.profiler.ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        key = "self_cuda_time_total"
    generator.generate(pixels)
    with torch.profiler.profile(activities=activities) as recorded:
        generator.generate(pixels)
        bench.settle()
    text = recorded.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=90)
    print(text, flush=True)
    if folder := os.environ.get("OUT"):
        Path(folder, "gpu_profile.txt").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=None, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="of ours")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--dry-run-cpu", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown:
        parser.error(f"unknown row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if not arguments.dry_run_cpu and not torch.cuda.is_available():
        parser.error("there is no GPU here; --dry-run-cpu runs the same code with the starter")
    dry = arguments.dry_run_cpu
    # On the CPU there is nothing to fuse or to capture.
    ways = ["plain"] if dry else arguments.ways
    device = torch.device("cpu" if dry else "cuda")
    bench = Bench(device, dry, 1 if dry else arguments.runs, [(name, WAYS[name]) for name in ways])
    # Compiling would take the longest on the CPU.
    compiled = [("compiled", Acceleration("eager") if dry else COMPILED)]
    jobs: dict[str, Callable[[], None]] = {
        "whole": lambda: whole(bench, bench.ways),
        "accuracy": lambda: accuracy(bench),
        "decoder": lambda: decoder(bench),
        "postprocess": lambda: postprocess(bench),
        "memory": lambda: peak_memory(bench),
        "compiled": lambda: whole(bench, compiled, reference=False),
    }
    if arguments.profile:
        profile(bench)
    for name in arguments.rows or ROWS:
        try:
            jobs[name]()
        except Exception as error:  # the next row may still say something before the machine is gone
            bench.say(name, failed=f"{type(error).__name__}: {error}")
            if dry:
                raise
        # What one row had captured would count as the next one's memory.
        Kept.by(bench.network).drop()
        memory.release_cached(bench.device)
    name = "CPU, a dry run" if dry else torch.cuda.get_device_name()
    for title, rows in bench.rows.items():
        header = list(dict.fromkeys(key for row in rows for key in row))
        table(f"{title}, {name}", header, [[row.get(key, "") for key in header] for row in rows])


if __name__ == "__main__":
    main()
