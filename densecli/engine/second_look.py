"""The model at hand for one image: its features are kept, so that more can be asked than the grid did."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from densecli.engine import grid
from densecli.engine.candidates import likely, stability_and_boxes, stable
from densecli.engine.current_device import on_own_device
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.prompts import Prompt, as_tensors
from densecli.engine.run import Run
from densecli.engine.selection import Funnel, Winner

if TYPE_CHECKING:
    from densecli.engine.generator import MaskGenerator
    from densecli.engine.run import Prompted, Wanted

# Questions that are decoded and scored together: they are few, and each of them gives four candidates.
_TOGETHER = 8


class SecondLook:
    """Asks the generator's model about one image, H×W×3 uint8 RGB, whatever was asked before.

    The whole image is encoded once, at the first question, unless a run hands over what it encoded. Thresholds come
    with each question; the generator's own do not matter.
    """

    def __init__(
        self,
        generator: MaskGenerator,
        pixels: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
        *,
        run: Run | None = None,
    ) -> None:
        self._generator, self._pixels = generator, pixels
        self._run = run or Run(progress=progress)
        self._whole: Prompted | None = None
        self._asked = 0

    def use(self, prompted: Prompted) -> None:
        """Take over a run's features, if they are those of the whole image."""
        if prompted.crop.layer == 0:
            self._whole = prompted

    @property
    def progress(self) -> Callable[[int, int], None] | None:
        """Called with points done and points in all. May be set at any time, and then counts those asked from there."""
        return self._run.progress

    @progress.setter
    def progress(self, progress: Callable[[int, int], None] | None) -> None:
        self._run.progress = progress
        self._asked = 0

    @property
    def device(self) -> torch.device:
        return self._generator.device

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self._pixels.shape[0], self._pixels.shape[1]

    @on_own_device
    @torch.inference_mode()
    def at_points(
        self, points: np.ndarray, parameters: GeneratorParameters, wanted: Wanted | None = None
    ) -> list[Winner]:
        """Masks of single positive points, n × 2 (x, y) in pixels, that pass the thresholds and their own NMS.

        wanted: one more filter, before the others.
        """
        whole, run = self._encoded(), self._run
        generator = self._with(parameters)
        places = torch.as_tensor(points, dtype=torch.float32, device=generator.device)
        done = run.funnel.points + self._asked
        self._asked += len(points)
        part = replace(run, funnel=Funnel(points=done), all_points=done + len(points))
        prompted = replace(whole, points=places, prompts=self._input(places))
        winners = generator.winners(prompted, self.size, part, wanted)
        run.batch = part.batch
        return winners

    @on_own_device
    @torch.inference_mode()
    def answers(self, prompts: Sequence[Prompt], parameters: GeneratorParameters) -> list[list[Winner]]:
        """For each prompt the masks that pass the thresholds, of all outputs of the decoder; there is no NMS.

        SAM 2 was trained to answer a box, or several points, with its single-mask output; the three others are
        taken too, since predicted IoU tells how good they are. `use_m2m` does not count here.
        """
        found: list[list[Winner]] = [[] for _ in prompts]
        if not prompts:
            return found
        whole, generator = self._encoded(), self._with(parameters)
        by_length = defaultdict(list)
        for i, prompt in enumerate(prompts):
            by_length[len(prompt)].append(i)
        for places in by_length.values():
            for begin in range(0, len(places), _TOGETHER):
                some = places[begin : begin + _TOGETHER]
                asked = [prompts[i] for i in some]

                def work(part: slice, asked: list[Prompt] = asked) -> list[list[Winner]]:
                    return self._answered(generator, whole, asked[part], parameters)

                answered = [a for batch in generator.in_batches(len(some), self._run, work) for a in batch]
                for i, winners in zip(some, answered, strict=True):
                    found[i] = winners
        return found

    def _answered(
        self, generator: MaskGenerator, whole: Prompted, prompts: Sequence[Prompt], parameters: GeneratorParameters
    ) -> list[list[Winner]]:
        places, labels = as_tensors(prompts, generator.device)
        found: list[list[Winner]] = [[] for _ in prompts]
        width, height = whole.crop.width, whole.crop.height
        for multimask in (False, True):
            with self._run.timed("decode", generator.device):
                decoded = whole.decoder.decode(
                    self._input(places),
                    labels=labels,
                    tile=self._run.tile,
                    multimask_output=multimask,
                    pred_iou_thresh=parameters.pred_iou_thresh,
                ).to(generator.scoring_device)
            with self._run.timed("postprocess", generator.device):
                stability, _ = stability_and_boxes(decoded.logits, whole.upsampling, parameters)
                predicted_iou = decoded.predicted_iou[decoded.keep]
                of = decoded.keep.nonzero()[:, 0]
                good = likely(predicted_iou, parameters.pred_iou_thresh) & stable(stability, parameters)
                for k in good.nonzero()[:, 0].tolist():
                    x, y, runs = whole.upsampling.mask(decoded.logits[k], parameters.mask_threshold)
                    prompt = prompts[int(of[k])]
                    found[int(of[k])].append(
                        Winner(
                            x,
                            y,
                            runs,
                            float(predicted_iou[k]),
                            float(stability[k]),
                            prompt.points,
                            (0, 0, width, height),
                            prompt.xywh,
                        )
                    )
        return found

    def _with(self, parameters: GeneratorParameters) -> MaskGenerator:
        generator = copy.copy(self._generator)
        generator.parameters = parameters
        return generator

    def _input(self, places: torch.Tensor) -> torch.Tensor:
        """From pixels of the image to pixels of the model's input: … × 2 float32."""
        height, width = self.size
        return places / torch.tensor([width, height], dtype=torch.float32, device=places.device) * self._model_size

    @property
    def _model_size(self) -> int:
        return self._generator.model.image_size

    @on_own_device
    @torch.inference_mode()
    def _encoded(self) -> Prompted:
        if self._whole is None:
            height, width = self.size
            self._whole = self._generator.prompted(self._pixels, grid.Crop((0, 0, width, height), 0), self._run)
        return self._whole
