"""`yolo/`: labels for segmentation as Ultralytics reads them, links to the images beside them, and data.yaml."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path, PurePath

from densecli.files import TEMPORARY_PREFIX, complete_file, explained
from densecli.sinks.datasets import Outlined
from densecli.sinks.polygons import joined, regions_of

# Readers multiply by the width and either round or cut off: both must come back to the pixel that was meant.
_INSIDE_PIXEL = 0.2
_DATA = """\
# Images are links to the inputs; split them into train and val as you need.
train: images
val: images
nc: 1
names: [object]
"""


def file(output_dir: Path, stem: str) -> Path:
    return output_dir / "yolo" / "labels" / f"{stem}.txt"


def write(output_dir: Path, image: Outlined) -> list[Path]:
    lines = []
    for _, x, y, window in image.windows:
        regions = [joined(region) for region in regions_of(window, x, y)]  # each with its holes
        if regions:
            points = (joined(regions) + _INSIDE_PIXEL) / [image.width, image.height]
            lines.append("0 " + " ".join(f"{value:.7g}" for value in points.ravel().tolist()) + "\n")
    picture = output_dir / "yolo" / "images" / f"{image.stem}{PurePath(image.picture).suffix}"
    _link(image.picture, picture)
    labels = file(output_dir, image.stem)
    with complete_file(labels) as temporary:
        temporary.write_text("".join(lines), encoding="ascii")
    return [picture, labels]


def finish(output_dir: Path) -> Path:
    path = output_dir / "yolo" / "data.yaml"
    with complete_file(path) as temporary:
        temporary.write_text(_DATA, encoding="ascii")
    return path


def _link(picture: str, place: Path) -> None:
    """A link to the picture; a copy where there can be no links."""
    with explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        # From the folder's real path: the system resolves the link from there.
        os.symlink(os.path.relpath(os.path.abspath(picture), os.path.realpath(place.parent)), temporary)
    except (OSError, ValueError, NotImplementedError):  # Windows without the right to, FAT, another drive
        with complete_file(place) as copy:
            shutil.copyfile(picture, copy)
        return
    with explained(place):
        try:
            os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
