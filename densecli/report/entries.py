"""What the manifest says last about each input, in a table on disk: a million lines cost no memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

STATUSES = ("done", "failed", "skipped")

_TABLE = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, identity BLOB UNIQUE, place INTEGER, status TEXT,
    masks INTEGER, coverage REAL, seconds REAL, rest TEXT
)
"""
# An input that a rerun passes over is still the image that an earlier run made.
_UPSERT = """
INSERT INTO entries (identity, place, status, masks, coverage, seconds, rest) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (identity) DO UPDATE SET
    place = excluded.place, status = excluded.status, masks = excluded.masks, coverage = excluded.coverage,
    seconds = excluded.seconds, rest = excluded.rest
WHERE NOT (excluded.status = 'skipped' AND entries.status = 'done')
"""
_TOO_LARGE = 1 << 53
"""For figures of a run, and for SQLite's sums."""
_COLUMNS = "id, status, masks, coverage, seconds, rest"
_ORDER = "place IS NULL, place, id"


@dataclass(frozen=True)
class Entry:
    """One input of the run. coverage: fraction, 0 to 1. None where the manifest does not say.

    source: the picture itself, as path or URL; None for a frame of a video.
    """

    id: int
    name: str
    status: str
    masks: int | None
    coverage: float | None
    seconds: float | None
    error: str
    source: str | None
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Totals:
    """Figures over all inputs that are done. seconds: summed over the images."""

    images: int
    masks: int
    seconds: float
    coverage: float
    """Mean, 0 to 1."""
    median_masks: float
    median_seconds: float


class Entries:
    """The inputs of a run, each once. Use as a context manager; belongs to the thread that made it."""

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        # The empty name is a database of SQLite's own in a temporary file, which it deletes.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(_TABLE)
        self._database.execute("BEGIN")
        self._database.executemany(_UPSERT, map(_record, lines))
        self._database.execute("COMMIT")

    def __enter__(self) -> Entries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def __len__(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM entries").fetchone()[0]
        return count

    def by_status(self) -> dict[str, int]:
        """How many inputs have each of STATUSES; all three are there."""
        found = dict(self._database.execute("SELECT status, count(*) FROM entries GROUP BY status"))
        return {status: found.get(status, 0) for status in STATUSES}

    def totals(self) -> Totals:
        row = self._database.execute(
            "SELECT count(*), total(masks), total(seconds), avg(coverage) FROM entries WHERE status = 'done'"
        ).fetchone()
        return Totals(
            images=row[0],
            masks=int(row[1]),
            seconds=row[2],
            coverage=row[3] or 0.0,
            median_masks=self._median("masks"),
            median_seconds=self._median("seconds"),
        )

    def _median(self, column: str) -> float:
        known = f"FROM entries WHERE status = 'done' AND {column} IS NOT NULL"
        count = self._database.execute(f"SELECT count(*) {known}").fetchone()[0]
        middle = self._database.execute(
            f"SELECT avg({column}) FROM (SELECT {column} {known} ORDER BY {column} LIMIT ? OFFSET ?)",
            (2 - count % 2, max(0, count - 1) // 2),
        ).fetchone()[0]
        return float(middle or 0.0)

    def masks_per_image(self) -> list[tuple[int, int]]:
        """Number of masks, and how many images have as many; by rising number."""
        return list(
            self._database.execute(
                "SELECT masks, count(*) FROM entries WHERE status = 'done' AND masks IS NOT NULL "
                "GROUP BY masks ORDER BY masks"
            )
        )

    def slowest(self, count: int) -> list[Entry]:
        return list(self._select("status = 'done' AND seconds IS NOT NULL", f"seconds DESC, {_ORDER}", count))

    def emptiest(self, count: int) -> list[Entry]:
        """Those with the least part of the image in a mask."""
        return list(self._select("status = 'done' AND coverage IS NOT NULL", f"coverage, masks, {_ORDER}", count))

    def failed(self, count: int) -> list[Entry]:
        return list(self._select("status = 'failed'", _ORDER, count))

    def gallery(self, count: int) -> Iterator[Entry]:
        """The first `count` entries in the order of the run."""
        return self._select("1", _ORDER, count)

    def _select(self, where: str, order: str, count: int) -> Iterator[Entry]:
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE {where} ORDER BY {order} LIMIT ?", (count,)
        )
        for id_, status, masks, coverage, seconds, rest in rows:
            name, error, source, outputs = json.loads(rest)
            yield Entry(id_, name, status, masks, coverage, seconds, error, source, tuple(outputs))


def _record(line: Mapping[str, Any]) -> tuple[Any, ...]:
    name = str(line.get("input", ""))
    status = line.get("status")
    masks, place = _number(line.get("masks")), _number(line.get("index"))
    # An output name belongs to one input; inputs that never got that far have none.
    stem = line.get("stem")
    identity = f"input {name}" if stem is None else f"stem {stem}"
    source = None if line.get("frame") is not None else str(line.get("source") or name)
    # In JSON and as bytes, because SQLite's text refuses the bytes of names that are no UTF-8.
    return (
        identity.encode("utf-8", "surrogatepass"),
        None if place is None else int(place),
        status if status in STATUSES else "failed",
        None if masks is None else int(masks),
        _number(line.get("coverage")),
        _number(line.get("seconds")),
        json.dumps([name, str(line.get("error") or ""), source, _names(line.get("outputs"))]),
    )


def _names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _TOO_LARGE:
        return value
    return None
