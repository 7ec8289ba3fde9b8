"""`densecli doctor`: what on this machine would keep densecli from running, and the commands that mend it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from densecli import errors
from densecli.streams import print_json

if TYPE_CHECKING:
    from densecli.doctor.report import Check

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}
_STATUS_WIDTH = len("problem")


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Also read checkpoints and compare their checksums.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend broken sympy and mpmath (asks first), then check again.")] = (
        False
    ),
    yes: Annotated[bool, typer.Option("-y", "--yes", help="With --fix: do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")] = (
        False
    ),
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Leave out what is ok.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show where an error came from.")] = False,
) -> int:
    """Check this machine: Python, PyTorch, GPU, packages, checkpoints, memory, and a small test run.

    Each line says what was seen; what is not ok comes with the command that mends it. Exit code 4 means that
    something would stop a run. $DENSECLI_DOCTOR_TIMEOUT: seconds that an import may take, by default 60.
    """
    from densecli.doctor import repair
    from densecli.doctor.report import document, stops_a_run

    if yes and not fix:
        raise errors.UsageError("--yes goes with --fix only.")
    if fix and not yes and not sys.stdin.isatty():
        raise errors.UsageError("--fix asks before it changes anything; where there is no terminal, add --yes.")
    checks = _examine(deep)
    if fix and (found := repair.repairs(checks)):
        mended = False
        for text, one in found:
            print(text, file=sys.stderr)
            if yes or typer.confirm("Run this command?", err=True):
                repair.mend(one)
                mended = True
        if mended:
            checks = _examine(deep)
    elif fix:
        print("densecli: --fix has nothing to do.", file=sys.stderr)
    if as_json:
        print_json(document(checks))
    else:
        shown = [check for check in checks if check.status != "ok"] if quiet else checks
        _print(shown, stops_a_run(checks))
    return errors.EXIT_ENVIRONMENT if stops_a_run(checks) else errors.EXIT_OK


def _examine(deep: bool) -> list[Check]:
    from densecli.doctor.examination import examine

    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        return examine(deep=deep)
    from rich.console import Console

    with Console(stderr=True).status("checking") as status:
        return examine(deep=deep, progress=lambda names: status.update(f"checking {names}" if names else "checking"))


def _print(checks: Sequence[Check], stops: bool) -> None:
    if sys.stdout.isatty():
        _print_table(checks)
    else:
        _print_lines(checks)
    count = {status: sum(check.status == status for check in checks) for status in ("problem", "warning")}
    counted = " and ".join(f"{n} {word}{'s' if n > 1 else ''}" for word, n in count.items() if n)
    if stops:
        print(f"{counted}: densecli cannot run properly; run the commands above, from the top.")
    else:
        print(f"densecli can run{f', with {counted}' if counted else ''}.")


def _print_table(checks: Sequence[Check]) -> None:
    """A table whose commands run over the full width and are not broken, so that they can be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    width = max((len(check.name) for check in checks), default=0)
    rows: list[tuple[Text | str, Text | str, Text | str, str | None]] = [
        (Text("STATUS", "bold"), Text("CHECK", "bold"), Text("SEEN", "bold"), None)
    ]
    rows += [(Text(c.status, _COLOURS[c.status]), Text(c.name), Text(c.seen), c.fix) for c in checks]
    for status, name, seen, fix in rows:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(width=_STATUS_WIDTH)
        table.add_column(width=width)
        table.add_column(ratio=1, overflow="fold")
        table.add_row(status, name, seen)
        console.print(table)
        if fix is not None:
            console.print(Text.assemble(("    fix: ", "bold"), fix), soft_wrap=True)


def _print_lines(checks: Sequence[Check]) -> None:
    """One line a check, and its command on the next."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{check.status:<{_STATUS_WIDTH}}  {check.name:<{width}}  {check.seen}")
        if check.fix is not None:
            print(f"    fix: {check.fix}")
