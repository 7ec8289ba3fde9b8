"""Row 5: cold start: `--version`, `--help`, a small run and the first mask, each a new process.

Time to the first mask: load a network of an official shape from a .pt in sam2's form, segment a 2-megapixel photo with
one point. The reference does the same with build_sam2-like loading (instantiate, torch.load, load_state_dict).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import in_turn, official, ratio, show, table
from PIL import Image

REFERENCE = """
import sys, torch, numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
network = instantiate(OmegaConf.load(sys.argv[2]).model, _recursive_=True)
network.load_state_dict(torch.load(sys.argv[1], map_location="cpu", weights_only=True)["model"])
pixels = np.random.default_rng(0).integers(0, 256, (1200, 1800, 3), dtype=np.uint8)
SAM2AutomaticMaskGenerator(network.eval(), points_per_side=1, pred_iou_thresh=0.0, stability_score_thresh=0.0,
    output_mode="coco_rle").generate(pixels)
"""
OURS = """
import sys, numpy as np
from densecli import Segmenter
pixels = np.random.default_rng(0).integers(0, 256, (1200, 1800, 3), dtype=np.uint8)
Segmenter("default", sys.argv[1], "cpu", config=sys.argv[2], overrides=["points_per_side=1", "pred_iou_thresh=0.0",
    "stability_score_thresh=0.0"])(pixels)
"""
SMALL_RUN = ("-m", "starter", "-d", "cpu", "-s", "points_per_side=4", "-q")


def process(*command: str):
    # Bytecode is there from the second run on, as it is for a package that pip has installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(command, check=True, capture_output=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shapes", nargs="*", default=["tiny", "large"])
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    for option in ("--version", "--help"):
        command = process(sys.executable, "-m", "densecli", option)
        command()
        (times,) = in_turn(arguments.runs, command)
        rows.append([f"densecli {option}", "", show(times), ""])
    from densecli import checkpoints, model

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (107, 160, 3), dtype=np.uint8)).save(photo)
        command = process(sys.executable, "-m", "densecli", "segment", str(photo), "-o", folder, *SMALL_RUN)
        command()
        (times,) = in_turn(arguments.runs, command)
        rows.append(["densecli segment, starter, 16 points", "", show(times), ""])
        for name in arguments.shapes:
            weights = Path(folder) / f"{name}.pt"
            torch.save({"model": official(name).state_dict()}, weights)
            config = str(model.config_path(checkpoints.load_registry().entry(name)))
            reference = process(sys.executable, "-c", REFERENCE, str(weights), config)
            ours = process(sys.executable, "-c", OURS, str(weights), config)
            reference(), ours()
            slow, fast = in_turn(arguments.runs, reference, ours)
            rows.append([f"first mask, {name}", show(slow), show(fast), ratio(slow, fast)])
    table("Cold start", ["what", "reference s", "ours s", "ratio"], rows)


if __name__ == "__main__":
    main()
