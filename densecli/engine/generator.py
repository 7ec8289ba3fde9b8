"""The mask generator: grid, encoder, decoder, candidates, masks, clean-up, in this order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from densecli.engine import cleanup, grid, memory, parts
from densecli.engine.candidates import Candidates, stability_and_boxes, stable, suppress, touches_crop_edge
from densecli.engine.decoder import Decoded, PromptDecoder
from densecli.engine.encoder import encode
from densecli.engine.parameters import CleanupParameters, GeneratorParameters, Limits
from densecli.engine.upsampling import Upsampling
from densecli.errors import EnvironmentProblem
from densecli.masks import Mask, Runs

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

T = TypeVar("T")


@dataclass
class Funnel:
    """How many candidates each filter left, and the best values that a filter saw (to explain an empty result)."""

    points: int = 0
    candidates: int = 0
    after_pred_iou: int = 0
    after_stability: int = 0
    after_crop_edge: int = 0
    after_nms: int = 0
    after_area: int = 0
    after_parts: int = 0
    best_predicted_iou: float = 0.0
    best_stability: float = 0.0
    largest_area: int = 0


@dataclass
class Generated:
    """What the generator gives for one image: masks by falling area, the funnel, seconds by stage, warnings."""

    masks: list[Mask]
    funnel: Funnel
    seconds: dict[str, float]
    warnings: list[str]


class _Winner:
    """A mask that survived NMS: position and runs of its window in the image, and its scores."""

    def __init__(
        self,
        x: int,
        y: int,
        runs: Runs,
        predicted_iou: float,
        stability: float,
        point: tuple[float, float],
        crop_box: tuple[int, int, int, int],
    ) -> None:
        self.predicted_iou, self.stability, self.point, self.crop_box = predicted_iou, stability, point, crop_box
        self.place(x, y, runs)

    def place(self, x: int, y: int, runs: Runs) -> None:
        """Set the mask: runs in the frame of its box, at x, y of the image."""
        h, w = runs.size
        self.x, self.y, self.runs, self.area = x, y, runs, runs.area
        # xyxy, both ends inclusive, as in sam2's batched_mask_to_box, on which NMS works; zeros for an empty mask.
        self.box = (x, y, x + max(w, 1) - 1, y + max(h, 1) - 1)


@dataclass
class _Run:
    """State of one image's run: what is counted and timed along the way."""

    funnel: Funnel = field(default_factory=Funnel)
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0, "postprocess": 0.0})
    warnings: list[str] = field(default_factory=list)
    batch: memory.BatchSize | None = None
    progress: Callable[[int, int], None] | None = None
    all_points: int = 0

    @property
    def tile(self) -> int:
        assert self.batch is not None
        return self.batch.tile

    @contextmanager
    def timed(self, stage: str, device: torch.device) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds[stage] += time.perf_counter() - begin


class MaskGenerator:
    """SAM 2's automatic mask generator for one loaded model; same masks as `SAM2AutomaticMaskGenerator`."""

    def __init__(
        self,
        model: SAM2Base,
        generator: GeneratorParameters | None = None,
        cleanup_parameters: CleanupParameters | None = None,
        limits: Limits | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self.parameters = generator or GeneratorParameters()
        self.cleanup = cleanup_parameters or CleanupParameters()
        self.limits = limits or Limits()
        self.dtype = dtype
        self.device: torch.device = model.device

    @torch.inference_mode()
    def generate(self, pixels: np.ndarray, progress: Callable[[int, int], None] | None = None) -> Generated:
        """All masks of an image, H×W×3 uint8 RGB, any size from 1×1 up.

        progress: called after each batch with the points done and the points of all crops.
        Raises EnvironmentProblem when memory does not suffice even for one point at a time.
        """
        run = _Run(progress=progress)
        height, width = pixels.shape[:2]
        crop_list = grid.crops(height, width, self.parameters)
        run.all_points = sum(grid.layer_points_per_side(self.parameters, crop.layer) ** 2 for crop in crop_list)
        winners: list[_Winner] = []
        for crop in crop_list:
            winners += self._crop_winners(pixels, crop, run)
        with run.timed("postprocess", self.device):
            if len(crop_list) > 1 and winners:
                # Masks of smaller crops win: their picture of the object was larger.
                scores = torch.tensor([1 / (w.crop_box[2] * w.crop_box[3]) for w in winners])
                winners = _chosen(winners, scores, self.parameters.crop_nms_thresh)
            run.funnel.after_nms = len(winners)
            winners = self._cleaned(winners, (height, width), run)
            run.funnel.after_area = len(winners)
            # Ids go by falling area; equal areas keep the order of their scores.
            winners.sort(key=lambda w: -w.area)
            winners, parent = self._without_parts(winners)
            run.funnel.after_parts = len(winners)
            masks = _masks(winners, parent, (height, width))
        return Generated(masks, run.funnel, run.seconds, run.warnings)

    def _crop_winners(self, pixels: np.ndarray, crop: grid.Crop, run: _Run) -> list[_Winner]:
        x0, y0, x1, y1 = crop.box
        with run.timed("encode", self.device):
            features = self._encoded(pixels[y0:y1, x0:x1])
            decoder = PromptDecoder(self.model, features, self.dtype)
        upsampling = Upsampling(decoder.logits_size, (crop.height, crop.width), self.device)
        points = torch.as_tensor(grid.crop_points(crop, self.parameters), dtype=torch.float32, device=self.device)
        size = torch.tensor([crop.width, crop.height], dtype=torch.float32, device=self.device)
        prompts = points / size * self.model.image_size
        if run.batch is None:
            run.batch = self._batch_size(decoder)
        candidates = Candidates.cat(
            self._in_batches(
                len(points), run, lambda part: self._scored(decoder, upsampling, prompts[part], part.start, run)
            )
        )
        touching = touches_crop_edge(candidates.boxes, crop, *pixels.shape[:2])
        if touching.any():
            candidates = candidates[~touching]
        run.funnel.after_crop_edge += len(candidates)
        with run.timed("postprocess", self.device):
            candidates = candidates[
                suppress(candidates.boxes, candidates.predicted_iou, self.parameters.box_nms_thresh)
            ]
        winners = self._in_batches(
            len(candidates),
            run,
            lambda part: self._decoded_winners(decoder, upsampling, candidates[part], points, prompts, crop, run),
        )
        return [winner for batch in winners for winner in batch]

    def _batch_size(self, decoder: PromptDecoder) -> memory.BatchSize:
        return memory.choose_batch_size(
            self.limits.points_per_batch,
            self.device,
            memory.budget_bytes(self.device, self.limits.max_memory_gb),
            decoder.shape(self.parameters.multimask_output),
        )

    def _in_batches(self, n: int, run: _Run, work: Callable[[slice], T]) -> list[T]:
        """`work` on slice after slice of n prompts; where memory runs out, again with half as many at a time."""
        results: list[T] = []
        start = 0
        while start < n:
            assert run.batch is not None
            stop = min(n, start + run.batch.points)
            try:
                results.append(work(slice(start, stop)))
                start = stop
                continue
            except Exception as error:
                if not memory.is_out_of_memory(error):
                    raise
                if run.batch.points == 1:
                    raise EnvironmentProblem(
                        f"out of memory on {self.device} even with one point at a time: "
                        "use a smaller --model, --preset low-vram, or --device cpu"
                    ) from error
            # Outside of `except`, so that the failed batch's tensors are gone before the next try.
            memory.release_cached(self.device)
            run.batch = run.batch.halved()
            run.warnings.append(f"out of memory: went on with {run.batch.points} points per batch")
        return results

    def _encoded(self, crop_pixels: np.ndarray):
        try:
            return encode(self.model, crop_pixels, self.device, self.dtype)
        except Exception as error:
            if memory.is_out_of_memory(error):
                raise EnvironmentProblem(
                    f"out of memory on {self.device} while encoding the image: use a smaller --model, or --device cpu"
                ) from error
            raise

    def _logits(
        self, decoder: PromptDecoder, prompts: torch.Tensor, tile: int, keep: torch.Tensor | None = None
    ) -> Decoded:
        """Candidates of a batch, kept by predicted IoU, or exactly those of `keep` (B × M bool)."""
        p = self.parameters
        if not p.use_m2m:
            return decoder.decode(
                prompts,
                tile=tile,
                multimask_output=p.multimask_output,
                pred_iou_thresh=p.pred_iou_thresh,
                keep=keep,
            )
        # m2m: every candidate goes back as a mask prompt of its own point; the answer takes its place.
        first = decoder.decode(prompts, tile=tile, multimask_output=p.multimask_output, pred_iou_thresh=0.0, keep=keep)
        rows = first.keep.nonzero()[:, 0]
        again = decoder.decode(
            prompts[rows],
            tile=tile,
            multimask_output=False,
            pred_iou_thresh=p.pred_iou_thresh,
            mask_prompts=first.logits,
            keep=None if keep is None else torch.ones(len(rows), 1, dtype=torch.bool, device=self.device),
        )
        predicted_iou = torch.full_like(first.predicted_iou, -1.0)
        predicted_iou[first.keep] = again.predicted_iou[:, 0]
        kept = torch.zeros_like(first.keep)
        kept[first.keep] = again.keep[:, 0]
        return Decoded(predicted_iou, kept, again.logits)

    def _scored(
        self,
        decoder: PromptDecoder,
        upsampling: Upsampling,
        prompts: torch.Tensor,
        start: int,
        run: _Run,
    ) -> Candidates:
        """Candidates of one batch of prompts that pass the predicted-IoU and stability filters."""
        with run.timed("decode", self.device):
            decoded = self._logits(decoder, prompts, run.tile)
        with run.timed("postprocess", self.device):
            stability, boxes = stability_and_boxes(decoded.logits, upsampling, self.parameters)
            keep = stable(stability, self.parameters)
            point, output = decoded.keep.nonzero(as_tuple=True)
            candidates = Candidates(point + start, output, decoded.predicted_iou[decoded.keep], stability, boxes)[keep]
        funnel = run.funnel
        funnel.points += len(prompts)
        funnel.candidates += decoded.keep.numel()
        funnel.after_pred_iou += len(stability)
        funnel.after_stability += len(candidates)
        funnel.best_predicted_iou = max(funnel.best_predicted_iou, float(decoded.predicted_iou.max()))
        if run.progress is not None:
            run.progress(funnel.points, run.all_points)
        if len(stability):
            funnel.best_stability = max(funnel.best_stability, float(torch.nan_to_num(stability).max()))
        return candidates

    def _decoded_winners(
        self,
        decoder: PromptDecoder,
        upsampling: Upsampling,
        chosen: Candidates,
        points: torch.Tensor,
        prompts: torch.Tensor,
        crop: grid.Crop,
        run: _Run,
    ) -> list[_Winner]:
        """Decode the few winners again rather than keep the logits of all candidates, and make their masks."""
        x0, y0, _, _ = crop.box
        rows = torch.arange(len(chosen), device=self.device)
        keep = torch.zeros(len(chosen), decoder.outputs(self.parameters.multimask_output), device=self.device).bool()
        keep[rows, chosen.output] = True
        with run.timed("decode", self.device):
            logits = self._logits(decoder, prompts[chosen.point], run.tile, keep=keep).logits
        winners = []
        with run.timed("postprocess", self.device):
            at = points[chosen.point].double().cpu() + torch.tensor([x0, y0])
            for i in range(len(chosen)):
                x, y, runs = upsampling.mask(logits[i], self.parameters.mask_threshold)
                winners.append(
                    _Winner(
                        x + x0,
                        y + y0,
                        runs,
                        float(chosen.predicted_iou[i]),
                        float(chosen.stability[i]),
                        (float(at[i, 0]), float(at[i, 1])),
                        (x0, y0, crop.width, crop.height),
                    )
                )
        return winners

    def _cleaned(self, winners: list[_Winner], size: tuple[int, int], run: _Run) -> list[_Winner]:
        """Holes, islands and areas; then NMS again, in which masks that were not changed win."""
        min_area, fraction = self.cleanup.min_mask_region_area, self.cleanup.max_mask_area_fraction
        run.funnel.largest_area = max((w.area for w in winners), default=0)
        most = size[0] * size[1] * (1.0 if fraction is None else fraction)
        cleaned, unchanged = [], []
        for winner in winners:
            changed = False
            if min_area > 1 and winner.area:
                x, y, runs, changed = cleanup.remove_small_regions(winner.x, winner.y, winner.runs, size, min_area)
                if changed:
                    winner.place(x, y, runs)
            # A mask without a pixel has nothing to show: the reference lists such masks, nobody can use them.
            if 0 < winner.area <= most:
                cleaned.append(winner)
                unchanged.append(not changed)
        if cleaned and not all(unchanged):
            cleaned = _chosen(cleaned, torch.tensor(unchanged).float(), self.parameters.box_nms_thresh)
        return cleaned

    def _without_parts(self, winners: list[_Winner]) -> tuple[list[_Winner], list[int | None]]:
        """Masks by falling area that stay under `cleanup.parts`, and each one's parent among them."""
        parent = parts.parents([parts.Placed(w.x, w.y, w.runs) for w in winners])
        stays = parts.kept(parent, [w.area for w in winners], self.cleanup.parts, self.cleanup.parts_min_siblings)
        place = {old: new for new, old in enumerate(i for i, stay in enumerate(stays) if stay)}
        # What is dropped takes all inside it along, so a mask that stays keeps its parent.
        return [winners[i] for i in place], [None if (p := parent[i]) is None else place[p] for i in place]


def _chosen(winners: list[_Winner], scores: torch.Tensor, threshold: float) -> list[_Winner]:
    boxes = torch.tensor([w.box for w in winners])
    return [winners[i] for i in suppress(boxes, scores, threshold).tolist()]


def _masks(winners: list[_Winner], parent: list[int | None], size: tuple[int, int]) -> list[Mask]:
    masks = []
    for i, winner in enumerate(winners):
        x_min, y_min, x_max, y_max = winner.box
        above = parent[i]
        masks.append(
            Mask(
                id=i + 1,
                area=winner.area,
                bbox=(x_min, y_min, x_max - x_min + 1, y_max - y_min + 1),
                predicted_iou=winner.predicted_iou,
                stability_score=winner.stability,
                point_coords=(winner.point,),
                crop_box=winner.crop_box,
                segmentation=winner.runs.rle(winner.x, winner.y, size),
                window_counts=winner.runs.rle()["counts"].encode("ascii"),
                parent=None if above is None else above + 1,
            )
        )
    return masks
