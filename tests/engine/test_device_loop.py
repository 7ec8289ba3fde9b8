"""The point loop of GPUs never makes device and host wait for each other, and its steps agree with the decoder."""

from __future__ import annotations

import copy
import math
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from densecli.engine import device_loop, grid
from densecli.engine.candidates import Candidates
from densecli.engine.decoder import PromptDecoder
from densecli.engine.device_decoder import DeviceDecoder, Transformed
from densecli.engine.device_loop import DeviceLoop, OnTheWay, Scores
from densecli.engine.device_steps import Steps
from densecli.engine.encoder import Features, encode
from densecli.engine.memory import LoopSize
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.upsampling import Upsampling

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PARAMETERS = GeneratorParameters(points_per_side=10, pred_iou_thresh=0.4, stability_score_thresh=0.5)
SIZE = LoopSize(prompts=24, survivors=6)
# Operators whose result's shape, or a number on the host, depends on values.
WAITING = {
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "masked_select",
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "allclose",
    "unique_dim",
    "unique_consecutive",
    "_unique",
    "_unique2",
    "bincount",
    "nms",
}


class Waited(Exception):
    """An operator made the device or the host wait."""


class NothingWaits(TorchDispatchMode):
    """Raises at operators that wait, but for the numbers that `OnTheWay` reads, which it notes."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = function.overloadpacket.__name__
        tensors = [x for x in torch.utils._pytree.tree_leaves((given, named)) if isinstance(x, torch.Tensor)]
        by_mask = name.startswith("index") and any(x.dtype in (torch.bool, torch.uint8) for x in indices_of(given))
        if name in ("item", "_local_scalar_dense") and called_from(OnTheWay.number):
            self.noted.append("read")
        elif name in WAITING or by_mask or (name == "repeat_interleave" and len(given) == 1):
            raise Waited(name)
        result = function(*given, **(named or {}))
        made = [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cuda" for x in tensors) and any(x.device.type == "cpu" for x in made):
            raise Waited(f"{name} to the host")
        return result


def indices_of(given: tuple[Any, ...]) -> list[torch.Tensor]:
    return [i for x in given if isinstance(x, list | tuple) for i in x if isinstance(i, torch.Tensor)]


def called_from(function: Callable[..., Any]) -> bool:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is function.__code__:
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 1.0)[x > 0],
        lambda x: x.index_put_((x > 0,), torch.ones_like(x[0, 0])),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: x.unique(),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.where(x > 0),
    ],
)
def test_the_check_sees_what_waits(waits: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(Waited), NothingWaits():
        waits(torch.rand(3, 4))


def test_the_check_sees_what_goes_to_the_host() -> None:
    with FakeTensorMode(), NothingWaits():
        x = torch.empty(3, device="cuda")
        for copied in (lambda: x.cpu(), lambda: x.to("cpu", non_blocking=True), lambda: x.tolist(), lambda: x.numpy()):
            with pytest.raises(Exception):  # noqa: B017 - each in its own way
                copied()


@pytest.fixture(scope="module")
def photographed(starter, photos):
    """Features of a photo, its prompts, and its upsampling."""
    pixels = photos["coffee"]
    with torch.inference_mode():
        features = encode(starter, pixels, CPU, torch.float32)
    crop = grid.crops(*pixels.shape[:2], PARAMETERS)[0]
    points = torch.as_tensor(grid.crop_points(crop, PARAMETERS), dtype=torch.float32)
    prompts = points / torch.tensor([crop.width, crop.height]) * starter.image_size
    return features, prompts, Upsampling(starter.sam_prompt_encoder.mask_input_size, pixels.shape[:2], CPU)


class Observed(Steps):
    """Steps that note when they are asked for a tile's transformer."""

    noted: list[str]

    def transform(self, tokens: torch.Tensor, count: torch.Tensor, slot: int) -> Transformed:
        self.noted.append("transform")
        return super().transform(tokens, count, slot)


@torch.inference_mode()
def test_real_numbers_under_the_check(starter, photographed) -> None:
    """One number a tile comes to the host, and only when the next tile's transformer has been queued."""
    features, prompts, upsampling = photographed
    with NothingWaits() as check:
        steps = Observed(starter, True, torch.float32, SIZE)
        steps.begin(features)
        steps.noted = check.noted
        loop = DeviceLoop(steps, prompts, upsampling, PARAMETERS)
        scores = loop.all_scores(lambda points: None)
    assert loop.tiles == 5
    assert check.noted == ["transform", *["transform", "read"] * 4, "read"]
    assert 0 < scores.keep.sum() < scores.keep.numel() and (scores.boxes[scores.keep] > 0).any()


class Counting(Steps):
    """Steps that count how many prompts they are given to upscale."""

    upscaled = 0

    def upscale(self, tile: Transformed, chosen: torch.Tensor, count: torch.Tensor, slot: int) -> torch.Tensor:
        self.upscaled += len(chosen)
        return super().upscale(tile, chosen, count, slot)


@torch.inference_mode()
def test_plain_steps_upscale_survivors_and_no_others(starter, photographed) -> None:
    features, prompts, upsampling = photographed
    steps = Counting(starter, True, torch.float32, SIZE)
    steps.begin(features)
    scores = DeviceLoop(steps, prompts, upsampling, PARAMETERS).all_scores(lambda points: None)
    assert steps.upscaled == scores.keep.any(1).sum() and steps.upscaled % SIZE.survivors


class LeftOut(Steps):
    """As the fused kernels: of prompts beyond the count, the logits make no sense."""

    counted_on_device = True

    def upscale(self, tile: Transformed, chosen: torch.Tensor, count: torch.Tensor, slot: int) -> torch.Tensor:
        logits = super().upscale(tile, chosen, count, slot).clone()
        logits[int(count) :] = torch.nan
        return logits


@pytest.mark.parametrize("of", [Steps, LeftOut], ids=["plain", "counted on the device"])
@pytest.mark.parametrize(("dtype", "noticed"), [(torch.float32, False), (torch.bfloat16, True)])
@torch.inference_mode()
def test_logits_that_half_precision_does_not_hold(starter, photographed, of, dtype: torch.dtype, noticed: bool) -> None:
    """Predicted IoU is fine, and masks would be empty. float32 holds such numbers; what is left out is none of it."""
    features, prompts, upsampling = photographed
    network = copy.deepcopy(starter)
    for factor in (1.0, 3e4):
        for mlp in network.sam_mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.mul_(factor)
            mlp.layers[-1].bias.mul_(factor)
        steps = of(network, True, dtype, SIZE)
        steps.begin(features)
        # Two tiles, of which the second is not full.
        _, best = DeviceLoop(steps, prompts[40:70], upsampling, PARAMETERS).candidates(lambda points: None)
        assert math.isnan(best) if noticed and factor > 1 else 0.4 < best < 1.1


@pytest.mark.parametrize("together", [1, 4096], ids=["many groups", "one group"])
@torch.inference_mode()
def test_winners_are_the_candidates_again(starter, photographed, monkeypatch, together: int) -> None:
    """Whether the prompts of all tiles were embedded together, and are at hand, or not."""
    monkeypatch.setattr(device_loop, "_EMBEDDED_TOGETHER", together)
    features, prompts, upsampling = photographed
    steps = Steps(starter, True, torch.float32, SIZE)
    steps.begin(features)
    loop = DeviceLoop(steps, prompts, upsampling, PARAMETERS)
    found, _ = loop.candidates(lambda points: None)
    some = found[torch.arange(0, len(found), 7)]
    assert len(some) > 3 and int(some.point.max()) >= SIZE.prompts
    for (x, y, runs), box in zip(loop.masks(some), some.boxes.tolist(), strict=True):
        assert [x, y, x + runs.size[1] - 1, y + runs.size[0] - 1] == box


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "without numba"])
@torch.inference_mode()
def test_logits_of_two_parts_of_the_winners_at_a_time(starter, photographed, monkeypatch, compiled: bool) -> None:
    """However many win; and the next part is queued before the one before becomes masks."""
    if not compiled:
        monkeypatch.setattr(device_loop, "kernels", lambda: None)
    features, prompts, upsampling = photographed
    steps = Steps(starter, True, torch.float32, SIZE)
    steps.begin(features)
    loop = DeviceLoop(steps, prompts, upsampling, PARAMETERS)
    found, _ = loop.candidates(lambda points: None)
    won = found[slice(0, 4 * SIZE.survivors + 1)]
    whole, made = loop._winner_logits, loop.upsampling.masks
    parts: list[weakref.ref[torch.Tensor]] = []
    held, noted = [], []

    def watched(won: Candidates):
        for part in whole(won):
            parts.append(weakref.ref(part))
            held.append(sum(one() is not None for one in parts))
            noted.append("queued")
            yield part
            del part

    def making(logits, threshold):
        noted.append("made")
        return made(logits, threshold)

    monkeypatch.setattr(loop, "_winner_logits", watched)
    monkeypatch.setattr(loop.upsampling, "masks", making)
    masks = loop.masks(won)
    assert len(parts) == 5 and max(held) <= 2
    assert noted == (["queued", *["queued", "made"] * 4, "made"] if compiled else ["queued", "made"] * 5)
    assert len(masks) == len(won) and masks[-1][2].area > 0


def made_fake(network: torch.nn.Module) -> Any:
    """A network with fake tensors on CUDA for weights: shapes, types and devices are followed, nothing is computed."""
    for module in network.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty_like(p, device="cuda"), requires_grad=False)
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = torch.empty_like(b, device="cuda")
    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("multimask", [True, False])
def test_on_fake_cuda_tensors(starter, photographed, dtype: torch.dtype, multimask: bool) -> None:
    """All that the loop does, as on a GPU: nothing is read, nothing comes to the host, all types and devices fit."""
    real, prompts, upsampling = photographed
    network = copy.deepcopy(starter)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        network = made_fake(network)
        features = Features(
            torch.empty_like(real.embedding, device=CUDA, dtype=dtype),
            tuple(torch.empty_like(level, device=CUDA, dtype=dtype) for level in real.high_res),
        )
        on_gpu = Upsampling(upsampling.low_size, upsampling.size, CUDA)
        steps = Steps(network, multimask, dtype, SIZE)
        loop = DeviceLoop(steps, torch.empty_like(prompts, device=CUDA), on_gpu, PARAMETERS)
        outputs = 3 if multimask else 1
        with NothingWaits() as check:
            steps.begin(features)
            scores = Scores.empty(loop.tiles * SIZE.prompts, outputs, CUDA)
            for index in range(loop.tiles):
                started = loop.start(index)
                loop.finish(started, SIZE.prompts, scores)  # the most that can survive
            stored = torch.float32 if dtype == torch.float32 else torch.float16
            assert started.tile.image.dtype == started.tile.rows.dtype == stored
            assert started.survivors.shape == () and started.survivors.device.type == "cuda"
            won = Candidates(
                torch.zeros(30, dtype=torch.int64, device=CUDA),
                torch.zeros(30, dtype=torch.int64, device=CUDA),
                *(torch.zeros(30, device=CUDA) for _ in range(2)),
                torch.zeros(30, 4, dtype=torch.int64, device=CUDA),
            )
            parts = list(loop._winner_logits(won))
        assert check.noted == []
        assert [tuple(part.shape) for part in parts] == [(6, *upsampling.low_size)] * 5
        assert {part.device.type for part in parts} == {x.device.type for x in vars(scores).values()} == {"cuda"}


@pytest.mark.parametrize(("storage", "error"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("multimask", [True, False])
@torch.inference_mode()
def test_steps_agree_with_the_decoder(starter, photographed, storage: torch.dtype, error: float, multimask: bool):
    features, prompts, _ = photographed
    some = prompts[::9]
    expected = PromptDecoder(starter, features, torch.float32).decode(
        some, tile=4, multimask_output=multimask, pred_iou_thresh=0.0
    )
    decoder = DeviceDecoder(starter, multimask, storage)
    shared = decoder.shared(features)
    tile = decoder.transform(decoder.tokens(some), torch.tensor(len(some)), shared)
    every = torch.arange(len(some))
    logits = decoder.upscale(tile.image, tile.rows, every, torch.tensor(len(some)), shared).float().flatten(0, 1)
    assert tile.image.dtype == storage and tile.predicted_iou.dtype == torch.float32
    assert (tile.predicted_iou - expected.predicted_iou).abs().max() < error
    assert (logits - expected.logits).norm() < error * expected.logits.norm()
