"""The small picture of an image and a script with its masks, by which the page knows what the pointer is over.

A page opened from disk may neither fetch files nor read pixels of pictures, but it may load scripts.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from densecli.errors import InputError
from densecli.files import complete_file
from densecli.masks import encode_rle, rgb_of
from densecli.output_names import ENDINGS, REPORT_PICTURES
from densecli.report.entries import Entry
from densecli.report.shrinking import shrink
from densecli.sources import local_path, read_image
from densecli.sources.decoding import MAX_PIXELS
from densecli.sources.own_outputs import REPORT_MARK

# Changes whenever the pictures or scripts do, so that those of an older densecli are made again.
_VERSION = 1
_BOX = (400, 300)
_ALPHA = 0.7
_GROUND = (226, 228, 232)


@dataclass(frozen=True)
class PictureMaker:
    """Makes `report/KEY.jpg` and `report/KEY.js` of an entry where they are missing or out of date. Thread-safe."""

    output_dir: Path

    def __call__(self, entry: Entry) -> str | None:
        """The key, such as `0f/5c7e…`; None where there is nothing to show. Raises OutputError."""
        if entry.status != "done":
            return None
        summary_path = self._output(entry, ENDINGS["json"])
        overlay_path = self._output(entry, ENDINGS["overlay"])
        main = summary_path or overlay_path
        if main is None:
            return None
        key = key_of(main)
        picture, script = files_of(self.output_dir, key)
        stamp = self._stamp(summary_path, overlay_path)
        if picture.exists() and _first_line(script) == stamp:
            return key
        try:
            summary = None if summary_path is None else self._summary(summary_path)
            pixels, details = self._details(entry, summary, overlay_path)
            details |= {"overlay": _href(overlay_path), "summary": _href(summary_path)}
            text = json.dumps(details, separators=(",", ":"), allow_nan=False)
        except Exception:  # deleted or damaged since, in one of a dozen ways; the page says that there is none
            return None
        with complete_file(picture) as temporary:
            Image.fromarray(pixels).save(temporary, format="JPEG", quality=76, subsampling=0)
        with complete_file(script) as temporary:  # last: its first line says that both are complete
            temporary.write_text(f"{stamp}\ndensecliPicture({json.dumps(key)},{text})\n", encoding="utf-8")
        return key

    def _output(self, entry: Entry, suffix: str) -> Path | None:
        """The entry's output of a kind, relative to the output folder; None where there is none, or none inside it."""
        for output in entry.outputs:
            if not output.endswith(suffix):
                continue
            for place in (self.output_dir / output, Path(output)):
                if place.is_file():
                    # Not resolved: an output folder may be a link, but its files must be told by their place in it.
                    relative = os.path.relpath(place, self.output_dir)
                    if not relative.startswith(os.pardir):
                        return Path(relative)
        return None

    def _stamp(self, *paths: Path | None) -> str:
        parts = []
        for path in paths:
            if path is None:
                parts.append("none")
                continue
            try:
                status = (self.output_dir / path).stat()
                parts.append(f"{status.st_size}-{status.st_mtime_ns}")
            except OSError:
                parts.append("gone")
        return f"{REPORT_MARK}{_VERSION}: {' '.join(parts)} */"

    def _summary(self, path: Path) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.output_dir / path).read_bytes())
        return summary

    def _details(
        self, entry: Entry, summary: Mapping[str, Any] | None, overlay: Path | None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """h×w×3 uint8 of the small picture, and what the page shows about the image."""
        if summary is None:
            pixels = _small_overlay(self.output_dir / (overlay or ""), None)
            return pixels, {"size": [pixels.shape[1], pixels.shape[0]], "image": None, "masks": None}
        width, height = summary["image"]["width"], summary["image"]["height"]
        size = _fitting(width, height)
        masks = sorted(summary["masks"], key=lambda mask: (-mask["area"], mask["id"]))
        windows = [shrink(mask["segmentation"], mask["bbox"], size) for mask in masks]
        if overlay is not None:
            pixels = _small_overlay(self.output_dir / overlay, size)
        else:
            pixels = _painted(_small_source(entry, summary, size), masks, windows)
        details = {
            "size": size,
            "image": [width, height],
            "seconds": {stage: round(seconds, 3) for stage, seconds in summary["seconds"].items()},
            "funnel": summary["funnel"],
            "model": summary["model"]["name"],
            "preset": summary["preset"]["name"],
            "warnings": summary["warnings"],
            # Largest first, so that the last one that holds a pixel is the one to be seen there.
            "masks": [
                [
                    mask["id"],
                    mask["area"],
                    # As the page shows them: a number that was rounded twice is another one now and then.
                    round(mask["predicted_iou"], 3),
                    round(mask["stability_score"], 3),
                    mask["parent"],
                    mask["color"],
                    encode_rle(window, x, y, (size[1], size[0]))["counts"],
                ]
                for mask, (x, y, window) in zip(masks, windows, strict=True)
            ],
        }
        return pixels, details


def key_of(output: Path) -> str:
    """Of an entry, by the summary (else overlay) that no other one shares; relative to the output folder."""
    # As a digest, because names may hold whatever they like.
    digest = hashlib.sha256(os.fsencode(output.as_posix())).hexdigest()
    return f"{digest[:2]}/{digest[2:16]}"


def files_of(output_dir: Path, key: str) -> tuple[Path, Path]:
    """Picture and script of a key."""
    return output_dir / REPORT_PICTURES / f"{key}.jpg", output_dir / REPORT_PICTURES / f"{key}.js"


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(200).rstrip("\n")
    except OSError:
        return ""


def _href(path: Path | None) -> str | None:
    """A link from the page to a file in its folder, byte for byte."""
    return None if path is None else "./" + urllib.parse.quote(os.fsencode(path.as_posix()))


def _fitting(width: int, height: int) -> tuple[int, int]:
    """Width and height that fit the box, never enlarged."""
    scale = min(1.0, _BOX[0] / width, _BOX[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _small_overlay(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    # Not by Image.open, which warns of and refuses pictures that are large: this one is densecli's own, or seems so.
    with PngImagePlugin.PngImageFile(str(path)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError("larger than any that densecli reads")
        small = image.convert("RGB").resize(size or _fitting(*image.size), Image.Resampling.BOX, reducing_gap=2.0)
        return np.asarray(small)


def _small_source(entry: Entry, summary: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The input itself where it is still there and the same, else an even ground."""
    try:
        # Not over the network: this is only a backdrop.
        local = None if entry.source is None else local_path(entry.source)
        if local is not None and os.path.isfile(local):
            loaded = read_image(local)
            if loaded.sha256 == summary["image"]["sha256"]:
                image = Image.fromarray(loaded.pixels)
                return np.asarray(image.resize(size, Image.Resampling.BOX, reducing_gap=2.0))
    except (InputError, OSError, ValueError):
        pass
    return np.full((size[1], size[0], 3), _GROUND, dtype=np.uint8)


def _painted(
    pixels: np.ndarray, masks: Sequence[Mapping[str, Any]], windows: Sequence[tuple[int, int, np.ndarray]]
) -> np.ndarray:
    """`pixels` under the colours of the masks, later ones on top."""
    colors = np.full(pixels.shape, -1, dtype=np.int16)
    for mask, (x, y, window) in zip(masks, windows, strict=True):
        h, w = window.shape
        colors[y : y + h, x : x + w][window] = rgb_of(mask["color"])
    return np.where(colors >= 0, np.rint(pixels * (1 - _ALPHA) + colors * _ALPHA), pixels).astype(np.uint8)
