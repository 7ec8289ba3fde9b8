"""A picture in the making: shapes are painted with soft edges, and every stroke writes the truth beneath it."""

from __future__ import annotations

import cv2
import numpy as np

from training.scenes.labels import NOWHERE, Ids
from training.scenes.shapes import Contours
from training.scenes.textures import Bank, texture

SIZE = 512


class Canvas:
    """pixels: S×S×3 float32 in 0..255. atoms: S×S int32, rows of `table()`."""

    def __init__(self, rng: np.random.Generator, bank: Bank, size: int = SIZE) -> None:
        self.rng, self.bank, self.size = rng, bank, size
        self.pixels = np.zeros((size, size, 3), np.float32)
        self.atoms = np.zeros((size, size), np.int32)
        self._rows: dict[Ids, int] = {NOWHERE: 0}
        self._last = 0

    def inside(self, parent: Ids, level: int) -> Ids:
        """Ids of a new mask at `level` that lies in the masks of `parent` at the coarser levels."""
        self._last += 1
        return (*([0] * level), self._last, *parent[level + 1 :])  # type: ignore[return-value]

    def table(self) -> np.ndarray:
        """N×4 ids of every atom."""
        return np.array(list(self._rows))

    def start_from(self, pixels: np.ndarray, atoms: np.ndarray, table: np.ndarray) -> None:
        """Paint on a labelled picture instead of on nothing."""
        self.pixels[:] = pixels
        rows: list[Ids] = [(int(a), int(b), int(c), int(d)) for a, b, c, d in table]
        places = np.array([self._rows.setdefault(row, len(self._rows)) for row in rows])
        self.atoms = places[atoms].astype(np.int32)
        self._last = int(table.max(initial=0))

    def fill(self, ids: Ids, surface: np.ndarray) -> None:
        self.pixels[:] = surface
        self.atoms[:] = self._row(ids)

    def paint(
        self,
        contours: Contours,
        ids: Ids,
        *,
        base: np.ndarray | None = None,
        even: bool = False,
        shadow: bool = True,
        within: Ids | None = None,
    ) -> bool:
        """Rasterise a shape; False where it is too small or outside.

        base: its colour. even: of that colour alone, with no texture. within: paint only on these ids' pixels.
        """
        around = np.concatenate(contours)
        x0, y0 = np.maximum(np.floor(around.min(0)).astype(int) - 1, 0)
        x1, y1 = np.minimum(np.ceil(around.max(0)).astype(int) + 2, self.size)
        if x1 - x0 < 3 or y1 - y0 < 3:
            return False
        coverage = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(coverage, [np.round((p - [x0, y0]) * 8).astype(np.int32) for p in contours], 255, cv2.LINE_AA, 3)
        alpha = coverage.astype(np.float32) / 255
        if within is not None:
            alpha *= self.atoms[y0:y1, x0:x1] == self._row(within)
        if even and base is not None:
            surface = np.broadcast_to(np.asarray(base, np.float32), (*alpha.shape, 3))
        else:
            surface = texture(self.rng, self.bank, y1 - y0, x1 - x0, base)
        if self.rng.random() < (0.2 if even else 0.5):
            surface = self._shaded(surface)
        self.blend(alpha, x0, y0, surface, ids, shadow)
        return True

    def blend(self, alpha: np.ndarray, x0: int, y0: int, surface: np.ndarray, ids: Ids, shadow: bool = False) -> None:
        """Lay `surface` over the picture where `alpha` (0..1, h×w at x0, y0) is; more than half covered becomes it."""
        h, w = alpha.shape
        if shadow and min(h, w) > 12 and self.rng.random() < 0.4:
            self._drop_shadow(alpha, x0, y0)
        region = self.pixels[y0 : y0 + h, x0 : x0 + w]
        region += alpha[..., None] * (surface - region)
        self.atoms[y0 : y0 + h, x0 : x0 + w][alpha > 0.5] = self._row(ids)

    def _row(self, ids: Ids) -> int:
        return self._rows.setdefault(ids, len(self._rows))

    def _shaded(self, surface: np.ndarray) -> np.ndarray:
        """Lit from one side."""
        h, w = surface.shape[:2]
        a = self.rng.random() * 2 * np.pi
        ramp = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None] * np.cos(a)
        ramp = ramp + np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None] * np.sin(a)
        return np.clip(surface * (1 + ramp * self.rng.uniform(0.1, 0.7)).astype(np.float32)[..., None], 0, 255)

    def _drop_shadow(self, alpha: np.ndarray, x: int, y: int) -> None:
        rng, size = self.rng, self.size
        h, w = alpha.shape
        k = min(41, max(3, int(min(h, w) * rng.uniform(0.05, 0.25))) | 1)
        dx, dy = int(rng.normal(0, 0.05 * w)), int(abs(rng.normal(0, 0.07 * h)))
        cast = cv2.copyMakeBorder(alpha, k, k, k, k, cv2.BORDER_CONSTANT, value=0)
        cast = cv2.blur(cv2.blur(cast, (k, k)), (k, k)) * np.float32(rng.uniform(0.15, 0.6))
        left, top = x + dx - k, y + dy - k
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(size, left + cast.shape[1]), min(size, top + cast.shape[0])
        if x1 > x0 and y1 > y0:
            self.pixels[y0:y1, x0:x1] *= 1 - cast[y0 - top : y1 - top, x0 - left : x1 - left, None]
