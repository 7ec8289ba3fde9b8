"""What the GPU rows share: the network, its thresholds, ours and the reference at its best, timing, memory."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import PeakMemory, official, reference_generator, starter

from densecli.engine import grid
from densecli.engine.acceleration import PLAIN, Acceleration, Kept
from densecli.engine.candidates import suppress
from densecli.engine.device_loop import DeviceLoop
from densecli.engine.device_steps import Steps
from densecli.engine.encoder import cast_products, encode
from densecli.engine.generator import MaskGenerator
from densecli.engine.memory import LoopSize
from densecli.engine.parameters import GeneratorParameters, Limits
from densecli.engine.run import Run

FUSED, GRAPHS = Acceleration(fused=True), Acceleration(captured=True)
FUSED_GRAPHS, COMPILED = Acceleration(captured=True, fused=True), Acceleration("inductor", captured=True)
WAYS = {"plain": PLAIN, "compiled": COMPILED, "graphs": GRAPHS, "fused-graphs": FUSED_GRAPHS, "fused": FUSED}
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
            name = "gpu_memory.json" if title == "memory" else "gpu.json"
            Path(folder, name).write_text(json.dumps(self.rows, indent=1, default=str))

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
        prompted = generator.prompted(pixels, grid.crops(pixels.shape[0], pixels.shape[1], every)[0], Run())
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


def best_batch(bench: Bench, network, parameters: GeneratorParameters, pixels: np.ndarray) -> int:
    """The reference's best points_per_batch."""
    tried = {}
    for points in (16,) if bench.dry else (64, 128, 256):
        generator = reference_generator(network, points_per_batch=points, **meta_parameters(parameters))
        with bench.autocast():
            try:
                tried[points] = statistics.median(bench.timed(partial(generator.generate, pixels), 1)[0])
            except torch.OutOfMemoryError:
                print(f"reference with {points} points a batch: out of memory", flush=True)
    print("reference by points_per_batch: " + ", ".join(f"{n}: {t:.3f} s" for n, t in tried.items()), flush=True)
    return min(tried, key=lambda n: tried[n])
