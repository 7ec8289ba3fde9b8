"""`labelme/NAME.json`: polygons to correct by hand in labelme; the regions of one mask are one group."""

from __future__ import annotations

import json
from pathlib import Path

from densecli.files import complete_file
from densecli.sinks.datasets import Outlined, relative_to
from densecli.sinks.polygons import joined, regions_of

_VERSION = "5.5.0"  # of labelme's format


def file(output_dir: Path, stem: str) -> Path:
    return output_dir / "labelme" / f"{stem}.json"


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
    }
    with complete_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="ascii")
    return [path]


def finish(output_dir: Path) -> Path:
    path = output_dir / "labelme"
    path.mkdir(parents=True, exist_ok=True)
    return path
