"""What is captured in CUDA graphs without being wished for, and when: it pays from the second crop on.

Unlike `compile: true` (acceleration.py) it compiles nothing, must cost no user anything, and is never spoken of.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from densecli.engine import memory
from densecli.engine.acceleration import Acceleration, Kept

if TYPE_CHECKING:
    from densecli.engine.generator import MaskGenerator

ENCODER_GRAPH = Acceleration(captured=True)
# What the large network's encoder takes while it runs, by guess from what a run peaks at.
ENCODER_BYTES = 1 << 30
# Sizes of crops whose steps are captured; each keeps a tile's memory.
MOST_SIZES = 2
# What must be free beside what is captured: for all that comes after.
_ELSE_BYTES = 2 << 30


def worth_capturing(generator: MaskGenerator, key: Hashable, needed: int) -> bool:
    """Whether to capture what nobody wished to be captured: it came up before, and there is plenty of memory.

    A graph keeps, for as long as the network lives, the `needed` bytes that its function takes while it runs.
    """
    kept = Kept.by(generator.model)
    if generator.device.type != "cuda" or kept.refused or not kept.unasked:
        return False
    if key in kept.made:
        return True
    if key not in kept.seen:
        kept.seen.add(key)
        return False
    room = memory.budget_bytes(generator.device, generator.limits.max_memory_gb) > needed + _ELSE_BYTES
    if room:
        memory.release_cached(generator.device)  # a graph's memory comes on top of what nobody needs any more
    return room


def give_up(generator: MaskGenerator) -> None:
    """After a capture that failed: all goes on as before, for the rest of the process."""
    kept = Kept.by(generator.model)
    kept.unasked = False
    kept.drop()
    memory.release_cached(generator.device)
