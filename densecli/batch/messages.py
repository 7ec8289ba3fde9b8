"""What a run says: a line (with --json: an object) for each input as it ends, and the summary of them all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from densecli import errors
from densecli.batch.manifest import to_line
from densecli.batch.pipeline import Done, Failed
from densecli.batch.workers import Unexpected
from densecli.console import Console
from densecli.wording import counted, reason_of, shown_input, without_password

if TYPE_CHECKING:
    from densecli.batch.outcome import Outcome
    from densecli.sources.collecting import Item

_LISTED_FAILURES = 20
_ONCE = " (said once; -v says it of each)"


class Messages:
    """Lines of one run on its console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._failures: list[tuple[str, str]] = []
        """Input and line of the first few."""
        self._advised = False
        self._noticed: set[str] = set()

    def done(self, event: Done, entry: dict[str, Any], written: Iterable[str]) -> None:
        """entry: of the manifest. written: the outputs, as they are shown."""
        console, shown = self._console, shown_input(event.item.name)
        found = f"{shown}: Found {event.masks} mask{'' if event.masks == 1 else 's'}. {', '.join(written)}".rstrip()
        console.result(found, to_line(entry) if console.json else "")
        for warning in event.warnings:
            console.warning(f"{shown}: {warning}")
        for notice in event.notices:
            kind = re.sub(r"[0-9]+", "", notice)
            if console.verbose or kind not in self._noticed:
                console.notice(f"{shown}: {notice}" + ("" if console.verbose else _ONCE))
            self._noticed.add(kind)
        if console.verbose:
            for line in event.details:
                console.notice(f"{shown}: {line}")
        if event.advice and (console.verbose or not self._advised):
            # A folder of one kind of picture has one kind of trouble: said a thousand times it would hide the rest.
            self._advised = True
            console.notice(f"{shown}: {event.advice}")

    def complete(self, item: Item, entry: dict[str, Any]) -> None:
        """An earlier run has done it."""
        if self._console.json:
            self._console.result("", to_line(entry | {"status": "skipped", "input": without_password(item.name)}))
        elif self._console.verbose:
            self._console.notice(f"{shown_input(item.name)}: complete already")

    def failed(self, event: Failed, text: str) -> None:
        """text: the reason, as `reason` gives it."""
        shown = shown_input(event.item.name)
        if len(self._failures) < _LISTED_FAILURES:
            self._failures.append((event.item.name, f"{shown}: {text}"))
        self._console.failure(f"{shown}: {text}", event.error)
        if self._console.verbose and isinstance(event.error, Unexpected):
            self._console.notice(event.error.trace.rstrip())

    def mended(self, name: str) -> None:
        """What was told of an input that failed holds no more."""
        self._failures = [failure for failure in self._failures if failure[0] != name]

    def summary(self, outcome: Outcome, where: str | None) -> None:
        """The last lines on stderr. where: the manifest, where there is one."""
        console = self._console
        if self._failures and not console.quiet:
            console.notice(f"{outcome.failed:,} failed:")
            for _, line in self._failures:
                console.notice(f"  {line}")
            if outcome.failed > len(self._failures):
                more = outcome.failed - len(self._failures)
                console.notice(f"  and {more:,} more, each with its reason in the manifest")
        parts = [f"{outcome.done:,} done" + (f" ({outcome.redone:,} anew)" if outcome.redone else "")]
        if outcome.complete:
            parts.append(f"{outcome.complete:,} complete already")
        if outcome.failed:
            parts.append(f"{outcome.failed:,} failed")
        if outcome.skipped:
            parts.append(f"{sum(outcome.skipped.values()):,} skipped ({counted(outcome.skipped)})")
        share = f", engine busy {outcome.busy_seconds / outcome.seconds:.0%}" if console.verbose else ""
        console.notice("; ".join([*parts, f"{outcome.seconds:.1f} s{share}", *([where] if where else [])]))


def reason(event: Failed) -> str:
    """Why an input failed, on one line, without its name."""
    error = event.error
    if isinstance(error, errors.DensecliError):
        return str(error).removeprefix(f"{shown_input(event.item.name)}: ")
    kind = error.kind if isinstance(error, Unexpected) else type(error).__name__
    return f"unexpected {kind}: {reason_of(error)} (-v shows where; please report it)"
