"""`report.html`: one page about a run, which opens from disk; small pictures and their masks lie in `report/`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from densecli.files import complete_file
from densecli.output_names import REPORT
from densecli.report.entries import Entries, Entry
from densecli.report.page import render
from densecli.report.pictures import PictureMaker

__all__ = ["GALLERY_LIMIT", "write_report"]

# A browser opens 20,000 entries in about a second; a run of a million frames must still give a page that opens.
GALLERY_LIMIT = 20_000


def write_report(
    output_dir: Path,
    manifest_lines: Iterable[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    gallery_limit: int = GALLERY_LIMIT,
    progress: Callable[[int, int], None] | None = None,
    make: Callable[[Entry], str | None] | None = None,
) -> Path:
    """Write `output_dir/report.html` and the pictures it needs; returns its path.

    manifest_lines: lines of the manifest (or manifests), read once; the last one about an output name counts.
    settings: what the run was asked for, shown as given; nested mappings are fine.
    gallery_limit: how many images the gallery holds at most; totals, histogram and lists cover all.
    progress: called with pictures looked at and pictures in all.
    make: gives the key of an entry's picture, and makes it if need be; default: PictureMaker(output_dir).
    Pictures whose summary and overlay did not change since the last call are not made again. Neither the entries nor
    the summaries are held in memory. Raises OutputError where `output_dir` cannot be written.
    """
    path = output_dir / REPORT
    with Entries(manifest_lines) as entries, complete_file(path) as temporary:
        total = min(len(entries), gallery_limit)
        make = make or PictureMaker(output_dir)
        count = min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(count, "report") as pool, temporary.open("w", encoding="utf-8") as file:
            rows = _rows(pool, make, entries.gallery(gallery_limit), 4 * count)
            if progress is not None:
                rows = _counted(rows, total, progress)
            file.writelines(render(output_dir, entries, rows, settings or {}, gallery_limit))
    return path


def _rows(
    pool: ThreadPoolExecutor, make: Callable[[Entry], str | None], entries: Iterator[Entry], ahead: int
) -> Iterator[tuple[Entry, str | None]]:
    """Each entry with the key of its picture, in order; at most `ahead` are under way."""
    waiting: deque[tuple[Entry, Future[str | None]]] = deque()
    try:
        for entry in entries:
            waiting.append((entry, pool.submit(make, entry)))
            if len(waiting) >= ahead:
                first, picture = waiting.popleft()
                yield first, picture.result()
        while waiting:
            first, picture = waiting.popleft()
            yield first, picture.result()
    finally:
        for _, picture in waiting:
            picture.cancel()


def _counted(
    rows: Iterator[tuple[Entry, str | None]], total: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[Entry, str | None]]:
    for done, row in enumerate(rows, start=1):
        progress(done, max(done, total))
        yield row
