"""IoU and greedy NMS of boxes, number for number as torchvision computes them, without torchvision.

Importing it takes as long as importing torch, as it brings in torch._dynamo and with that sympy, which hangs on some
machines. Nothing else in a run needs it, unless the network is compiled.
"""

from __future__ import annotations

import torch

from densecli.engine.compiled import kernels


def box_iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """IoU of each of N boxes (N × 4 float32 xyxy) with each of M others: N × M float32, NaN where both are empty."""
    first = torch.maximum(boxes[:, None, :2], others[:, :2])
    last = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (last - first).clamp(min=0).prod(-1)
    return common / (_areas(boxes)[:, None] + _areas(others) - common)


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices (int64) of the boxes that no better one overlaps by more than `threshold`, by falling score.

    boxes: N × 4 float32 xyxy. scores: N float32; ties keep their order.
    """
    compiled = kernels()
    if compiled is None:
        from torchvision.ops import nms as of_torchvision

        return of_torchvision(boxes, scores, threshold)
    # Of a GPU, too: the loops take milliseconds for some thousand boxes, importing torchvision takes seconds.
    order = scores.cpu().sort(descending=True, stable=True).indices
    kept = compiled.not_suppressed(boxes.cpu()[order].numpy(), threshold)
    return order[torch.from_numpy(kept)].to(boxes.device)


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
