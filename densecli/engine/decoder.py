"""Features and points to candidates: SAM 2's mask decoder for many prompts on one image, re-associated.

The function is that of `sam2.modeling.sam.mask_decoder.MaskDecoder` (float32: relative error below 1e-5); only the
order of the arithmetic differs:

1. What all prompts of an image have in common is computed once, and projections of many image tokens are absorbed into
   few prompt tokens (`two_way.py`).
2. Where prompts begin with the same image tokens, these stay a sum of few factors (`factored.py`).
3. Predicted IoU needs the IoU token only: it filters first, and only prompts that keep an output go through the last
   attention of their mask tokens and are upscaled (`upscaler.py`).
4. Prompts go through in tiles, so that what a tile needs stays in the cache and memory is one tile. On a CPU a tile is
   shared out to threads, each of which does all steps for its own.

Symbols: B prompts of a tile, T tokens a prompt (7 or 8), N image tokens, C channels, M outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from densecli.engine.candidates import likely
from densecli.engine.encoder import Features
from densecli.engine.factored import FactoredTransformer
from densecli.engine.image_tokens import ImageTokens
from densecli.engine.in_place import Buffers
from densecli.engine.memory import DecoderShape
from densecli.engine.threads import single_threads, without_gradients
from densecli.engine.two_way import TwoWayTransformer
from densecli.engine.upscaler import Upscaler

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

# sam2's predictor clamps the low-resolution logits that it hands back for use as mask prompts.
MASK_PROMPT_LIMIT = 32.0
# Share of a tile's prompts from which the few others may stay among them: to copy the rest without them takes longer.
_MOST = 0.75


@dataclass(frozen=True)
class Decoded:
    """Candidates of a batch of prompts.

    predicted_iou: B × M float32. keep: B × M bool, the candidates above the threshold.
    logits: K × h × w float32, low-resolution mask logits of the kept ones, in row-major order of `keep`.
    """

    predicted_iou: torch.Tensor
    keep: torch.Tensor
    logits: torch.Tensor

    def to(self, device: torch.device) -> Decoded:
        """The same on another device."""
        return Decoded(self.predicted_iou.to(device), self.keep.to(device), self.logits.to(device))


class _Room:
    """Where some prompts write their logits: behind those before them, once it is known how many these keep.

    begin: the first place in `logits`, or the `end` of those before. end: the place behind the last one.
    """

    def __init__(self, logits: torch.Tensor, begin: int | Future[int]) -> None:
        self._logits, self._begin = logits, begin
        self.end: Future[int] = Future()

    def take(self, count: int) -> torch.Tensor:
        begin = self._begin if isinstance(self._begin, int) else self._begin.result()
        self.end.set_result(begin + count)
        return self._logits[begin : begin + count]

    def give_up(self, error: BaseException) -> None:
        """Nobody behind shall wait for what will not come."""
        if not self.end.done():
            self.end.set_exception(error)


class _Transformed(NamedTuple):
    """Prompts after the transformer's layers, before its last attention.

    tokens: B × T × C. image: their image tokens. pe: the prompts' tokens before the first layer, B × T × C.
    """

    tokens: torch.Tensor
    image: ImageTokens
    pe: torch.Tensor

    def attended(self, which: range) -> torch.Tensor:
        """B × t × C, some tokens after the last attention."""
        chosen = slice(which.start, which.stop)
        return self.image.attended(self.tokens[:, chosen], self.pe[:, chosen])

    def of(self, some: torch.Tensor) -> _Transformed:
        """Those of some prompts (B bool)."""
        return _Transformed(self.tokens[some], self.image[some], self.pe[some])


class PromptDecoder:
    """The mask decoder of `model`, prepared for one crop's features."""

    def __init__(self, model: SAM2Base, features: Features, dtype: torch.dtype) -> None:
        self.model: Any = model
        self.decoder: Any = model.sam_mask_decoder
        self.prompt_encoder: Any = model.sam_prompt_encoder
        self.dtype = dtype
        self.device = features.embedding.device
        self.channels, self.height, self.width = features.embedding.shape[1:]
        self.high_res = features.high_res
        self.embedding = features.embedding
        # Autocast knows no products into given memory, and a GPU's allocator has it ready anyway.
        self.buffers = Buffers(used=self.device.type == "cpu" and dtype == torch.float32)

    # Made at first use: the loop of GPUs, which has its own, would wait for some sixty kernels in vain.

    @cached_property
    def _plain(self) -> TwoWayTransformer:
        with torch.no_grad(), self._autocast():
            pe = _tokens_last(self.prompt_encoder.get_dense_pe().to(self.embedding))[0]
            image = self.embedding + self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
            image = _tokens_last(image)[0]
            return TwoWayTransformer(self.decoder.transformer, image, pe, self._upscaler.first, self.buffers)

    @cached_property
    def _factored(self) -> FactoredTransformer:
        with torch.no_grad():
            return FactoredTransformer(self._plain)

    @cached_property
    def _upscaler(self) -> Upscaler:
        with torch.no_grad(), self._autocast():
            return Upscaler(self.decoder, self.high_res, (self.height, self.width), self.dtype, self.buffers)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def shape(self, multimask_output: bool) -> DecoderShape:
        """Sizes that decide how much memory a prompt takes."""
        element_size = torch.empty(0, dtype=self.dtype).element_size()
        return DecoderShape(self.height * self.width, self.channels, self.outputs(multimask_output), element_size)

    def outputs(self, multimask_output: bool) -> int:
        """M, candidates a prompt."""
        return self.decoder.num_mask_tokens - 1 if multimask_output else 1

    @property
    def logits_size(self) -> tuple[int, int]:
        """(h, w) of the low-resolution logits: four times the embedding's."""
        return 4 * self.height, 4 * self.width

    @torch.no_grad()
    def decode(
        self,
        points: torch.Tensor,
        *,
        tile: int,
        multimask_output: bool,
        pred_iou_thresh: float,
        mask_prompts: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> Decoded:
        """Candidates for single positive points, or for prompts of several points and boxes.

        points: B × 2 float32 (x, y) in pixels of the model's input; with labels B × P × 2. labels: B × P int, what
        each point is, as in sam2's prompt encoder: 1 positive, 0 negative, 2 and 3 a box's upper left and lower right
        corner. mask_prompts: B × h × w logits of an earlier pass (m2m), clamped here. tile: prompts at a time, of all
        threads together. pred_iou_thresh: 0 or less keeps everything. keep: B × M bool, exactly these candidates,
        whatever their predicted IoU.
        """
        self.buffers.clear()
        b, outputs = len(points), self.outputs(multimask_output)
        with self._autocast():
            tokens = self._tokens(points, labels)
        # Room for as many as there can be; what is not written to takes no memory of a host.
        logits = torch.empty(b * outputs if keep is None else int(keep.sum()), *self.logits_size, device=self.device)
        predicted_iou = torch.zeros(b, outputs, device=self.device)
        kept = torch.zeros_like(predicted_iou, dtype=torch.bool)

        def decode_some(some: slice, room: _Room) -> None:
            prompts = None if mask_prompts is None else mask_prompts[some]
            with self._autocast():
                decoded = self._transformed(tokens[some], prompts)
                predicted_iou[some], kept[some] = self._finished(
                    decoded, multimask_output, pred_iou_thresh, None if keep is None else keep[some], room
                )

        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        factored = mask_prompts is None and self._has_factors(tokens.shape[1])
        # Factors are shared out to threads, in each of which torch has one: none waits for another at the end of every
        # product (benchmarks/NOTES.md). Image tokens that are written out are for all threads together.
        step = tile if factored else max(1, tile // threads)
        done = 0
        for start in range(0, b, step):
            end = min(start + step, b)
            shares = min(threads, (end - start) // self._factored.steps.least_of_thread) if factored else 1
            if shares > 1:
                done = self._on_all_threads(decode_some, start, end, shares, logits, done)
            else:
                room = _Room(logits, done)
                decode_some(slice(start, end), room)
                done = room.end.result()
        return Decoded(predicted_iou, kept, logits[:done])

    def _on_all_threads(
        self,
        decode_some: Callable[[slice, _Room], None],
        start: int,
        end: int,
        n: int,
        logits: torch.Tensor,
        done: int,
    ) -> int:
        """Decode prompts start to end, in n shares on a thread each; returns up to where `logits` are written then."""
        self._factored, self._upscaler  # noqa: B018  made before several threads ask for them
        bounds = [start + (end - start) * i // n for i in range(n + 1)]
        rooms = [_Room(logits, done)]
        for _ in range(n - 1):
            rooms.append(_Room(logits, rooms[-1].end))

        @without_gradients
        def work(share: slice, room: _Room) -> None:
            try:
                decode_some(share, room)
            except BaseException as error:
                room.give_up(error)
                raise

        shares = [slice(*pair) for pair in pairwise(bounds)]
        pool = single_threads(torch.get_num_threads())
        for finished in [pool.submit(work, *both) for both in zip(shares, rooms, strict=True)]:
            finished.result()
        return rooms[-1].end.result()

    def _has_factors(self, tokens: int) -> bool:
        """Whether image tokens of prompts of so many tokens stay factors, unless there is a mask prompt."""
        exact_on_cpu = self.dtype == torch.float32 and self.device.type == "cpu"
        return exact_on_cpu and FactoredTransformer.serves(self.decoder.transformer, tokens)

    def _transformed(self, pe: torch.Tensor, prompts: torch.Tensor | None) -> _Transformed:
        """A tile after the transformer's layers, from its tokens before them, B × T × C."""
        started = pe if prompts is not None else self._plain.started(pe)
        if prompts is None and self._has_factors(pe.shape[1]):
            return _Transformed(*self._factored.transform(pe, started), pe)
        image = None if prompts is None else self._prompted_image(prompts)
        return _Transformed(*self._plain.transform(pe, started, image), pe)

    def _finished(
        self,
        tile: _Transformed,
        multimask: bool,
        threshold: float,
        keep: torch.Tensor | None,
        room: _Room,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """predicted_iou and keep (B × M each) of a tile, whose logits are written where there is room for them."""
        iou = 1 if self.decoder.pred_obj_scores else 0
        predicted_iou = self.decoder.iou_prediction_head(tile.attended(range(iou, iou + 1))[:, 0]).float()
        if not multimask and self.decoder.dynamic_multimask_via_stability:
            # Which output counts depends on the masks themselves, so all of them are needed before any filter.
            every = torch.ones_like(predicted_iou, dtype=torch.bool)
            all_logits = predicted_iou.new_empty(*every.shape, *self.logits_size)
            self._upscale(tile, range(every.shape[1]), every, all_logits.flatten(0, 1))
            found, predicted_iou = self.decoder._dynamic_multimask_via_stability(all_logits, predicted_iou)
            keep = likely(predicted_iou, threshold) if keep is None else keep
            room.take(int(keep.sum()))[:] = found[keep]
            return predicted_iou, keep
        outputs = range(1, self.decoder.num_mask_tokens) if multimask else range(1)
        predicted_iou = predicted_iou[:, outputs.start : outputs.stop]
        keep = likely(predicted_iou, threshold) if keep is None else keep
        logits = room.take(int(keep.sum()))
        some = keep.any(1)
        survivors = int(some.sum())
        if survivors > _MOST * len(some):
            self._upscale(tile, outputs, keep, logits)
        elif survivors:
            self._upscale(tile.of(some), outputs, keep[some], logits)
        return predicted_iou, keep

    def _upscale(self, tile: _Transformed, outputs: range, keep: torch.Tensor, logits: torch.Tensor) -> None:
        first = 2 if self.decoder.pred_obj_scores else 1
        tokens = tile.attended(range(first + outputs.start, first + outputs.stop))
        self._upscaler(tile.image, tokens, outputs, keep, logits)

    def _tokens(self, points: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """B × T × C: object score (where used), IoU and mask tokens, the points and the padding point."""
        if labels is None:
            points, labels = points[:, None], torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse = self.prompt_encoder._embed_points(points, labels, pad=True)
        learned = [self.decoder.iou_token.weight, self.decoder.mask_tokens.weight]
        if self.decoder.pred_obj_scores:
            learned.insert(0, self.decoder.obj_score_token.weight)
        return torch.cat([torch.cat(learned)[None].expand(len(points), -1, -1), sparse], 1)

    def _prompted_image(self, prompts: torch.Tensor) -> torch.Tensor:
        """B × N × C image tokens with the mask prompt added."""
        clamped = prompts.clamp(-MASK_PROMPT_LIMIT, MASK_PROMPT_LIMIT)[:, None]
        dense = self.prompt_encoder._embed_masks(clamped)
        return _tokens_last(self.embedding + dense)


def _tokens_last(maps: torch.Tensor) -> torch.Tensor:
    """B × C × h × w to B × N × C."""
    return maps.flatten(2).transpose(1, 2).contiguous()
