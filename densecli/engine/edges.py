"""Edges at the image's own resolution: in a band around a mask's edge, and only there, the photo decides.

SAM 2 decides on a coarse grid (256 × 256 cells, whatever the photo's size) and its masks are that, enlarged. Inside a
band of two cells around the edge this fits, pixel by pixel, the linear model of the guided filter (K. He, J. Sun,
X. Tang, "Guided Image Filtering", ECCV 2010, equations 3 to 6: mask ≈ a · colour + b in a window around the pixel) to
the mask with the photo as guide, and takes what the model says of the pixel's own colour. It differs in three ways:

- A pixel near the edge counts for little in the fit, since its label is what is in doubt (weights, from 0.05 on the
  edge to 1 one cell away).
- Each pixel uses the model of its own window; the paper's mean over all windows that hold it blurs corners.
- The model counts by how much of the mask it explains (the square of its R²); the rest is the mask as it was. Where
  the photo has no edge nothing moves, and a photo of one colour changes nothing at all.

The fit is made on a smaller picture, of about 6 pixels a cell, as in the authors' fast guided filter (K. He, J. Sun,
arXiv 1505.00996), and applied to the full one. It starts from the mask itself, not from logits, so that kept
candidates give what a fresh run gives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from densecli.engine.compiled import edge_kernels
from densecli.engine.guided_filter import averaged, distance_to_edge, fitted, margins_with_arrays
from densecli.engine.parts import Placed
from densecli.engine.sharing import Box, shared_out
from densecli.masks import Runs

BAND_CELLS = 2.0
"""No pixel changes that is further than so many cells, along either axis, from the edge of its mask."""
# Pixels of the smaller picture along a cell, at least, where the photo has as many.
_CELL_PIXELS = 6
# Below this there is nothing to refine: a cell is about a pixel.
_FEWEST_PIXELS = 2.0
# Half a window's side, in cells: it must hold pixels of both sides whose label is not in doubt.
_WINDOW_CELLS = 1.5
_LEAST_WEIGHT = 0.05
# How firmly the mask as it was holds on its very edge, from 0 to 1.
_LEAST_PRIOR = 0.02
# Core of a tile of the smaller picture: memory is that of one tile, whatever the photo's size.
_TILE = 160
# Frames that are kept for neighbours to compare with, over the two that are compared.
_REMEMBERED_BYTES = 1 << 28


class Guide:
    """The photo whose edges count, H×W×3 uint8 RGB. logits_size: height and width of the model's own grid.

    still_wanted: called every moment of the work with it; raises what it likes to call the work off.
    """

    def __init__(
        self, pixels: np.ndarray, logits_size: tuple[int, int], still_wanted: Callable[[], None] = lambda: None
    ) -> None:
        self.pixels, self.logits_size, self.still_wanted = pixels, logits_size, still_wanted
        self._smaller: dict[tuple[int, int], np.ndarray] = {}

    def smaller(self, fx: int, fy: int) -> np.ndarray:
        """The photo, each fx × fy block of pixels averaged to one; made once."""
        if (fx, fy) not in self._smaller:
            self._smaller[fx, fy] = averaged(self.pixels, fx, fy)
        return self._smaller[fx, fy]


def refined(
    masks: Sequence[Placed], scores: Sequence[float], crop_sizes: Sequence[tuple[int, int]], guide: Guide
) -> list[Placed]:
    """The masks of one photo with their edges where the photo has them; some may come out empty.

    scores: predicted IoU, which counts where two neighbours claim the same pixels (`sharing`). crop_sizes: height and
    width of the crop that each was found in.
    """

    edges = _Edges(masks, crop_sizes, guide)
    moved = [mask if not len(mask.runs.column) else edges(i).refined() for i, mask in enumerate(masks)]
    return shared_out(masks, moved, scores, edges)


@dataclass(frozen=True)
class _Scale:
    """What a cell of the low-resolution grid is, in pixels of the photo and of the smaller picture.

    fx, fy: pixels of the photo along one of the smaller picture. cell: pixels of the smaller picture along the
    shorter side of a cell.
    """

    fx: int
    fy: int
    cell: float

    @staticmethod
    def of(crop_size: tuple[int, int], logits_size: tuple[int, int]) -> _Scale:
        """crop_size, logits_size: height and width of the crop that the mask was found in, and of its logits."""
        across, down = crop_size[1] / logits_size[1], crop_size[0] / logits_size[0]
        fx, fy = max(1, int(across / _CELL_PIXELS)), max(1, int(down / _CELL_PIXELS))
        return _Scale(fx, fy, min(across / fx, down / fy))

    @property
    def reach(self) -> float:
        """Width of the band on either side of the edge, in pixels of the smaller picture."""
        # The edge is known to a pixel and a half of the smaller picture, and pixels of the photo lie up to half a
        # pixel from the middle of theirs: with these the band stays within BAND_CELLS.
        return BAND_CELLS * self.cell - 2.5

    @property
    def window(self) -> int:
        """Half a window's side, in pixels of the smaller picture."""
        return max(1, round(_WINDOW_CELLS * self.cell))


class _Edges:
    """The edges of the masks of one photo; a few at a time are in memory. None of the masks asked for may be empty."""

    def __init__(self, masks: Sequence[Placed], crop_sizes: Sequence[tuple[int, int]], guide: Guide) -> None:
        self._masks, self._crop_sizes, self._guide = masks, crop_sizes, guide
        self._remembered: OrderedDict[int, _Edge] = OrderedDict()

    def __call__(self, i: int) -> _Edge:
        self._guide.still_wanted()
        kept = self._remembered
        if i not in kept:
            kept[i] = _Edge(self._masks[i], self._crop_sizes[i], self._guide)
        kept.move_to_end(i)
        while len(kept) > 2 and sum(edge.nbytes for edge in kept.values()) > _REMEMBERED_BYTES:
            kept.popitem(last=False)
        return kept[i]

    def both_certain(self, i: int, j: int, window: Box) -> bool:
        """As `sharing.Claims` has it; looks at the smaller picture only."""
        one, other = self(i), self(j)
        return one.scale == other.scale and bool((one.certain(window) & other.certain(window)).any())

    def margins(self, i: int, window: Box, wanted: np.ndarray) -> np.ndarray:
        return self(i).margins(window, wanted)


class _Edge:
    """One mask in its frame, and what the photo says about the pixels near its edge."""

    def __init__(self, mask: Placed, crop_size: tuple[int, int], guide: Guide) -> None:
        self.mask, self.guide = mask, guide
        self.scale = _Scale.of(crop_size, guide.logits_size)
        self.frame = _Frame.around(mask, guide.pixels.shape[:2], self.scale)
        self.full = self.frame.decoded(mask)
        self.share = averaged(self.full * np.uint8(255), self.scale.fx, self.scale.fy)
        self.band = np.zeros(self.share.shape, dtype=bool)
        distance = distance_to_edge(self.share)
        if distance is not None and self.scale.cell >= _FEWEST_PIXELS:
            self.distance, self.band = distance, distance <= self.scale.reach

    @property
    def nbytes(self) -> int:
        """Memory that its frame takes."""
        return self.full.nbytes + 6 * self.share.nbytes  # the share, the band, and distances in float32

    def refined(self) -> Placed:
        """The mask with its edge where the photo has one. The cost is that of the tiles that the edge crosses."""
        now = self.full.copy()
        for tile in _tiles(self.band):
            now[self._place(tile)] = self._decided(tile) > 0
        if np.array_equal(now, self.full):
            return self.mask
        left, up, runs = Runs.of(now.view(bool)).trimmed()
        return Placed(self.frame.x + left, self.frame.y + up, runs)

    def margins(self, window: Box, wanted: np.ndarray) -> np.ndarray:
        """How surely pixels are mask: h×w float32 from -0.5 (surely not) to 0.5; -1 and 1 outside of the band.

        window: of the photo, inside the frame. Above 0 is what `refined` takes for mask. wanted: h×w bool; tiles
        without such a pixel are left out.
        """
        x0, y0, x1, y1 = (v - at for v, at in zip(window, (self.frame.x, self.frame.y) * 2, strict=True))
        found = np.where(self.full[y0:y1, x0:x1] > 0, np.float32(1), np.float32(-1))
        fx, fy = self.scale.fx, self.scale.fy
        for tile in _tiles(self.band, slice(y0 // fy, -(-y1 // fy)), slice(x0 // fx, -(-x1 // fx))):
            place = self._place(tile)
            rows, columns = (
                slice(max(s.start, a), min(s.stop, b)) for s, a, b in zip(place, (y0, x0), (y1, x1), strict=True)
            )
            inside = _moved((rows, columns), -x0, -y0)
            if wanted[inside].any():
                found[inside] = self._decided(tile)[_moved((rows, columns), -place[1].start, -place[0].start)]
        return found

    def certain(self, window: Box) -> np.ndarray:
        """h×w bool: pixels of the smaller picture that lie in a window of the photo, all mask and not in the band."""
        x0, y0, x1, y1 = (v - at for v, at in zip(window, (self.frame.x, self.frame.y) * 2, strict=True))
        fx, fy = self.scale.fx, self.scale.fy
        part = slice(-(-y0 // fy), y1 // fy), slice(-(-x0 // fx), x1 // fx)
        return (self.share[part] == 255) & ~self.band[part]

    def _place(self, tile: tuple[slice, slice]) -> tuple[slice, slice]:
        """Rows and columns of the frame that a tile of the smaller picture is."""
        factors = self.scale.fy, self.scale.fx
        rows, columns = (
            slice(s.start * f, min(s.stop * f, n)) for s, f, n in zip(tile, factors, self.full.shape, strict=True)
        )
        return rows, columns

    def _decided(self, tile: tuple[slice, slice]) -> np.ndarray:
        """The margins of the photo's pixels in a tile of the smaller picture: h×w float32."""
        self.guide.still_wanted()  # an edge around all of a large photo takes seconds
        scale, frame = self.scale, self.frame
        # One more pixel all around, so that enlarging has both neighbours.
        inner, (rows, columns) = _grown(tile, 1, self.band.shape)
        outer, cut = _grown(inner, scale.window, self.band.shape)
        small = self.guide.smaller(scale.fx, scale.fy)[_moved(outer, frame.small_x, frame.small_y)]
        distance = self.distance[outer]
        weight = np.clip(distance / scale.cell, _LEAST_WEIGHT, 1)
        small, share = (picture.astype(np.float32) / 255 for picture in (small, self.share[outer]))
        models = fitted(small, share, weight, scale.window)[cut]
        models[..., 5] = distance[cut]
        place = self._place(tile)
        full, colour = self.full[place], self.guide.pixels[_moved(place, frame.x, frame.y)]
        found = np.empty(full.shape, dtype=np.float32)
        loops = edge_kernels()
        work = margins_with_arrays if loops is None else loops.margins
        reach, least = np.float32(scale.reach), np.float32(_LEAST_PRIOR)
        work(full, colour, models, self.band[inner], rows.start, columns.start, scale.fy, scale.fx, reach, least, found)
        return found


@dataclass(frozen=True)
class _Frame:
    """The window that a mask is worked on in: its place and size in the photo, and in the smaller picture."""

    x: int
    y: int
    width: int
    height: int
    small_x: int
    small_y: int

    @staticmethod
    def around(mask: Placed, size: tuple[int, int], scale: _Scale) -> _Frame:
        """With room for the band, and for the windows of the pixels in it."""
        height, width = size
        room = int(scale.reach) + scale.window + 2
        h, w = mask.runs.size
        left, top = max(0, mask.x // scale.fx - room), max(0, mask.y // scale.fy - room)
        right, bottom = -(-(mask.x + w) // scale.fx) + room, -(-(mask.y + h) // scale.fy) + room
        x, y = left * scale.fx, top * scale.fy
        return _Frame(x, y, min(right * scale.fx, width) - x, min(bottom * scale.fy, height) - y, left, top)

    def decoded(self, mask: Placed) -> np.ndarray:
        """The mask in this window: height × width uint8, 0 or 1."""
        full = np.zeros((self.height, self.width), dtype=np.uint8)
        h, w = mask.runs.size
        x, y = mask.x - self.x, mask.y - self.y
        full[y : y + h, x : x + w] = mask.runs.decode()
        return full


def _tiles(band: np.ndarray, rows: slice | None = None, columns: slice | None = None) -> Iterator[tuple[slice, slice]]:
    """Tiles (rows, columns) that hold a pixel of the band, and one of these rows and columns."""
    height, width = band.shape
    rows, columns = rows or slice(0, height), columns or slice(0, width)
    for top in range(rows.start // _TILE * _TILE, min(rows.stop, height), _TILE):
        for left in range(columns.start // _TILE * _TILE, min(columns.stop, width), _TILE):
            tile = slice(top, min(top + _TILE, height)), slice(left, min(left + _TILE, width))
            if band[tile].any():
                yield tile


def _grown(
    tile: tuple[slice, slice], by: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The tile with `by` more pixels on every side where there are any, and where the tile lies in that."""
    large = tuple(slice(max(0, s.start - by), min(n, s.stop + by)) for s, n in zip(tile, shape, strict=True))
    inside = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(tile, large, strict=True))
    return (large[0], large[1]), (inside[0], inside[1])


def _moved(part: tuple[slice, ...], x: int, y: int) -> tuple[slice, slice]:
    rows, columns = part
    return slice(rows.start + y, rows.stop + y), slice(columns.start + x, columns.stop + x)
