"""Everything the engine proposed for one image above a floor, kept small, so that thresholds can be moved afterwards.

`Proposals.select` gives what a fresh run with other thresholds, NMS, clean-up and parts would give, without a network.
Scores are the same to the last digit; masks too, but for a pixel on an edge where the fresh run, which decodes its
winners again in batches of another size, rounds a logit differently (1 of 720,000 was seen to change). A mask costs
some 2 KB at 2 megapixels, 5 KB at 12: COCO counts of its box, deflated each on its own, so that only winners are
unpacked.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from densecli.engine import grid
from densecli.engine.candidates import Candidates
from densecli.engine.counts import coco_counts
from densecli.engine.edges import Guide
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.selection import Funnel, Journal, chosen, finished, winners_of
from densecli.engine.upsampling import Upsampling
from densecli.errors import UsageError
from densecli.masks import Mask, Runs

if TYPE_CHECKING:
    from densecli.engine.second_look import SecondLook

# What a candidate is depends on these (and, through the crops, on the keys of the grid); the rest only chooses.
MASK_KEYS = ("mask_threshold", "stability_score_offset", "use_m2m", "multimask_output")
GRID_KEYS = ("points_per_side", "crop_n_layers", "crop_overlap_ratio", "crop_n_points_downscale_factor")
# Level 1 is a tenth larger, level 9 the same at twice the time.
_DEFLATE_LEVEL = 6
_MAX_COUNTS_BYTES = 1 << 28


@dataclass(frozen=True)
class Floor:
    """What is kept: candidates with predicted IoU above, and stability at or above, these; 0 keeps everything."""

    predicted_iou: float = 0.5
    stability: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"floor of {name} {value}: give a number from 0 to 1")

    def lowered_to(self, parameters: GeneratorParameters) -> Floor:
        """The floor, or a run's own thresholds where these are lower."""
        return Floor(
            min(self.predicted_iou, parameters.pred_iou_thresh), min(self.stability, parameters.stability_score_thresh)
        )


@dataclass(frozen=True)
class PackedMasks:
    """N masks of one or more crops. frames: N × 4 int32, x, y, width, height of each box, in pixels of its crop.

    sizes: N uint32, bytes of each in `data`, which holds the deflated COCO counts of the boxes one after the other.
    A mask without pixels, and a place that keeps none, have no bytes.
    """

    frames: np.ndarray
    sizes: np.ndarray
    data: bytes

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.sizes, dtype=np.int64)

    def unpacked(self, i: int) -> tuple[int, int, Runs]:
        """x and y in pixels of the crop, and runs, of mask i. Raises ValueError where the bytes are no mask."""
        end, size = int(self._ends[i]), int(self.sizes[i])
        if size == 0:
            return 0, 0, Runs.empty()
        from densecli.engine import outlines

        x, y, w, h = self.frames[i].tolist()
        inflating = zlib.decompressobj()
        try:
            counts = inflating.decompress(self.data[end - size : end], _MAX_COUNTS_BYTES)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        runs = outlines.runs_of_counts(np.frombuffer(counts, dtype=np.uint8), h, w)
        return x, y, Runs((h, w), *runs)

    @staticmethod
    def cat(parts: Sequence[PackedMasks]) -> PackedMasks:
        return PackedMasks(
            np.concatenate([np.zeros((0, 4), np.int32), *(p.frames for p in parts)]),
            np.concatenate([np.zeros(0, np.uint32), *(p.sizes for p in parts)]),
            b"".join(p.data for p in parts),
        )


def pack(logits: torch.Tensor, keep: torch.Tensor, upsampling: Upsampling, threshold: float) -> PackedMasks:
    """The masks of low-resolution logits (K × h × w float32), only those of `keep` (K bool); others take no bytes."""
    frames = np.zeros((len(logits), 4), dtype=np.int32)

    def packed(i: int) -> bytes:
        x, y, runs = upsampling.mask(logits[i], threshold)
        if not len(runs.column):
            return b""
        frames[i] = x, y, runs.size[1], runs.size[0]
        return zlib.compress(coco_counts(runs), _DEFLATE_LEVEL)

    wanted = keep.nonzero()[:, 0].tolist()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        found = list(threads.map(packed, wanted)) if len(wanted) > 1 else [packed(i) for i in wanted]
    sizes = np.zeros(len(logits), dtype=np.uint32)
    sizes[wanted] = [len(f) for f in found]
    return PackedMasks(frames, sizes, b"".join(found))


@dataclass(frozen=True)
class CropProposals:
    """What one batch of prompts, or one crop, proposed: candidates on the CPU, in prompt order, and their masks."""

    candidates: Candidates
    masks: PackedMasks

    @staticmethod
    def cat(parts: Sequence[CropProposals]) -> CropProposals:
        return CropProposals(Candidates.cat([p.candidates for p in parts]), PackedMasks.cat([p.masks for p in parts]))

    @staticmethod
    def of(
        scored: Candidates, logits: torch.Tensor, upsampling: Upsampling, mask_threshold: float, floor: Floor
    ) -> CropProposals:
        """Those of a batch: scored (N, all above the floor's predicted IoU) and their logits N × h × w."""
        keep = (
            scored.stability >= floor.stability
            if floor.stability > 0
            else torch.ones_like(scored.stability, dtype=torch.bool)
        )
        on_cpu = Candidates(*(getattr(scored, f.name).cpu() for f in fields(Candidates)))
        return CropProposals(on_cpu, pack(logits, keep, upsampling, mask_threshold))


@dataclass(frozen=True)
class Proposals:
    """What the engine proposed for one image.

    size: height and width. parameters: those of the run; only the keys that make candidates matter here. outputs:
    candidates a point. floor: what was kept. candidates: of all crops, one after the other, `crop_sizes` many each;
    boxes in pixels of the crop. Of candidates that are below the floor's stability there are scores, but no mask.
    best_predicted_iou: the highest in each crop, also of what was not kept. logits_size: height and width of the
    grid that the model decides on, for `refine_edges`.
    """

    size: tuple[int, int]
    parameters: GeneratorParameters
    outputs: int
    floor: Floor
    crop_sizes: tuple[int, ...]
    best_predicted_iou: tuple[float, ...]
    candidates: Candidates
    masks: PackedMasks
    logits_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def nbytes(self) -> int:
        """Memory that the masks take, nearly all there is."""
        return len(self.masks.data)

    def refusal(self, wish: GeneratorParameters, *, with_model: bool = False) -> str | None:
        """Why these proposals cannot tell what a run with the values of `wish` would give, or None if they can.

        with_model: whether the model is at hand, which `fill` needs.
        """
        own = self.parameters
        differing = [key for key in MASK_KEYS if getattr(own, key) != getattr(wish, key)]
        if not _holds_grid(self.size, own, wish):
            differing += [key for key in GRID_KEYS if getattr(own, key) != getattr(wish, key)]
        if differing:
            key = differing[0]
            return f"holds the candidates of {key} {_shown(getattr(own, key))}, not of {_shown(getattr(wish, key))}"
        for key, floor in (
            ("pred_iou_thresh", self.floor.predicted_iou),
            ("stability_score_thresh", self.floor.stability),
        ):
            if getattr(wish, key) < floor:
                return f"holds the candidates from {key} {floor:g} up only, and {getattr(wish, key):g} is below that"
        if wish.fill and not with_model:
            return "holds what one grid proposed, and fill asks the model again"
        return None

    def select(
        self,
        wish: GeneratorParameters,
        cleanup: CleanupParameters,
        journal: Journal | None = None,
        look: SecondLook | None = None,
        pixels: np.ndarray | None = None,
        still_wanted: Callable[[], None] = lambda: None,
    ) -> tuple[list[Mask], Funnel]:
        """Masks and funnel of a fresh run with these values. journal: is told what each filter takes.

        look: the model at hand for the same image. Without it nothing is asked for wholes, and `Funnel.unasked`
        says how many groups would have been. pixels: the image, H×W×3 uint8 RGB, which `refine_edges` needs.
        still_wanted: called every moment while edges are refined; what it raises calls the work off.
        Raises ValueError where `refusal` has an objection, or where the masks' bytes are damaged.
        """
        if (refusal := self.refusal(wish, with_model=look is not None)) is not None:
            raise ValueError(refusal)
        funnel = Funnel()
        winners = []
        crop_list = grid.crops(*self.size, wish)
        begin = 0
        for crop, n, best in zip(crop_list, self.crop_sizes, self.best_predicted_iou, strict=False):
            points = torch.as_tensor(grid.crop_points(crop, wish), dtype=torch.float32)
            funnel.points += len(points)
            funnel.candidates += len(points) * self.outputs
            funnel.best_predicted_iou = max(funnel.best_predicted_iou, best)
            scored = self.candidates[slice(begin, begin + n)]
            won = chosen(scored, crop, self.size, wish, funnel, journal)
            masks = [self.masks.unpacked(begin + i) for i in won.tolist()]
            of_crop = winners_of(scored[won], masks, points[scored.point[won]], crop)
            for winner, i in zip(of_crop, won.tolist(), strict=True):
                winner.candidate = begin + i
            winners += of_crop
            begin += n
        guide = None if pixels is None else Guide(pixels, self.logits_size, still_wanted)
        return finished(winners, len(crop_list), self.size, wish, cleanup, funnel, journal, look, guide), funnel


def _shown(value: float | bool) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:g}"


def same_candidates(size: tuple[int, int], own: GeneratorParameters, wish: GeneratorParameters) -> bool:
    """Whether a run with `own` over an image of `size` (height, width) makes all candidates that one with `wish` does.

    The floor is another matter.
    """
    return all(getattr(own, key) == getattr(wish, key) for key in MASK_KEYS) and _holds_grid(size, own, wish)


def _holds_grid(size: tuple[int, int], own: GeneratorParameters, wish: GeneratorParameters) -> bool:
    """Whether the grid of `wish` is that of `own`, or its first crop layers."""
    wished = _prompted(size, wish)
    return _prompted(size, own)[: len(wished)] == wished


def _prompted(size: tuple[int, int], parameters: GeneratorParameters) -> list[tuple[grid.Crop, int]]:
    return [(c, grid.layer_points_per_side(parameters, c.layer)) for c in grid.crops(*size, parameters)]
