"""Other kinds of outputs of an input whose masks an earlier run found: from its summary, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densecli.batch.outputs import missing
from densecli.batch.workers import fingerprint_of
from densecli.from_summary import segmentation_from
from densecli.masks import Segmentation
from densecli.places import Place
from densecli.sinks import CANDIDATES
from densecli.sinks.datasets import read_summary, summary_path
from densecli.sources import LoadedImage


@dataclass(frozen=True)
class Reused:
    """The masks of an input as an earlier run found them, and the outputs by kind that are still to be written."""

    segmentation: Segmentation
    outputs: dict[str, Path]


def to_write(
    entry: Mapping[str, Any], stem: str, outputs: Mapping[str, Path], place: Place, alpha: float
) -> dict[str, Path] | None:
    """The outputs still to be written, where there is a summary that may tell them; None where the model has to run.

    entry: the manifest's line of this very input with the same settings. outputs: of this run. alpha: of its overlays.
    """
    wanted = missing(entry, outputs, place, alpha)
    if not {"json", CANDIDATES}.isdisjoint(wanted) or place.found(summary_path(place.folder, stem)) is None:
        return None
    # Last what may be there as a whole, of another opacity: it is set aside until the others are written.
    return dict(sorted(wanted.items(), key=lambda item: item[0] == "overlay"))


def reused(
    entry: Mapping[str, Any], stem: str, image: LoadedImage, outputs: Mapping[str, Path], place: Place, alpha: float
) -> Reused | None:
    """What can be done without the model; None where that has to run. entry, outputs, alpha: as for `to_write`.

    The manifest says whose summary lies there; what came between, a run of segment or one that was killed, it does not.
    """
    wanted = to_write(entry, stem, outputs, place, alpha)
    if wanted is None:
        return None
    path = summary_path(place.folder, stem)
    brought = place.bring(path)
    try:
        document = read_summary(place.folder, stem)
        if document is None or document["image"]["sha256"] != image.sha256:
            return None
        model = document["model"]
        if fingerprint_of(document["preset"]["parameters"], model["sha256"], model["precision"]) != entry["settings"]:
            return None
        segmentation = segmentation_from(document, image.pixels)
        # Reads what messages will, and decodes every mask: now, while what is damaged means that the model runs.
        segmentation.funnel_line()
        return Reused(segmentation, wanted) if len(segmentation.masks) == entry["masks"] else None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        return None  # damaged
    finally:
        if brought:
            place.let_go(path)
