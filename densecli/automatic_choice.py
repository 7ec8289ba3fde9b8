"""`--model auto`: which of the checkpoints on disk runs, why, and whether a better one could be fetched, in words."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from densecli import checkpoints
from densecli.checkpoints import STARTER, CheckpointEntry, Registry
from densecli.engine.memory import free_bytes
from densecli.model_names import Choice, starter, verified

# What a run needs beside the weights themselves: features, one tile, buffers of the libraries.
WORKING_BYTES = 1_000_000_000


def chosen_automatically(
    preferred: str | None, device: torch.device, checkpoint_dir: Path | None, loaded: Collection[Path] = ()
) -> Choice:
    """The preferred checkpoint if it is on disk, else the largest one on disk that fits the device, else the starter.

    loaded: weights that are in the device's memory already, which fit it whatever is left. Raises CheckpointError where
    the one chosen is damaged, UsageError where no checkpoint is called `preferred`.
    """
    registry = checkpoints.load_registry()
    if preferred == STARTER:
        return starter(checkpoint_dir, "model: starter, as the preset asks")
    wanted = None if preferred is None else registry.entry(preferred)
    folders = checkpoints.search_dirs(checkpoint_dir)
    located = {entry.name: checkpoints.locate_entry(entry, folders) for entry in registry.entries.values()}
    found = {name: location.path for name, location in located.items()}
    if wanted is not None and (path := found[wanted.name]) is not None:
        return verified(wanted, path, f"model: {wanted.name}, the preset's choice, from {path}")
    room = free_bytes(device)
    by_size = sorted(registry.entries.values(), key=lambda entry: -entry.size)
    fitting = [entry for entry in by_size if entry.size + WORKING_BYTES <= room or found[entry.name] in loaded]
    absent = [
        entry for entry in _advisable(registry, wanted, by_size) if found[entry.name] is None and entry in fitting
    ]
    for entry in fitting:
        if (path := found[entry.name]) is not None:
            reason = f"model: {entry.name}, the largest on disk that fits {device}"
            larger = next((other for other in absent if other.size > entry.size), None)
            return verified(entry, path, reason + ("" if larger is None else f"; {_fetching(larger)}"))

    memory = f"{checkpoints.megabytes(room)} of free memory on {device}"
    here = [entry.name for entry in by_size if found[entry.name] is not None]
    if here:
        why = f"none of the checkpoints on disk ({', '.join(here)}) fits the {memory}"
        remedy = f"{_fetching(absent[0])}, which does" if absent else f"free some, or insist with --model {here[-1]}"
    else:
        problem = next((said for entry in by_size if (said := located[entry.name].problem)), None)
        why = "there is no SAM 2.1 checkpoint on disk"
        if problem is not None:
            why = f"no SAM 2.1 checkpoint on disk can be used ({problem})"
        remedy = _fetching(absent[0]) if absent else f"none would fit the {memory}: free some"
    return Choice(STARTER, *checkpoints.starter_files(), reason=f"model: starter, a small stand-in, as {why}; {remedy}")


def _advisable(
    registry: Registry, wanted: CheckpointEntry | None, by_size: list[CheckpointEntry]
) -> list[CheckpointEntry]:
    """What may be worth fetching, best first: what the preset wants, and SAM 2.1; not what else a registry has."""
    own = checkpoints.shipped_registry_file()
    return [*([] if wanted is None else [wanted]), *(entry for entry in by_size if entry.registry == own)]


def _fetching(entry: CheckpointEntry) -> str:
    return f"{checkpoints.fetch_command(entry.name)} gets {entry.name}"
