"""A folder of a million files: seconds and memory of collecting them, or of a whole dry run.

    python benchmarks/million_files.py [--files 1000000] [--folder /dev/shm] [--dry-run]

The files are hard links to one empty file, with names of images in no order. Each figure is of a process of its own.
Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import table

COLLECT = """
import sys, time
from densecli.sources.collecting import Collection

def memory(name):  # MB
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1e3

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # what imports took at their peak does not count
start = memory("VmRSS")
begin, cpu = time.perf_counter(), time.process_time()
first = None
count = 0
for item in Collection([sys.argv[1]], output_dir="densecli-out"):
    first = first or time.perf_counter() - begin
    count += 1
print(count, first, time.perf_counter() - begin, time.process_time() - cpu, start, memory("VmHWM"))
"""


def make(folder: Path, count: int) -> None:
    """The files, in an order that no listing sorts."""
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)
    source = folder.with_name("empty")
    source.touch()
    folder.mkdir()
    for place, number in enumerate(numbers):
        if place % 30_000 == 0:  # file systems allow some 65,000 links to a file
            source.unlink()
            source.touch()
        os.link(source, folder / f"frame{number}.jpg")


def in_a_process(*arguments: str, **options: object) -> tuple[float, float, str]:
    """Seconds, peak memory in MB and stdout of a command."""
    begin = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        last = line
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, (arguments, status)
    return time.perf_counter() - begin, usage.ru_maxrss / 1e3, last


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folder", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--dry-run", action="store_true", help="`densecli batch --dry-run` too; takes minutes")
    asked = parser.parse_args(arguments)
    place = Path(tempfile.mkdtemp(prefix="densecli-bench-", dir=asked.folder))
    try:
        begin = time.perf_counter()
        make(place / "frames", asked.files)
        print(f"{asked.files:,} files made in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        _, _, said = in_a_process(sys.executable, "-c", COLLECT, str(place / "frames"), cwd=place)
        count, first, seconds, cpu, start, peak = (float(word) for word in said.split())
        assert count == asked.files
        rows = [
            ("collecting, until the first item", f"{first:.1f} s", ""),
            ("collecting, all of them", f"{seconds:.1f} s (CPU {cpu:.1f} s)", f"{start:.0f} → {peak:.0f} MB"),
        ]
        given = {"one file": "frames/frame1.jpg", f"{asked.files:,} files": "frames"} if asked.dry_run else {}
        options = ("--dry-run", "-q", "-m", "starter", "-d", "cpu")
        for what, name in given.items():
            seconds, peak, _ = in_a_process(sys.executable, "-m", "densecli", "batch", name, *options, cwd=place)
            rows.append((f"`batch --dry-run` over {what}", f"{seconds:.1f} s", f"{peak:.0f} MB"))
    finally:
        shutil.rmtree(place)
    table(f"A folder of {asked.files:,} files", ("", "seconds", "peak memory"), rows)


if __name__ == "__main__":
    main()
