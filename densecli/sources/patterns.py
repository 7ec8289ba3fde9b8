"""Patterns (`photos/**/*.jpg`) that no shell has replaced by names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import lru_cache

from densecli.sources.urls import location_of

_MAGIC = re.compile(r"[*?[]")


class Pattern:
    """Which files under its root a pattern names; `**` stands for any folders, or none. A `Selection` of walking."""

    explicit = True

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts

    def takes(self, parts: tuple[str, ...]) -> bool:
        return _matches(parts, self._parts, whole=True)

    def enters(self, parts: tuple[str, ...]) -> bool:
        return _matches(parts, self._parts, whole=False)


class AnyPattern:
    """What at least one of several patterns of one root names; a `Selection` of walking."""

    explicit = True

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._patterns = patterns

    def takes(self, parts: tuple[str, ...]) -> bool:
        return any(pattern.takes(parts) for pattern in self._patterns)

    def enters(self, parts: tuple[str, ...]) -> bool:
        return any(pattern.enters(parts) for pattern in self._patterns)


def has_magic(text: str) -> bool:
    """Whether a path or URL has *, ? or [ in it (other than the query of an http URL, and the archive of a chain)."""
    if text.lower().startswith(("http://", "https://")):
        return False
    return _MAGIC.search(location_of(text)[1] if "://" in text else text) is not None


def split_pattern(text: str) -> tuple[str, Pattern]:
    """The folder before the first part with magic (may be empty: here), and the pattern of what lies under it."""
    scheme, location, archive = location_of(text) if "://" in text else ("", text, "")
    parts = re.split(r"/" if scheme else r"[/\\]" if "\\" in location and "/" not in location else "/", location)
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    root = "/".join(parts[:first])
    if not root and first:
        root = "/"  # the pattern begins with a slash
    return scheme + root + archive, Pattern(tuple(part for part in parts[first:] if part not in ("", ".")))


def _matches(names: tuple[str, ...], parts: tuple[str, ...], whole: bool) -> bool:
    """Whether the pattern's parts stand for these names; or, not `whole`, for a beginning that names can follow."""
    if not parts:
        return whole and not names
    if not names:
        return not whole or all(part == "**" for part in parts)
    if parts[0] == "**":
        # As a last part `**` stands for all files below.
        if parts[1:] and _matches(names, parts[1:], whole):
            return True
        return _matches(names[1:], parts, whole)
    return _regex(parts[0]).match(names[0]) is not None and _matches(names[1:], parts[1:], whole)


@lru_cache(maxsize=256)
def _regex(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))
