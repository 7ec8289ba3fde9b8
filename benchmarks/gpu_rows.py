"""The rows of gpu.py, each a function of a Bench."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import photo, ratio, reference_decode, reference_generator, show, starter
from gpu_bench import FUSED, Bench, best_batch, half_surviving, meta_parameters, ours, stored_in_half
from pycocotools import mask as coco
from sam2.utils import amg
from torchvision.ops.boxes import batched_nms

from densecli.engine import grid, memory
from densecli.engine.acceleration import PLAIN, Acceleration, Kept
from densecli.engine.candidates import stable, suppress
from densecli.engine.decoder import PromptDecoder
from densecli.engine.device_loop import OnTheWay
from densecli.engine.device_steps import Steps, token_products
from densecli.engine.encoder import encode
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.scoring import areas_and_boxes
from densecli.engine.triton_kernels import scoring_kernel
from densecli.engine.upsampling import Upsampling
from densecli.presets import load_preset


def whole(bench: Bench) -> None:
    """Row 1: a whole photo. The reference half before and half after ours: clocks of a GPU drift."""
    network = bench.network
    pixels = photo(2.16 if not bench.dry else 0.05)
    best: dict[str, int] = {}
    for side in bench.sides:
        for funnel in ("photo", "few"):
            case = {"points": side * side, "funnel": funnel}
            parameters = half_surviving(bench, network, pixels, side, funnel)
            if funnel not in best:
                best[funnel] = best_batch(bench, network, parameters, pixels)
            generator = reference_generator(network, points_per_batch=best[funnel], **meta_parameters(parameters))
            found: list = []

            def reference(generator=generator, found=found) -> None:
                with bench.autocast():
                    found[:] = generator.generate(pixels)

            slow, peak = bench.timed(reference)
            ours_by_way = {}
            with stored_in_half(bench, network):
                for name, acceleration in bench.ways:
                    ours_by_way[name] = _whole_by_us(bench, pixels, parameters, acceleration)
            slow += bench.timed(reference)[0]
            row = {"ms": show(slow, 1e3, 1), "peak_gb": f"{peak:.2f}", "masks": len(found)}
            bench.say("whole", **case, who=f"reference, {best[funnel]} a batch", **row)
            for name, (fast, measured) in ours_by_way.items():
                bench.say("whole", **case, who=f"ours, {name}", ratio=ratio(slow, fast), **measured)


def _whole_by_us(
    bench: Bench, pixels: np.ndarray, parameters: GeneratorParameters, acceleration: Acceleration
) -> tuple[list[float], dict[str, object]]:
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
    return fast, {
        "ms": show(fast, 1e3, 1),
        "peak_gb": f"{peak:.2f}",
        "first_s": f"{first:.1f}",
        "masks": len(last.masks),
        "left": [
            last.funnel.candidates,
            last.funnel.after_pred_iou,
            last.funnel.after_stability,
            last.funnel.after_nms,
        ],
        "stages": {stage: f"{1e3 * s:.1f} ms" for stage, s in last.seconds.items()},
        "warnings": last.warnings,
    }


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
            if acceleration:
                continue  # of one size, whatever the number of points
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
                            every, some = torch.arange(n, device=prompts.device), round(survive * n)
                            with token_products(bench.half):
                                tile = steps.transform(tokens, every.new_full((), n), number % 2)
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
            by="triton" if bench.device.type == "cuda" and scoring_kernel(bench.device) else "no triton",
            lowest_iou=f"{min(overlaps):.6f}",
            masks=f"{len(expected)} / {len(actual)}",
        )


def peak_memory(bench: Bench) -> None:
    """Row 4: peak memory over the size of the image; the reference with one batch of 64, where it fits."""
    network = bench.network
    points = {side: half_surviving(bench, network, photo(0.05), side) for side in bench.sides}
    sizes = bench.megapixels(2, 12, 50, 100)
    theirs = {}
    for megapixels in sizes:
        theirs[megapixels] = "does not fit"
        if bench.dry or 192 * 4 * megapixels * 1e6 * 2.5 < memory.free_bytes(bench.device):
            parameters = points[bench.sides[0]]
            reference = reference_generator(network, 1 if bench.dry else 16, **meta_parameters(parameters))
            try:
                with bench.autocast():
                    peak = bench.timed(partial(reference.generate, photo(megapixels)), 1)[1]
                theirs[megapixels] = f"{peak:.2f}"
            except torch.OutOfMemoryError:
                memory.release_cached(bench.device)
    with stored_in_half(bench, network):
        for side, parameters in points.items():
            for megapixels in sizes:
                Kept.by(network).drop()
                memory.release_cached(bench.device)
                generator = ours(network, parameters, bench.half, bench.ways[-1][1])
                # Three, so that all that is captured has been.
                seconds, peak = bench.timed(partial(generator.generate, photo(megapixels)), 1 if bench.dry else 3)
                row = {"points": side * side, "megapixels": megapixels, "reference_gb": theirs[megapixels]}
                took = show(seconds, 1, 3)
                bench.say("memory", **row, ours=bench.ways[-1][0], ours_gb=f"{peak:.2f}", ours_s=took)


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
