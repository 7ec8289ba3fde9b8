"""Row 4: peak memory over the size of the image, beyond loaded model and image; each run in a process of its own.

The reference runs one batch of 64 points with the starter, as its memory is that of one batch; where a batch would not
fit the machine it is left out. Ours runs the whole of `dense` and makes the overlay too. How much of what a warm-up
freed the process still holds differs from run to run by some 50 MB, which small images need no more than.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from common import CPU, PeakMemory, photo, reference_generator, show, starter, table

from densecli.engine import memory
from densecli.segmenter import Segmenter


def measure(who: str, megapixels: float) -> None:
    pixels = photo(megapixels)
    if who == "reference":
        generator = reference_generator(
            starter(), 64, points_per_side=64, pred_iou_thresh=0.45, stability_score_thresh=0.7
        )
        generator.generate(pixels[:64, :64])
        with PeakMemory() as peak:
            generator.generate(pixels)
    else:
        segmenter = Segmenter("dense", "starter", "cpu")
        segmenter(pixels[:64, :64].copy())
        with PeakMemory() as peak:
            segmenter(pixels).overlay()
    print(peak.added)


def _added(who: str, megapixels: float) -> float:
    """Bytes, of a process of its own; NaN where it failed."""
    command = [sys.executable, __file__, "--measure", who, str(megapixels)]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[2, 12, 50, 100])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", nargs=2)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], float(arguments.measure[1]))
        return
    rows = []
    for megapixels in arguments.megapixels:
        row = [f"{megapixels:g} MP", f"{megapixels * 3:,.0f} MB"]
        for who in ("reference", "ours"):
            # One batch holds 192 float32 pictures of the image's size, and as much again in its filters.
            if who == "reference" and 192 * 4 * megapixels * 1e6 * 1.6 > memory.free_bytes(CPU):
                row.append("does not fit")
                continue
            row.append(show([_added(who, megapixels) for _ in range(arguments.runs)], 1e-6, 0))
        rows.append(row)
    table(
        "Peak memory beyond the loaded model and the image",
        ["image", "image itself", "reference, one batch, MB", "ours, all of `dense` and overlay, MB"],
        rows,
    )


if __name__ == "__main__":
    main()
