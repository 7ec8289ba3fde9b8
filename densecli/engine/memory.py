"""How much memory there is, how much a batch of prompts needs, and what an out-of-memory error looks like."""

from __future__ import annotations

import gc
import math
import sys
from dataclasses import dataclass

import psutil
import torch

from densecli.engine import cgroup

GB = 1e9
# Of what is free, leave some to the allocator's fragmentation and to everybody else.
_USABLE = 0.8
_MOST_POINTS_PER_BATCH = {"cuda": 256, "mps": 64, "cpu": 64}
# Image tokens of a thread's share of a decoder tile, if they were written out: 8 prompts of an official shape, 32 of
# the starter (benchmarks/NOTES.md has the measurements; half as much costs 5 to 10 %, more brings little).
_CPU_SHARE_BYTES = 32 << 20

# Image tokens of a tile of the loop on a GPU, and of the survivors that are upscaled together: 128 and 32 (captured:
# 16) prompts of an official shape in half precision, 512 and 128 of the starter. By count: plain PyTorch takes about
# 1 ms to launch a tile's 120 kernels; a GPU of 3 TB/s takes 2 ms to move the 6 GB that they read and write. Smaller
# tiles would make it wait for the launches, larger ones only hold more memory. The fused kernels keep image tokens once
# where plain PyTorch has them four times, and are done sooner: four times as many prompts (4,096 points of the large
# shape on an H200: 150 ms with 256 prompts a tile, 113 with 512).
_LOOP_TILE_BYTES = 256 << 20
_FUSED_TILE_BYTES = 1 << 30
_SURVIVORS_OF_TILE = 4
# Of what is captured a tile's last step of survivors is full, too: short ones waste little, and cost no launches.
_SURVIVORS_OF_CAPTURED_TILE = 8
_MOST_PROMPTS_IN_LOOP_TILE = 4096


def free_bytes(device: torch.device) -> int:
    """Memory in bytes that this process could still take on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _free_host_bytes()


def used_bytes(device: torch.device) -> int:
    """Memory in bytes that this process holds on `device` now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def reset_peak(device: torch.device) -> None:
    """Start measuring the peak anew, where the device can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_megabytes(device: torch.device) -> int:
    """Highest memory use, in MB of 10^6 bytes: on CUDA of the device since `reset_peak`, else of the process so far."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    try:
        import resource
    except ImportError:  # Windows
        return round(psutil.Process().memory_info().peak_wset / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


def _free_host_bytes() -> int:
    """What the system, this process's control groups and its own limit leave, whichever is least."""
    free = [psutil.virtual_memory().available]
    if (left := cgroup.free_bytes()) is not None:
        free.append(left)
    try:
        import resource
    except ImportError:  # Windows
        return min(free)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(max(0, limit - psutil.Process().memory_info().vms))
    return min(free)


@dataclass(frozen=True)
class DecoderShape:
    """Sizes that decide what a prompt costs: image tokens, channels, outputs a prompt, bytes an element."""

    tokens: int
    channels: int
    outputs: int
    element_size: int

    @property
    def tokens_bytes(self) -> int:
        """The image tokens, written out once."""
        return self.tokens * self.channels * self.element_size

    @property
    def shared_bytes(self) -> int:
        """What all prompts of a crop share: projected tokens, position encodings and high-resolution features.

        About 16 numbers for each number of the image tokens.
        """
        return 16 * self.tokens_bytes

    @property
    def tile_bytes(self) -> int:
        """What one prompt takes while it is in the decoder.

        The image tokens and their attention to 64 (head, token) pairs a few times over, and the upscaled features
        (C / 8 channels at 16 places per token, three times).
        """
        return self.tokens * (4 * self.channels + 3 * 64 + 16 * 3 * self.channels // 8) * self.element_size

    @property
    def loop_bytes(self) -> int:
        """What one prompt takes in a tile of the loop on a GPU.

        Its image tokens four times (of the tile before, which waits for its survivors to be counted; before, in and
        after the norm of a layer) and three times its 64 (head, token) pairs' scores.
        """
        return self.tokens * (4 * self.channels + 3 * 64) * self.element_size

    @property
    def fused_bytes(self) -> int:
        """What one prompt takes in a tile of the fused loop: its image tokens once, and its logits.

        With a tenth of these for what its 64 (head, token) pairs have, and for scores.
        """
        return self.tokens * (self.channels + 16 * self.outputs) * self.element_size * 11 // 10

    @property
    def survivor_bytes(self) -> int:
        """What one surviving prompt takes while the loop upscales and scores it.

        Its image tokens, the first convolution's pixels, the second's (twice as many numbers) twice, and its logits
        twice.
        """
        return self.tokens * (6 * self.channels + 2 * 16 * self.outputs) * self.element_size

    @property
    def batch_bytes(self) -> int:
        """What one prompt takes while its candidates are scored: 16 float32 logits per token and output, 3 times."""
        return self.tokens * 16 * self.outputs * 4 * 3


@dataclass(frozen=True)
class BatchSize:
    """Points that are scored together, and prompts that are in the decoder at one time."""

    points: int
    tile: int

    def halved(self) -> BatchSize:
        points = max(1, self.points // 2)
        return BatchSize(points, min(points, max(1, self.tile // 2)))


def choose_batch_size(requested: int | str, device: torch.device, budget: int, shape: DecoderShape) -> BatchSize:
    """Batch size for `budget` bytes beyond what is in use now; a number in `requested` is taken as it is."""
    most_in_tile = _MOST_POINTS_PER_BATCH["cuda"]
    if device.type == "cpu":
        most_in_tile = torch.get_num_threads() * max(1, _CPU_SHARE_BYTES // shape.tokens_bytes)
    if isinstance(requested, int):
        return BatchSize(requested, _even(requested, most_in_tile))
    budget -= shape.shared_bytes
    points = _MOST_POINTS_PER_BATCH.get(device.type, 64)
    tile = min(points, most_in_tile)
    while points > 1 and points * shape.batch_bytes + tile * shape.tile_bytes > budget:
        points //= 2
        tile = min(points, max(1, tile // 2)) if tile * shape.tile_bytes > budget // 2 else min(points, tile)
    return BatchSize(points, _even(points, tile))


@dataclass(frozen=True)
class LoopSize:
    """Prompts of a tile of the loop on a GPU, and survivors that are upscaled together, of which it is a multiple."""

    prompts: int
    survivors: int

    def halved(self) -> LoopSize:
        return _loop_size(max(1, self.prompts // 2), self.prompts // self.survivors)


def choose_loop_size(
    requested: int | str,
    budget: int,
    shape: DecoderShape,
    points: int,
    *,
    captured: bool = False,
    fused: bool = False,
) -> LoopSize:
    """Sizes of the loop for `budget` bytes beyond what is in use now, and a crop of so many points.

    requested: points_per_batch; a number is taken as it is (rounded down to a multiple of the survivors' steps).
    fused: for the fused kernels, which upscale all of a tile's survivors in one step, and have one tile under way.
    captured: for steps that are captured, which have one size for all crops, and without the fused kernels memory of
    their own for each of two tiles under way.
    """
    steps = 1 if fused else _SURVIVORS_OF_CAPTURED_TILE if captured else _SURVIVORS_OF_TILE
    if isinstance(requested, int):
        return _loop_size(requested if captured else min(requested, points), steps)
    tile_bytes = _FUSED_TILE_BYTES if fused else _LOOP_TILE_BYTES
    prompts = min(_MOST_PROMPTS_IN_LOOP_TILE, max(1, tile_bytes // shape.tokens_bytes))
    size = _loop_size(prompts if captured else _even(points, prompts), steps)
    copies = 2 if captured and not fused else 1

    def needed(size: LoopSize) -> int:
        if fused:
            return copies * size.prompts * shape.fused_bytes
        return copies * (size.prompts * shape.loop_bytes + size.survivors * shape.survivor_bytes)

    while size.prompts > 1 and needed(size) > budget:
        size = size.halved()
    return size


def _loop_size(prompts: int, steps: int) -> LoopSize:
    survivors = max(1, prompts // steps)
    return LoopSize(prompts // survivors * survivors, survivors)


def _even(points: int, most: int) -> int:
    """Prompts per tile so that a batch falls into tiles of about one size, none above `most`."""
    return math.ceil(points / math.ceil(points / most))


def budget_bytes(device: torch.device, max_memory_gb: float | None) -> int:
    """Bytes that may be taken on top of what is in use now."""
    budget = int(_USABLE * free_bytes(device))
    if max_memory_gb is not None:
        budget = min(budget, int(max_memory_gb * GB) - used_bytes(device))
    return max(0, budget)


def over_ceiling(device: torch.device, max_memory_gb: float | None) -> str | None:
    """What to say where a ceiling is exceeded by what is in use already, which no smaller batch makes less."""
    if max_memory_gb is None or (used := used_bytes(device)) <= max_memory_gb * GB:
        return None
    return f"max_memory_gb {max_memory_gb:g} is not kept: {used / GB:.2g} GB are in use before the first point"


# The last is what oneDNN says on the CPU where it cannot have its memory; if it was something else, it comes again.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def release_cached(device: torch.device) -> None:
    """Give cached blocks back, so that a smaller batch finds room; also those that only reference cycles still hold.

    Such cycles come from tracebacks that compilers keep: in them is the frame of whoever called, with all its tensors.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
