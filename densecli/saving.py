"""Files of a result, for programs: the outputs that `densecli segment` writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from densecli.errors import UsageError
from densecli.masks import Segmentation
from densecli.places import Here
from densecli.sinks import CANDIDATES, DATASET_KINDS, WriteOptions, parse_kinds
from densecli.sinks.one_image import outputs_of, write_outputs
from densecli.sinks.ownership import refuse_foreign


def save(
    result: Segmentation,
    output_dir: str | os.PathLike[str],
    name: str,
    kinds: Sequence[str] = ("overlay", "json"),
    *,
    alpha: float = 0.7,
) -> dict[str, Path]:
    """Write a result's outputs, as `--save` does; returns the path of each kind. Only what densecli wrote is replaced.

    output_dir: made if missing. name: of the outputs, such as `desk` or `a/desk` for `OUT/a/desk_overlay.png`.
    kinds: overlay, json, labels, labels-wholes, labels-leaves, masks, cutouts, candidates. alpha: opacity of the
    overlay, 0 to 1.
    Raises UsageError for a kind that is none, OutputError where it cannot be written.
    """
    asked = parse_kinds(kinds if isinstance(kinds, str) else ",".join(kinds))
    if of_a_run := [kind for kind in asked if kind in DATASET_KINDS]:
        raise UsageError(f"kind {of_a_run[0]!r} is of all images of a run: use densecli.batch.run_batch")
    if CANDIDATES in asked and result.proposals is None:
        raise UsageError("kind 'candidates' needs a result that kept them: segmenter(image, keep_candidates=True)")
    place = Here(Path(output_dir))
    stem = Path(name)
    if not name or stem.is_absolute() or ".." in stem.parts:
        raise UsageError(f"name {name!r}: give one under {place.folder}, such as desk or a/desk")
    outputs = outputs_of(name, place.folder, asked)
    refuse_foreign(outputs.values(), place)
    write_outputs(result, outputs, WriteOptions(alpha))
    return outputs
