"""What the model can be asked about one thing beside a single point: several positive points, or a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Labels of sam2's prompt encoder.
_POSITIVE, _UPPER_LEFT, _LOWER_RIGHT = 1, 2, 3


@dataclass(frozen=True)
class Prompt:
    """One question. points: (x, y), all on the thing; box: x0, y0, x1, y1 around it; in pixels of the image."""

    points: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None

    def __len__(self) -> int:
        """Tokens that it takes: a box has two."""
        return len(self.points) + (0 if self.box is None else 2)

    @property
    def xywh(self) -> tuple[float, float, float, float] | None:
        """The box as x, y, width, height."""
        if self.box is None:
            return None
        x0, y0, x1, y1 = self.box
        return x0, y0, x1 - x0, y1 - y0


def as_tensors(prompts: Sequence[Prompt], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """B × P × 2 float32 places in pixels of the image, and B × P int labels, of prompts of the same length.

    A box comes first, as in SAM2ImagePredictor.
    """
    places, labels = [], []
    for prompt in prompts:
        corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
        places.append([*corners, *prompt.points])
        labels.append([_UPPER_LEFT, _LOWER_RIGHT][: len(corners)] + [_POSITIVE] * len(prompt.points))
    return (
        torch.tensor(places, dtype=torch.float32, device=device),
        torch.tensor(labels, dtype=torch.int, device=device),
    )
