"""What the benchmarks share: photos, networks, the reference generator, timing, peak memory, tables."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from densecli import checkpoints, model

warnings.filterwarnings("ignore")
CPU = torch.device("cpu")


def photo(megapixels: float | None = None, path: str | None = None) -> np.ndarray:
    """H×W×3 uint8 RGB: the photo at `path`, or astronaut of scikit-image (CC0), scaled to so many megapixels."""
    if path:
        found = cv2.imread(path)
        if found is None:
            raise SystemExit(f"{path}: cannot be read as a picture")
        pixels = found[..., ::-1]
    else:
        import skimage.data

        pixels = skimage.data.astronaut()
    if megapixels is not None:
        scale = (megapixels * 1e6 / (pixels.shape[0] * pixels.shape[1])) ** 0.5
        size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        pixels = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(pixels)


def starter():
    """The bundled model, float32 on the CPU."""
    weights, config = checkpoints.starter_files()
    return model.load(model.Choice("starter", weights, config), CPU, "fp32").network


def official(name: str, *, smooth: bool = False):
    """A network of an official shape with random weights that keep signals at their size.

    smooth: masks with outlines as smooth as real ones (1,700 runs a mask at 2 megapixels); without, they are noise at
    the scale of a pixel (30,000 runs).
    """
    torch.manual_seed(0)  # biases stay as the network is built
    network = model.build_network(model.config_path(checkpoints.load_registry().entry(name)))
    with torch.no_grad():
        for p in network.parameters():
            if p.dim() > 1:
                p.normal_(0, p[0].numel() ** -0.5)
        if smooth:
            _smooth(network)
    return network.requires_grad_(False)


def _smooth(network) -> None:
    """Neighbouring pixels of masks come from different weights and features: make the weights equal, these faint."""
    decoder = network.sam_mask_decoder
    for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        layer.weight.copy_(2 * layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))
    for layer in (decoder.conv_s0, decoder.conv_s1):
        layer.weight.mul_(0.1)
    for p in network.image_encoder.neck.convs.parameters():
        p.mul_(0.1)


def reference_generator(network, every: int = 1, **parameters):
    """sam2's generator for this network; `every` > 1 gives it every so-many-th point of its grid only."""
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
    from sam2.utils.amg import build_point_grid

    if every > 1:
        parameters["point_grids"] = [build_point_grid(parameters.pop("points_per_side"))[::every]]
        parameters["points_per_side"] = None
    generator = SAM2AutomaticMaskGenerator(network, min_mask_region_area=0, output_mode="coco_rle", **parameters)
    side = network.image_size
    # The reference fixes these to a 1024-pixel input.
    generator.predictor._bb_feat_sizes = [(side // k, side // k) for k in (4, 8, 16)]
    return generator


def reference_decode(network, features, points: torch.Tensor) -> None:
    """SAM 2's own prompt encoder and mask decoder for B × 2 positive points, in one batch."""
    labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
    sparse, dense = network.sam_prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    network.sam_mask_decoder(
        image_embeddings=features.embedding,
        image_pe=network.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        repeat_image=True,
        high_res_features=list(features.high_res),
    )


def in_turn(runs: int, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function, run in turn (A B A B …) so that a drifting machine hits both alike."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(runs):
        for function, times in zip(functions, seconds, strict=True):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    return seconds


def show(times: Sequence[float], unit: float = 1.0, digits: int = 2) -> str:
    """Median and spread: `1.23 (1.20–1.31)`."""
    values = [f"{t * unit:.{digits}f}" for t in (statistics.median(times), min(times), max(times))]
    return f"{values[0]} ({values[1]}–{values[2]})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """Ratio of the medians."""
    return f"{statistics.median(slow) / statistics.median(fast):.1f}×"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table with the machine above it."""
    print(f"\n### {title}\n\n{machine()}\n")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}, commit {commit or '?'}"
    )


class PeakMemory:
    """Highest resident memory in bytes while the block runs, above that at its start (sampled every 5 ms; Linux)."""

    def __enter__(self) -> PeakMemory:
        self.start = self.highest = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            self.highest = max(self.highest, resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.highest = max(self.highest, resident())

    @property
    def added(self) -> int:
        return self.highest - self.start


def resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
