"""`NAME.candidates`: what the engine proposed, so that `segment NAME.candidates` can choose again without a model."""

from __future__ import annotations

from pathlib import Path

from densecli.errors import UsageError
from densecli.masks import Segmentation
from densecli.output_names import ENDINGS
from densecli.sinks import WriteOptions
from densecli.sources import local_path

SUFFIX = ENDINGS["candidates"]


def is_candidates(given: str) -> bool:
    """Whether an input is such a file, by its name."""
    return given.lower().endswith(SUFFIX) and local_path(given) is not None


def write(segmentation: Segmentation, path: Path, options: WriteOptions) -> None:
    """Raises UsageError for a run that did not keep its candidates."""
    if segmentation.proposals is None:
        raise UsageError(f"{path}: this run did not keep its candidates; run it with keep_candidates=True")
    segmentation.proposals.save(path)
