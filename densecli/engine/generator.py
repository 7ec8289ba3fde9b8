"""The mask generator: grid, encoder, decoder, candidates, masks, clean-up, in this order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from densecli.engine import device_run, grid, memory
from densecli.engine.candidates import Candidates, stability_and_boxes
from densecli.engine.current_device import on_own_device
from densecli.engine.decoder import Decoded, PromptDecoder
from densecli.engine.edges import Guide
from densecli.engine.encoder import Features, encode
from densecli.engine.parameters import CleanupParameters, GeneratorParameters, Limits
from densecli.engine.proposals import CropProposals, Floor, Proposals
from densecli.engine.run import Prompted, Run, Wanted
from densecli.engine.second_look import SecondLook
from densecli.engine.selection import Funnel, Winner, chosen, finished, winners_of
from densecli.engine.upsampling import Upsampling
from densecli.errors import EnvironmentProblem
from densecli.masks import Mask

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

T = TypeVar("T")
_NO_NUMBERS = (
    "the network gives no numbers (NaN) for some candidates, which are left out: its weights are damaged, or need "
    "--precision fp32"
)


@dataclass
class Generated:
    """What the generator gives for one image: masks by falling area, the funnel, seconds by stage, warnings.

    proposals: what it proposed, where that was to be kept.
    """

    masks: list[Mask]
    funnel: Funnel
    seconds: dict[str, float]
    warnings: list[str]
    proposals: Proposals | None = None


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
        # MPS has no float64 and shares its memory with the CPU, whose compiled loops score candidates faster anyway.
        self.scoring_device = torch.device("cpu") if self.device.type == "mps" else self.device
        self.device_loop = self.device.type == "cuda" and device_run.usable(self)
        """Whether a crop's points go through the loop of `device_loop.py`, which is made for CUDA and runs anywhere."""
        self.acceleration = device_run.acceleration_of(self.limits.compile, self.model, self.device, dtype)

    @property
    def logits_size(self) -> tuple[int, int]:
        """Height and width of the grid that the model decides on."""
        height, width = self.model.sam_prompt_encoder.mask_input_size
        return int(height), int(width)

    @on_own_device
    @torch.inference_mode()
    def generate(
        self,
        pixels: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
        keep: Floor | None = None,
    ) -> Generated:
        """All masks of an image, H×W×3 uint8 RGB, any size from 1×1 up.

        progress: called after each batch with the points done and the points of all crops. keep: keep all that is
        proposed above this floor, or above the own thresholds where they are lower.
        Raises EnvironmentProblem when memory does not suffice even for one point at a time, and what `progress` raises.
        """
        run = Run(progress=progress)
        size = pixels.shape[0], pixels.shape[1]
        crop_list = grid.crops(*size, self.parameters)
        run.all_points = sum(grid.layer_points_per_side(self.parameters, crop.layer) ** 2 for crop in crop_list)
        if keep is not None:
            return self._kept(pixels, crop_list, keep.lowered_to(self.parameters), run)
        winners: list[Winner] = []
        look = self._look(pixels, run)
        for crop in crop_list:
            winners += self._crop_winners(pixels, crop, run, look)
        with run.timed("postprocess", self.device):
            guide = Guide(pixels, self.logits_size)
            masks = finished(
                winners, len(crop_list), size, self.parameters, self.cleanup, run.funnel, look=look, guide=guide
            )
        return Generated(masks, run.funnel, run.clock.seconds, run.warnings)

    def _look(self, pixels: np.ndarray, run: Run) -> SecondLook | None:
        return SecondLook(self, pixels, run=run) if self.parameters.ask_for_wholes or self.parameters.fill else None

    def _kept(self, pixels: np.ndarray, crop_list: list[grid.Crop], floor: Floor, run: Run) -> Generated:
        """The masks by way of the proposals, which are made of every candidate above the floor at once."""
        proposed, best = [], []
        outputs = 1
        look = self._look(pixels, run)
        for crop in crop_list:
            run.funnel.best_predicted_iou = 0.0
            prompted = self.prompted(pixels, crop, run)
            if look is not None:
                look.use(prompted)
            outputs = prompted.decoder.outputs(self.parameters.multimask_output)

            def work(part: slice, prompted: Prompted = prompted) -> CropProposals:
                scored, logits = self._scored(prompted, part, run, floor.predicted_iou)
                with run.timed("postprocess", self.device):
                    return CropProposals.of(scored, logits, prompted.upsampling, self.parameters.mask_threshold, floor)

            proposed.append(CropProposals.cat(self.in_batches(len(prompted.points), run, work)))
            best.append(run.funnel.best_predicted_iou)
        with run.timed("postprocess", self.device):
            together = CropProposals.cat(proposed)
            proposals = Proposals(
                size=(pixels.shape[0], pixels.shape[1]),
                parameters=self.parameters,
                outputs=outputs,
                floor=floor,
                crop_sizes=tuple(len(p.candidates) for p in proposed),
                best_predicted_iou=tuple(best),
                candidates=together.candidates,
                masks=together.masks,
                logits_size=self.logits_size,
            )
            masks, funnel = proposals.select(self.parameters, self.cleanup, look=look, pixels=pixels)
        return Generated(masks, funnel, run.clock.seconds, run.warnings, proposals)

    def prompted(self, pixels: np.ndarray, crop: grid.Crop, run: Run) -> Prompted:
        """A crop of an image, encoded, with the points of its grid.

        A GPU may still be encoding: what must not wait for that, as every copy to the device would, comes before.
        """
        x0, y0, x1, y1 = crop.box
        upsampling = Upsampling(self.logits_size, (crop.height, crop.width), self.scoring_device)
        points = torch.as_tensor(grid.crop_points(crop, self.parameters), dtype=torch.float32, device=self.device)
        size = torch.tensor([crop.width, crop.height], dtype=torch.float32, device=self.device)
        prompts = points / size * self.model.image_size
        with run.timed("encode", self.device, wait=False):
            features = self._encoded(pixels[y0:y1, x0:x1], run)
            decoder = PromptDecoder(self.model, features, self.dtype)
        if run.batch is None:
            run.batch = self._batch_size(decoder)
            if said := memory.over_ceiling(self.device, self.limits.max_memory_gb):
                run.warnings.append(said)
        return Prompted(crop, decoder, upsampling, points, prompts)

    def _crop_winners(self, pixels: np.ndarray, crop: grid.Crop, run: Run, look: SecondLook | None) -> list[Winner]:
        prompted = self.prompted(pixels, crop, run)
        if look is not None:
            look.use(prompted)
        return self.winners(prompted, (pixels.shape[0], pixels.shape[1]), run)

    def winners(
        self, prompted: Prompted, size: tuple[int, int], run: Run, wanted: Wanted | None = None
    ) -> list[Winner]:
        """Masks of the candidates of one crop's points that pass every filter and its NMS. size: of the image.

        wanted: one more filter, before the others.
        """
        if wanted is None and self.device_loop and (found := device_run.winners(self, prompted, size, run)) is not None:
            return found
        crop = prompted.crop
        threshold = self.parameters.pred_iou_thresh

        def work(part: slice) -> Candidates:
            # The logits go with their batch: only numbers are held of all candidates.
            candidates, logits = self._scored(prompted, part, run, threshold)
            return candidates if wanted is None else candidates[wanted(candidates, logits)]

        scored = Candidates.cat(self.in_batches(len(prompted.points), run, work))
        with run.timed("postprocess", self.device):
            won = scored[chosen(scored, crop, size, self.parameters, run.funnel)]
        winners = self.in_batches(len(won), run, lambda part: self._decoded_winners(prompted, won[part], run))
        return [winner for batch in winners for winner in batch]

    def _batch_size(self, decoder: PromptDecoder) -> memory.BatchSize:
        return memory.choose_batch_size(
            self.limits.points_per_batch,
            self.device,
            memory.budget_bytes(self.device, self.limits.max_memory_gb),
            decoder.shape(self.parameters.multimask_output),
        )

    def in_batches(self, n: int, run: Run, work: Callable[[slice], T]) -> list[T]:
        """`work` on slice after slice of n prompts; where memory runs out, again with half as many at a time."""
        results: list[T] = []
        start = 0
        while start < n:
            assert run.batch is not None
            stop = min(n, start + run.batch.points)
            counted = replace(run.funnel)
            try:
                results.append(work(slice(start, stop)))
                start = stop
                continue
            except Exception as error:
                if error is run.raised or not memory.is_out_of_memory(error):
                    raise
                if run.batch.points == 1:
                    raise EnvironmentProblem(
                        f"out of memory on {self.device} even with one point at a time: "
                        "use a smaller --model, --preset low-vram, or --device cpu"
                    ) from error
            # Outside of `except`, so that the failed batch's tensors are gone before the next try.
            memory.release_cached(self.device)
            vars(run.funnel).update(vars(counted))
            run.batch = run.batch.halved()
            run.warnings.append(f"out of memory: went on with {run.batch.points} points per batch")
        return results

    def _encoded(self, crop_pixels: np.ndarray, run: Run) -> Features:
        try:
            if (features := device_run.features(self, crop_pixels, run)) is not None:
                return features
            return encode(self.model, crop_pixels, self.device, self.dtype)
        except Exception as error:
            if memory.is_out_of_memory(error):
                raise EnvironmentProblem(
                    f"out of memory on {self.device} while encoding the image: use a smaller --model, or --device cpu"
                ) from error
            raise

    def _logits(
        self,
        decoder: PromptDecoder,
        prompts: torch.Tensor,
        tile: int,
        pred_iou_thresh: float,
        keep: torch.Tensor | None = None,
    ) -> Decoded:
        """Candidates of a batch above `pred_iou_thresh`, or exactly those of `keep` (B × M bool)."""
        p = self.parameters
        if not p.use_m2m:
            return decoder.decode(
                prompts,
                tile=tile,
                multimask_output=p.multimask_output,
                pred_iou_thresh=pred_iou_thresh,
                keep=keep,
            )
        # m2m: every candidate goes back as a mask prompt of its own point; the answer takes its place.
        first = decoder.decode(prompts, tile=tile, multimask_output=p.multimask_output, pred_iou_thresh=0.0, keep=keep)
        rows = first.keep.nonzero()[:, 0]
        again = decoder.decode(
            prompts[rows],
            tile=tile,
            multimask_output=False,
            pred_iou_thresh=pred_iou_thresh,
            mask_prompts=first.logits,
            keep=None if keep is None else torch.ones(len(rows), 1, dtype=torch.bool, device=self.device),
        )
        predicted_iou = torch.full_like(first.predicted_iou, -1.0)
        predicted_iou[first.keep] = again.predicted_iou[:, 0]
        kept = torch.zeros_like(first.keep)
        kept[first.keep] = again.keep[:, 0]
        return Decoded(predicted_iou, kept, again.logits)

    def _scored(
        self, prompted: Prompted, part: slice, run: Run, pred_iou_thresh: float
    ) -> tuple[Candidates, torch.Tensor]:
        """Candidates of one batch of prompts above `pred_iou_thresh`, whatever their stability, and their logits."""
        with run.timed("decode", self.device):
            decoded = self._logits(prompted.decoder, prompted.prompts[part], run.tile, pred_iou_thresh)
            decoded = decoded.to(self.scoring_device)
        with run.timed("postprocess", self.device):
            stability, boxes = stability_and_boxes(decoded.logits, prompted.upsampling, self.parameters)
            point, output = decoded.keep.nonzero(as_tuple=True)
            predicted_iou = decoded.predicted_iou[decoded.keep]
            candidates = Candidates(point + part.start, output, predicted_iou, stability, boxes)
        funnel = run.funnel
        funnel.points += len(decoded.keep)
        funnel.candidates += decoded.keep.numel()
        best = float(decoded.predicted_iou.max())
        if math.isnan(best):
            best = float(decoded.predicted_iou.nan_to_num(nan=0.0).max())
            if _NO_NUMBERS not in run.warnings:
                run.warnings.append(_NO_NUMBERS)
        funnel.best_predicted_iou = max(funnel.best_predicted_iou, best)
        run.report(funnel.points)
        return candidates, decoded.logits

    def _decoded_winners(self, prompted: Prompted, won: Candidates, run: Run) -> list[Winner]:
        """Decode the few winners again rather than keep the logits of all candidates, and make their masks."""
        decoder, threshold = prompted.decoder, self.parameters.pred_iou_thresh
        rows = torch.arange(len(won), device=self.device)
        keep = torch.zeros(len(won), decoder.outputs(self.parameters.multimask_output), device=self.device).bool()
        keep[rows, won.output.to(self.device)] = True
        points = won.point.to(self.device)
        with run.timed("decode", self.device):
            logits = self._logits(decoder, prompted.prompts[points], run.tile, threshold, keep=keep).logits
            logits = logits.to(self.scoring_device)
        with run.timed("postprocess", self.device):
            masks = prompted.upsampling.masks([logits], self.parameters.mask_threshold)
            return winners_of(won, masks, prompted.points[points], prompted.crop)
