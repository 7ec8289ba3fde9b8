"""Data sets over a whole run: what is done is noted on disk as it comes, and put together from the summaries."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from densecli.errors import InputError
from densecli.files import complete_file, explained
from densecli.masks import SUMMARY_SCHEMA, Runs, Segmentation, counts_of
from densecli.output_names import DATASET_PICTURES, FRAME_NAME, beside
from densecli.places import Place
from densecli.sinks import DATASET_KINDS
from densecli.sinks.dataset_pictures import opens_everywhere
from densecli.sinks.images import save_png
from densecli.sinks.ownership import refuse_foreign_datasets, refuse_linked_folders
from densecli.sources.decoding import MAX_PIXELS
from densecli.sources.names import natural_key
from densecli.sources.own_outputs import HEAD_BYTES, PNG_MARK
from densecli.sources.reading import read_image
from densecli.sources.sorting import sorted_names
from densecli.sources.urls import local_path
from densecli.wording import without_password

_LONGEST_SIDE = 1 << 20
"""Of the image of a summary: one run for each column of a wider one would take gigabytes, and it is made up."""


@dataclass(frozen=True)
class Outlined:
    """The masks of one image, as the formats with polygons need them."""

    stem: str
    """Of the outputs, posix."""
    picture: str
    """Path of the image, or a URL."""
    width: int
    height: int
    masks: Sequence[tuple[int, Mapping[str, Any]]]
    """Id and COCO compressed RLE of each mask."""

    def windows(self) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Id, x, y and h×w bool (the mask inside its box) of each mask; made as they are asked for."""
        for mask_id, rle in self.masks:
            x, y, runs = Runs.from_rle(rle).trimmed()
            yield mask_id, x, y, runs.decode()


class OutlineFormat(Protocol):
    """A format with one file for each image."""

    BY_HAND: bool
    """Whether people correct its files, and it can tell."""

    def file(self, output_dir: Path, stem: str) -> Path:
        """Where the file of an image goes."""

    def files(self, output_dir: Path, stem: str, picture: str) -> list[Path]:
        """All that `write` makes."""

    def keeps(self, path: Path) -> bool:
        """Whether what lies at an image's file is somebody's work by hand, which stays."""

    def write(self, output_dir: Path, image: Outlined) -> list[Path]:
        """Write it, complete or not at all; all that was written. Raises OutputError."""

    def begin(self, place: Place) -> Path:
        """Put in place what belongs to all images, where it is not there. What to open. Raises OutputError."""


class Datasets:
    """All data sets of one run. Usable from several threads until `finish`.

    kinds: of DATASET_KINDS; others are passed over. Each image's summary must be in the place when it is added.
    Raises OutputError where they would take the place of what densecli did not write.
    """

    def __init__(self, kinds: Sequence[str], place: Place) -> None:
        refuse_foreign_datasets(kinds, place)
        self._place, self._output_dir = place, place.folder
        self.kinds = tuple(kind for kind in DATASET_KINDS if kind in kinds)
        self._formats: list[OutlineFormat] = [
            import_module(f"densecli.sinks.{kind}") for kind in self.kinds if kind != "coco"
        ]
        self._lock = threading.Lock()
        self._begun: list[Path] | None = None
        self._noted = tempfile.TemporaryFile("w+b", prefix="densecli-")  # noqa: SIM115 - until finish
        self.kept: list[Path] = []
        """Files of images, at most a hundred, that stay as they are, as somebody worked on them."""
        self.missing: list[str] = []
        """Images, at most a hundred, whose summary or picture was not there when the data sets were put together."""

    def can_rebuild(self, item_stem: str, image_name: str) -> bool:
        """Whether an image of an earlier run can be in the data sets without being segmented again."""
        if not self.kinds:
            return True
        # The picture of a frame was kept only if a data set was asked for then.
        return self._place.found(summary_path(self._output_dir, item_stem)) is not None and (
            not self._needs_copy(item_stem, image_name)
            or self._place.found(_copy(self._output_dir, item_stem)) is not None
        )

    def add(self, item_stem: str, image_name: str, segmentation: Segmentation | None = None) -> None:
        """An image is done: just now (then with its segmentation), or in an earlier run. In any order.

        item_stem, image_name: as the collection named them. Raises OutputError.
        """
        if not self.kinds:
            return
        self._begin()
        image_name = without_password(image_name)
        image: Outlined | None = None
        made: list[Path] = []
        brought: list[Path] = []
        if segmentation is not None:
            if self._needs_copy(item_stem, image_name):
                made.append(self._save_copy(item_stem, segmentation.pixels))
            image = _outlined(self._readable(item_stem, image_name, segmentation.pixels), item_stem, segmentation)
        for written in self._formats:
            file = written.file(self._output_dir, item_stem)
            if (image is None and not self._is_older(file, item_stem)) or self._keeps(written, file):
                continue
            needed = (summary_path(self._output_dir, item_stem), _copy(self._output_dir, item_stem))
            brought += [path for path in needed if image is None and self._place.bring(path)]
            fresh = image or self._read_outlined(item_stem, image_name)
            if fresh is None:
                self._miss(image_name)
            else:
                for path in written.files(self._output_dir, fresh.stem, fresh.picture):
                    refuse_linked_folders(path, self._place)
                made += written.write(self._output_dir, fresh)
        self._place.send(made, keep=True)  # one may be a link to another
        for path in (*made, *brought):
            self._place.let_go(path)
        line = json.dumps([item_stem, image_name]).encode() + b"\n"
        with self._lock, explained(Path(tempfile.gettempdir()), "another folder for temporary files by TMPDIR"):
            self._noted.seek(0, os.SEEK_END)
            self._noted.write(line)

    def remove(self, item_stem: str, image_name: str) -> None:
        """An image is known by another name since, or is a frame of a video that was replaced.

        What is called by the old one goes, unless somebody worked on it.
        """
        kept = False
        for written in self._formats:
            if self._keeps(written, written.file(self._output_dir, item_stem)):
                kept = True
            else:
                own, copy = self._picture(item_stem, image_name), str(_copy(self._output_dir, item_stem))
                files = set(written.files(self._output_dir, item_stem, own))
                copies = set(written.files(self._output_dir, item_stem, copy)) - files
                self._unlink([*files, *(path for path in copies if _is_picture(path, copy))])
        picture = _copy(self._output_dir, item_stem)
        if not kept and PNG_MARK in self._place.head(picture, HEAD_BYTES):
            self._unlink([picture])

    def finish(self) -> list[Path]:
        """Put the data sets together. Returns what to open of each. Raises OutputError."""
        written = []
        self._place.refresh()
        if "coco" in self.kinds:
            from densecli.sinks import coco

            self._place.bring_all(summary_path(self._output_dir, stem) for stem, _ in self._images())
            written.append(coco.write(self._output_dir, self._pictures, self._miss))
        written += self._begin()
        self._noted.close()
        self._place.send([path for path in written if path.is_file()], keep=True)
        return written

    def _readable(self, stem: str, image_name: str, pixels: np.ndarray | None) -> str:
        """The picture that outlines lie over: the input's, or a copy where readers would not open that one.

        pixels: None where the input has to be read for it.
        """
        own = self._picture(stem, image_name)
        if not self._formats or self._needs_copy(stem, image_name):
            return own
        standing, other = own, str(_copy(self._output_dir, stem))
        if not opens_everywhere(own):
            with contextlib.suppress(InputError):  # gone or damaged since: it stands where it was
                self._save_copy(stem, read_image(Path(own)).pixels if pixels is None else pixels)
                standing, other = other, own
        for written in self._formats:  # a picture of two names would be there twice
            paths = (set(written.files(self._output_dir, stem, one)) for one in (other, standing))
            self._unlink(path for path in next(paths) - next(paths) if _is_picture(path, other))
        return standing

    def _save_copy(self, stem: str, pixels: np.ndarray) -> Path:
        path = _copy(self._output_dir, stem)
        refuse_linked_folders(path, self._place)
        with complete_file(path) as temporary:
            save_png(pixels, temporary)
        return path

    def _unlink(self, paths: Iterable[Path]) -> None:
        for path in paths:
            refuse_linked_folders(path, self._place)
            with explained(path):
                path.unlink(missing_ok=True)
            self._place.outdate(path)

    def _begin(self) -> list[Path]:
        """Before any image: what is left of a run that was killed must be known as densecli's."""
        with self._lock:
            if self._begun is None:
                self._begun = [begun.begin(self._place) for begun in self._formats]
            return self._begun

    def _keeps(self, written: OutlineFormat, file: Path) -> bool:
        if not written.BY_HAND or self._place.found(file) is None:
            return False
        brought = self._place.bring(file)
        try:
            kept = written.keeps(file)
        finally:
            if brought:
                self._place.let_go(file)
        if kept:
            with self._lock:
                if len(self.kept) < 100 and file not in self.kept:
                    self.kept.append(file)
        return kept

    def _is_older(self, file: Path, stem: str) -> bool:
        made, of = self._place.found(file), self._place.found(summary_path(self._output_dir, stem))
        # Not every store tells times.
        return made is None or of is None or (made[1] or 0) < (of[1] or 0)

    def _needs_copy(self, stem: str, image_name: str) -> bool:
        """Whether the picture has no file of its own that the data sets, where they are in the end, can point at."""
        is_frame = re.search(r"#\d+$", image_name) and FRAME_NAME.fullmatch(stem.rpartition("/")[2])
        return bool(is_frame) or local_path(image_name) is None or self._place.apart

    def _picture(self, stem: str, image_name: str) -> str:
        """Where the picture of an image lies: the input itself, or the copy that was made of it."""
        if self._needs_copy(stem, image_name):
            return str(_copy(self._output_dir, stem))
        return local_path(image_name) or image_name

    def _read_outlined(self, stem: str, image_name: str) -> Outlined | None:
        document = read_summary(self._output_dir, stem)
        if document is None:
            return None
        masks = [(mask["id"], mask["segmentation"]) for mask in document["masks"]]
        try:
            for _, rle in masks:
                counts_of(rle)
        except ValueError:
            return None
        image = document["image"]
        picture = self._readable(stem, image_name, None)
        return Outlined(stem, picture, image["width"], image["height"], masks)

    def _pictures(self) -> Iterator[tuple[str, str, str]]:
        """Stem, name and picture of each image, as `_images`."""
        for stem, name in self._images():
            yield stem, name, self._picture(stem, name)

    def _images(self) -> Iterator[tuple[str, str]]:
        """Stem and name of each image, once, in natural order, whatever the order in which they were done."""
        self._noted.seek(0)
        last = None
        for line in sorted_names((raw.decode().rstrip("\n") for raw in self._noted), _line_key):
            stem, name = json.loads(line)
            if stem == last:
                continue
            last = stem
            if self.can_rebuild(stem, name):
                yield stem, name
            else:
                self._miss(name)

    def _miss(self, name: str) -> None:
        with self._lock:
            if len(self.missing) < 100 and name not in self.missing:
                self.missing.append(name)


def relative_to(path: str, folder: Path) -> str:
    """`path` from `folder`, posix, so that both can move together; absolute where they are on different drives."""
    try:
        return Path(os.path.relpath(os.path.abspath(path), os.path.abspath(folder))).as_posix()
    except ValueError:
        return Path(os.path.abspath(path)).as_posix()


def summary_path(output_dir: Path, stem: str) -> Path:
    """Where the summary of an image of this output folder lies."""
    return beside(output_dir / stem, "json")


def read_summary(output_dir: Path, stem: str) -> dict[str, Any] | None:
    """The summary of an image of this output folder; None if it is not there or damaged."""
    try:
        document = json.loads(summary_path(output_dir, stem).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return document if _is_summary(document) else None


def _is_summary(document: Any) -> bool:
    """Whether all is there that data sets take of a summary; counts of masks are only read where they are decoded."""
    try:
        image = document["image"]
        size = [image["height"], image["width"]]
        return (
            document["schema"] == SUMMARY_SCHEMA
            and all(isinstance(side, int) and 0 < side <= _LONGEST_SIDE for side in size)
            and size[0] * size[1] <= MAX_PIXELS
            and isinstance(image["sha256"], str)
            and all(
                mask["segmentation"]["size"] == size
                and isinstance(mask["segmentation"]["counts"], str)
                and len(mask["bbox"]) == 4
                and {"id", "area", "predicted_iou", "stability_score"} <= mask.keys()
                for mask in document["masks"]
            )
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_picture(path: Path, picture: str) -> bool:
    """Whether a file stands for this picture: as a link to it, or a copy where there can be no links."""
    if path.is_symlink():
        return os.path.realpath(path) == os.path.realpath(picture)
    try:
        return filecmp.cmp(path, picture, shallow=False)
    except OSError:
        return False


def _line_key(line: str) -> tuple[object, ...]:
    return (*natural_key(json.loads(line)[0]), line)


def _copy(output_dir: Path, stem: str) -> Path:
    return output_dir / DATASET_PICTURES / f"{stem}.png"


def _outlined(picture: str, stem: str, segmentation: Segmentation) -> Outlined:
    height, width = segmentation.pixels.shape[:2]
    masks = [(mask.id, mask.segmentation) for mask in segmentation.masks]
    return Outlined(stem, picture, width, height, masks)
