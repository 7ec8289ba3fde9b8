"""Files of a result, for programs: the outputs that `densecli segment` writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from densecli.errors import UsageError
from densecli.masks import Segmentation
from densecli.places import Here
from densecli.remote.staging import local_folder, output_url
from densecli.sinks import CANDIDATES, DATASET_KINDS, WriteOptions, parse_kinds
from densecli.sinks.one_image import outputs_of, write_outputs
from densecli.sinks.ownership import refuse_foreign
from densecli.wording import shown_name


def save(
    result: Segmentation,
    output_dir: str | os.PathLike[str],
    name: str | os.PathLike[str],
    kinds: Sequence[str] = ("overlay", "json"),
    *,
    alpha: float = 0.7,
) -> dict[str, Path]:
    """Write a result's outputs, as `--save` does; returns the path of each kind. Only what densecli wrote is replaced.

    output_dir: a folder of this machine, made if missing. name: of the outputs, such as `desk` or `a/desk` for
    `OUT/a/desk_overlay.png`.
    kinds: overlay, json, labels, labels-wholes, labels-leaves, masks, cutouts, candidates. alpha: opacity of the
    overlay, 0 to 1.
    Raises UsageError for a kind that is none and a folder elsewhere, OutputError where it cannot be written.
    """
    asked = parse_kinds(kinds if isinstance(kinds, str) else ",".join(kinds))
    if of_a_run := [kind for kind in asked if kind in DATASET_KINDS]:
        raise UsageError(f"kind {of_a_run[0]!r} is of all images of a run: use densecli.batch.run_batch")
    if CANDIDATES in asked and result.proposals is None:
        raise UsageError("kind 'candidates' needs a result that kept them: segmenter(image, keep_candidates=True)")
    folder = os.fspath(output_dir)
    if output_url(folder) is not None:
        raise UsageError(f"output_dir {shown_name(folder)}: is a URL; give a folder, or use densecli.batch.run_batch")
    place = Here(local_folder(folder))
    stem = Path(name) if isinstance(name, (str, os.PathLike)) else Path()
    if not stem.name or stem.is_absolute() or ".." in stem.parts or "\0" in str(stem):
        raise UsageError(f"name {name!r}: give one under {place.folder}, such as desk or a/desk")
    outputs = outputs_of(str(stem), place.folder, asked)
    refuse_foreign(outputs.values(), place)
    write_outputs(result, outputs, WriteOptions(alpha))
    return outputs
