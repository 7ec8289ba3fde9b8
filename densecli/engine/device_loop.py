"""The point loop on a GPU: all points of a crop in tiles of fixed shapes, with the device never waiting for the host.

What a tile's survivors cost depends on how many there are. The fused kernels read that number where it is, on the
device, and stop at it. For plain PyTorch it must be known when the work is queued, and three ways are exact (T:
transformer, 47 MB a prompt to read and write; U: upscaling, as much; N prompts, of which S survive):

- upscale every prompt: (T + U)·N, nothing to know;
- transform all, count once, transform the survivors again and upscale them: T·N + (T + U)·S, one stop;
- count a tile's survivors, upscale these: T·N + U·S. At S = N / 2 that is a quarter less than either.

The third it is, without the stop: a tile's count is copied to pinned memory while the next tile's transformer, already
queued, keeps the device busy; the host reads the count when it has come, and queues that many steps of survivors. No
step's shape depends on a value, and no operator of the loop makes the device or the host wait for the other (a test
runs the loop on fake CUDA tensors, and under a check that knows every operator that would).

Filters and NMS follow on the device; only the winners' low-resolution logits come to the host, where their runs are
found (`outlines.py`). Run and measured on an H100 and an H200.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from densecli.engine import scoring
from densecli.engine.acceleration import SLOTS
from densecli.engine.candidates import Candidates, likely
from densecli.engine.compiled import kernels
from densecli.engine.device_decoder import Transformed
from densecli.engine.device_steps import Steps
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.upsampling import Upsampling
from densecli.masks import Runs

# Prompts: 33 MB of tokens for an official shape.
_EMBEDDED_TOGETHER = 4096


class OnTheWay:
    """A tensor that is being copied to the host: asked for now, waited for when it is read."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._host, self._event = tensor, None
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def arrived(self) -> torch.Tensor:
        """The tensor on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host

    def number(self) -> int:
        """The one number that it is."""
        return int(self.arrived())


@dataclass(frozen=True)
class Started:
    """A tile after its transformer. keep: B × M bool. order: B int64, prompts, those that keep an output first.

    survivors: how many these are, 0-dimensional, on the device.
    """

    index: int
    tile: Transformed
    keep: torch.Tensor
    order: torch.Tensor
    survivors: torch.Tensor


@dataclass(frozen=True)
class Scores:
    """What is known of all candidates of a crop, filled tile by tile; P' prompts, a whole number of tiles.

    predicted_iou: P' × M float32. keep: P' × M bool. areas: P' × M × 2 int64, above the lower and the upper stability
    threshold. boxes: P' × M × 4 int64. Zeros where not kept.
    """

    predicted_iou: torch.Tensor
    keep: torch.Tensor
    areas: torch.Tensor
    boxes: torch.Tensor

    def on_host(self) -> Scores:
        return Scores(*(x.arrived() for x in [OnTheWay(x) for x in vars(self).values()]))

    @staticmethod
    def empty(prompts: int, outputs: int, device: torch.device) -> Scores:
        return Scores(
            torch.zeros(prompts, outputs, device=device),
            torch.zeros(prompts, outputs, dtype=torch.bool, device=device),
            torch.zeros(prompts, outputs, 2, dtype=torch.int64, device=device),
            torch.zeros(prompts, outputs, 4, dtype=torch.int64, device=device),
        )


class DeviceLoop:
    """The loop over one crop's points. steps: begun with the crop's features.

    prompts: P × 2 float32 (x, y) in pixels of the model's input, on the device.
    """

    def __init__(
        self, steps: Steps, prompts: torch.Tensor, upsampling: Upsampling, parameters: GeneratorParameters
    ) -> None:
        self.steps, self.prompts, self.upsampling, self.parameters = steps, prompts, upsampling, parameters
        self.size = steps.size
        self.outputs = len(steps.decoder.outputs)
        threshold, offset = parameters.mask_threshold, parameters.stability_score_offset
        self.thresholds = threshold - offset, threshold, threshold + offset
        self._embedded: tuple[int, torch.Tensor] | None = None

    @property
    def tiles(self) -> int:
        """How many tiles the points make."""
        return -(-len(self.prompts) // self.size.prompts)

    def candidates(self, advanced: Callable[[int], None]) -> tuple[Candidates, float]:
        """All candidates above `pred_iou_thresh` in the order of their prompts, and the best predicted IoU of all.

        They are on the host: some kilobytes, for each of whose filters it would have to wait for the device. advanced:
        called with how many more points are done, tile after tile. Where half precision overflowed, in predicted IoU or
        in the logits of a candidate above the threshold, the best is NaN.
        """
        scores = self.all_scores(advanced).on_host()
        found = scores.keep.nonzero()
        areas = scores.areas[scores.keep].double()
        predicted_iou = scores.predicted_iou[: len(self.prompts)]
        return Candidates(
            found[:, 0],
            found[:, 1],
            scores.predicted_iou[scores.keep],
            (areas[:, 1] / areas[:, 0]).float(),
            scores.boxes[scores.keep],
        ), float(predicted_iou.max())

    def all_scores(self, advanced: Callable[[int], None]) -> Scores:
        """The loop itself: fixed shapes, and a tile's work queued before the count of the tile before is read."""
        scores = Scores.empty(self.tiles * self.size.prompts, self.outputs, self.prompts.device)
        if self.steps.counted_on_device:
            for index in range(self.tiles):
                self._finish_whole(self.start(index), scores, advanced)
            return scores
        waiting: tuple[Started, OnTheWay] | None = None
        for index in range(self.tiles):
            started = self.start(index)
            count = OnTheWay(started.survivors)
            if waiting is not None:
                self._finish_counted(waiting, scores, advanced)
            waiting = started, count
        if waiting is not None:
            self._finish_counted(waiting, scores, advanced)
        return scores

    def _finish_whole(self, started: Started, scores: Scores, advanced: Callable[[int], None]) -> None:
        self._keep(started, scores)
        self._score(started, started.order, scores)
        self._advance(started, advanced)

    def _finish_counted(
        self, waiting: tuple[Started, OnTheWay], scores: Scores, advanced: Callable[[int], None]
    ) -> None:
        started, count = waiting
        self.finish(started, count.number(), scores)
        self._advance(started, advanced)

    def _advance(self, started: Started, advanced: Callable[[int], None]) -> None:
        begin = started.index * self.size.prompts
        advanced(min(len(self.prompts), begin + self.size.prompts) - begin)

    def start(self, index: int) -> Started:
        """Queue a tile's transformer and find out on the device which of its prompts survive."""
        tokens, left = self._tokens(index), len(self.prompts) - index * self.size.prompts
        tile = self.steps.transform(tokens, self._number(min(left, len(tokens))), self._slot(index))
        keep = likely(tile.predicted_iou, self.parameters.pred_iou_thresh)
        keep[left:] = False
        some = keep.any(1)
        order = some.to(torch.uint8).argsort(descending=True, stable=True)
        return Started(index, tile, keep, order, some.sum())

    @property
    def _embedded_together(self) -> int:
        """How many tiles' prompts are embedded together, as that takes forty small kernels."""
        return max(1, _EMBEDDED_TOGETHER // self.size.prompts)

    def _tokens(self, index: int) -> torch.Tensor:
        """A tile's prompt tokens."""
        n, together = self.size.prompts, self._embedded_together
        group, place = divmod(index, together)
        if self._embedded is None or self._embedded[0] != group:
            points = self.prompts[group * together * n : (group + 1) * together * n]
            points = self._padded(points, -(-len(points) // n) * n)
            self._embedded = group, self.steps.decoder.tokens(points)
        return self._embedded[1][place * n : (place + 1) * n]

    def _tokens_again(self, points: torch.Tensor) -> torch.Tensor:
        """Prompt tokens of some points (int64, on the device), after the loop."""
        if self._embedded is not None and self.tiles <= self._embedded_together:
            return self._embedded[1].index_select(0, points)
        return self.steps.decoder.tokens(self.prompts.index_select(0, points))

    def finish(self, started: Started, survivors: int, scores: Scores) -> None:
        """Queue upscaling and scores of the first `survivors` prompts of a tile's order, and put them into `scores`."""
        self._keep(started, scores)
        # What is captured has one size: there the last step goes on beyond the survivors, with prompts of which nothing
        # is wanted.
        order = started.order if self.steps.acceleration else started.order[:survivors]
        for begin in range(0, survivors, self.size.survivors):
            self._score(started, order[begin : begin + self.size.survivors], scores)

    def _slot(self, index: int) -> int:
        """Where no count is waited for, one tile is under way at a time."""
        return 0 if self.steps.counted_on_device else index % SLOTS

    def _window(self, started: Started) -> slice:
        return slice(started.index * self.size.prompts, (started.index + 1) * self.size.prompts)

    def _keep(self, started: Started, scores: Scores) -> None:
        window = self._window(started)
        scores.predicted_iou[window] = started.tile.predicted_iou
        scores.keep[window] = started.keep

    def _score(self, started: Started, chosen: torch.Tensor, scores: Scores) -> None:
        window = self._window(started)
        slot = self._slot(started.index)
        logits = self.steps.upscale(started.tile, chosen, started.survivors, slot).flatten(0, 1)
        wanted = started.keep.index_select(0, chosen).flatten()
        if logits.dtype != torch.float32:
            self._note_overflow(started, chosen, logits, wanted, scores)
        areas, boxes = scoring.areas_and_boxes(logits, wanted, self.upsampling, *self.thresholds)
        scores.areas[window].index_copy_(0, chosen, areas.view(-1, self.outputs, 2))
        scores.boxes[window].index_copy_(0, chosen, boxes.view(-1, self.outputs, 4))

    def _note_overflow(
        self, started: Started, chosen: torch.Tensor, logits: torch.Tensor, wanted: torch.Tensor, scores: Scores
    ) -> None:
        """Make predicted IoU NaN of wanted candidates whose logits are not all finite, as those say nothing of a mask.

        A sum in float32 of what half precision holds is finite, and one look at the logits. What is not wanted may be
        anything: the fused kernels leave it out.
        """
        lost = wanted & ~logits.sum((1, 2), dtype=torch.float32).isfinite()
        predicted_iou = started.tile.predicted_iou.index_select(0, chosen)
        predicted_iou = predicted_iou.masked_fill(lost.view_as(predicted_iou), torch.nan)
        scores.predicted_iou[self._window(started)].index_copy_(0, chosen, predicted_iou)

    def masks(self, won: Candidates) -> list[tuple[int, int, Runs]]:
        """The masks of W winners: x and y in pixels of the crop, and runs.

        Their prompts are decoded a second time, in the same steps; the logits come to the host tile by tile, and become
        masks while the device is at the next: of two tiles there are logits at a time, however many win.
        """
        masks: list[tuple[int, int, Runs]] = []
        waiting: OnTheWay | None = None
        for part in self._winner_logits(won):
            if kernels() is None:
                masks += self.upsampling.masks([part], self.thresholds[1])
                continue
            coming = OnTheWay(part)
            if waiting is not None:
                masks += self.upsampling.masks([waiting.arrived()], self.thresholds[1])
            waiting = coming
        if waiting is not None:
            masks += self.upsampling.masks([waiting.arrived()], self.thresholds[1])
        return masks

    def _winner_logits(self, won: Candidates) -> Iterator[torch.Tensor]:
        """K × h × w float32 logits of the winners, some at a time, on the device."""
        for number, begin in enumerate(range(0, len(won), self.size.prompts)):
            part = won[slice(begin, begin + self.size.prompts)]
            points, n = part.point.to(self.prompts.device), len(part)
            full = self.size.prompts if self.steps.acceleration else n
            slot, count = self._slot(number), self._number(n)
            tile = self.steps.transform(self._tokens_again(self._padded(points, full)), count, slot)
            every = torch.arange(full, device=points.device)
            output = self._padded(part.output.to(points.device), full)
            for first in range(0, n, self.size.survivors):
                chosen = every[first : first + self.size.survivors]
                logits = self.steps.upscale(tile, chosen, count, slot)
                yield logits[every[: len(chosen)], output[chosen]][: n - first].float()

    def _number(self, n: int) -> torch.Tensor:
        """n where it is needed, on the device, without anybody waiting."""
        return torch.full((), n, dtype=torch.int64, device=self.prompts.device)

    def _padded(self, x: torch.Tensor, n: int) -> torch.Tensor:
        """x with its last row repeated until it has n."""
        return torch.cat([x, x[-1:].expand(n - len(x), *x.shape[1:])]) if len(x) < n else x
