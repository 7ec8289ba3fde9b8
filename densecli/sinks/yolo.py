"""`yolo/`: labels for segmentation as Ultralytics reads them, links to the images beside them, and data.yaml."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path, PurePath

from densecli.files import complete_file, explained, temporary_beside
from densecli.output_names import YOLO
from densecli.places import Place
from densecli.sinks.datasets import Outlined
from densecli.sinks.polygons import joined, regions_of
from densecli.sources.own_outputs import YOLO_MARK

BY_HAND = False  # a file of numbers does not tell who wrote it
# Readers multiply by the width and either round or cut off: both must come back to the pixel that was meant.
_INSIDE_PIXEL = 0.2
_DATA = f"""\
{YOLO_MARK}; split them into train and val as you need.
train: images
val: images
nc: 1
names: [object]
"""


def file(output_dir: Path, stem: str) -> Path:
    return output_dir / YOLO / "labels" / f"{_readable(stem)}.txt"


def files(output_dir: Path, stem: str, picture: str) -> list[Path]:
    link = output_dir / YOLO / "images" / f"{_readable(stem)}{PurePath(picture).suffix}"
    return [link, file(output_dir, stem)]


def keeps(path: Path) -> bool:
    return BY_HAND


def write(output_dir: Path, image: Outlined) -> list[Path]:
    picture, labels = files(output_dir, image.stem, image.picture)
    _link(image.picture, picture)
    with complete_file(labels) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as out:
        for _, x, y, window in image.windows():
            regions = [joined(region) for region in regions_of(window, x, y)]  # each with its holes
            if regions:
                points = (joined(regions) + _INSIDE_PIXEL) / [image.width, image.height]
                out.write("0 " + " ".join(f"{value:.7g}" for value in points.ravel().tolist()) + "\n")
    return [picture, labels]


def begin(place: Place) -> Path:
    path = place.folder / YOLO / "data.yaml"
    if place.found(path) is None:  # else somebody may have split it into train and val
        with complete_file(path) as temporary:
            temporary.write_text(_DATA, encoding="ascii")
        place.send([path], keep=True)
    return path


def _readable(stem: str) -> str:
    """The stem without a folder `images`: readers find a picture's labels by the last of that name in its path."""
    return re.sub(r"(?:^|(?<=/))(images_*)(?=/)", r"\1_", stem)


def _link(picture: str, place: Path) -> None:
    """A link to the picture; a copy where there can be no links."""
    with explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and os.path.samefile(picture, place):
            return  # the input itself, or a link to it: another in its place could lead to itself
    temporary = temporary_beside(place)
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
