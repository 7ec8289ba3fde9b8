"""Checkpoints on disk, what interrupted runs left behind, disk space, and the folder for downloads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from densecli.doctor import commands
from densecli.doctor.report import Check, problem, warning
from densecli.doctor.source import STARTER_SHA256, STARTER_SIZE, restore_starter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from densecli.checkpoints import CheckpointEntry, Registry

_TEMPORARY_PREFIX = ".densecli-tmp-"  # densecli.files; not imported, because that sets the umask for a moment
_OLD = 600.0  # seconds; a run that is still going on keeps its temporary files for less than that
_OUTPUT_FOLDER = "densecli-out"
_LITTLE_SPACE = 50_000_000  # bytes; the outputs of a few images
_BEST = "large"


def check_weights(*, deep: bool) -> list[Check]:
    """All rows of this file. deep: read every checkpoint and compare its sha256."""
    try:
        from densecli import checkpoints

        variable = checkpoints.REGISTRY_VARIABLE
        registry = checkpoints.load_registry()
        variable = checkpoints.FOLDER_VARIABLE
        checkpoints.search_dirs()
    except ImportError as error:
        fix = commands.pip_install("pyyaml>=6.0", "platformdirs>=4.2")
        return [problem("checkpoints", f"cannot look for them: {error}", fix)]
    except Exception as error:  # UsageError, of what would stop every run: a registry that cannot be read, ~ of nobody
        fix = commands.unset(variable)
        return [problem("checkpoints", checkpoints.one_line(error), fix)]
    return [
        check_starter(),
        *check_checkpoints(registry, deep=deep),
        check_leftovers(registry),
        check_space(registry),
        check_folder(),
    ]


def check_starter() -> Check:
    """The model inside the package."""
    from densecli import checkpoints
    from densecli.errors import CheckpointError

    try:
        file, _ = checkpoints.starter_files()
    except CheckpointError as error:
        return problem("starter", str(error), restore_starter())
    try:
        content = file.read_bytes()
    except OSError as error:
        return problem("starter", f"{file} cannot be read ({error.strerror})", restore_starter())
    if len(content) != STARTER_SIZE:
        seen = f"{file} is damaged: {len(content)} bytes instead of {STARTER_SIZE}"
        return problem("starter", seen, restore_starter())
    if (digest := hashlib.sha256(content).hexdigest()) != STARTER_SHA256:
        seen = f"{file} is damaged: its sha256 is {digest} instead of {STARTER_SHA256}"
        return problem("starter", seen, restore_starter())
    return Check("starter", f"{file} ({checkpoints.megabytes(len(content))})")


def check_checkpoints(registry: Registry, *, deep: bool) -> list[Check]:
    """The row `checkpoints`: which are where; and one for each that is damaged."""
    from densecli import checkpoints
    from densecli.errors import CheckpointError

    here, missing, damaged = [], [], []
    for entry in registry.entries.values():
        location = checkpoints.locate_entry(entry, checkpoints.search_dirs())
        if location.problem is not None:
            # A good one elsewhere stands in for it, so that no download would take its place.
            aside = " && ".join(map(commands.rename_away, location.passed_over))
            fix = _fetch(entry) if location.path is None else aside
            damaged.append(warning(f"checkpoint {entry.name}", location.problem, fix))
        if location.path is None:
            missing.append(entry.name)
            continue
        if deep:
            try:
                checkpoints.verify(entry, location.path, use_stamp=False)
            except CheckpointError as error:
                damaged.append(problem(f"checkpoint {entry.name}", str(error), _fetch(entry, location.path.parent)))
                continue
        state = "verified" if checkpoints.is_verified(entry, location.path) else "right size"
        here.append(f"{entry.name} in {location.path.parent} ({state})")
    absent = f"not here: {', '.join(missing)}" if missing else "none is missing"
    if not here:
        seen = "no checkpoint of SAM 2.1 is here: densecli runs with starter, a small stand-in"
        return [warning("checkpoints", seen, commands.densecli("download-checkpoints", _BEST)), *damaged]
    return [Check("checkpoints", "; ".join([*here, absent])), *damaged]


def check_leftovers(registry: Registry) -> Check:
    """Downloads that were interrupted, and temporary files of runs that were killed."""
    from densecli import checkpoints

    parts = [
        (entry, path)
        for folder in checkpoints.search_dirs()
        for entry in registry.entries.values()
        if os.path.isfile(path := folder / f"{entry.file}.part")  # Path.is_file raises in a folder of somebody else
    ]
    here = {entry for entry, _ in parts if checkpoints.locate_entry(entry, checkpoints.search_dirs()).path}
    useless = [path for entry, path in parts if entry in here and _is_old(path)]
    wanted = [(entry, path) for entry, path in parts if entry not in here]
    if wanted:
        entry, path = wanted[0]
        there = f"{path.stat().st_size / 1e6:.1f} of {checkpoints.megabytes(entry.size)}"
        seen = f"{path}: an unfinished download ({there}){_and_more(wanted)}"
        return warning("leftovers", seen, _fetch(entry, path.parent))
    if useless:
        seen = f"{useless[0]}: an unfinished download of a checkpoint that is here{_and_more(useless)}"
        return warning("leftovers", seen, commands.remove(useless))
    killed = _temporary_files([*checkpoints.search_dirs(), Path.cwd(), Path(_OUTPUT_FOLDER).absolute()])
    if killed:
        seen = f"{killed[0]}: left by a run that was killed{_and_more(killed)}"
        return warning("leftovers", seen, commands.remove(killed))
    return Check("leftovers", "none")


def _fetch(entry: CheckpointEntry, folder: Path | None = None) -> str:
    """The command that fetches a checkpoint, into this folder if it must be there."""
    from densecli import checkpoints
    from densecli.errors import CheckpointError

    elsewhere = folder is not None
    with contextlib.suppress(CheckpointError):
        elsewhere = elsewhere and folder != checkpoints.download_dir()
    return commands.densecli("download-checkpoints", entry.name, *(["--dir", str(folder)] if elsewhere else []))


def _and_more(found: Sequence[object]) -> str:
    return f", and {len(found) - 1} more" if len(found) > 1 else ""


def _is_old(path: Path) -> bool:
    """Whether no run that is going on can be at work on it."""
    return time.time() - path.lstat().st_mtime > _OLD


def _temporary_files(folders: list[Path]) -> list[Path]:
    found = []
    for folder in dict.fromkeys(folders):
        try:
            entries = [entry for entry in folder.iterdir() if entry.name.startswith(_TEMPORARY_PREFIX)]
            found += [entry for entry in entries if _is_old(entry)]
        except OSError:
            continue
    return sorted(found)


def check_space(registry: Registry) -> Check:
    """Room for results in this folder, and for the best checkpoint where downloads go."""
    from densecli import checkpoints
    from densecli.errors import CheckpointError

    here = there = shutil.disk_usage(Path.cwd()).free
    seen = f"{here / 1e9:.1f} GB free here"
    with contextlib.suppress(CheckpointError):  # no folder: the row `checkpoint folder` says so
        folder = checkpoints.download_dir()
        there = shutil.disk_usage(_existing(folder)).free
        seen += f", {there / 1e9:.1f} GB in {folder}"
    if here < _LITTLE_SPACE:
        return problem(
            "disk space",
            f"{seen}: too little for results",
            commands.densecli("segment", "IMAGE", "-o", "/a/larger/disk"),
        )
    entry = registry.entries.get(_BEST)
    wanted = 0 if entry is None or checkpoints.locate(_BEST).path is not None else entry.size
    if there < wanted:
        seen += f": too little for {_BEST} ({wanted / 1e9:.1f} GB)"
        return warning("disk space", seen, commands.densecli("download-checkpoints", _BEST, "--dir", "/a/larger/disk"))
    return Check("disk space", seen)


def check_folder() -> Check:
    """Whether downloads could be written."""
    from densecli import checkpoints
    from densecli.errors import CheckpointError

    fix = commands.variable(checkpoints.FOLDER_VARIABLE, commands.own_folder("densecli-checkpoints"))
    try:
        folder = checkpoints.download_dir()
    except CheckpointError:
        return warning("checkpoint folder", "this user has no home folder for downloads", fix)
    existing = _existing(folder)
    try:
        if broken := checkpoints.broken_link(folder):
            return warning("checkpoint folder", f"downloads cannot be written there: {broken}", fix)
        if not existing.is_dir():
            raise NotADirectoryError(20, "is a file, not a folder")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        # Everything but a download still works.
        seen = f"{folder}: downloads cannot be written there ({existing}: {error.strerror})"
        return warning("checkpoint folder", seen, fix)
    return Check("checkpoint folder", f"{folder} can be written")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))
