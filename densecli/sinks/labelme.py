"""`labelme/NAME.json`: polygons to correct by hand in labelme; the regions of one mask are one group."""

from __future__ import annotations

import hashlib
import json
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
_HEAD = f'{{\n "version": "{_VERSION}"'.encode()
_OURS = "densecli"
"""Key by which a file tells that densecli wrote it, and what; labelme keeps keys that it does not know."""


def file(output_dir: Path, stem: str) -> Path:
    return output_dir / LABELME / f"{stem}.json"


def files(output_dir: Path, stem: str, picture: str) -> list[Path]:
    return [file(output_dir, stem)]


def keeps(path: Path) -> bool:
    """Whether there are other shapes than densecli wrote: somebody corrected them, or drew their own."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return not _is_laid_out_as_ours(path)  # cut off by a power cut
    try:
        return bool(document[_OURS]["shapes"] != _digest(document["shapes"]))
    except (KeyError, TypeError):
        return True


def write(output_dir: Path, image: Outlined) -> list[Path]:
    path = file(output_dir, image.stem)
    shapes = [
        {
            "label": "object",
            "points": joined(region).astype(float).tolist(),
            "group_id": mask_id,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for mask_id, x, y, window in image.windows
        for region in regions_of(window, x, y)
    ]
    document: dict[str, object] = {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": relative_to(image.picture, path.parent),
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
        _OURS: {"version": __version__, "shapes": _digest(shapes)},
    }
    with complete_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="ascii")
    return [path]


def _is_laid_out_as_ours(path: Path) -> bool:
    """Whether it begins as what densecli writes, as far as it goes; labelme itself indents by two."""
    try:
        with open(path, "rb") as file:
            first = file.read(len(_HEAD)).strip(b"\0")
    except OSError:
        return False
    return _HEAD.startswith(first)


def _digest(shapes: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()


def begin(place: Place) -> Path:
    path = place.folder / LABELME
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path
