"""Measure a model: `python -m training.evaluate --model starter --bsds FOLDER`, tables as Markdown on stdout."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from densecli.segmenter import Segmenter
from training.evaluation import generated, tables
from training.evaluation.people import PRESET, AgainstPeople, Thresholds, own_thresholds
from training.evaluation.truths import bsds_photos

SAM_DENSE: Thresholds = (0.85, 0.90)


def _thresholds(text: str) -> Thresholds:
    values = tuple(float(part) for part in text.split("/"))
    if len(values) not in (2, 3):
        raise ValueError(text)
    return values


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    p.add_argument("--model", default="starter", help="a name, or weights with their .yaml beside (default: starter)")
    p.add_argument("--config", help="the YAML of the weights, where it is elsewhere")
    p.add_argument("--device", default="auto")
    p.add_argument("--bsds", type=Path, help="folder of BSDS500 photos (.jpg) and their segmentations (.mat)")
    p.add_argument("--limit", type=int, help="so many photos of them, evenly spread")
    p.add_argument(
        "--thresholds",
        type=_thresholds,
        nargs="*",
        default=[],
        metavar="IOU/STABILITY[/NMS]",
        help="more of them to choose masks with, beside SAM's dense 0.85/0.90 and the model's own in the preset dense",
    )
    p.add_argument("--keyboards", type=int, default=0, metavar="N", help="generated keyboards to try")
    p.add_argument("--edges", type=int, default=0, metavar="N", help="generated scenes of each kind to try")
    return p


def main(arguments: list[str] | None = None) -> None:
    a = parser().parse_args(arguments)

    def segmenter(preset: str) -> Segmenter:
        return Segmenter(preset, a.model, a.device, config=a.config)

    if a.bsds is not None:
        against_people(segmenter(PRESET), a.bsds, a.limit, a.thresholds)
    if a.keyboards:
        print("\n" + tables.keyboards_line(generated.keyboards(segmenter("keyboard-fix"), range(a.keyboards))))
    if a.edges:
        print("\n" + tables.edges_table(generated.edges(segmenter(PRESET), range(a.edges))))


def against_people(segmenter: Segmenter, folder: Path, limit: int | None, more: list[Thresholds]) -> AgainstPeople:
    """Figures over the photos of a folder, printed."""
    figures = AgainstPeople()
    chosen = list(dict.fromkeys([SAM_DENSE, own_thresholds(segmenter.model.name), *more]))
    begin = time.monotonic()
    count = 0
    for name, pixels, truth in bsds_photos(folder, limit):
        figures.add(segmenter, pixels, truth, chosen)
        count += 1
        print(f"{count} {name} {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        if count % 5 == 0:  # a run may be cut short
            print(tables.people_table(figures), file=sys.stderr, flush=True)
    print(f"{count} photos of {folder.name}, model {segmenter.model.name}, preset {PRESET}\n")
    print(tables.people_table(figures))
    print("\n" + tables.calibration_table(figures))
    return figures


if __name__ == "__main__":
    main()
