"""Folders, local or of a bucket, behind one face: the names in them, and what is known of each file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterator
from datetime import datetime
from typing import Any, Protocol

from densecli.errors import DensecliError, InputError
from densecli.output_names import ENDINGS, FOLDERS, PICTURES, RUN_FOLDERS
from densecli.sources.own_outputs import (
    TAIL_BYTES,
    is_manifest_name,
    is_own_file,
    is_own_folder,
    is_own_video,
    is_video_name,
)
from densecli.sources.urls import filesystem_of, is_folder, local_path, location_of, tried_twice
from densecli.wording import reason_of, shown_name

Facts = tuple[int | None, int | None]
"""Size in bytes and time of the last change in nanoseconds, as far as known."""


class Folder(Protocol):
    """A folder that can be read."""

    path: str
    """As the user would write it."""

    def names(self) -> Iterator[tuple[str, bool]]:
        """Each name in it, in any order, and whether it is a folder. Raises InputError."""

    def file(self, name: str) -> str:
        """What `read_image` takes for a file in it."""

    def facts(self, name: str) -> Facts:
        """Of a file in it."""

    def child(self, name: str) -> Folder:
        """A folder in it."""

    def identity(self) -> Hashable:
        """Equal for the same folder reached in two ways; None where that cannot be told."""

    def is_own(self, name: str, is_folder: bool) -> bool:
        """Whether densecli wrote it."""


def facts_of(path: str) -> Facts:
    """Size and time of a local file; unknown where it cannot be asked (reading it will say why)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None, None
    return status.st_size, status.st_mtime_ns


class LocalFolder:
    """A folder on disk."""

    def __init__(self, path: str) -> None:
        self.path = path

    def names(self) -> Iterator[tuple[str, bool]]:
        try:
            with os.scandir(self.path or ".") as entries:
                for entry in entries:
                    is_folder = False
                    with contextlib.suppress(OSError):  # a link that leads back to itself: reading it will say so
                        is_folder = entry.is_dir()
                    yield entry.name, is_folder
        except PermissionError:
            raise InputError(f"{shown_name(self.path)}: permission denied; check who may read it (ls -ld)") from None
        except OSError as error:
            raise InputError(
                f"{shown_name(self.path)}: cannot be listed: {reason_of(error)}; check the folder"
            ) from error

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def facts(self, name: str) -> Facts:
        return facts_of(self.file(name))

    def child(self, name: str) -> LocalFolder:
        return LocalFolder(self.file(name))

    def identity(self) -> Hashable:
        try:
            status = os.stat(self.path or ".")
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def is_own(self, name: str, is_folder: bool) -> bool:
        return is_own_folder(self.path, name) if is_folder else is_own_file(self.path, name)


class RemoteFolder:
    """A folder of an fsspec file system. Its names come in one piece: fsspec gives no other way."""

    def __init__(self, location: str, path: str) -> None:
        """location: the path in its file system. path: its URL."""
        scheme, place, archive = location_of(path)
        self._location, self.path = location.rstrip("/"), f"{scheme}{place.rstrip('/')}{archive}"
        self._facts: dict[str, Facts] = {}

    def names(self) -> Iterator[tuple[str, bool]]:
        remote = filesystem_of(self.path)
        assert remote is not None
        try:
            found = tried_twice(remote[0], self.path, self._listed)
        except Exception as error:  # each file system has its own family of errors
            if isinstance(error, FileNotFoundError):
                raise InputError(f"{shown_name(self.path)}: does not exist; check the URL") from None
            raise InputError(
                f"{shown_name(self.path)}: cannot be listed: {reason_of(error)}; check the URL and your credentials"
            ) from error
        folders = []
        for info in found:
            name = info["name"].rstrip("/").rsplit("/", 1)[-1]
            if info["type"] == "directory":
                folders.append(name)
            elif info["name"].rstrip("/") != self._location:  # buckets may hold an empty object for the folder itself
                self._facts[name] = remote_facts(info)
        del found
        for name in folders:
            yield name, True
        for name in list(self._facts):
            yield name, False

    def _listed(self, filesystem: Any) -> list[dict[str, Any]]:
        filesystem.invalidate_cache()
        found: list[dict[str, Any]] = filesystem.ls(self._location, detail=True)
        filesystem.invalidate_cache()
        return found

    def file(self, name: str) -> str:
        scheme, place, archive = location_of(self.path)
        return f"{scheme}{place}{'/' if place else ''}{name}{archive}"

    def facts(self, name: str) -> Facts:
        return self._facts.get(name, (None, None))

    def child(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self._location}/{name}" if self._location else name, self.file(name))

    def identity(self) -> Hashable:
        return self.path

    def is_own(self, name: str, is_folder: bool) -> bool:
        if not is_folder and is_video_name(name):
            with contextlib.suppress(Exception):  # each file system has its own family; reading it will say why
                remote = filesystem_of(self.file(name))
                return remote is not None and is_own_video(remote[0].tail(remote[1], TAIL_BYTES))
            return False
        # Only names are at hand; the summary beside it is what tells.
        for ending in FOLDERS if is_folder else (*PICTURES, ENDINGS["json"]):
            if name.endswith(ending):
                return name.removesuffix(ending) + ENDINGS["json"] in self._facts
        return is_folder and name in RUN_FOLDERS and any(is_manifest_name(other) for other in self._facts)


def folder_at(path: str) -> Folder | None:
    """The folder that `path` (local, or a URL of fsspec) names; None if it is none.

    Raises InputError or EnvironmentProblem for a URL that cannot be used.
    """
    remote = filesystem_of(path)
    if remote is None:
        local = local_path(path)
        return LocalFolder(local) if local is not None and os.path.isdir(local) else None
    filesystem, location = remote
    try:
        there = tried_twice(filesystem, path, lambda filesystem: is_folder(filesystem, location))
        return RemoteFolder(location, path) if there else None
    except DensecliError:
        raise
    except Exception as error:
        raise InputError(
            f"{shown_name(path)}: cannot be read: {reason_of(error)}; check the URL and your credentials"
        ) from error


def remote_facts(info: dict[str, Any]) -> Facts:
    """Of a file, from what fsspec lists about it."""
    changed = next(
        (info[key] for key in ("mtime", "LastModified", "last_modified", "updated", "created") if info.get(key)), None
    )
    if isinstance(changed, str):
        with contextlib.suppress(ValueError):
            changed = datetime.fromisoformat(changed.replace("Z", "+00:00"))
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    return info.get("size"), round(changed * 1e9) if isinstance(changed, (int, float)) else None
