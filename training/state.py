"""Everything a run needs to go on exactly where it stopped, in one file that is complete or absent."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from training.network import fold_norms
from training.schedule import Budget, Recipe

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

STATE, LOG = "state.pt", "log.jsonl"


class Run:
    """Network, its moving average, optimiser and random numbers of a run. average: state dict, float32."""

    def __init__(self, network: SAM2Base, recipe: Recipe, device: torch.device, seed: int, given_trunk: bool) -> None:
        self.network, self.device = network, device
        if given_trunk:
            for part in _given(network):
                fold_norms(part)
                if not recipe.trunk_lr:
                    part.requires_grad_(False)
        self.average = copy.deepcopy(network.state_dict())
        self._averaged: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
        self.scale = torch.tensor([[5.0, -2.0]] * 3, device=device, requires_grad=True)  # of the similarity loss
        self.optimizer = torch.optim.AdamW(
            _groups(network, recipe, self.scale, given_trunk), lr=recipe.lr, betas=(0.9, 0.98), fused=True
        )
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator(device).manual_seed(seed)

    @property
    def trained(self) -> list[torch.Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def training_mode(self) -> SAM2Base:
        """The network, ready for a step. A given trunk keeps its norms: the statistics of few images are worse."""
        return self.network.train()

    def learn(self, norm: torch.Tensor) -> None:
        """A step of the optimiser, none where the gradients' norm is not finite: one bad batch must not end a run.

        The fused step finds that out on the device; reading it here would let the GPU wait for the host.
        """
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # as GradScaler sets it
        self.optimizer.step()

    @torch.no_grad()
    def average_in(self, decay: float) -> None:
        """Move the average towards the network."""
        if self._averaged is None:  # the tensors stay the same ones: a step has no time to look them up
            values = [v for v in self.network.state_dict().items() if v[1].is_floating_point()]
            self._averaged = [self.average[name] for name, _ in values], [value for _, value in values]
        torch._foreach_lerp_(*self._averaged, 1 - decay)

    def save(self, folder: Path, budget: Budget) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale.detach(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "generator": self.generator.get_state(),
            "budget": budget.state(),
        }
        temporary = folder / f"{STATE}.part"
        torch.save(state, temporary)
        os.replace(temporary, folder / STATE)

    def load(self, folder: Path, budget: Budget) -> None:
        # By way of the CPU, where AdamW wants its step counts: on a GPU each of them would make it wait.
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average, self._averaged = {n: v.to(self.device) for n, v in state["average"].items()}, None
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            self.scale.copy_(state["scale"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.generator.set_state(state["generator"])
        budget.resume(state["budget"])


def _given(network: SAM2Base) -> tuple[nn.Module, nn.Module]:
    """The downward half of the trunk, whose weights may come from elsewhere."""
    trunk = network.image_encoder.trunk
    return trunk.stem, trunk.blocks


def _groups(network: SAM2Base, recipe: Recipe, scale: torch.Tensor, given_trunk: bool) -> list[dict[str, Any]]:
    """Parameters by weight decay (matrices only) and by share of the learning rate."""
    groups: dict[tuple[bool, bool], list[torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and "embed" not in name and "token" not in name
            slow = given_trunk and name.startswith(("image_encoder.trunk.stem.", "image_encoder.trunk.blocks."))
            groups.setdefault((decays, slow), []).append(parameter)
    groups.setdefault((False, False), []).append(scale)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "share": recipe.trunk_lr if slow else 1.0,
        }
        for (decays, slow), parameters in groups.items()
    ]


def averaged_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The moving average in a run's state, on the CPU."""
    return torch.load(folder / STATE, map_location="cpu", weights_only=True)["average"]
