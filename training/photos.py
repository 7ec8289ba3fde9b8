"""COCO photos with panoptic segments: reading them, packing them into one file, and what scenes take from them."""

from __future__ import annotations

import json
import multiprocessing
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from skimage.measure import label

from training.regions import parts_of
from training.scenes.labels import combined
from training.scenes.textures import Bank

_PATCHES, _COLOURS = 14, 60
_MIN_PIECE = 150  # pixels; smaller pieces of stuff (sky between leaves) are no masks
_MIN_CUTOUT = 1500


@dataclass(frozen=True)
class Photo:
    """pixels: H×W×3 uint8 RGB. segments: H×W uint16, rows from 1, 0 is void. thing: N bool, crowd: N bool, of each row.

    category: N int, COCO's category of each row.
    """

    name: str
    pixels: np.ndarray
    segments: np.ndarray
    thing: np.ndarray
    crowd: np.ndarray
    category: np.ndarray


def photos_in(data: Path) -> Iterator[Photo]:
    """The photos of a packed file (`pack`), or of a folder with SPLIT/images, SPLIT/panoptic and SPLIT/panoptic.json.

    Segments are coded as COCO does: id = R + 256·G + 65536·B; ids that the JSON does not list are void.
    """
    if data.is_file():
        yield from _packed_photos(data)
        return
    splits = sorted(p.parent for p in data.glob("*/panoptic.json"))
    if not splits:
        raise SystemExit(
            f"{data}: holds no SPLIT/panoptic.json; give a folder of COCO panoptic photos, or a packed file"
        )
    for split in splits:
        listed = json.loads((split / "panoptic.json").read_text())
        things = {c["id"] for c in listed["categories"] if c["isthing"]}
        for annotation in sorted(listed["annotations"], key=lambda a: a["file_name"]):
            name = Path(annotation["file_name"]).stem
            pixels = cv2.imread(str(split / "images" / f"{name}.jpg"))
            coded = cv2.imread(str(split / "panoptic" / f"{name}.png"))
            if pixels is None or coded is None:
                raise SystemExit(f"{split}: the photo or the segments of {name} cannot be read")
            ids = coded.astype(np.int64) @ [65536, 256, 1]  # OpenCV reads blue first
            segments = np.zeros(ids.shape, np.uint16)
            infos = annotation["segments_info"]
            for row, info in enumerate(infos, 1):
                segments[ids == info["id"]] = row
            yield Photo(
                name,
                cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB),
                segments,
                np.array([info["category_id"] in things for info in infos], bool),
                np.array([bool(info.get("iscrowd")) for info in infos], bool),
                np.array([info["category_id"] for info in infos], np.int32),
            )


def pack(data: Path, out: Path, quality: int = 92) -> int:
    """One compressed file of all photos, to be carried to another machine. Returns how many."""
    arrays: dict[str, np.ndarray] = {}
    names = []
    for photo in photos_in(data):
        coded = cv2.imencode(".jpg", photo.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        arrays[f"{photo.name}/pixels"] = coded
        arrays[f"{photo.name}/segments"] = cv2.imencode(".png", photo.segments)[1]
        arrays[f"{photo.name}/rows"] = np.stack([photo.category, photo.thing, photo.crowd], 1)
        names.append(photo.name)
    arrays["names"] = np.array(names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # an array could be called allow_pickle
    return len(names)


def _packed_photos(path: Path) -> Iterator[Photo]:
    with np.load(path) as file:
        for name in file["names"].tolist():
            rows = file[f"{name}/rows"]
            pixels = cv2.imdecode(file[f"{name}/pixels"], cv2.IMREAD_COLOR)
            segments = cv2.imdecode(file[f"{name}/segments"], cv2.IMREAD_UNCHANGED)
            if pixels is None or segments is None:
                raise SystemExit(f"{path}: the photo or the segments of {name} cannot be read")
            yield Photo(
                name,
                cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB),
                segments.astype(np.uint16),
                rows[:, 1].astype(bool),
                rows[:, 2].astype(bool),
                rows[:, 0],
            )


def bank_of(data: Path, workers: int = 1) -> Bank:
    """Everything that scenes take from these photos."""
    photos = list(photos_in(data))
    if workers > 1:
        # Not forked: the parent's threads, which a fork does not take along, may hold locks.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            taken = list(pool.map(_taken, photos, chunksize=2))
    else:
        taken = [_taken(photo) for photo in photos]
    return Bank(
        colours=np.concatenate([t.colours for t in taken]),
        patches=[p for t in taken for p in t.patches],
        cutouts=[c for t in taken for c in t.cutouts],
        photos=[p for t in taken for p in t.photos],
    )


def levels_of(photo: Photo) -> np.ndarray:
    """4×H×W uint16 of labels.LEVELS: details and parts of a graph segmentation, pieces of segments, groups of alike.

    A thing is one object; stuff is cut into its connected pieces; a crowd is no object. The whole of a thing are all
    things of its category that touch each other: a row of parked cars, a stack of books.
    """
    rows = len(photo.thing)
    thing, crowd = (np.concatenate([[False], flags]) for flags in (photo.thing, photo.crowd))
    category = np.concatenate([[0], photo.category]).astype(np.int64)
    segments = photo.segments.astype(np.int64)
    pieces = label(np.where(thing[segments], 0, segments), background=0, connectivity=1)
    pieces[np.bincount(pieces.ravel())[pieces] < _MIN_PIECE] = 0
    objects = np.where(thing[segments] & ~crowd[segments], segments, np.where(pieces > 0, pieces + rows, 0))
    groups = label(np.where(thing[segments], category[segments], 0), background=0, connectivity=1)
    # Only groups of several are masks of their own: 0 where a group is one object.
    members = np.unique(np.stack([groups.ravel(), segments.ravel()], 1), axis=0)[:, 0]
    several = np.bincount(members, minlength=groups.max() + 1) > 1
    several[0] = False
    wholes = np.where(several[groups], groups, 0)
    # A thing in two pieces may touch two groups; then its whole would not hold it.
    for row in np.unique(segments[wholes > 0]):
        place = segments == row
        if len(np.unique(wholes[place])) > 1:
            wholes[np.isin(wholes, np.unique(wholes[place]))] = 0
    details, parts = parts_of(photo.pixels, objects)
    return np.stack([details, parts, objects, wholes]).astype(np.uint16)


def _taken(photo: Photo) -> Bank:
    cv2.setNumThreads(1)
    rng = np.random.default_rng(zlib.crc32(photo.name.encode()))
    height, width = photo.segments.shape
    cutouts = []
    for row in np.flatnonzero(photo.thing & ~photo.crowd) + 1:
        mask = (photo.segments == row).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        if mask.sum() > _MIN_CUTOUT and w < 0.9 * width:
            box = (slice(y, y + h), slice(x, x + w))
            cutouts.append(np.dstack([photo.pixels[box], mask[box] * 255]))
    patches: list[np.ndarray] = []
    for _ in range(4 * _PATCHES):
        side = int(rng.integers(40, 140))
        if side >= min(height, width) or len(patches) == _PATCHES:
            continue
        y, x = rng.integers(height - side), rng.integers(width - side)
        inside = photo.segments[y : y + side, x : x + side]
        if inside[0, 0] and (inside == inside[0, 0]).mean() > 0.97:
            patches.append(photo.pixels[y : y + side, x : x + side].copy())
    colours = photo.pixels.reshape(-1, 3)[rng.integers(height * width, size=_COLOURS)]
    return Bank(colours, patches, cutouts, [(photo.pixels, *combined(levels_of(photo)))])
