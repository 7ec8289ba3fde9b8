"""What can be written for one image: one file per kind of output, each with the same `write`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from densecli.errors import UsageError
from densecli.masks import Segmentation
from densecli.output_names import ENDINGS

KINDS = tuple(ENDINGS)
DATASET_KINDS = ("coco", "yolo", "labelme")
"""Kinds that cover all images of a run; made from the summaries (densecli.sinks.datasets)."""
CANDIDATES = "candidates"
"""Kind that only a run that keeps its candidates can write (`Segmenter.__call__`, keep_candidates)."""
_MODULES = {"json": "summary", "labels-wholes": "labels_wholes", "labels-leaves": "labels_leaves"}


@dataclass(frozen=True)
class WriteOptions:
    """Options that some kinds need. alpha: opacity of the overlay, 0 to 1."""

    alpha: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:  # also refuses nan, which the command's own range check lets through
            raise UsageError(f"--alpha {self.alpha}: no opacity; give a number from 0 to 1")


class Sink(Protocol):
    """A kind of output."""

    def write(self, segmentation: Segmentation, path: Path, options: WriteOptions) -> None:
        """Write it, complete or not at all. Raises OutputError."""


def parse_kinds(text: str) -> tuple[str, ...]:
    """The kinds of a comma list, in writing order, data sets last; with `json` where a data set needs the summaries.

    Raises UsageError for a kind that does not exist.
    """
    known = KINDS + DATASET_KINDS
    asked = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in asked if word not in known]
    if unknown or not asked:
        what = f"unknown kind {unknown[0]!r}" if unknown else "no kind named"
        raise UsageError(f"--save {text}: {what}; choose from {','.join(known)}")
    if not set(asked) <= set(KINDS):
        asked.append("json")
    return tuple(kind for kind in known if kind in asked)


def sink(kind: str) -> Sink:
    """The module that writes `kind`, one of KINDS."""
    return import_module(f"densecli.sinks.{_MODULES.get(kind, kind)}")
