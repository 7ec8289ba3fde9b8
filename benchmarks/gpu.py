"""Row 6: rows 1 to 4 on a GPU: the large shape, 1,024 and 4,096 points, half precision, reference and ours.

    python benchmarks/gpu.py                   # all of it, by guess 10 minutes on an H100; every row prints as it ends
    python benchmarks/gpu.py whole accuracy    # only these, in this order; also decoder, postprocess, memory
    python benchmarks/gpu.py --ways fused      # of our ways only this one: no kernels of ours is "plain", compiled by
                                               # torch.compile (a minute) "compiled", both captured in "graphs"
    python benchmarks/gpu.py --profile         # also the kernels in which ours spends its time
    python benchmarks/gpu.py --dry-run-cpu     # the same code with the starter and few points on the CPU

If time is short: `whole` says most, then accuracy, decoder, postprocess, memory.

On a fresh machine: a CUDA build of PyTorch, `SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2`, `pip install
-e .`, scikit-image. Then, before any figure, `pytest tests/engine -k gpu`: it takes a minute and says whether they mean
anything. With OUT set, rows also go to $OUT/gpu.json (memory's, in a process of its own, to $OUT/gpu_memory.json)
and the profile to $OUT/gpu_profile.txt.

Weights are random (the official config, signals kept at their size), so masks mean nothing, but they are smoothed until
a mask has as many runs as a real one (`official` in common.py). Thresholds are chosen from what the float32 network
gives: half of the points keep an output by predicted IoU, and then one of two funnels:

- "photo": of these candidates two thirds pass stability (or all that have a pixel), and NMS leaves fewer than 150. So
  it goes with a real photo: of the starter's 12,288 candidates on truck.jpg (`dense`) 8,824 pass predicted IoU, 5,785
  stability, and 87 NMS. Duplicates are many, as every object is hit by many points, and of each of them the reference
  makes an RLE.
- "few": 150 candidates or more pass stability (many masks are the whole photo, which is as stable as can be), and NMS
  keeps all of these (at a threshold of 1). As kind to the reference as can be.

Where a real photo matters (accuracy, post-processing) it is the starter with its own weights.

The reference runs under autocast, at the best of 64, 128 and 256 points a batch (found with the fewer points). Times
are medians (spread) after a warm-up, with nothing under way before and after; memory is
torch.cuda.max_memory_allocated, the network included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch
from common import table
from gpu_bench import WAYS, Bench
from gpu_rows import accuracy, decoder, peak_memory, postprocess, profile, whole

from densecli.engine import memory
from densecli.engine.acceleration import PLAIN, Acceleration, Kept

ROWS = ["whole", "accuracy", "decoder", "postprocess", "memory"]
# For a first look; graphs are replayed by the fused way, too, from the second photo on.
MOST_TELLING = ["plain", "compiled", "fused"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=None, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=MOST_TELLING, choices=list(WAYS), help="of ours")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--dry-run-cpu", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown:
        parser.error(f"unknown row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if not arguments.dry_run_cpu and not torch.cuda.is_available():
        parser.error("there is no GPU here; --dry-run-cpu runs the same code with the starter")
    dry = arguments.dry_run_cpu
    # On the CPU there is nothing to fuse or to capture, and compiling would take the longest.
    ways = {"plain": PLAIN, "compiled": Acceleration("eager")} if dry else {name: WAYS[name] for name in arguments.ways}
    device = torch.device("cpu" if dry else "cuda")
    bench = Bench(device, dry, 1 if dry else arguments.runs, list(ways.items()))
    alone = arguments.rows == ["memory"]

    def in_a_process_of_its_own() -> None:
        # Here there is still what torch.compile and the reference made for other rows.
        ways = [name for name, _ in bench.ways]
        subprocess.run([sys.executable, __file__, "memory", "--ways", *ways], check=True)

    jobs: dict[str, Callable[[], None]] = {
        "whole": lambda: whole(bench),
        "accuracy": lambda: accuracy(bench),
        "decoder": lambda: decoder(bench),
        "postprocess": lambda: postprocess(bench),
        "memory": (lambda: peak_memory(bench)) if dry or alone else in_a_process_of_its_own,
    }
    if arguments.profile:
        profile(bench)
    for name in arguments.rows or ROWS:
        try:
            jobs[name]()
        except Exception as error:  # the next row may still say something before the machine is gone
            bench.say(name, failed=f"{type(error).__name__}: {error}")
            if dry:
                raise
        # What one row had captured would count as the next one's.
        Kept.by(bench.network).drop()
        memory.release_cached(bench.device)
    name = "CPU, a dry run" if dry else torch.cuda.get_device_name()
    for title, rows in bench.rows.items():
        header = list(dict.fromkeys(key for row in rows for key in row))
        table(f"{title}, {name}", header, [[row.get(key, "") for key in header] for row in rows])


if __name__ == "__main__":
    main()
