"""Other kinds of outputs of an input whose masks an earlier run found: from its summary, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densecli.batch.outputs import missing, relative
from densecli.from_summary import segmentation_from
from densecli.masks import Segmentation
from densecli.places import Place
from densecli.sinks import CANDIDATES, summary
from densecli.sinks.datasets import read_summary
from densecli.sources import LoadedImage


@dataclass(frozen=True)
class Again:
    """The masks of an input as an earlier run found them, and the outputs by kind that are still to be written."""

    segmentation: Segmentation
    outputs: dict[str, Path]


def again(
    entry: Mapping[str, Any], stem: str, image: LoadedImage, outputs: Mapping[str, Path], place: Place, alpha: float
) -> Again | None:
    """What can be done without the model; None where that has to run.

    entry: the manifest's line of this very input with the same settings. outputs: of this run. alpha: of its overlays.
    """
    wanted = missing(entry, outputs, place, alpha)
    path = summary.path(place.folder / stem)
    if not {"json", CANDIDATES}.isdisjoint(wanted) or relative({"json": path}, place.folder)[0] not in entry["outputs"]:
        return None
    brought = place.bring(path)
    try:
        document = read_summary(place.folder, stem)
        # Whatever the manifest says, it must be of these pixels.
        if document is None or document["image"]["sha256"] != image.sha256:
            return None
        return Again(segmentation_from(document, image.pixels), wanted)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged
    finally:
        if brought:
            place.let_go(path)
