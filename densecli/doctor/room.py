"""Which checkpoints fit the memory of each device, by the engine's own estimate. The first half runs in a child."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densecli.doctor import commands
from densecli.doctor.report import Check, warning

if TYPE_CHECKING:
    import torch

    from densecli.engine import memory

# Every official SAM 2.1 network decodes on 64 × 64 image tokens of 256 channels, three candidates a point.
_TOKENS, _CHANNELS, _OUTPUTS = 64 * 64, 256, 3
_DENSE_POINTS = 64 * 64
_NO_CEILING = 1 << 62  # bytes


def what_fits(device: torch.device) -> dict[str, Any]:
    """Free bytes of `device`, and for each checkpoint the points that could be in work there at one time.

    `points`: 0 where the checkpoint does not fit at all. `most`: as many as there would be if memory were no limit.
    """
    from densecli import automatic_choice, checkpoints, model
    from densecli.engine import memory

    dtype = model.DTYPES[model.resolve_precision("auto", device)]
    shape = memory.DecoderShape(_TOKENS, _CHANNELS, _OUTPUTS, dtype.itemsize)
    most, _ = _at_a_time(device, _NO_CEILING, shape)
    free = memory.free_bytes(device)
    budget = memory.budget_bytes(device, None)
    points = {}
    for entry in checkpoints.load_registry().entries.values():
        # The rule by which `--model auto` passes a checkpoint over.
        if entry.size + automatic_choice.WORKING_BYTES > free:
            points[entry.name] = 0
        else:
            together, whole = _at_a_time(device, max(0, budget - entry.size), shape)
            points[entry.name] = most if whole else min(together, most - 1)
    sizes = {entry.name: entry.size for entry in checkpoints.load_registry().entries.values()}
    return {"free": free, "most": most, "points": points, "sizes": sizes}


def _at_a_time(device: torch.device, budget: int, shape: memory.DecoderShape) -> tuple[int, bool]:
    """Points in work at one time with `budget` bytes, as the engine chooses there; whether no more would be."""
    from densecli.engine import memory
    from densecli.engine.triton_kernels import fused_fits, shared_memory

    if device.type == "cuda":
        fused = fused_fits(shared_memory(device)) and shape.element_size == 2
        sizes = [memory.choose_loop_size("auto", b, shape, _DENSE_POINTS, fused=fused) for b in (budget, _NO_CEILING)]
        return sizes[0].prompts, sizes[0] == sizes[1]
    batches = [memory.choose_batch_size("auto", device, b, shape) for b in (budget, _NO_CEILING)]
    return batches[0].points, batches[0] == batches[1]


def judge_memory(device: str, facts: dict[str, Any]) -> Check:
    """One row for one device of the `memory` step of the torch probe."""
    name = f"memory {device}"
    by_size = sorted(facts["points"], key=lambda checkpoint: -facts["sizes"][checkpoint])
    whole = [c for c in by_size if facts["points"][c] >= facts["most"]]
    tiles = [c for c in by_size if 0 < facts["points"][c] < facts["most"]]
    too_big = [c for c in by_size if facts["points"][c] == 0]
    of_total = f" of {facts['total'] / 1e9:.1f}" if facts["total"] else ""
    parts = [f"{facts['free'] / 1e9:.1f}{of_total} GB free"]
    if whole:
        parts.append(f"with dense, {_listed(whole)} fit{'s' if len(whole) == 1 else ''}")
    if tiles:
        parts.append(f"{_listed(tiles)}: will run in smaller tiles")
    if not too_big:
        return Check(name, "; ".join(parts))
    parts.append(f"{_listed(too_big)}: too big")
    model = next(iter([*whole, *tiles]), None)
    if model is not None:
        return warning(name, "; ".join([*parts, f"use {model}"]), commands.densecli("segment", "IMAGE", "-m", model))
    fix = commands.densecli("segment", "IMAGE", "--preset", "low-vram", "-m", "starter", "-d", "cpu")
    return warning(name, "; ".join([*parts, "close other programs, or use starter"]), fix)


def judge_room(facts: dict[str, Any] | None) -> list[Check]:
    """A row for each device; none where PyTorch, which knows them, does not import."""
    return [judge_memory(device, found) for device, found in (facts or {}).items()]


def _listed(names: list[str]) -> str:
    return ", ".join(names)
