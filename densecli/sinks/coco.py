"""`annotations_coco.json`: all masks of a run in COCO's format, one category `object`, run-length encoded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from densecli import __version__
from densecli.files import complete_file
from densecli.output_names import COCO
from densecli.sinks.datasets import read_summary, relative_to, summary_path

_CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}
_HEAD_BYTES = 4096


def write(
    output_dir: Path, images: Callable[[], Iterator[tuple[str, str, str]]], damaged: Callable[[str], None]
) -> Path:
    """Write the file from the summaries in the output folder, one at a time; nothing, where it is up to date.

    images: gives stem, name and picture (its path) of each, in the order of the image ids; called twice.
    damaged: is told the name of one whose summary cannot be read. Raises OutputError.
    """
    path = output_dir / COCO
    fingerprint, newest, folder = _survey(output_dir, images())
    if _is_up_to_date(path, fingerprint, newest):
        return path
    with (
        complete_file(path) as temporary,
        tempfile.TemporaryFile("w+b", dir=path.parent) as annotations,
        open(temporary, "wb") as out,
    ):
        # What a reader gives as the image folder; some refuse images that lie outside of it.
        place = None if folder is None else relative_to(folder, output_dir)
        info = {"description": "densecli", "version": __version__, "images_directory": place, "inputs": fingerprint}
        out.write(f'{{"info": {json.dumps(info)},\n"licenses": [],\n'.encode())
        out.write(f'"categories": [{json.dumps(_CATEGORY)}],\n"images": ['.encode())
        image_id = annotation_id = 0
        for stem, name, picture in images():
            document = read_summary(output_dir, stem)
            if document is None:
                damaged(name)
                continue
            image_id += 1
            out.write(_line(_image(_file_name(picture, folder), name, image_id, document), first=image_id == 1))
            for mask in document["masks"]:
                annotation_id += 1
                annotations.write(_line(_annotation(mask, annotation_id, image_id), first=annotation_id == 1))
        out.write(b'\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, out)
        out.write(b"\n]}\n")
    return path


def _line(entry: dict[str, Any], *, first: bool) -> bytes:
    return (b"\n" if first else b",\n") + json.dumps(entry).encode()


def _file_name(picture: str, folder: str | None) -> str:
    picture = os.path.abspath(picture)
    return picture if folder is None else relative_to(picture, Path(folder))


def _image(file_name: str, name: str, image_id: int, document: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": file_name,
        "width": document["image"]["width"],
        "height": document["image"]["height"],
        "input": name,
        "sha256": document["image"]["sha256"],
    }


def _annotation(mask: dict[str, Any], annotation_id: int, image_id: int) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": _CATEGORY["id"],
        "segmentation": mask["segmentation"],
        "area": mask["area"],
        "bbox": mask["bbox"],
        "iscrowd": 0,
        "predicted_iou": mask["predicted_iou"],
        "stability_score": mask["stability_score"],
        "mask_id": mask["id"],
    }


def _survey(output_dir: Path, images: Iterator[tuple[str, str, str]]) -> tuple[str, int, str | None]:
    """A digest of which images there are, the time of the newest summary, and the folder in which all images lie."""
    digest, newest = hashlib.sha256(), 0
    folders: set[str] = set()
    for stem, name, picture in images:
        digest.update(json.dumps([stem, name]).encode())
        folders.add(os.path.dirname(os.path.abspath(picture)))
        if len(folders) > 1:
            folders = _common(folders)
        newest = max(newest, summary_path(output_dir, stem).stat().st_mtime_ns)
    return digest.hexdigest(), newest, folders.pop() if len(folders) == 1 else None


def _common(folders: set[str]) -> set[str]:
    try:
        return {os.path.commonpath(folders)}
    except ValueError:  # on different drives; two are enough to know
        return folders if len(folders) == 2 else set(list(folders)[:2])


def _is_up_to_date(path: Path, fingerprint: str, newest: int) -> bool:
    try:
        with open(path, "rb") as file:
            return path.stat().st_mtime_ns > newest and fingerprint.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False
