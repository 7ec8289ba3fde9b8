"""Regions that people drew on a photo, and the overlap of any masks with all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

MIN_REGION = 1000
"""Pixels; smaller human regions are not asked for."""
Window = tuple[int, int, np.ndarray]
"""x, y and h×w bool: a mask inside its box."""


@dataclass(frozen=True)
class Truth:
    """R regions of one or more label maps.

    pieces: H×W int, pixels that lie in the same regions. within: pieces × R bool. areas: R, in pixels.
    large: R bool, regions of at least MIN_REGION pixels.
    """

    pieces: np.ndarray
    within: np.ndarray
    areas: np.ndarray
    large: np.ndarray

    @staticmethod
    def of(maps: Sequence[np.ndarray], min_region: int = MIN_REGION) -> Truth:
        """From label maps of one size, one a person; every label of each is a region."""
        code = np.zeros(maps[0].shape, np.int64)
        for labels in maps:
            code = code * (int(labels.max()) + 1) + labels
        _, first, pieces = np.unique(code, return_index=True, return_inverse=True)
        columns = []
        for labels in maps:
            of_piece = labels.ravel()[first]
            columns.append(of_piece[:, None] == np.unique(labels)[None])
        within = np.concatenate(columns, 1)
        areas = np.bincount(pieces.ravel(), minlength=len(first)) @ within
        return Truth(pieces.reshape(code.shape), within, areas, areas >= min_region)

    def overlaps(self, masks: Iterable[Window]) -> np.ndarray:
        """N×R float: IoU of each mask with each region."""
        counts = [self._counts(mask) for mask in masks]
        if not counts:
            return np.zeros((0, len(self.areas)))
        table = np.stack(counts)
        inter = table @ self.within
        return inter / np.maximum(table.sum(1, keepdims=True) + self.areas - inter, 1)

    def overlaps_of_labels(self, labels: np.ndarray) -> np.ndarray:
        """As `overlaps`, for the regions of a label map."""
        ids = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        n, m = int(ids.max()) + 1, len(self.within)
        table = np.bincount((ids.astype(np.int64) * m + self.pieces).ravel(), minlength=n * m).reshape(n, m)
        inter = table @ self.within
        return inter / np.maximum(table.sum(1, keepdims=True) + self.areas - inter, 1)

    def best(self, overlaps: np.ndarray) -> float:
        """Mean over the large regions of the overlap with the mask that fits best; no masks at all overlap by 0."""
        return float(overlaps[:, self.large].max(0, initial=0).mean())

    def _counts(self, mask: Window) -> np.ndarray:
        x, y, window = mask
        h, w = window.shape
        return np.bincount(self.pieces[y : y + h, x : x + w][window], minlength=len(self.within))


def bsds_photos(folder: Path, limit: int | None = None) -> Iterator[tuple[str, np.ndarray, Truth]]:
    """Name, H×W×3 uint8 RGB and truth of each photo with a .mat of BSDS500 beside it; photos without large regions go.

    limit: so many, evenly spread over the folder. Ends the program where there are none.
    """
    from scipy.io import loadmat

    files = sorted(folder.glob("*.mat"))
    if not files:
        raise SystemExit(f"{folder}: holds no .mat files; give a folder of BSDS500 photos with their segmentations")
    if limit is not None and limit < len(files):
        files = [files[i] for i in np.linspace(0, len(files) - 1, limit).round().astype(int)]
    for file in files:
        pixels = cv2.imread(str(file.with_suffix(".jpg")))
        if pixels is None:
            raise SystemExit(f"{file.with_suffix('.jpg')}: cannot be read")
        drawn = loadmat(file)["groundTruth"][0]
        truth = Truth.of([person["Segmentation"][0, 0].astype(np.int64) for person in drawn])
        if truth.large.any():
            yield file.stem, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), truth
