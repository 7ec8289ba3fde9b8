"""Names: which suffixes are images or videos, what an input's outputs are called, in which order files come."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import unicodedata
import urllib.parse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from densecli.sources import heif
from densecli.sources.urls import location_of, url_scheme

# fmt: off
IMAGE_SUFFIXES = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".avif", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi",
    *heif.SUFFIXES,
])
# fmt: on
"""Lower-case suffixes by which a folder's images are recognised. A file named directly is read whatever its suffix.

Those of HEIC count in a folder where it can be read (`heif.installed`)."""

VIDEO_SUFFIXES = frozenset([".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"])
"""Lower-case suffixes of files that are read frame by frame."""

_NAME_BYTES = 200  # file systems allow 255; the rest is for "_overlay.png" and the temporary file's suffix


def output_stem(name: str) -> str:
    """Base name of the outputs of one input: `photos/desk.jpg` -> `desk`, `-` -> `stdin`, of a URL the last part."""
    return next(name_candidates(name))


def output_names(inputs: Sequence[str]) -> list[str]:
    """Base name (no suffix, no folder) of the outputs of each input of one call, in the same order.

    The stem; where stems collide the whole file name; where these collide too, with as many folders in front as it
    takes (`a_desk.jpg`, `b_desk.jpg`); a number for the same input given twice. All differ even on a file system that
    ignores case and Unicode normalisation. Numbers apart, a name does not depend on the order of the inputs.
    """
    return distinct_names([list(name_candidates(name)) for name in inputs])


def distinct_names(candidates: Sequence[Sequence[str]]) -> list[str]:
    """One name for each list of candidates (shortest first), as short as it can be with all of them different."""
    level = [0] * len(candidates)
    while True:
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, names in enumerate(candidates):
            groups[collision_key(names[level[index]])].append(index)
        to_lengthen = [
            index
            for group in groups.values()
            if len(group) > 1
            for index in group
            if level[index] + 1 < len(candidates[index])
        ]
        if not to_lengthen:
            break
        for index in to_lengthen:
            level[index] += 1
    result = [names[level[index]] for index, names in enumerate(candidates)]
    taken = set(groups)
    for group in groups.values():
        for index in group[1:]:
            base = result[index]
            result[index] = next(
                name for number in itertools.count(2) if collision_key(name := f"{base}_{number}") not in taken
            )
            taken.add(collision_key(result[index]))
    return result


def name_candidates(name: str) -> Iterator[str]:
    """Names for the outputs of `name`, from the shortest to the longest."""
    if name == "-":
        yield "stdin"
        return
    if scheme := url_scheme(name):
        location = location_of(name)[1]
        if scheme in ("http", "https"):
            location = urllib.parse.unquote(re.split(r"[?#]", location, maxsplit=1)[0])
        parts = [re.sub(r'[<>:"|?*\\\x00-\x1f]', "_", part) for part in location.split("/")]
    else:
        path = PurePath(name)
        parts = [part for part in path.parts if part != path.anchor]
    parts = [part for part in parts if part not in ("", ".", "..")] or ["image"]
    yield fitting(stem_and_suffix(parts[-1])[0])
    for count in range(1, len(parts) + 1):
        yield fitting("_".join(parts[-count:]))


def fitting(name: str) -> str:
    """`name`, shortened if a file system could refuse it with a suffix; a digest keeps shortened names apart."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: _NAME_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


def stem_and_suffix(name: str) -> tuple[str, str]:
    """Of a file's name, without folders, as PurePath tells them: it takes ten times as long, and there are millions.

    But never a stem of dots alone, as of `...mp4`: outputs of that name would lie outside of their folder.
    """
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if dot < len(name) - 1 and name[: max(dot, 0)].strip(".") else (name, "")


def collision_key(name: str) -> str:
    """Equal for names that some file system (of macOS or Windows) takes for the same."""
    if name.isascii():  # nearly all
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def natural_key(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """Sort key by which numbers count as numbers: `img2` before `img10`; folder by folder, case ignored."""
    text = os.fsdecode(path)
    return tuple(natural_part(part) for part in re.split(r"[/\\]", text)), text


def natural_part(part: str) -> tuple[object, ...]:
    # re.split alternates text and digits, so like is compared with like; length first compares digits as numbers
    # without int(), which refuses very long ones.
    pieces = re.split(r"([0-9]+)", part.casefold())
    return tuple(
        (len(piece.lstrip("0")), piece.lstrip("0")) if index % 2 else piece for index, piece in enumerate(pieces)
    )
