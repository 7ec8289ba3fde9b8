"""`labelme/NAME.json`: polygons to correct by hand in labelme; the regions of one mask are one group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from densecli import __version__
from densecli.files import complete_file, explained
from densecli.output_names import LABELME
from densecli.places import Place
from densecli.sinks.datasets import Outlined, relative_to
from densecli.sinks.polygons import joined, regions_of

_VERSION = "5.5.0"  # of labelme's format
BY_HAND = True
_HEAD = f'{{\n "version": "{_VERSION}",\n "flags": {{}},\n "shapes": [\n'.encode()
_END_OF_SHAPES = b" ],\n"
_OURS = "densecli"
"""Key by which a file tells that densecli wrote it, and what; labelme keeps keys that it does not know."""


def file(output_dir: Path, stem: str) -> Path:
    return output_dir / LABELME / f"{stem}.json"


def files(output_dir: Path, stem: str, picture: str) -> list[Path]:
    return [file(output_dir, stem)]


def keeps(path: Path) -> bool:
    """Whether there are other shapes than densecli wrote: somebody corrected them, or drew their own."""
    try:
        if _is_as_written(path):
            return False
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError):
        return not _is_laid_out_as_ours(path)  # cut off by a power cut
    try:
        return bool(document[_OURS]["shapes"] != _digest(map(_text, document["shapes"])))
    except (KeyError, TypeError):
        return True


def write(output_dir: Path, image: Outlined) -> list[Path]:
    path = file(output_dir, image.stem)
    with complete_file(path) as temporary, open(temporary, "w+b") as out:
        # A shape a line, one after the other: those of thousands of noisy masks would take gigabytes at once.
        out.write(_HEAD)
        for number, shape in enumerate(_shapes(image)):
            out.write((b",\n  " if number else b"  ") + _text(shape))
        out.seek(len(_HEAD))
        digest = _digest(map(_text_of_line, out))
        rest = {
            "imagePath": relative_to(image.picture, path.parent),
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
            _OURS: {"version": __version__, "shapes": digest},
        }
        out.write(b"\n" + _END_OF_SHAPES + json.dumps(rest, indent=1).encode().removeprefix(b"{\n"))
    return [path]


def _shapes(image: Outlined) -> Iterator[dict[str, Any]]:
    for mask_id, x, y, window in image.windows():
        for region in regions_of(window, x, y):
            yield {
                "label": "object",
                "points": joined(region).astype(float).tolist(),
                "group_id": mask_id,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }


def _is_as_written(path: Path) -> bool:
    """Whether shapes and layout are those that densecli wrote; told in the memory of a line. Raises OSError."""
    with open(path, "rb") as file:
        if file.read(len(_HEAD)) != _HEAD:
            return False
        digest = _digest(map(_text_of_line, takewhile(lambda line: line != _END_OF_SHAPES, file)))
        try:
            return bool(json.loads(b"{" + file.read())[_OURS]["shapes"] == digest)
        except (ValueError, KeyError, TypeError):
            return False


def _is_laid_out_as_ours(path: Path) -> bool:
    """Whether it begins as what densecli writes, as far as it goes; labelme itself indents by two."""
    try:
        with open(path, "rb") as file:
            first = file.read(len(_HEAD)).strip(b"\0")
    except OSError:
        return False
    return _HEAD.startswith(first)


def _text(shape: dict[str, Any]) -> bytes:
    return json.dumps(shape, sort_keys=True).encode()


def _text_of_line(line: bytes) -> bytes:
    return line.strip().removesuffix(b",")


def _digest(texts: Iterable[bytes]) -> str:
    """SHA-256 of the texts of all shapes, as a JSON list of them."""
    digest, before = hashlib.sha256(b"["), b""
    for text in texts:
        digest.update(before + text)
        before = b", "
    digest.update(b"]")
    return digest.hexdigest()


def begin(place: Place) -> Path:
    path = place.folder / LABELME
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path
