"""Which files `--model` names: known before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densecli import checkpoints
from densecli.checkpoints import STARTER, CheckpointEntry
from densecli.errors import CheckpointError, EnvironmentProblem, UsageError
from densecli.wording import reason_of, shown_name, url_of

_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class Choice:
    """A checkpoint that was chosen: its name, files, and why, in words for the user."""

    name: str
    weights: Path
    config: Path
    reason: str | None = None
    verified: CheckpointEntry | None = None
    """The registry's entry that the weights were found to be; None where nobody compared them."""
    better: str | None = None
    """How to have a better one, in words, where `reason` does not say so."""


def spelled(model: str) -> str:
    """A name as the rest of the code knows it: `auto` and `starter` in any case, as names of the registry are."""
    return model.lower() if model.lower() in ("auto", STARTER) else model


def names_file(model: str) -> bool:
    """Whether `--model` names a file, and not a checkpoint of the registry.

    A file of the current folder may be called anything but what a checkpoint is called. Raises UsageError where only
    the registry could tell, and cannot be read.
    """
    if model.lower().endswith(_SUFFIXES) or "/" in model or "\\" in model:
        return True
    if spelled(model) in ("auto", STARTER) or not os.path.isfile(path_of(model)):
        return False
    return checkpoints.load_registry().find(model) is None


def named(model: str, checkpoint_dir: Path | None, config: Path | None) -> Choice | None:
    """The files of a model that is named by `--model`, unread.

    None for `auto`, which depends on the device, and for weights whose config only reading them would tell. Raises
    CheckpointError where a file is missing, UsageError for an unknown name or a needless config.
    """
    if names_file(model):
        return _own_weights(path_of(model), config)
    if config is not None:
        raise UsageError(
            f"--config goes with --model FILE (a .pt or .safetensors path), not with --model {shown_name(model)}"
        )
    if model == "auto":
        return None
    if model == STARTER:
        return starter(checkpoint_dir)
    entry = checkpoints.load_registry().entry(model, beside=("auto", STARTER))
    location = checkpoints.locate(entry.name, checkpoint_dir)
    if location.path is None:
        problem = f" ({location.problem})" if location.problem else ""
        fetch = checkpoints.fetch_command(entry.name, checkpoint_dir)
        raise CheckpointError(f"checkpoint {entry.name} is not on disk{problem}; fetch it with: {fetch}")
    return Choice(entry.name, location.path, config_path(entry))


def check_named(segmenter_options: Mapping[str, Any]) -> None:
    """Raises what `named` does for arguments of Segmenter, where they name a model."""
    options = segmenter_options
    named(options.get("model", "auto"), options.get("checkpoint_dir"), options.get("config"))


def starter(checkpoint_dir: Path | None, reason: str | None = None) -> Choice:
    """The starter, where it was asked for. Raises CheckpointError if the installation lacks it."""
    here = False
    with contextlib.suppress(UsageError):  # a registry or folder that this run has no need of
        folders, own = checkpoints.search_dirs(checkpoint_dir), checkpoints.shipped_registry_file()
        official = [entry for entry in checkpoints.load_registry().entries.values() if entry.registry == own]
        here = any(checkpoints.locate_entry(entry, folders).path for entry in official)
    # Which of them fits, auto knows.
    better = "use --model auto" if here else f"run: {checkpoints.fetch_command('large')}"
    return Choice(STARTER, *checkpoints.starter_files(), reason=reason, better=f"for real work {better}")


def verified(entry: CheckpointEntry, weights: Path, reason: str | None = None) -> Choice:
    """The choice of this entry. Raises CheckpointError where the file is not what the registry says."""
    checkpoints.verify(entry, weights)
    return Choice(entry.name, weights, config_path(entry), reason, verified=entry)


def config_path(entry: CheckpointEntry) -> Path:
    """The YAML of a registry entry: an absolute path, a file beside its registry, or one of the sam2 package."""
    beside = entry.registry.parent / entry.config
    if is_file(beside):
        return beside
    return _sam2_folder() / entry.config


def path_of(model: str) -> Path:
    """The file that `--model` or `--config` names, ~ for the user's home. Raises UsageError for a URL."""
    if url := url_of(model):
        raise UsageError(f"{shown_name(url)}: is a URL; download it first, and give the path of the file")
    return Path(os.path.expanduser(model))  # Path.expanduser raises for ~nobody


def is_file(path: Path) -> bool:
    """Whether there is such a file. Raises CheckpointError where that cannot be seen."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        shown = shown_name(str(path))
        raise CheckpointError(
            f"{shown}: cannot be read ({reason_of(error)}); check the path and who may read it"
        ) from error


def _own_weights(weights: Path, config: Path | None) -> Choice | None:
    if not is_file(weights):
        raise CheckpointError(
            f"{shown_name(str(weights))}: no such weights file; give an existing .pt or .safetensors, or a model name"
        )
    if config is not None:
        config = path_of(str(config))
        if not is_file(config):
            shown = shown_name(str(config))
            raise UsageError(f"--config {shown}: no such file; give the YAML of {shown_name(weights.name)}'s network")
        return Choice(weights.stem, weights, config)
    beside = weights.with_suffix(".yaml")
    return Choice(weights.stem, weights, beside) if is_file(beside) else None


def _sam2_folder() -> Path:
    spec = importlib.util.find_spec("sam2")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentProblem(
            "the package sam2 is not installed; install it after torch: "
            "SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2"
        )
    return Path(next(iter(spec.submodule_search_locations)))
