"""Row 3: post-processing alone, real logits of the starter: stability, boxes, NMS, masks, RLE.

Reference: upsample every candidate that passed predicted IoU to the photo's size, then stability, box, RLE of what
passes, and NMS, as in SAM2AutomaticMaskGenerator._process_batch. Both get the same candidates, of one batch of points.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from common import CPU, in_turn, photo, ratio, show, starter, table
from pycocotools import mask as coco
from sam2.utils import amg
from torchvision.ops.boxes import batched_nms

from densecli.engine.candidates import stability_and_boxes, stable, suppress
from densecli.engine.decoder import PromptDecoder
from densecli.engine.encoder import encode
from densecli.engine.grid import point_grid
from densecli.engine.upsampling import Upsampling
from densecli.presets import load_preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[2.16, 12, 50])
    arguments = parser.parse_args()
    network = starter()
    p = load_preset("dense").resolve("starter").generator
    rows = []
    with torch.inference_mode():
        pixels = photo(2.16, arguments.photo)
        decoder = PromptDecoder(network, encode(network, pixels, CPU, torch.float32), torch.float32)
        points = torch.as_tensor(point_grid(8) * network.image_size, dtype=torch.float32)
        decoded = decoder.decode(points, tile=16, multimask_output=True, pred_iou_thresh=p.pred_iou_thresh)
        logits, scores = decoded.logits, decoded.predicted_iou[decoded.keep]
        for megapixels in arguments.megapixels:
            side = pixels.shape[0] / pixels.shape[1]
            width = round((megapixels * 1e6 / side) ** 0.5)
            size = round(width * side), width

            @torch.inference_mode()
            def reference(size=size) -> list:
                boxes, rles = [], []
                # All candidates at once would need 38 GB at 50 megapixels.
                for part in logits.split(16):
                    masks = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]
                    score = amg.calculate_stability_score(masks, p.mask_threshold, p.stability_score_offset)
                    masks = masks[score >= p.stability_score_thresh] > p.mask_threshold
                    boxes.append(amg.batched_mask_to_box(masks))
                    rles += amg.mask_to_rle_pytorch(masks)
                found = torch.cat(boxes).float()
                kept = batched_nms(found, torch.ones(len(found)), torch.zeros(len(found)), p.box_nms_thresh)
                return [amg.coco_encode_rle(rles[i]) for i in kept]

            upsampling = Upsampling(decoder.logits_size, size, CPU)

            @torch.inference_mode()
            def ours(upsampling=upsampling, size=size) -> list:
                stability, boxes = stability_and_boxes(logits, upsampling, p)
                good = stable(stability, p).nonzero()[:, 0]
                kept = good[suppress(boxes[good], torch.ones(len(good)), p.box_nms_thresh)]
                masks = [upsampling.mask(logits[i], p.mask_threshold) for i in kept]
                return [runs.rle(x, y, size) for x, y, runs in masks]

            # A pixel whose logit lies within float32 rounding of the threshold may fall on either side.
            expected, actual = reference(), ours()
            overlap = min(coco.iou([a], [b], [0])[0, 0] for a, b in zip(expected, actual, strict=True))
            slow, fast = in_turn(arguments.runs, reference, ours)
            rows.append(
                [
                    f"{np.prod(size) / 1e6:.0f} MP",
                    len(logits),
                    show(slow),
                    show(fast, 1e3, 1),
                    ratio(slow, fast),
                    f"{overlap:.6f}",
                ]
            )
    table(
        "Post-processing alone, starter's logits of 64 points",
        ["photo", "candidates", "reference s", "ours ms", "ratio", "lowest mask IoU"],
        rows,
    )
    print(f"(float scores are not compared here; {len(scores)} candidates passed predicted IoU)")


if __name__ == "__main__":
    main()
