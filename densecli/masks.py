"""Masks of one image: run-length encoded, with their scores; labels, overlay and the summary made from them."""

from __future__ import annotations

import colorsys
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco

import densecli

SUMMARY_SCHEMA = "densecli/summary/1"
MOST_LABELS = 65_535
"""Masks that a picture of labels can tell apart: it has 16 bits."""
_STRIP_PIXELS = 1 << 20
_MOST_DIGITS = 11  # of five bits, so that a count fits 64


def summary_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the summary, as it ships with the package."""
    text = Path(__file__).with_name("schemas").joinpath("summary-1.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@dataclass(frozen=True)
class Runs:
    """A binary picture as vertical runs of pixels: run i is pixels top[i] to bottom[i] - 1 of column[i].

    All int64, ordered by column, then top. RLEs of any frame around the picture follow from it without
    touching a pixel.
    """

    size: tuple[int, int]
    """Height and width of the picture."""
    column: np.ndarray
    top: np.ndarray
    bottom: np.ndarray

    @staticmethod
    def empty() -> Runs:
        nothing = np.zeros(0, dtype=np.int64)
        return Runs((0, 0), nothing, nothing, nothing)

    @staticmethod
    def of(mask: np.ndarray) -> Runs:
        """Runs of an h×w bool array."""
        h, w = mask.shape
        # Column by column, one False before and after each.
        flat = np.zeros(w * (h + 1) + 1, dtype=bool)
        flat[1:].reshape(w, h + 1)[:, :h] = mask.T
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        starts, ends = edges[::2], edges[1::2]
        column = starts // (h + 1)
        begin = column * (h + 1)
        return Runs((h, w), column, starts - begin, ends - begin)

    @staticmethod
    def from_rle(rle: Mapping[str, Any]) -> Runs:
        """Runs of a COCO compressed RLE (counts str or bytes), at the cost of its outline. Raises as `counts_of`."""
        height, width = rle["size"]
        ends = counts_of(rle).cumsum()
        starts, stops = ends[:-1:2], ends[1::2]
        some = stops > starts
        starts, stops = starts[some], stops[some]
        # A run that goes on at the top of the next column is one of each.
        first = starts // max(1, height)
        pieces = (stops - 1) // max(1, height) - first + 1
        column = np.repeat(first, pieces) + np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)
        begin = column * height
        top = np.maximum(np.repeat(starts, pieces) - begin, 0)
        return Runs((height, width), column, top, np.minimum(np.repeat(stops, pieces) - begin, height))

    def trimmed(self) -> tuple[int, int, Runs]:
        """Its box's x and y, and the runs in the frame of the box."""
        if not len(self.column):
            return 0, 0, Runs.empty()
        x, y = int(self.column[0]), int(self.top.min())
        size = int(self.bottom.max()) - y, int(self.column[-1]) - x + 1
        return x, y, Runs(size, self.column - x, self.top - y, self.bottom - y)

    def decode(self) -> np.ndarray:
        """The picture, h×w bool."""
        return _picture(np.diff(self._edges(0, 0, self.size), prepend=0), self.size)

    @cached_property
    def area(self) -> int:
        return int(self.bottom.sum() - self.top.sum())

    def rle(self, x: int = 0, y: int = 0, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """COCO compressed RLE of an image of `size` (height, width) that holds the picture at x, y.

        `counts` is a str, as JSON needs it.
        """
        height, width = size or self.size
        counts = np.diff(self._edges(x, y, (height, width)), prepend=0)
        if len(counts) > 1 and counts[-1] == 0:
            counts = counts[:-1]
        rle = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        return {"size": [height, width], "counts": rle["counts"].decode("ascii")}

    def _edges(self, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
        """Where the pixels of an image of `size`, column by column, change, and their number: 2·n + 1, int64."""
        height, width = size
        base = (x + self.column) * height + y
        starts, ends = base + self.top, base + self.bottom
        # A run that reaches the bottom of the image goes on at the top of the next column: one run.
        apart = starts[1:] != ends[:-1]
        starts = starts[np.concatenate([[True], apart])[: len(starts)]]
        ends = ends[np.concatenate([apart, [True]])[: len(ends)]]
        edges = np.empty(2 * len(starts) + 1, dtype=np.int64)
        edges[:-1:2], edges[1::2], edges[-1] = starts, ends, height * width
        return edges


def encode_rle(mask: np.ndarray, x: int = 0, y: int = 0, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """COCO compressed RLE of an image of `size` (height, width) that holds `mask` (h×w bool) at x, y."""
    return Runs.of(mask).rle(x, y, size)


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """h×w bool of a COCO compressed RLE (counts str or bytes); also of one without any pixel. Raises as `counts_of`.

    pycocotools' own takes several times as long for a large picture, and warns under NumPy 2.
    """
    return _picture(counts_of(rle), rle["size"])


def counts_of(rle: Mapping[str, Any]) -> np.ndarray:
    """Lengths of the runs of a COCO compressed RLE (counts str or bytes), int64, of pixels that are out, in, out, ...

    The format is that of pycocotools' rleFrString: five bits a character, lowest first, with one that says that
    more follow; a count but the first three is the difference to the last but one. Raises ValueError where the
    counts are not those of a picture of that size.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    characters = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8)
    digits = characters - np.uint8(48)  # what is below wraps round to above 63
    if not len(digits) or digits.max() > 63 or digits[-1] > 31:
        raise ValueError("no counts of an RLE")
    last = np.flatnonzero(digits < 32)
    begins = np.concatenate([[0], last[:-1] + 1])
    more = last - begins
    if more.max() > _MOST_DIGITS - 1:
        raise ValueError("no counts of an RLE")
    values = (digits[begins] & 31).astype(np.int64)
    for place in range(1, int(more.max()) + 1):
        some = np.flatnonzero(more >= place)
        values[some] |= (digits[begins[some] + place] & 31).astype(np.int64) << 5 * place
    values -= np.where(digits[last] & 16, np.int64(32) << 5 * more, 0)  # the highest bit is the sign
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    pixels = height * width
    if values.min() < 0 or values.max() > pixels or values.sum() != pixels:
        raise ValueError("counts of a picture of another size")
    return values


def _picture(counts: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """h×w bool of runs of pixels that are out, in, out, ..., column by column."""
    height, width = size
    inside = np.zeros(len(counts), dtype=bool)
    inside[1::2] = True
    return np.repeat(inside, counts).reshape(width, height).T


def color_of(mask_id: int) -> str:
    """`#rrggbb` of a mask: hues a golden angle apart, so that neighbours in the list differ, in nine tones."""
    hue = (mask_id * 0.618033988749895) % 1.0
    value = (0.95, 0.75, 0.85)[mask_id % 3]
    r, g, b = colorsys.hsv_to_rgb(hue, (0.65, 0.85, 0.5)[mask_id // 3 % 3], value)
    return f"#{round(r * 255):02x}{round(g * 255):02x}{round(b * 255):02x}"


def rgb_of(color: str) -> tuple[int, ...]:
    """Red, green and blue, 0 to 255, of `#rrggbb`. Raises ValueError for what is none."""
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


@dataclass(frozen=True)
class Mask:
    """One mask, in pixels of the original image."""

    id: int
    area: int
    bbox: tuple[int, int, int, int]
    """x, y, width, height; as pycocotools.mask.toBbox gives it."""
    predicted_iou: float
    stability_score: float
    point_coords: tuple[tuple[float, float], ...]
    """x, y of the positive points of its prompt; none where that was a box."""
    crop_box: tuple[int, int, int, int]
    """x, y, width, height of the crop in which the mask was found."""
    segmentation: Mapping[str, Any] = field(repr=False)
    """COCO compressed RLE: size [height, width], counts str."""
    window_counts: bytes = field(repr=False)
    """COCO compressed RLE counts of the box alone, so that a small mask of a big image decodes at once."""
    parent: int | None = None
    prompt_box: tuple[float, float, float, float] | None = None
    """x, y, width, height of the box prompt, where there was one."""

    def __hash__(self) -> int:
        return hash((self.id, self.area, self.segmentation["counts"]))

    @property
    def color(self) -> str:
        return color_of(self.id)

    def decode(self) -> np.ndarray:
        """H×W bool, the mask at the size of the image."""
        height, width = self.segmentation["size"]
        x, y, window = self.decode_window()
        full = np.zeros((height, width), dtype=bool)
        full[y : y + window.shape[0], x : x + window.shape[1]] = window
        return full

    def decode_window(self) -> tuple[int, int, np.ndarray]:
        """x, y and h×w bool: the mask inside its box. Cost is that of the box."""
        x, y, w, h = self.bbox
        return x, y, decode_rle({"size": [h, w], "counts": self.window_counts})

    def summary(self) -> dict[str, Any]:
        """This mask's entry in the summary."""
        return {
            "id": self.id,
            "area": self.area,
            "bbox": list(self.bbox),
            "predicted_iou": self.predicted_iou,
            "stability_score": self.stability_score,
            "point_coords": [list(p) for p in self.point_coords],
            **({} if self.prompt_box is None else {"prompt_box": list(self.prompt_box)}),
            "crop_box": list(self.crop_box),
            "parent": self.parent,
            "color": self.color,
            "segmentation": {"size": list(self.segmentation["size"]), "counts": self.segmentation["counts"]},
        }


@dataclass(eq=False, repr=False)
class Segmentation:
    """Everything that one run over one image gave.

    pixels: H×W×3 uint8 RGB, the image as it was segmented. masks: by falling area, ids from 1.
    funnel, seconds, image, model, preset: as in the summary.
    """

    pixels: np.ndarray
    masks: Sequence[Mask]
    image: dict[str, Any]
    model: dict[str, Any]
    preset: dict[str, Any]
    funnel: dict[str, int]
    points: int
    """Point prompts over all crops."""
    seconds: dict[str, float]
    peak_memory_mb: int
    warnings: list[str] = field(default_factory=list)
    """Things that went differently from what was asked; also in the summary."""
    notices: list[str] = field(default_factory=list)
    """Things worth knowing; not in the summary."""
    advice: str | None = None
    """What to change, where the masks look like a user's trouble."""
    fill: dict[str, Any] | None = None
    """What `fill` did, where it was on: rounds, points, masks_added, coverage_before and coverage_after (0 to 1)."""
    # By way of the package, which imports it (and torch) when somebody resolves the type.
    proposals: densecli.ImageCandidates | None = None
    """What the model proposed, where that was kept (keep_candidates), for Segmenter.refilter."""

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"<{type(self).__name__} of {self.image['path']!r}, {width}×{height}: {len(self.masks):,} "
            f"mask{'' if len(self.masks) == 1 else 's'}, preset {self.preset['name']}, model {self.model['name']}>"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "masks":  # what was made of others
            self.__dict__.pop("_labels", None)
            self.__dict__.pop("coverage", None)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image["height"], self.image["width"]

    def labels(self, which: Literal["all", "wholes", "leaves"] = "all") -> np.ndarray:
        """H×W uint16: 0 = no mask, otherwise a mask's id; smaller masks on top. The array is shared: do not write.

        which: all masks, wholes (those without a parent), or leaves (those that are nobody's parent). Masks beyond
        65,535, the smallest, are not in it; then there is a warning more.
        """
        if which not in ("all", "wholes", "leaves"):
            raise ValueError(f"labels of {which!r}: choose from all, wholes, leaves")
        if which == "all":
            masks = list(self.masks)
        else:
            parents = {mask.parent for mask in self.masks}
            chosen = {"wholes": lambda m: m.parent is None, "leaves": lambda m: m.id not in parents}[which]
            masks = [mask for mask in self.masks if chosen(mask)]
        told = [mask for mask in masks if mask.id <= MOST_LABELS]
        if len(told) < len(masks):
            self._warn_of_labels()
        elif which == "all":
            return self._labels
        return self._painted(told)

    def _warn_of_labels(self) -> None:
        warning = (
            f"labels have 16 bits: of {len(self.masks):,} masks the {len(self.masks) - MOST_LABELS:,} smallest are not "
            "in them; they are in the summary"
        )
        if warning not in self.warnings:
            self.warnings.append(warning)

    @cached_property
    def _labels(self) -> np.ndarray:
        """H×W uint16 or, where there are too many masks for that, uint32: as `labels`, of all masks whatever they are.

        The array is shared: do not write.
        """
        return self._painted(self.masks)

    def _painted(self, masks: Sequence[Mask]) -> np.ndarray:
        most = max((mask.id for mask in masks), default=0)
        canvas = np.zeros(self.size, dtype=np.uint16 if most <= MOST_LABELS else np.uint32)
        for mask in sorted(masks, key=lambda m: (-m.area, m.id)):
            x, y, window = mask.decode_window()
            canvas[y : y + window.shape[0], x : x + window.shape[1]][window] = mask.id
        canvas.flags.writeable = False
        return canvas

    @cached_property
    def coverage(self) -> float:
        """Fraction of the image's pixels that lie in a mask."""
        return float(np.count_nonzero(self._labels) / self._labels.size)

    def annotations(
        self, output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask"
    ) -> list[dict[str, Any]]:
        """The masks as `SAM2AutomaticMaskGenerator.generate` returns them, for programs that were written for it.

        A dict a mask, by falling area: segmentation, area (pixels), bbox (x, y, width, height), predicted_iou,
        point_coords ([[x, y]]), stability_score, crop_box (x, y, width, height). segmentation by output_mode: an H×W
        bool array, a dict of `size` [height, width] and `counts` (lengths of runs), or the same with COCO's compressed
        counts (str). bbox holds all pixels of its mask; Meta's is a pixel narrower and lower. Raises ValueError for
        another mode. The arrays take H·W bytes a mask.
        """
        segmentations: dict[str, Callable[[Mask], Any]] = {
            "binary_mask": Mask.decode,
            "uncompressed_rle": lambda m: {**m.segmentation, "counts": counts_of(m.segmentation).tolist()},
            "coco_rle": lambda m: dict(m.segmentation),
        }
        if output_mode not in segmentations:
            raise ValueError(f"output_mode {output_mode!r}: choose from {', '.join(segmentations)}")
        return [
            {
                "segmentation": segmentations[output_mode](mask),
                "area": mask.area,
                "bbox": list(mask.bbox),
                "predicted_iou": mask.predicted_iou,
                "point_coords": [list(point) for point in mask.point_coords],
                "stability_score": mask.stability_score,
                "crop_box": list(mask.crop_box),
            }
            for mask in self.masks
        ]

    def overlay(self, alpha: float = 0.7) -> np.ndarray:
        """H×W×3 uint8 RGB: the image with each pixel's topmost mask over it at opacity `alpha` (0 to 1).

        Raises ValueError for another number.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha {alpha}: no opacity; give a number from 0 to 1")
        colors = np.zeros((1 + max((m.id for m in self.masks), default=0), 3), dtype=np.float32)
        for mask in self.masks:
            colors[mask.id] = rgb_of(mask.color)
        # Per label: how much of the pixel stays, and what is added. Strip by strip, to keep temporaries small.
        keep = np.full(len(colors), 1 - alpha, dtype=np.float32)
        keep[0] = 1
        added = colors * np.float32(alpha)
        out = np.empty_like(self.pixels)
        rows = max(1, _STRIP_PIXELS // out.shape[1])
        for top in range(0, out.shape[0], rows):
            labels = self._labels[top : top + rows]
            blended = self.pixels[top : top + rows] * keep[labels][..., None]
            blended += added[labels]
            out[top : top + rows] = np.rint(blended, out=blended)
        return out

    def written_in(self, seconds: float) -> None:
        """Note how long writing the outputs took."""
        self.seconds["write"] = round(seconds, 4)
        self.seconds["total"] = round(sum(s for stage, s in self.seconds.items() if stage != "total"), 4)

    def funnel_line(self) -> str:
        """The funnel in one line, e.g. `4,096 points → 12,288 candidates → 5,210 → … → 42 masks, 93 % of the …`."""
        stages = ["after_pred_iou", "after_stability", "after_nms", "masks"]
        numbers = [self.funnel[stage] for stage in stages]
        middle = " → ".join(f"{n:,}" for n in numbers[:-1])
        masks = f"{numbers[-1]:,} mask{'' if numbers[-1] == 1 else 's'}"
        line = (
            f"{self.points:,} points → {self.funnel['candidates']:,} candidates → {middle} → {masks}, "
            f"{100 * self.coverage:.0f} % of the image covered"
        )
        return line if self.fill is None else f"{line}; {self._fill_line(self.fill)}"

    @staticmethod
    def _fill_line(fill: Mapping[str, Any]) -> str:
        before, after, n = 100 * fill["coverage_before"], 100 * fill["coverage_after"], fill["masks_added"]
        # So many digits as a change that is there can be seen with.
        digits = next((d for d in (0, 1, 2) if n == 0 or f"{before:.{d}f}" != f"{after:.{d}f}"), 2)
        masks = f"{n:,} mask{'' if n == 1 else 's'} more"
        return f"fill: coverage {before:.{digits}f} % → {after:.{digits}f} %, {masks}"

    def summary(self) -> dict[str, Any]:
        """The summary (CONTRACT: densecli/summary/1) as plain Python values, ready for JSON."""
        return {
            "schema": SUMMARY_SCHEMA,
            "densecli": densecli.__version__,
            "image": dict(self.image),
            "model": dict(self.model),
            "preset": copy.deepcopy(self.preset),
            "funnel": dict(self.funnel),
            "coverage": self.coverage,
            **({} if self.fill is None else {"fill": dict(self.fill)}),
            "seconds": dict(self.seconds),
            "peak_memory_mb": self.peak_memory_mb,
            "masks": [m.summary() for m in self.masks],
            "warnings": list(self.warnings),
        }
