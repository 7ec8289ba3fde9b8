"""What a generated scene is: a photo-like picture and the exact truth about what is in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Role = Literal["whole", "part", "lone_part", "small", "background"]


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene.

    role: `whole`; `part`, one of many alike on a whole (keys, books, tiles, panes); `lone_part`, the only one of its
    kind on its whole (a handle, a door); `small`, a thing of its own that covers little of the picture; `background`.
    parent: index of the whole that a part lies on. x, y, window: the visible pixels, h×w bool, and where they lie.
    A whole's pixels include those of its parts, as a person would outline it.
    """

    name: str
    role: Role
    parent: int | None
    x: int
    y: int
    window: np.ndarray = field(repr=False)
    size: tuple[int, int]
    """Height and width of the picture."""

    @property
    def mask(self) -> np.ndarray:
        """H×W bool: the visible pixels."""
        full = np.zeros(self.size, dtype=bool)
        h, w = self.window.shape
        full[self.y : self.y + h, self.x : self.x + w] = self.window
        return full

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(np.count_nonzero(self.window))


@dataclass(frozen=True)
class Scene:
    """A picture, H×W×3 uint8 RGB, and all that is in it; nothing of zero visible pixels is listed."""

    kind: str
    seed: int
    pixels: np.ndarray = field(repr=False)
    objects: tuple[SceneObject, ...]
