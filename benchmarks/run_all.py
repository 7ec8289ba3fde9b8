"""`make bench`: the rows of README's tables, then every other benchmark, each in a process of its own.

python benchmarks/run_all.py [--list]

Takes about half an hour on 2 cores. Rows for a GPU need one; truck.jpg is looked for in ../shared/data/photos.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TRUCK = FOLDER.parents[1] / "shared" / "data" / "photos" / "truck.jpg"
# As README's tables name them, but for the photo.
WHOLE_IMAGE = ["whole_image.py", "--every", "16", "--runs", "3"]
README = [["decoder.py"], ["postprocess.py"], ["memory.py"], ["cold_start.py"]]
README_GPU = [["gpu.py", "whole", "accuracy", "decoder"], ["gpu.py", "memory", "--ways", "fused"]]
OTHERS = [["batch_overhead.py"], ["million_files.py"], ["edges.py"], ["wholes.py"], ["tune.py"]]
OTHERS_GPU = [["plain_factors.py"]]


def commands(*, cuda: bool, truck: Path = TRUCK) -> tuple[list[list[str]], list[str]]:
    """Scripts with their arguments, in order; and what is not as README has it, with why."""
    other = []
    whole_image = [*WHOLE_IMAGE]
    if truck.is_file():
        whole_image[1:1] = ["--photo", str(truck)]
    else:
        other.append(f"whole_image.py runs on astronaut of scikit-image, not on README's photo: there is no {truck}")
    if not cuda:
        other += [f"left out: {shlex.join(command)}: PyTorch sees no CUDA GPU here" for command in README_GPU]
    return [whole_image, *README, *(README_GPU if cuda else []), *OTHERS, *(OTHERS_GPU if cuda else [])], other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print what would run, and run nothing")
    arguments = parser.parse_args()
    import torch

    found, other = commands(cuda=torch.cuda.is_available())
    failed = []
    for command in found:
        shown = shlex.join(["python", f"benchmarks/{command[0]}", *command[1:]])
        print(shown if arguments.list else f"\n$ {shown}", flush=True)
        if arguments.list:
            continue
        if subprocess.run([sys.executable, str(FOLDER / command[0]), *command[1:]]).returncode:
            failed.append(shown)
    for line in other:
        print(line, file=sys.stderr)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
