"""Row 1: a whole photo with the starter and `dense`, reference generator and ours, in one process.

python benchmarks/whole_image.py [--photo truck.jpg] [--megapixels 2 12] [--every 1]

The reference is timed without any clean-up, ours with it. `--every 8` gives the reference every 8th point of the grid
and multiplies what it takes after the encoder by 8; its memory needs no such help, one batch is its peak.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

from common import PeakMemory, in_turn, photo, ratio, reference_generator, show, starter, table

from densecli.engine.generator import MaskGenerator
from densecli.presets import load_preset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", help="default: astronaut of scikit-image")
    parser.add_argument("--megapixels", type=float, nargs="*", default=[2.16])
    parser.add_argument("--every", type=int, default=8, help="1: all points of the reference too")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    network = starter()
    preset = load_preset("dense").resolve("starter")
    ours = MaskGenerator(network, preset.generator, preset.cleanup, preset.limits)
    parameters = preset.generator.model_dump()
    every = arguments.every
    rows = []
    for megapixels in arguments.megapixels:
        pixels = photo(megapixels, arguments.photo)
        reference = reference_generator(network, every, **parameters)
        whole: list[float] = []

        def run_reference(pixels=pixels, reference=reference, whole=whole) -> None:
            begin = time.perf_counter()
            reference.predictor.set_image(pixels)
            encoder = time.perf_counter() - begin
            begin = time.perf_counter()
            reference.generate(pixels)
            rest = time.perf_counter() - begin - encoder
            whole.append(encoder + rest * every)

        ours.generate(pixels[:200, :200])  # compiles and loads what the first run of a process needs
        with PeakMemory() as our_memory:
            masks = ours.generate(pixels).masks
        with PeakMemory() as reference_memory:
            run_reference()
        whole.clear()
        our_times = in_turn(arguments.runs, run_reference, partial(ours.generate, pixels))[1]
        rows.append(
            [
                f"{pixels.shape[1]}×{pixels.shape[0]}",
                show(whole, digits=1),
                show(our_times),
                ratio(whole, our_times),
                f"{reference_memory.added / 1e6:,.0f} MB",
                f"{our_memory.added / 1e6:,.0f} MB",
                len(masks),
            ]
        )
    how = "all points" if every == 1 else f"from every {every}th point"
    table(
        f"Whole photo, starter, `dense` (4,096 points); reference {how}",
        ["photo", "reference s", "ours s", "ratio", "reference memory", "our memory", "our masks"],
        rows,
    )


if __name__ == "__main__":
    main()
