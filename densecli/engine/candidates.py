"""Candidates as numbers: scores, boxes, the filters and NMS. No candidate has a picture here."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from densecli.engine.boxes import box_iou, nms
from densecli.engine.grid import Crop
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.upsampling import Upsampling

# Distance in pixels within which a box touches a crop's edge: `atol` of sam2's is_box_near_crop_edge.
CROP_EDGE_TOLERANCE = 20.0
# Boxes that are compared with all known ones at a time.
_TOGETHER = 256


@dataclass(frozen=True)
class Candidates:
    """N candidates of one crop, in the order of their point prompts.

    point: N int64, index of the point prompt in the crop's grid. output: N int64, which of the decoder's outputs.
    predicted_iou, stability: N float32. boxes: N × 4 int64 xyxy, inclusive, in pixels of the crop.
    """

    point: torch.Tensor
    output: torch.Tensor
    predicted_iou: torch.Tensor
    stability: torch.Tensor
    boxes: torch.Tensor

    def __len__(self) -> int:
        return len(self.point)

    def __getitem__(self, chosen: torch.Tensor | slice) -> Candidates:
        return Candidates(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @staticmethod
    def cat(parts: list[Candidates]) -> Candidates:
        return Candidates(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Candidates)))


def stability_and_boxes(
    logits: torch.Tensor, upsampling: Upsampling, parameters: GeneratorParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stability scores (N float32) and boxes (N × 4 int64) of low-resolution logits N × h × w.

    Stability is the IoU of the masks at `mask_threshold` ± `stability_score_offset` (sam2's
    `calculate_stability_score`); that of an empty mask is 0/0 = NaN, which no threshold lets through.
    """
    threshold, offset = parameters.mask_threshold, parameters.stability_score_offset
    union, intersection, boxes = upsampling.areas_and_boxes(logits, threshold - offset, threshold, threshold + offset)
    return (intersection / union).to(torch.float32), boxes


def likely(predicted_iou: torch.Tensor, threshold: float) -> torch.Tensor:
    """Bool of the same shape: the predicted-IoU filter, which at 0 is off but for NaN. Meta's generator: `>`."""
    return predicted_iou > threshold if threshold > 0 else ~predicted_iou.isnan()


def stable(stability: torch.Tensor, parameters: GeneratorParameters) -> torch.Tensor:
    """N bool: the stability filter, which at 0 is off (then even NaN stays), as in Meta's generator."""
    if parameters.stability_score_thresh > 0:
        return stability >= parameters.stability_score_thresh
    return torch.ones_like(stability, dtype=torch.bool)


def touches_crop_edge(boxes: torch.Tensor, crop: Crop, height: int, width: int) -> torch.Tensor:
    """N bool: boxes (xyxy in pixels of the crop) cut off by an edge of the crop that is not the image's edge."""
    x0, y0, x1, y1 = crop.box
    in_image = (boxes + torch.tensor([x0, y0, x0, y0], device=boxes.device)).float()
    crop_edge = torch.tensor([x0, y0, x1, y1], dtype=torch.float32, device=boxes.device)
    image_edge = torch.tensor([0, 0, width, height], dtype=torch.float32, device=boxes.device)
    near_crop = (in_image - crop_edge).abs() <= CROP_EDGE_TOLERANCE
    near_image = (in_image - image_edge).abs() <= CROP_EDGE_TOLERANCE
    return (near_crop & ~near_image).any(1)


def suppress(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Greedy NMS on boxes (N × 4 xyxy). Returns the kept indices by falling score; ties keep their order."""
    return nms(boxes.float(), scores.float(), threshold)


def duplicates(boxes: torch.Tensor, known: torch.Tensor, threshold: float) -> torch.Tensor:
    """N bool: boxes (N × 4 xyxy) that NMS would drop for one of the known ones (K × 4), were these all to win."""
    if not len(known):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    # Some at a time, as all pairs of thousands of boxes are hundreds of MB; compared in float64, as in NMS.
    parts = [(box_iou(some.float(), known.float()).double() > threshold).any(1) for some in boxes.split(_TOGETHER)]
    return torch.cat(parts)
