"""One crop through the point loop of a GPU: sizes for the memory there is, out of memory, filters, NMS, winners."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from densecli.engine import memory, unasked
from densecli.engine.acceleration import PLAIN, Acceleration, Kept
from densecli.engine.candidates import Candidates
from densecli.engine.device_decoder import fusable, serves, storage_dtype
from densecli.engine.device_loop import DeviceLoop
from densecli.engine.device_steps import accelerated_features, steps_of, token_products
from densecli.engine.encoder import Features, model_input
from densecli.engine.memory import DecoderShape, LoopSize
from densecli.engine.selection import Winner, chosen, winners_of
from densecli.engine.triton_kernels import fused_fits, shared_memory
from densecli.wording import reason_of

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

    from densecli.engine.generator import MaskGenerator
    from densecli.engine.run import Prompted, Run


# Use the fused kernels of `decoder_kernels.py` on CUDA devices that can hold them; elsewhere plain PyTorch does.
FUSED = True


def usable(generator: MaskGenerator) -> bool:
    """Whether the loop can serve this generator's parameters: neither m2m nor an output chosen by its masks."""
    return not generator.parameters.use_m2m and serves(generator.model, generator.parameters.multimask_output)


def features(generator: MaskGenerator, crop_pixels: np.ndarray, run: Run) -> Features | None:
    """Features of a crop (H×W×3 uint8 RGB) by the accelerated encoder, or None where `encoder.encode` is to make them.

    A CUDA graph of the encoder does not need to be wished for: launched kernel by kernel, the large network's takes the
    host twice as long as the device (benchmarks/NOTES.md). The first crop goes without, as capturing takes as long as
    several crops; and where memory is short, all do, as a graph keeps what the encoder needs while it runs.
    """
    acceleration = generator.acceleration if generator.acceleration else unasked.ENCODER_GRAPH
    key = "encoder", generator.dtype, acceleration
    if acceleration is unasked.ENCODER_GRAPH and not unasked.worth_capturing(generator, key, unasked.ENCODER_BYTES):
        return None
    image = model_input(crop_pixels, generator.model.image_size, generator.device)
    try:
        return accelerated_features(generator.model, image, generator.dtype, acceleration)
    except Exception as error:
        if acceleration is unasked.ENCODER_GRAPH:
            unasked.give_up(generator)  # the encoder itself will say what is wrong, if it is not the graph
            return None
        if memory.is_out_of_memory(error):
            raise
        give_up_acceleration(generator, run, error)
        return None


def winners(generator: MaskGenerator, prompted: Prompted, size: tuple[int, int], run: Run) -> list[Winner] | None:
    """Winners of one crop, as `MaskGenerator.winners` gives them, or None where that one has to find them.

    That is where not even a small tile fits, where half precision does not hold the network's numbers, and where the
    loop fails for any other reason: in these two cases the network goes without it from then on, in this type. size:
    of the image. Raises what the run's `progress` raises.
    """
    if generator.dtype in Kept.by(generator.model).loop_refused:
        return None
    while True:
        loop_size, acceleration = _way(generator, prompted, run)
        try:
            # Accelerated steps are the network's, which may serve more threads than this one.
            with Kept.by(generator.model).lock if acceleration else nullcontext():
                return _winners(generator, prompted, size, run, loop_size, acceleration)
        except Exception as error:
            if error is run.raised:
                raise
            if not memory.is_out_of_memory(error):
                if acceleration != generator.acceleration:
                    unasked.give_up(generator)
                    continue
                if acceleration == PLAIN:
                    _give_up_loop(generator, run, error)
                    return None
                give_up_acceleration(generator, run, error)
                continue
        # Outside of `except`, so that the failed tile's tensors are gone before the next try.
        Kept.by(generator.model).drop("steps", "unasked", *(() if generator.acceleration else ("encoder",)))
        memory.release_cached(generator.device)
        if loop_size.prompts == 1:
            return None
        run.loop_limit = loop_size.halved()
        run.warnings.append(f"out of memory: went on with {run.loop_limit.prompts} points per batch")


def _way(generator: MaskGenerator, prompted: Prompted, run: Run) -> tuple[LoopSize, Acceleration]:
    """Sizes of the loop, and how its steps run: the fused ones in CUDA graphs from the second crop of a size on.

    Launched kernel by kernel, a tile's transformer takes the host nearly as long as the device, and a host in whose
    threads photos are being read longer.
    """
    acceleration, kept = generator.acceleration, Kept.by(generator.model)
    if acceleration or not acceleration.fused or run.loop_limit is not None:
        return _size(generator, prompted, run), acceleration
    outputs = prompted.decoder.outputs(generator.parameters.multimask_output)
    limits = generator.limits
    key = "unasked", outputs, generator.dtype, limits.points_per_batch, limits.max_memory_gb, len(prompted.points)
    size = kept.made.get(key) or _size(generator, prompted, run)
    needed = size.prompts * _shape(generator, prompted).fused_bytes
    # Of crops of several sizes the first few are captured.
    many = len(kept.keys("unasked")) >= unasked.MOST_SIZES
    if (key not in kept.made and many) or not unasked.worth_capturing(generator, key, needed):
        return size, acceleration
    kept.made[key] = size  # what is free now differs from what is free later; the size must not
    return size, replace(acceleration, captured=True)


def _shape(generator: MaskGenerator, prompted: Prompted) -> DecoderShape:
    decoder = prompted.decoder
    element_size = torch.empty(0, dtype=storage_dtype(generator.dtype)).element_size()
    outputs = decoder.outputs(generator.parameters.multimask_output)
    return DecoderShape(decoder.height * decoder.width, decoder.channels, outputs, element_size)


def _size(generator: MaskGenerator, prompted: Prompted, run: Run) -> LoopSize:
    limits, shape = generator.limits, _shape(generator, prompted)
    made = Kept.by(generator.model).made if generator.acceleration else {}
    key = "size", shape.outputs, generator.dtype, generator.acceleration, limits.points_per_batch, limits.max_memory_gb
    if generator.acceleration and run.loop_limit is None and key in made:
        return made[key]  # what is free now differs from what was free when it was compiled; the size must not
    found = memory.choose_loop_size(
        limits.points_per_batch,
        memory.budget_bytes(generator.device, limits.max_memory_gb),
        shape,
        len(prompted.points),
        captured=bool(generator.acceleration),
        fused=generator.acceleration.fused,
    )
    if run.loop_limit is not None and found.prompts > run.loop_limit.prompts:
        found = run.loop_limit
    if generator.acceleration:
        made[key] = found
    return found


def _winners(
    generator: MaskGenerator,
    prompted: Prompted,
    size: tuple[int, int],
    run: Run,
    loop_size: LoopSize,
    acceleration: Acceleration,
) -> list[Winner] | None:
    parameters, device = generator.parameters, generator.device
    funnel = replace(run.funnel)  # counts only once there are winners: memory may run out before
    done = 0

    def advanced(points: int) -> None:
        nonlocal done
        done += points
        run.report(funnel.points + done)

    with run.timed("decode", device):
        steps = steps_of(generator.model, parameters.multimask_output, generator.dtype, loop_size, acceleration)
        steps.begin(Features(prompted.decoder.embedding, prompted.decoder.high_res))
        loop = DeviceLoop(steps, prompted.prompts, prompted.upsampling, parameters)
        with token_products(generator.dtype):
            scored, best = loop.candidates(advanced)
    if not math.isfinite(best):
        _refuse_loop(generator)
        if generator.dtype != torch.float32:  # else the slower way says what it meets
            run.warnings.append("half precision does not hold this network's numbers: went on the slower way")
        return None
    funnel.points += len(prompted.points)
    funnel.candidates += len(prompted.points) * loop.outputs
    funnel.best_predicted_iou = max(funnel.best_predicted_iou, best)
    with run.timed("postprocess", device):
        won: Candidates = scored[chosen(scored, prompted.crop, size, parameters, funnel)]
    with run.timed("decode", device), token_products(generator.dtype):
        masks = loop.masks(won)
    vars(run.funnel).update(vars(funnel))
    return winners_of(won, masks, prompted.points[won.point.to(prompted.points.device)], prompted.crop)


def acceleration_of(compile_: bool, network: SAM2Base, device: torch.device, dtype: torch.dtype) -> Acceleration:
    """How a network's steps run on a device: plain where the loop is not used, or where more was tried and failed.

    compile_: as `compile` of the limits. Fused kernels need no wish, only a network that they serve and a device that
    can hold them; with the wish they are captured in CUDA graphs, and nothing is left for a compiler to gain.
    """
    if device.type != "cuda" or Kept.by(network).refused:
        return PLAIN
    if FUSED and fusable(network, storage_dtype(dtype)) and fused_fits(shared_memory(device)):
        return Acceleration(captured=compile_, fused=True)
    return Acceleration("inductor", captured=True) if compile_ else PLAIN


def give_up_acceleration(generator: MaskGenerator, run: Run, error: Exception) -> None:
    """Go on without, for the rest of the process too: the next image would only fail the same way."""
    kept = Kept.by(generator.model)
    kept.refused = True
    kept.drop()
    generator.acceleration = PLAIN
    what = "compile: true" if generator.limits.compile else "fused kernels"
    run.warnings.append(f"{what} did not work here and went unused ({_first_line(error)})")


def _give_up_loop(generator: MaskGenerator, run: Run, error: Exception) -> None:
    """GPUs and drivers are many: what fails in the loop may well work in steps that every build of PyTorch knows."""
    _refuse_loop(generator)
    run.warnings.append(
        f"the fast point loop failed on {generator.device}: went on the slower way, please report it "
        f"({type(error).__name__}: {_first_line(error)})"
    )


def _refuse_loop(generator: MaskGenerator) -> None:
    """For the rest of the process: the next photo, for which there is another generator, would only fail the same."""
    Kept.by(generator.model).loop_refused.add(generator.dtype)


def _first_line(error: Exception) -> str:
    """A compiler's message goes on for pages."""
    return reason_of(str(error).strip().partition("\n")[0] or type(error).__name__)
