"""The page itself: the template filled in piece by piece, with nothing in it that a file name could turn into code."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from densecli import __version__
from densecli.output_names import COCO, LABELME, MANIFEST, REPORT_PICTURES, YOLO
from densecli.report.entries import STATUSES, Entries, Entry
from densecli.report.histogram import bars
from densecli.wording import shown_name

_HERE = Path(__file__).parent
_ROWS_A_CHUNK = 500
_LIST_LENGTH = 8
_FAILURES_SHOWN = 200
# What a run may have left beside the report, in the order in which it is named.
_OTHER_FILES = (MANIFEST, COCO, f"{YOLO}/data.yaml", LABELME)


def render(
    output_dir: Path,
    entries: Entries,
    rows: Iterable[tuple[Entry, str | None]],
    settings: Mapping[str, Any],
    gallery_limit: int,
) -> Iterator[str]:
    """The page in pieces. rows: the entries of the gallery, each with the key of its picture; drawn when needed."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"duration": _duration, "decimal": _decimal, "percent": _percent}
    environment.filters |= {"shown": shown_name, "breakable": _breakable}
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    stream = environment.get_template("page.html.j2").stream(
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        pictures=REPORT_PICTURES,
        title=shown_name(Path(os.path.abspath(output_dir)).name),
        version=__version__,
        made=time.strftime("%Y-%m-%d %H:%M"),
        inputs=len(entries),
        by_status=entries.by_status(),
        totals=entries.totals(),
        bars=bars(entries.masks_per_image()),
        slowest=entries.slowest(_LIST_LENGTH),
        emptiest=entries.emptiest(_LIST_LENGTH),
        failures=entries.failed(_FAILURES_SHOWN),
        gallery_limit=gallery_limit,
        settings=list(_flat(settings)),
        files=[(name, urllib.parse.quote(name)) for name in _OTHER_FILES if (output_dir / name).exists()],
        chunks=_chunks(map(_row, rows)),
    )
    stream.enable_buffering(64)
    return stream


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _row(row: tuple[Entry, str | None]) -> list[Any]:
    """As page.js reads it: id, name, status, masks, coverage, seconds, key, error; short, for there are thousands."""
    entry, key = row
    return [
        entry.id,
        shown_name(entry.name),
        STATUSES.index(entry.status),
        entry.masks,
        None if entry.coverage is None else round(entry.coverage, 4),
        None if entry.seconds is None else round(entry.seconds, 3),
        key,
        shown_name(entry.error) if entry.error else "",
    ]


def _chunks(rows: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    while chunk := list(itertools.islice(rows, _ROWS_A_CHUNK)):
        yield chunk


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested settings, `preset.generator.points_per_side` and the like, as they are shown."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            values = value if isinstance(value, (list, tuple)) and value else [value]
            shown = (v if isinstance(v, str) else json.dumps(v, default=str, ensure_ascii=False) for v in values)
            yield shown_name(f"{prefix}{name}"), shown_name(", ".join(shown))


def _breakable(text: str, mark: str) -> Markup:
    """Text that goes on in the next line after this mark rather than within a word."""
    return Markup("{}<wbr>").format(mark).join(text.split(mark))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60:02} min"


def _decimal(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 or fraction == 0 else f"{100 * fraction:.1f} %"
