"""All that is written for one image: where each kind goes, and writing them so that half a set never looks whole."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from densecli.files import explained
from densecli.masks import Segmentation
from densecli.places import Place
from densecli.sinks import KINDS, WriteOptions, sink


def outputs_of(stem: str, output_dir: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """Path of each kind of output, in writing order. kinds: others than those of images are passed over."""
    return {kind: sink(kind).path(output_dir / stem) for kind in kinds if kind in KINDS}


def write_outputs(segmentation: Segmentation, outputs: Mapping[str, Path], options: WriteOptions) -> None:
    """Write all kinds, each complete or not at all. Raises OutputError."""
    if outputs:
        # Until all are new, the set must not look complete: a run that is killed here would leave old beside new.
        _remove(list(outputs.values())[-1])
    begin = time.perf_counter()
    for kind, path in outputs.items():
        if kind == "json":  # the last one: it holds the time that the others took
            segmentation.written_in(time.perf_counter() - begin)
        sink(kind).write(segmentation, path, options)
    if "json" not in outputs:
        segmentation.written_in(time.perf_counter() - begin)


def put_in_place(outputs: Mapping[str, Path], place: Place, kinds: Sequence[str]) -> None:
    """Send what `write_outputs` wrote to where it goes in the end. kinds: of the run. Raises OutputError."""
    if outputs:
        place.outdate(list(outputs.values())[-1])  # as above
    for kind, path in outputs.items():
        # The data set of all masks is made from all summaries, at the end.
        place.send([path], keep=kind == "json" and "coco" in kinds)


def _remove(path: Path) -> None:
    with explained(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
