"""What a check says, and the document that `doctor --json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SCHEMA = "densecli/doctor/1"
OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Repair:
    """What `--fix` does: these folders go, then this command runs (arguments, no shell)."""

    command: tuple[str, ...]
    remove: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Check:
    """One row: what was checked, what was seen, how it is, and for what is not ok the command that mends it.

    A problem would stop a run; a warning would not.
    """

    name: str
    seen: str
    status: str = OK
    fix: str | None = None
    repair: Repair | None = None

    def __post_init__(self) -> None:
        if (self.status == OK) != (self.fix is None):
            raise ValueError(f"check {self.name}: a fix goes with a warning or a problem, and only with these")


def warning(name: str, seen: str, fix: str, repair: Repair | None = None) -> Check:
    """Something that would not stop a run."""
    return Check(name, seen, WARNING, fix, repair)


def problem(name: str, seen: str, fix: str, repair: Repair | None = None) -> Check:
    """Something that would stop a run."""
    return Check(name, seen, PROBLEM, fix, repair)


def not_stopping(check: Check) -> Check:
    """This check, where what it found would not stop a run here."""
    if check.status != PROBLEM:
        return check
    return replace(check, status=WARNING, seen=f"{check.seen}; runs on the CPU do without")


def stops_a_run(checks: Sequence[Check]) -> bool:
    """Whether one of the checks found a problem."""
    return any(check.status == PROBLEM for check in checks)


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """The JSON document of the contract."""
    rows = [{"name": c.name, "seen": c.seen, "status": c.status, "fix": c.fix} for c in checks]
    return {"schema": SCHEMA, "ok": not stops_a_run(checks), "checks": rows}
