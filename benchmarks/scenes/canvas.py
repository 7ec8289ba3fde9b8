"""The canvas: paints anti-aliased shapes over one another, remembers what each pixel shows, and takes the picture.

Coordinates are those of the scene: y from 0 to 1 down the picture, x from 0 to `aspect` across it, so that a scene is
the same at every size. What is painted later lies in front. A pixel belongs to the last shape that covers at least
half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .scene import Role, SceneObject
from .shapes import Points
from .textures import surface

Colour = Sequence[float]
"""Red, green, blue, 0 to 1."""
_SHIFT = 8  # bits of OpenCV's fixed-point coordinates
_LARGE = 1 << 20


@dataclass
class _Named:
    name: str
    role: Role
    parent: int | None


class Canvas:
    """A picture in the making, and who is where in it."""

    def __init__(self, seed: Sequence[int], width: int, height: int) -> None:
        self.width, self.height, self.aspect = width, height, width / height
        self._seed = list(seed)
        self._picture = np.zeros((height, width, 3), dtype=np.float32)
        self._labels = np.full((height, width), -1, dtype=np.int16)
        self._named: list[_Named] = []
        self._surfaces: dict[str, np.ndarray] = {}

    # What is in it --------------------------------------------------------------------------------------------------

    def add(self, name: str, role: Role, parent: int | None = None) -> int:
        """Name a thing; what is painted with the number that comes back is it."""
        self._named.append(_Named(name, role, parent))
        return len(self._named) - 1

    def background(self, name: str, colour: Colour, kind: str, contrast: float, light: tuple[float, float]) -> int:
        """Fill the picture. light: how much brighter its right and its lower edge are than the left and the upper."""
        me = self.add(name, "background")
        frame = np.array([(-1, -1), (self.aspect + 1, -1), (self.aspect + 1, 2), (-1, 2)], dtype=np.float64)
        self.paint(frame, colour, me, kind=kind, contrast=contrast, light=light)
        return me

    # Painting -------------------------------------------------------------------------------------------------------

    def paint(
        self,
        outline: Points | Sequence[Points],
        colour: Colour,
        of: int | None,
        *,
        kind: str = "smooth",
        contrast: float = 0.03,
        light: tuple[float, float] = (0.0, 0.0),
        opacity: float = 1.0,
        on: int | None = None,
    ) -> None:
        """Paint a shape (several outlines: even-odd, so that an outline inside another is a hole).

        of: the thing that it shows; None leaves the truth as it is (print, glints). contrast: spread of its surface.
        light: how much brighter the right and the lower edge of its box are than the left and the upper. on: paint
        only where this thing is.
        """
        outlines = [outline] if isinstance(outline, np.ndarray) else list(outline)
        placed = self._coverage(outlines)
        if placed is None:
            return
        x0, y0, cover = placed
        h, w = cover.shape
        part = slice(y0, y0 + h), slice(x0, x0 + w)
        pixels = np.concatenate(outlines) * self.height
        (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
        left, right, top, bottom = max(left, 0), min(right, self.width), max(top, 0), min(bottom, self.height)
        across = (np.arange(x0, x0 + w, dtype=np.float32) - left) / max(right - left, 1) - 0.5
        down = (np.arange(y0, y0 + h, dtype=np.float32) - top) / max(bottom - top, 1) - 0.5
        shade = np.float32(1) + (light[0] * across[None, :] + light[1] * down[:, None]).astype(np.float32)
        if contrast:
            shade = shade * (1 + np.float32(contrast) * self._surface(kind)[part])
        under = self._picture[part]
        weight = cover * np.float32(opacity)
        if on is not None:
            weight *= self._labels[part] == on
        for channel in range(3):
            plane = under[..., channel]
            plane += weight * (np.float32(colour[channel]) * shade - plane)
        if of is not None:
            self._labels[part][cover >= 0.5] = of

    def shadow(
        self, outline: Points, offset: tuple[float, float], blur: float, strength: float, *, on: int | None = None
    ) -> None:
        """Darken what lies under a shape moved by `offset`; blur: width of the soft edge, in scene units.

        on: the only thing that the shadow falls on.
        """
        margin = 2.5 * blur
        points = (outline + offset) * self.height
        edge = margin * self.height
        x0, y0 = np.floor(points.min(0) - edge).astype(int)
        x1, y1 = np.ceil(points.max(0) + edge).astype(int)
        # Nothing soft needs full resolution: draw it small, blur it there, enlarge it.
        scale = min(1.0, 4.0 / max(blur * self.height, 1e-6))
        w, h = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        small = np.zeros((h, w), dtype=np.uint8)
        inner = np.rint((points - (x0, y0)) * (w / (x1 - x0), h / (y1 - y0)) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(small, [inner], 255, cv2.LINE_AA, _SHIFT)
        soft = cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), max(blur * self.height * scale, 0.3))
        a, b, c, d = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        if a >= c or b >= d:
            return
        # Only the part in the picture is enlarged.
        move = np.array([[(x1 - x0) / w, 0, x0 - a], [0, (y1 - y0) / h, y0 - b]], dtype=np.float64)
        large = cv2.warpAffine(soft, move, (int(c - a), int(d - b)), flags=cv2.INTER_LINEAR)
        if on is not None:
            large *= self._labels[b:d, a:c] == on
        self._picture[b:d, a:c] *= (1 - np.float32(strength) * large)[..., None]

    def _surface(self, kind: str) -> np.ndarray:
        if kind not in self._surfaces:
            rng = np.random.default_rng([*self._seed, *kind.encode()])
            self._surfaces[kind] = surface(rng, (self.height, self.width), kind)
        return self._surfaces[kind]

    def _coverage(self, outlines: list[Points]) -> tuple[int, int, np.ndarray] | None:
        """x, y and h×w float32: the share of each pixel that a shape covers, inside its box in the picture."""
        points = [p * self.height for p in outlines]
        every = np.concatenate(points)
        x0, y0 = np.maximum(np.floor(every.min(0)).astype(int), 0)
        x1, y1 = np.minimum(np.ceil(every.max(0)).astype(int), (self.width, self.height))
        if x0 >= x1 or y0 >= y1:
            return None
        w, h = int(x1 - x0), int(y1 - y0)
        finer = 4 if w * h <= _LARGE else 2
        drawn = np.zeros((h * finer, w * finer), dtype=np.uint8)
        # OpenCV's coordinates are those of pixel centres.
        fine = [np.rint((((p - (x0, y0)) * finer) - 0.5) * 2**_SHIFT) for p in points]
        bound = 2**30
        cv2.fillPoly(drawn, [np.clip(p, -bound, bound).astype(np.int32) for p in fine], 255, cv2.LINE_8, _SHIFT)
        cover = cv2.resize(drawn, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
        return int(x0), int(y0), cover / 255

    # Taking the picture ---------------------------------------------------------------------------------------------

    def photograph(self, rng: np.random.Generator) -> np.ndarray:
        """H×W×3 uint8 RGB: the scene through a lens (vignette, blur), with sensor noise and JPEG's losses."""
        vignette, sharpness, noise = rng.uniform(0.05, 0.25), rng.uniform(0.7, 1.2), rng.uniform(0.006, 0.014)
        quality = int(rng.integers(88, 96))
        y = np.linspace(-1, 1, self.height, dtype=np.float32)[:, None] ** 2
        x = np.linspace(-1, 1, self.width, dtype=np.float32)[None] ** 2
        fall = 1 - np.float32(vignette / 2) * (x + y)
        # A lens blurs a share of the picture, a sensor's pixels their own width: 0.7 px at 2 MP, 1 px at 12 MP.
        sigma = sharpness * (0.4 + 0.6 * self.height / 2828)
        picture = cv2.GaussianBlur(self._picture, (0, 0), sigma)
        out = np.empty(picture.shape, dtype=np.uint8)
        sensor = np.random.default_rng([*self._seed, self.width, self.height])
        for top in range(0, self.height, 512):
            strip = picture[top : top + 512] * fall[top : top + 512, :, None]
            light = np.clip(strip, 0, 1)
            # Shot noise grows with the root of the light; some of it does not depend on light.
            spread = np.float32(noise) * (0.5 + np.sqrt(light))
            light += spread * sensor.standard_normal(light.shape, dtype=np.float32)
            out[top : top + 512] = np.rint(np.clip(light, 0, 1) * 255)
        done, data = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        back = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert back is not None
        return np.ascontiguousarray(back[..., ::-1])

    def objects(self) -> tuple[SceneObject, ...]:
        """All things of which at least a pixel is visible, wholes with the pixels of their parts."""
        n = len(self._named)
        boxes = _boxes(self._labels, n)
        for i in reversed(range(n)):  # parents come before their parts
            parent = self._named[i].parent
            if parent is not None and boxes[i][2] > boxes[i][0]:
                boxes[parent] = _union(boxes[parent], boxes[i])
        seen = [i for i in range(n) if boxes[i][2] > boxes[i][0]]
        place = {old: new for new, old in enumerate(seen)}
        found = []
        for i in seen:
            named = self._named[i]
            x0, y0, x1, y1 = boxes[i]
            mine = np.zeros(n + 1, dtype=bool)  # the last entry is that of label -1, nothing
            mine[[j for j in range(n) if i in self._line(j)]] = True
            window = mine[self._labels[y0:y1, x0:x1]]
            parent = None if named.parent is None else place[named.parent]
            found.append(SceneObject(named.name, named.role, parent, x0, y0, window, (self.height, self.width)))
        return tuple(found)

    def _line(self, i: int) -> list[int]:
        """A thing and all that it lies on."""
        line = [i]
        while (parent := self._named[line[-1]].parent) is not None:
            line.append(parent)
        return line


Box = tuple[int, int, int, int]


def _boxes(labels: np.ndarray, n: int) -> list[Box]:
    """x0, y0, x1, y1 (ends excluded) of each label; zeros where it is not."""
    height, width = labels.shape
    first_y, last_y = np.full(n, height), np.full(n, -1)
    first_x, last_x = np.full(n, width), np.full(n, -1)
    for axis, first, last in ((labels, first_y, last_y), (labels.T, first_x, last_x)):
        for i, line in enumerate(axis):
            there = np.unique(line)
            there = there[there >= 0]
            first[there] = np.minimum(first[there], i)
            last[there] = np.maximum(last[there], i)
    return [
        (int(first_x[i]), int(first_y[i]), int(last_x[i]) + 1, int(last_y[i]) + 1) if last_y[i] >= 0 else (0, 0, 0, 0)
        for i in range(n)
    ]


def _union(a: Box, b: Box) -> Box:
    if a[2] <= a[0]:
        return b
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
