"""All that is written for one image: where each kind goes, and writing them so that half a set never looks whole."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from densecli.files import explained, temporary_beside
from densecli.masks import Segmentation
from densecli.output_names import beside
from densecli.places import Place
from densecli.sinks import KINDS, WriteOptions, sink

_OF_PIXELS = frozenset(["overlay", "cutouts"])
"""Kinds that take the image itself."""


def outputs_of(stem: str, output_dir: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """Path of each kind of output, in writing order. kinds: others than those of images are passed over."""
    return {kind: beside(output_dir / stem, kind) for kind in kinds if kind in KINDS}


def write_outputs(segmentation: Segmentation, outputs: Mapping[str, Path], options: WriteOptions) -> None:
    """Write all kinds, each complete or not at all. Raises OutputError, and InputError where there are no pixels.

    Where not even the first can be written, all that was there before is there still.
    """
    if not outputs:
        return
    if not _OF_PIXELS.isdisjoint(outputs):
        _ = segmentation.pixels  # those of candidates are read from the photo, which may be gone
    begin = time.perf_counter()
    # Until all are new, the set must not look complete: a run that is killed here would leave old beside new.
    with _set_aside(list(outputs.values())[-1]) as old:
        for kind, path in outputs.items():
            if kind == "json":  # the last one: it holds the time that the others took
                segmentation.written_in(time.perf_counter() - begin)
            sink(kind).write(segmentation, path, options)
            old.is_out_of_date = True
    if "json" not in outputs:
        segmentation.written_in(time.perf_counter() - begin)


def put_in_place(outputs: Mapping[str, Path], place: Place, kinds: Sequence[str]) -> None:
    """Send what `write_outputs` wrote to where it goes in the end. kinds: of the run. Raises OutputError."""
    if outputs:
        place.outdate(list(outputs.values())[-1])  # as above
    for kind, path in outputs.items():
        # The data set of all masks is made from all summaries, at the end.
        place.send([path], keep=kind == "json" and "coco" in kinds)


@dataclass
class _Old:
    is_out_of_date: bool = False


@contextmanager
def _set_aside(path: Path) -> Iterator[_Old]:
    """What is at `path` is not there within the block; it comes back where that fails before it is out of date."""
    old = _Old()
    if not os.path.lexists(path):
        yield old
        return
    aside = temporary_beside(path, path.suffix)
    with explained(path):
        os.replace(path, aside)
    try:
        yield old
    except BaseException:
        if not old.is_out_of_date:
            os.replace(aside, path)
        raise
    finally:
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)
