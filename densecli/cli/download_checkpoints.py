"""`densecli download-checkpoints`: fetch, list and verify the weights of SAM 2.1."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from densecli.streams import print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from densecli.checkpoints import CheckpointEntry, Location, Registry

_DEFAULT = "large"


def download_checkpoints(
    names: list[str] | None = typer.Argument(
        None, metavar="NAME", help=f"tiny, small, base-plus, large. Default: {_DEFAULT}.", show_default=False
    ),
    every: bool = typer.Option(False, "--all", help="All checkpoints of the registry."),
    show: bool = typer.Option(
        False, "--list", help="Show the checkpoints, their sizes and where they are; fetch none."
    ),
    check: bool = typer.Option(False, "--verify", help="Read checkpoints that are here and check them; fetch none."),
    folder: Path | None = typer.Option(
        None,
        "--dir",
        "--checkpoint-dir",
        metavar="DIR",
        help="Where to put them; with --list and --verify, the one folder to look in. Default: "
        "$DENSECLI_CHECKPOINTS, ./checkpoints if it exists, else the cache folder.",
        show_default=False,
    ),
    source: list[str] | None = typer.Option(
        None,
        "--source",
        metavar="URL",
        help="Fetch from here only: a base URL, a folder, or a part of a known host name (huggingface). Repeatable.",
        show_default=False,
    ),
    as_json: bool = typer.Option(False, "--json", help="With --list: one JSON document on stdout."),
    quiet: bool = typer.Option(False, "-q", "--quiet", help="No progress and no notices."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Show where an error came from."),
) -> None:
    """Fetch checkpoints of SAM 2.1, resuming what was begun, and verify them.

    What is there already is not fetched again. $DENSECLI_CHECKPOINT_URL names base URLs (comma list) to try first,
    $DENSECLI_REGISTRY a registry file with checkpoints of your own.
    """
    from densecli.checkpoints import STARTER, load_registry
    from densecli.errors import UsageError

    if as_json and not show:
        raise UsageError("--json goes with --list only.")
    registry = load_registry()
    wants_starter = any(name.lower() == STARTER for name in names or [])
    asked = [registry.entry(name) for name in names or [] if name.lower() != STARTER]
    entries = list(dict.fromkeys([*registry.entries.values()] if every else asked))
    if show:
        _list(registry, entries or list(registry.entries.values()), folder, check, as_json)
        return
    if wants_starter:
        _print_starter()
    if check:
        _verify(entries if names or every else list(registry.entries.values()), folder, bool(names))
    elif entries or not wants_starter:
        _fetch(registry, entries or [registry.entry(_DEFAULT)], folder, source, quiet)


def _print_starter() -> None:
    from densecli.checkpoints import STARTER, megabytes, starter_files

    weights = starter_files()[0]
    print(f"{STARTER}: {weights} ({megabytes(weights.stat().st_size)}, part of densecli)")


def _fetch(
    registry: Registry, entries: list[CheckpointEntry], folder: Path | None, source: list[str] | None, quiet: bool
) -> None:
    from densecli.checkpoints import megabytes
    from densecli.download import Progress, fetch, named_sources

    sources = named_sources(registry, source) if source else None

    def one(entry: CheckpointEntry) -> str:
        path = fetch(entry.name, checkpoint_dir=folder, sources=sources, progress=Progress(quiet=quiet))
        return f"{entry.name}: {path} ({megabytes(entry.size)}, verified)"

    _each(entries, one, "could not be fetched")


def _verify(entries: list[CheckpointEntry], folder: Path | None, named: bool) -> None:
    """Check what is here; a checkpoint that is not here is an error only if it was asked for by name."""
    from densecli.checkpoints import fetch_command, megabytes, verify
    from densecli.errors import CheckpointError

    def one(entry: CheckpointEntry) -> str:
        location = _locate(entry, folder)
        if location.path is None:
            where = "on this machine" if folder is None else f"in {folder}"
            what = location.problem or f"Checkpoint '{entry.name}' is not {where}"
            raise CheckpointError(f"{what}; `{fetch_command(entry.name, folder)}` fetches it.")
        verify(entry, location.path, use_stamp=False)
        return f"{entry.name}: {location.path} ({megabytes(entry.size)}, verified)"

    if not named:
        locations = [(entry, _locate(entry, folder)) for entry in entries]
        entries = [entry for entry, location in locations if location.path or location.problem]
        if not entries:
            where = "" if folder is None else f" in {folder}"
            raise CheckpointError(
                f"There is no checkpoint to verify{where}; `{fetch_command(_DEFAULT, folder)}` fetches one."
            )
    _each(entries, one, "did not verify")


def _locate(entry: CheckpointEntry, folder: Path | None) -> Location:
    from densecli.checkpoints import locate_entry, search_dirs

    return locate_entry(entry, search_dirs(folder)[: None if folder is None else 1])


def _each(entries: list[CheckpointEntry], action: Callable[[CheckpointEntry], str], failed_how: str) -> None:
    """Run `action` for every entry and print its line; one that fails does not keep the others from their turn."""
    from densecli.errors import CheckpointError
    from densecli.wording import printable

    failed = []
    for entry in entries:
        try:
            print(action(entry), flush=True)
        except CheckpointError as error:
            if len(entries) == 1:
                raise
            failed.append(entry.name)
            print(f"densecli: error: {printable(str(error))}", file=sys.stderr)
    if failed:
        raise CheckpointError(f"{len(failed)} of {len(entries)} checkpoints {failed_how}: {', '.join(failed)}.")


def _list(registry: Registry, entries: list[CheckpointEntry], folder: Path | None, check: bool, as_json: bool) -> None:
    from densecli.checkpoints import download_dir, is_verified, megabytes, verify
    from densecli.errors import CheckpointError
    from densecli.wording import without_password

    rows: list[dict[str, Any]] = []
    for entry in entries:
        location = _locate(entry, folder)
        problem = location.problem
        if check and location.path is not None:
            try:
                verify(entry, location.path, use_stamp=False)
            except CheckpointError as error:
                problem = str(error)
        rows.append(
            {
                "name": entry.name,
                "file": entry.file,
                "size": entry.size,
                "sha256": entry.sha256,
                "config": entry.config,
                "registry": str(entry.registry),
                "urls": [without_password(url) for url in registry.urls(entry)],
                "path": None if location.path is None else str(location.path),
                "verified": location.path is not None and is_verified(entry, location.path),
                "problem": problem,
            }
        )
    if as_json:
        into = None  # for a user without a home folder, who must name one
        with contextlib.suppress(CheckpointError):
            into = str(download_dir(folder))
        document = {
            "schema": "densecli/checkpoints/1",
            "download_dir": into,
            "checkpoints": rows,
        }
        print_json(document)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        state = "verified" if row["verified"] else "not verified yet"
        where = f"{row['path']} ({state})" if row["path"] else "not here"
        where += f"; {row['problem']}" if row["problem"] else ""
        print(f"{row['name']:<{width}}  {megabytes(row['size']):>9}  {where}")
