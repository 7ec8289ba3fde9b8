"""One picture that shows several results over the same photo side by side, each with its numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from densecli.fonts import Font, drawable, own_font
from densecli.masks import Mask, Segmentation, color_of, rgb_of

# Pixels. The sheet is about _WIDTH wide; panels of tall photos get smaller rather than the sheet endless.
_WIDTH, _MOST_PANEL, _LEAST_PANEL, _MOST_HEIGHT = 2400, 1200, 520, 1100
_MARGIN, _GAP, _PADDING = 48, 36, 22
_PAGE, _CARD, _LINE = (243, 244, 246), (255, 255, 255), (221, 224, 229)
_DARK, _MIDDLE, _FAINT = (23, 27, 34), (71, 79, 92), (120, 128, 140)
_TITLE, _TEXT, _SMALL = 40, 30, 24
# Width to height that a sheet should come near: that of a screen.
_SHAPE = 1.6
_MOST_COLUMNS = 4
# Pillow's own font has no arrow, nor a multiplication sign.
_ARROW = "  >  "


@dataclass(frozen=True)
class Panel:
    """One picture of the sheet: H×W×3 uint8 RGB at panel size, a title, what is beside it, and lines below."""

    picture: np.ndarray
    title: str
    beside: str
    below: str


def contact_sheet(results: Sequence[tuple[str, Segmentation]], alpha: float = 0.6) -> np.ndarray:
    """H×W×3 uint8 RGB: a panel for each (title, result over the same photo), and the photo where there is room left.

    alpha: opacity of the masks, 0 to 1. Raises InputError where a result's photo cannot be read any more.
    """
    pixels = results[0][1].pixels
    height, width = pixels.shape[:2]
    columns, with_photo = _layout(len(results), width / height)
    panel_width = min(_MOST_PANEL, max(_LEAST_PANEL, (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns))
    scale = min(panel_width / width, _MOST_HEIGHT / height)
    shown = max(1, round(width * scale)), max(1, round(height * scale))
    panel_width = max(_LEAST_PANEL, shown[0])
    photo = np.asarray(Image.fromarray(pixels).resize(shown, Image.Resampling.LANCZOS, reducing_gap=2.0))
    panels = []
    if with_photo:
        panels.append(
            Panel(
                photo,
                "photo",
                f"{width:,} x {height:,} pixels",
                os.path.basename(str(results[0][1].image["path"])),
            )
        )
    for (title, result), colors in zip(results, shades([result for _, result in results]), strict=True):
        n = len(result.masks)
        beside = f"{n:,} mask{'' if n == 1 else 's'} · {100 * result.coverage:.0f} % covered"
        panels.append(Panel(_tinted(photo, result, colors, alpha), title, beside, _funnel(result)))
    return _composed(panels, columns, panel_width)


def _layout(n: int, aspect: float) -> tuple[int, bool]:
    """Columns for n panels of this width / height, and whether the photo fills a place that would be empty."""
    words = 0.2  # their height, as a part of the panel's width

    def ugliness(columns: int) -> float:
        rows = math.ceil(n / columns)
        shape = columns / (rows * (1 / aspect + words))
        # The photo fills one place; each other that stays empty counts.
        return abs(math.log(shape / _SHAPE)) + max(0, columns * rows - n - 1)

    if n == 1:
        return 2, True
    columns = min(range(1, min(n, _MOST_COLUMNS) + 1), key=ugliness)
    return columns, n % columns != 0


def _funnel(result: Segmentation) -> str:
    """The funnel without what the title says already."""
    counts = result.funnel
    stages = (
        ("candidates", "candidates"),
        ("after_pred_iou", "predicted IoU"),
        ("after_stability", "stability"),
        ("after_nms", "NMS"),
        ("after_area", "area"),
        ("masks", "parts"),
    )
    steps = [f"{result.points:,} points"]
    steps += [f"{counts[key]:,} {name}" if key == "candidates" else f"{name} {counts[key]:,}" for key, name in stages]
    return _ARROW.join(steps)


def shades(results: Sequence[Segmentation]) -> list[list[str]]:
    """A colour (`#rrggbb`) for each mask of each result: the same candidate has the same one in all of them.

    So what presets change stands out, however they clean up. Those of the first result are the masks' own.
    """
    numbers: dict[tuple[object, ...], int] = {}

    def number(mask: Mask) -> int:
        proposal = mask.point_coords, mask.crop_box, mask.predicted_iou, mask.stability_score
        return numbers.setdefault(proposal, len(numbers) + 1)

    return [[color_of(number(mask)) for mask in result.masks] for result in results]


def _tinted(photo: np.ndarray, result: Segmentation, own: Sequence[str], alpha: float) -> np.ndarray:
    """The small photo with the masks over it, each in its own colour (`#rrggbb`), and light lines between masks."""
    h, w = photo.shape[:2]
    labels = result.labels()
    # The pixel in the middle of each small one: of labels there is no average.
    rows = ((np.arange(h) + 0.5) * labels.shape[0] / h).astype(int)
    columns = ((np.arange(w) + 0.5) * labels.shape[1] / w).astype(int)
    small = labels[np.ix_(rows, columns)]
    colors = np.zeros((1 + max((m.id for m in result.masks), default=0), 3), dtype=np.float32)
    for mask, shade in zip(result.masks, own, strict=True):
        colors[mask.id] = rgb_of(shade)
    weight = np.where(small > 0, np.float32(alpha), np.float32(0))[..., None]
    tinted = photo * (1 - weight) + colors[small] * weight
    edge = np.zeros((h, w), dtype=bool)
    edge[:, 1:] |= small[:, 1:] != small[:, :-1]
    edge[1:] |= small[1:] != small[:-1]
    tinted[edge] = 0.35 * tinted[edge] + 0.65 * 255
    return np.rint(tinted).astype(np.uint8)


def _composed(panels: Sequence[Panel], columns: int, panel_width: int) -> np.ndarray:
    width = 2 * _MARGIN + columns * panel_width + (columns - 1) * _GAP
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    inner = panel_width - 2 * _PADDING
    lines = [[_fitting(draw, line, _SMALL, inner) for line in _wrapped(draw, p.below, inner)] for p in panels]
    titles = [_fitting(draw, panel.title, _TITLE, inner) for panel in panels]
    row_of = [i // columns for i in range(len(panels))]
    beside_fits = all(
        draw.textlength(*title) + _PADDING + draw.textlength(p.beside, own_font(_TEXT)) <= inner
        for p, title in zip(panels, titles, strict=True)
    )
    head = _PADDING + _TITLE + (0 if beside_fits else _TEXT + 12) + _PADDING
    picture_height = max(p.picture.shape[0] for p in panels)
    text_heights = [max(len(lines[i]) for i in range(len(panels)) if row_of[i] == r) for r in range(row_of[-1] + 1)]
    heights = [head + picture_height + 2 * _PADDING + n * (_SMALL + 10) - 10 for n in text_heights]
    sheet = Image.new("RGB", (width, 2 * _MARGIN + sum(heights) + _GAP * (len(heights) - 1)), _PAGE)
    draw = ImageDraw.Draw(sheet)
    for i, panel in enumerate(panels):
        row = row_of[i]
        x = _MARGIN + (i % columns) * (panel_width + _GAP)
        y = _MARGIN + sum(heights[:row]) + row * _GAP
        draw.rounded_rectangle(
            (x, y, x + panel_width - 1, y + heights[row] - 1), radius=14, fill=_CARD, outline=_LINE, width=2
        )
        # Anchored at the baseline, so that the words of a line stand on one line whatever their size.
        baseline = y + _PADDING + round(0.8 * _TITLE)
        title, font = titles[i]
        draw.text((x + _PADDING, baseline), title, _DARK, font, anchor="ls", stroke_width=1, stroke_fill=_DARK)
        if beside_fits:
            draw.text((x + panel_width - _PADDING, baseline), panel.beside, _MIDDLE, own_font(_TEXT), anchor="rs")
        else:
            draw.text((x + _PADDING, baseline + _TEXT + 12), panel.beside, _MIDDLE, own_font(_TEXT), anchor="ls")
        h, w = panel.picture.shape[:2]
        sheet.paste(Image.fromarray(panel.picture), (x + (panel_width - w) // 2, y + head))
        for k, (line, font) in enumerate(lines[i]):
            at = y + head + picture_height + _PADDING + k * (_SMALL + 10) + round(0.8 * _SMALL)
            draw.text((x + _PADDING, at), line, _FAINT, font, anchor="ls")
    return np.asarray(sheet)


def _fitting(draw: ImageDraw.ImageDraw, text: str, size: int, width: int) -> tuple[str, Font]:
    """A text in one line, of which the end is left where it is too long: there names differ; and its font."""
    text, font = drawable(text, size)
    found, begin = text, 0
    while draw.textlength(found, font) > width:
        begin += 1
        found = "…" + text[begin:]
    return found, font


def _wrapped(draw: ImageDraw.ImageDraw, text: str, width: int) -> list[str]:
    """The text in lines that fit; broken before an arrow, so that a step stays whole."""
    found: list[str] = []
    for step in text.split(_ARROW):
        longer = f"{found[-1]}{_ARROW}{step}" if found else step
        if found and draw.textlength(longer, own_font(_SMALL)) <= width:
            found[-1] = longer
        else:
            found.append(f"{_ARROW.lstrip()}{step}" if found else step)
    return found
