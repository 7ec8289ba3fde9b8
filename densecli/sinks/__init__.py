"""What can be written for one image: one file per kind of output, each with the same `write`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from densecli.errors import UsageError
from densecli.masks import Segmentation

# In the order in which they are written: the summary last, so that its presence says that all is there.
KINDS = ("overlay", "labels", "masks", "cutouts", "json")
DATASET_KINDS = ("coco", "yolo", "labelme")
"""Kinds that cover all images of a run; made from the summaries (densecli.sinks.datasets)."""
CANDIDATES = "candidates"
"""Kind that only a run that keeps its candidates can write: `segment`'s."""
_MODULES = {"json": "summary"}


@dataclass(frozen=True)
class WriteOptions:
    """Options that some kinds need. alpha: opacity of the overlay, 0 to 1."""

    alpha: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:  # also refuses nan, which the command's own range check lets through
            raise UsageError(f"--alpha {self.alpha}: no opacity; give a number from 0 to 1")


class Sink(Protocol):
    """A kind of output."""

    def path(self, stem: Path) -> Path:
        """Where the output of an input goes; `stem` is folder and name without suffix."""

    def write(self, segmentation: Segmentation, path: Path, options: WriteOptions) -> None:
        """Write it, complete or not at all. Raises OutputError."""


def parse_kinds(text: str, *, candidates: bool = False) -> tuple[str, ...]:
    """The kinds of a comma list, in writing order, data sets last; with `json` where a data set needs the summaries.

    candidates: whether the command can write that kind. Raises UsageError for a kind that does not exist.
    """
    per_image = (*KINDS[:-1], CANDIDATES, *KINDS[-1:]) if candidates else KINDS
    known = per_image + DATASET_KINDS
    asked = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in asked if word not in known]
    if unknown or not asked:
        what = f"unknown kind {unknown[0]!r}" if unknown else "no kind named"
        if CANDIDATES in unknown:
            what = "candidates are kept by `densecli segment` only"
        offered = ",".join(KINDS + DATASET_KINDS + ((CANDIDATES,) if candidates else ()))
        raise UsageError(f"--save {text}: {what}; choose from {offered}")
    if not set(asked) <= set(per_image):
        asked.append("json")
    return tuple(kind for kind in known if kind in asked)


def sink(kind: str) -> Sink:
    """The module that writes `kind`, one of KINDS or CANDIDATES."""
    return import_module(f"densecli.sinks.{_MODULES.get(kind, kind)}")
