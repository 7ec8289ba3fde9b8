"""What the files are called that densecli writes: sinks name them so, and inputs are told from outputs by it."""

from __future__ import annotations

import re
from pathlib import Path

ENDINGS = {
    "overlay": "_overlay.png",
    "labels": "_labels.png",
    "labels-wholes": "_labels_wholes.png",
    "labels-leaves": "_labels_leaves.png",
    "masks": "_masks",
    "cutouts": "_cutouts",
    "candidates": ".candidates",
    "json": "_masks.json",
}
"""What follows the name of an input's outputs, by kind; without a dot, a folder of numbered pictures.

In the order in which they are written: the summary last, so that its presence says that all is there.
"""
OVERLAY_VIDEO, SHEET = "_overlay.mp4", "_compare.png"
"""The same of all of a video's frames, and of `compare`."""
PICTURES = tuple(ending for ending in ENDINGS.values() if ending.endswith(".png"))
FOLDERS = tuple(ending for ending in ENDINGS.values() if "." not in ending)

COCO, YOLO, LABELME = "annotations_coco.json", "yolo", "labelme"
DATASET_PICTURES = "dataset_images"
"""Folder of pictures that lie in no file of their own (frames, what came by URL or stdin) or in one that not every
reader of data sets opens."""
REPORT, REPORT_PICTURES, MANIFEST = "report.html", "report", "manifest.jsonl"
RUN_FOLDERS = (YOLO, LABELME, REPORT_PICTURES, DATASET_PICTURES)
RUN_FILES = (REPORT, MANIFEST, COCO)
"""Of a whole run, in its output folder."""

MANIFEST_NAME = re.compile(r"manifest(\.\d+-of-\d+)?\.jsonl")
FRAME_NAME = re.compile(r"frame_[0-9]{6,}", re.IGNORECASE)
MASK_NAME = re.compile(r"\d{4,}\.png")


def beside(stem: Path, kind: str) -> Path:
    """Where the output of a kind goes; stem: folder and name, without suffix."""
    return stem.with_name(stem.name + ENDINGS[kind])


def manifest_name(shard: tuple[int, int] | None = None) -> str:
    """Of a run, or of the I-th of its N shards."""
    return MANIFEST if shard is None else f"manifest.{shard[0]}-of-{shard[1]}.jsonl"


def frame_name(number: int) -> str:
    """Of the outputs of a video's frame, in the folder that is called as the video is."""
    return f"frame_{number:06d}"


def mask_name(mask_id: int) -> str:
    """Of a mask's picture in its folder."""
    return f"{mask_id:04d}.png"
