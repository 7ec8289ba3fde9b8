"""The steps of the point loop on a GPU, at fixed sizes: plain, or compiled and captured once for all photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from densecli.engine.acceleration import PLAIN, Acceleration, Function, Kept
from densecli.engine.device_decoder import DeviceDecoder, SharedImage, Transformed, storage_dtype
from densecli.engine.encoder import Features, features_of
from densecli.engine.host_settings import Switch
from densecli.engine.memory import LoopSize

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base


class Steps:
    """The two steps of the loop for one network at fixed sizes; a crop's features are given to `begin`.

    Two tiles may be under way at a time: what `transform` gives in a slot (0 or 1) stays until it is called for that
    slot again; what `upscale` gives stays until the next step in that slot.
    """

    def __init__(
        self,
        network: SAM2Base,
        multimask_output: bool,
        dtype: torch.dtype,
        size: LoopSize,
        acceleration: Acceleration = PLAIN,
    ) -> None:
        self.decoder = DeviceDecoder(network, multimask_output, storage_dtype(dtype), fused=acceleration.fused)
        self.size, self.acceleration = size, acceleration
        self.shared: SharedImage | None = None
        kept = Kept.by(network) if acceleration else Kept()
        self._transform = Function(self.decoder.transform, acceleration, kept)
        self._upscale = Function(self.decoder.upscale, acceleration, kept)

    def begin(self, features: Features) -> None:
        """Take a crop's features; those of the crop before are lost."""
        shared = self.decoder.shared(features)
        if self.shared is None or not self.acceleration.captured:
            self.shared = shared
            return
        for own, given in zip(self.shared, shared, strict=True):
            own.copy_(given)

    def transform(self, tokens: torch.Tensor, count: torch.Tensor, slot: int) -> Transformed:
        """A tile's predicted IoU, hyper-network rows and image tokens. tokens: B × T × C float32.

        count: 0-dimensional int64, on the device, how many of the prompts are wanted; those of the others may be
        anything.
        """
        return self._transform(tokens, count, fixed=(self._begun,), slot=slot)

    @property
    def counted_on_device(self) -> bool:
        """Whether `upscale` stops at `count` by itself, so that all of a tile's prompts can be given to it."""
        return self.decoder.kernels is not None

    def upscale(self, tile: Transformed, chosen: torch.Tensor, count: torch.Tensor, slot: int) -> torch.Tensor:
        """U × M × h × w logits of the prompts `chosen` (U int64) of a tile, as `transform` gave it in this slot.

        count: 0-dimensional int64, on the device; where `counted_on_device`, only so many of `chosen` have logits.
        """
        return self._upscale(tile.image, tile.rows, chosen, count, fixed=(self._begun,), slot=slot)

    @property
    def _begun(self) -> SharedImage:
        assert self.shared is not None, "no crop was given"
        return self.shared


def steps_of(
    network: SAM2Base, multimask_output: bool, dtype: torch.dtype, size: LoopSize, acceleration: Acceleration
) -> Steps:
    """The steps for these sizes: where accelerated those that the network has, else new ones.

    Plain ones cost little to make, and would hold memory.
    """
    if not acceleration:
        return Steps(network, multimask_output, dtype, size, acceleration)
    made = Kept.by(network).made
    key = "steps", multimask_output, dtype, size, acceleration
    if key not in made:
        made[key] = Steps(network, multimask_output, dtype, size, acceleration)
    return made[key]


def accelerated_features(
    network: SAM2Base, image: torch.Tensor, dtype: torch.dtype, acceleration: Acceleration
) -> Features:
    """Features of the model's input (1 × 3 × size × size float32): `encoder.encode`, accelerated."""

    def maps(image: torch.Tensor) -> Sequence[torch.Tensor]:
        # Weights are used once: a cache of their casts would only live on in a captured graph.
        with torch.autocast(image.device.type, dtype, dtype != torch.float32, cache_enabled=False):
            backbone = network.forward_image(image)
        return backbone["backbone_fpn"][-network.num_feature_levels :]

    kept = Kept.by(network)
    key = "encoder", dtype, acceleration
    with kept.lock:
        if key not in kept.made:
            # sam2's encoder keeps position encodings in a dictionary, at which a full graph would stop; what is
            # compiled before they are in it is compiled again at the second image.
            maps(image)
            kept.made[key] = Function(maps, acceleration, kept, fullgraph=False)
        # Copies: an earlier crop's features may still be in use when the next one is encoded.
        return features_of(network, [one.clone() for one in kept.made[key](image)])


_FLOAT32_PRODUCTS = Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high")


@contextmanager
def token_products(dtype: torch.dtype) -> Iterator[None]:
    """Products of the prompts' float32 tokens in TF32 where a run is in half precision: eleven bits, as float16 has.

    Threads may be in such blocks at the same time.
    """
    if dtype == torch.float32:
        yield
        return
    with _FLOAT32_PRODUCTS.on():
        yield
