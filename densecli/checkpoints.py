"""Which checkpoints exist, where they lie on this machine, and whether they are what the registry says."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from densecli.errors import CheckpointError, UsageError
from densecli.files import temporary_beside
from densecli.resources import resource_dir
from densecli.user_cache import user_cache
from densecli.wording import command_line, shown_name, url_of, without_password

REGISTRY_VARIABLE = "DENSECLI_REGISTRY"
FOLDER_VARIABLE = "DENSECLI_CHECKPOINTS"
URL_VARIABLE = "DENSECLI_CHECKPOINT_URL"

STARTER = "starter"
_RESERVED_NAMES = ("auto", STARTER)  # they mean something else to --model
_ALIASES = {"b+": "base-plus", "base+": "base-plus", "baseplus": "base-plus", "b-plus": "base-plus"}
_ENTRY_KEYS = ("file", "size", "sha256", "config")
_URL_SCHEMES = ("http://", "https://", "file://")
_HASH_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class CheckpointEntry:
    """One checkpoint of a registry file: what it is called, and what proves that a file is it."""

    name: str
    file: str  # plain file name, no folder
    size: int  # bytes
    sha256: str  # 64 lower-case hexadecimal digits
    config: str  # path inside the sam2 package, or a file beside the registry
    registry: Path  # the registry file that it came from


@dataclass(frozen=True)
class Location:
    """Where a checkpoint was found (`path`), and what was wrong with files that were passed over (`problem`)."""

    path: Path | None
    problem: str | None
    passed_over: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Registry:
    """All known checkpoints by name, and the base URLs they come from, in the order they are tried."""

    entries: dict[str, CheckpointEntry]
    sources: list[str]
    sources_by_file: dict[Path, list[str]]

    def entry(self, name: str, beside: Sequence[str] = ()) -> CheckpointEntry:
        """The entry called `name`; case, `_` for `-`, file names and short names (`b+`) do not matter.

        beside: what else the name could have been, to be told. Raises UsageError, with the nearest name, if there is
        none.
        """
        found = self.find(name)
        if found is not None:
            return found
        if url := url_of(name):
            raise UsageError(
                f"'{shown_name(url)}' is a URL; give the name of a checkpoint, and --source for where it is."
            )
        near = self.nearest(name, beside)
        hint = f" Did you mean '{near}'?" if near else ""
        known = ", ".join([*beside, *self.entries])
        raise UsageError(f"There is no checkpoint called '{shown_name(name)}'.{hint} Known: {known}.")

    def find(self, name: str) -> CheckpointEntry | None:
        """As `entry`, but None if there is none."""
        return self._spellings().get(_normalised(name))

    def nearest(self, name: str, beside: Sequence[str] = ()) -> str | None:
        """The name, among those of entries and `beside`, that is most like `name`; None if none is."""
        names = {other: other for other in beside} | {known: entry.name for known, entry in self._spellings().items()}
        near = difflib.get_close_matches(_normalised(name), names, n=1)
        return names[near[0]] if near else None

    def _spellings(self) -> dict[str, CheckpointEntry]:
        spellings = {}
        for known in self.entries.values():
            for spelling in (known.file, known.file.rsplit(".", 1)[0], known.name):
                spellings[_normalised(spelling)] = known
        for alias, canonical in _ALIASES.items():
            if canonical in self.entries:
                spellings.setdefault(alias, self.entries[canonical])
        return spellings

    def urls(self, entry: CheckpointEntry, only: list[str] | None = None) -> list[str]:
        """Full URLs to try for `entry`, in order: $DENSECLI_CHECKPOINT_URL, then its registry, then added registries.

        `only` (base URLs) takes the place of all of these. Raises UsageError for a base URL that is none.
        """
        if only:
            bases = only
        else:
            bases = [part.strip() for part in os.environ.get(URL_VARIABLE, "").split(",") if part.strip()]
            bases += self.sources_by_file[entry.registry]
            if entry.registry == shipped_registry_file():
                # Another registry may name a mirror of the shipped files. The other way round, asking public servers
                # for somebody's own checkpoint could only fail, and would tell them its name.
                bases += self.sources
        urls = []
        for base in bases:
            if not base.startswith(_URL_SCHEMES):
                where = "--source" if only else f"${URL_VARIABLE}"
                shown = shown_name(url_of(base) or base)
                raise UsageError(f"{where}: '{shown}' is not a base URL; give http://, https:// or file:// addresses.")
            urls.append(f"{base.replace('{name}', entry.name).rstrip('/')}/{entry.file}")
        return list(dict.fromkeys(urls))


def shipped_registry_file() -> Path:
    """The registry file that comes with densecli."""
    return resource_dir("checkpoints") / "registry.yaml"


def load_registry() -> Registry:
    """The shipped registry with the entries of $DENSECLI_REGISTRY added.

    Raises UsageError, naming file and key, if one of the files cannot be read or is not a registry.
    """
    files = [shipped_registry_file()]
    if os.environ.get(REGISTRY_VARIABLE):
        files.append(expanded(os.environ[REGISTRY_VARIABLE], f"${REGISTRY_VARIABLE}").absolute())
    entries: dict[str, CheckpointEntry] = {}
    sources_by_file: dict[Path, list[str]] = {}
    for file in files:
        found, sources_by_file[file] = _read_registry(file)
        for entry in found:
            for known in entries.values():
                if _normalised(known.name) == _normalised(entry.name):
                    raise UsageError(
                        f"Registry {file}: checkpoints.{entry.name}: {known.registry} has a checkpoint of this name; "
                        "choose another."
                    )
                if known.file == entry.file and known.sha256 != entry.sha256:
                    raise UsageError(
                        f"Registry {file}: checkpoints.{entry.name}.file: '{entry.file}' is also the file of "
                        f"'{known.name}' in {known.registry}; choose another."
                    )
            entries[entry.name] = entry
    sources = list(dict.fromkeys(source for some in sources_by_file.values() for source in some))
    return Registry(entries, sources, sources_by_file)


_MAX_REGISTRY = 1 << 20  # a page of text; /dev/zero has no end


def _read_registry(file: Path) -> tuple[list[CheckpointEntry], list[str]]:
    """Entries and sources of one registry file."""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_MAX_REGISTRY + 1)
        if len(text) > _MAX_REGISTRY:
            raise ValueError("larger than 1 MiB, so it is no registry")
        document = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that is none
        raise UsageError(f"Registry {file} cannot be read: {one_line(error)}") from error
    _check_keys(file, "", document, ("checkpoints", "sources"))

    sources = document.get("sources")
    sources = [] if sources is None else sources
    if not isinstance(sources, list):
        raise _wrong(file, "sources", sources, "a list of base URLs")
    for index, source in enumerate(sources):
        if not isinstance(source, str) or not source.startswith(_URL_SCHEMES):
            raise _wrong(file, f"sources[{index}]", source, "an http://, https:// or file:// URL")

    checkpoints = document.get("checkpoints")
    checkpoints = {} if checkpoints is None else checkpoints
    if not isinstance(checkpoints, dict):
        raise _wrong(file, "checkpoints", checkpoints, "names, each with " + ", ".join(_ENTRY_KEYS))
    return [_read_entry(file, name, values) for name, values in checkpoints.items()], sources


def _read_entry(file: Path, name: Any, values: Any) -> CheckpointEntry:
    key = f"checkpoints.{name}"
    if (
        not isinstance(name, str)
        or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name)
        or name.lower() in _RESERVED_NAMES
    ):
        allowed = f"a name of letters, digits and . _ + -, other than {' and '.join(_RESERVED_NAMES)}"
        raise _wrong(file, key, name, allowed)
    _check_keys(file, key, values, _ENTRY_KEYS)
    for wanted in _ENTRY_KEYS:
        if wanted not in values:
            raise UsageError(f"Registry {file}: {key}.{wanted} is missing.")
    weights, size, sha256, config = (values[wanted] for wanted in _ENTRY_KEYS)
    # A path here could make a download overwrite any file of the user's.
    if not isinstance(weights, str) or not re.fullmatch(r"[^./\\:\s][^/\\:\x00-\x1f]*", weights):
        raise _wrong(file, f"{key}.file", weights, "a file name without folders")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise _wrong(file, f"{key}.size", size, "a whole number of bytes above 0")
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise _wrong(file, f"{key}.sha256", sha256, "64 hexadecimal digits (in quotes, if there are no letters)")
    if not isinstance(config, str) or not config:
        raise _wrong(file, f"{key}.config", config, "a path inside the sam2 package, or of a file beside the registry")
    return CheckpointEntry(name, weights, size, sha256.lower(), config, file)


def _check_keys(file: Path, key: str, values: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(values, dict):
        raise _wrong(file, key or "the file", values, "a mapping with " + ", ".join(allowed))
    for given in values:
        if given not in allowed:
            near = difflib.get_close_matches(str(given), allowed, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            full = f"{key}.{given}" if key else str(given)
            raise UsageError(f"Registry {file}: {full} is not a known key.{hint} Allowed: {', '.join(allowed)}.")


def _wrong(file: Path, key: str, given: Any, allowed: str) -> UsageError:
    shown = without_password(repr((isinstance(given, str) and url_of(given)) or given))
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return UsageError(f"Registry {file}: {key} is {shown}, but must be {allowed}.")


def _normalised(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def search_dirs(checkpoint_dir: Path | None = None) -> list[Path]:
    """Folders where checkpoints are looked for, in order; they need not exist.

    Without the cache folder where the user has none. Raises UsageError for ~ of nobody.
    """
    folders = []
    if checkpoint_dir is not None:
        folders.append(expanded(checkpoint_dir, "--checkpoint-dir"))
    if os.environ.get(FOLDER_VARIABLE):
        folders.append(expanded(os.environ[FOLDER_VARIABLE], f"${FOLDER_VARIABLE}"))
    folders.append(Path("checkpoints"))
    if (cache := _cache_dir()) is not None:
        folders.append(cache)
    return list(dict.fromkeys(folder.absolute() for folder in folders))


def expanded(given: str | os.PathLike[str], where: str) -> Path:
    """A path with ~ and ~user written out.

    Raises UsageError, which says `where` it was given, for a URL and if there is no such user: folders called https:
    and ~user would be made.
    """
    if url := url_of(os.fspath(given)):
        raise UsageError(f"{where}: '{shown_name(url)}' is a URL; give a path on this machine.")
    path = os.path.expanduser(given)
    if path.startswith("~"):
        raise UsageError(
            f"{where}: '{shown_name(os.fspath(given))}' names a user that this machine does not have; give a full path."
        )
    return Path(path)


def download_dir(checkpoint_dir: Path | None = None) -> Path:
    """The folder that downloads go to: the first of `search_dirs` that is set, else the user's cache folder.

    `./checkpoints` counts as set if it exists. Raises CheckpointError for a user without cache folder who set none.
    """
    if checkpoint_dir is not None or os.environ.get(FOLDER_VARIABLE):
        return search_dirs(checkpoint_dir)[0]
    local = Path("checkpoints").absolute()
    folder = local if local.is_dir() else _cache_dir()
    if folder is None:
        raise CheckpointError(f"This user has no home folder for checkpoints; give --dir, or set ${FOLDER_VARIABLE}.")
    return folder


def _cache_dir() -> Path | None:
    cache = user_cache()
    return None if cache is None else cache / "checkpoints"


def broken_link(folder: Path) -> str | None:
    """In words, the link in this path that leads nowhere, so that the folder can be neither used nor made."""
    for place in (folder, *folder.parents):
        if os.path.islink(place) and not os.path.exists(place):
            return f"{place} is a link to {os.readlink(place)}, which is not there"
    return None


def locate(name: str, checkpoint_dir: Path | None = None) -> Location:
    """Where checkpoint `name` lies, and why files of its name elsewhere were passed over.

    Only a file of exactly the right size counts; its content is left to `verify`. Raises UsageError for unknown names.
    """
    return locate_entry(load_registry().entry(name), search_dirs(checkpoint_dir))


def locate_entry(entry: CheckpointEntry, folders: list[Path]) -> Location:
    """`locate` for an entry at hand, in these folders and no others."""
    problems: dict[Path, str] = {}

    def found(path: Path | None) -> Location:
        return Location(path, "; ".join(problems.values()) or None, tuple(problems))

    for folder in folders:
        path = folder / entry.file
        try:
            os.lstat(path)
            if not path.is_file():
                problems[path] = f"{path} is not a file"
            elif (size := path.stat().st_size) != entry.size:
                problems[path] = f"{path} has {size} bytes instead of {entry.size}"
            else:
                return found(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the path
            continue
        except OSError as error:
            problems[path] = f"{path} cannot be read ({error.strerror})"
    return found(None)


def fetch_command(name: str, folder: str | os.PathLike[str] | None = None) -> str:
    """The command that fetches checkpoint `name`, for messages.

    folder: where it must go for what the message is about; the command says so unless downloads go there anyway.
    """
    command = f"densecli download-checkpoints {name}"
    if folder is None:
        return command
    with contextlib.suppress(CheckpointError, UsageError):  # there is none, or only a wrong one
        if download_dir() == Path(os.path.expanduser(folder)).absolute():
            return command
    return f"{command} --dir {shown_name(command_line([os.fspath(folder)]))}"


def starter_files() -> tuple[Path, Path]:
    """Weights and YAML of the model that ships with densecli. Raises CheckpointError if the installation lacks them."""
    folder = resource_dir("checkpoints")
    weights, config = folder / "starter.safetensors", folder / "starter.yaml"
    for file in (weights, config):
        if not file.is_file():
            raise CheckpointError(f"This installation of densecli lacks {file}; install densecli again.")
    return weights, config


def verify(entry: CheckpointEntry, path: Path, *, use_stamp: bool = True) -> None:
    """Return if the file at `path` is `entry`, by size and sha256; raise CheckpointError if it is not.

    A stamp beside the file remembers the outcome for this size and modification time, so that only the first call
    reads the file; `use_stamp=False` reads it anyway. Where the stamp cannot be written, every call reads the file.
    """
    remedy = f"`{fetch_command(entry.name, path.parent)}` fetches a good one"
    try:
        status = path.stat()
        if status.st_size != entry.size:
            raise CheckpointError(
                f"Checkpoint {path} is damaged: it has {status.st_size} bytes, '{entry.name}' has {entry.size}; "
                f"{remedy}."
            )
        if use_stamp and is_verified(entry, path):
            return
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    except OSError as error:
        if isinstance(error, PermissionError):
            remedy = "check who may read it"
        raise CheckpointError(f"Checkpoint {path} cannot be read ({error.strerror}); {remedy}.") from error
    if digest.hexdigest() != entry.sha256:
        with contextlib.suppress(OSError):
            stamp_path(path).unlink(missing_ok=True)
        raise CheckpointError(
            f"Checkpoint {path} is damaged: its sha256 is {digest.hexdigest()}, '{entry.name}' has {entry.sha256}; "
            f"{remedy}."
        )
    write_stamp(entry, path, status)


def is_verified(entry: CheckpointEntry, path: Path) -> bool:
    """Whether a stamp says that this file, unchanged since, was verified to be `entry`. Does not read the file."""
    try:
        stamp = json.loads(stamp_path(path).read_text(encoding="utf-8"))
        return stamp == _stamp(entry, path.stat()) and entry.size == stamp["size"]
    except (OSError, ValueError):
        return False


def write_stamp(entry: CheckpointEntry, path: Path, status: os.stat_result) -> None:
    """Remember that the file at `path`, as it was when `status` was taken, is `entry`; silent where that cannot be."""
    stamp = stamp_path(path)
    temporary = temporary_beside(stamp)  # a name that can be foreseen could be that of a link to another file
    try:
        temporary.write_text(json.dumps(_stamp(entry, status)) + "\n", encoding="utf-8")
        temporary.replace(stamp)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def stamp_path(path: Path) -> Path:
    """Where the stamp of the checkpoint file at `path` lies."""
    return path.with_name(path.name + ".stamp")


def _stamp(entry: CheckpointEntry, status: os.stat_result) -> dict[str, Any]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": entry.sha256}


def megabytes(size: int) -> str:
    """`size` in bytes as people read it, in MB of 10^6 bytes."""
    return f"{size / 1e6:.1f} MB"


def one_line(error: object) -> str:
    """The text of an error on one line, as messages need it."""
    return " ".join(str(error).split()) or type(error).__name__
