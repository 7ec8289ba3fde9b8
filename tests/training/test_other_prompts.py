"""Boxes, several clicks and masks as prompts: they are about one truth, and a step with them teaches the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.augment import plain
from training.loop import train
from training.network import build, decode, encode, set_resolution
from training.other_prompts import KINDS, for_one_mask, one_mask_losses
from training.prompts import LOGIT_STRIDE, Prompts, prompts_for
from training.schedule import Budget, Recipe, phases_of
from training.state import Run
from training.store import SceneStore
from training.warm_start import start_local

SIDE = 128


@pytest.fixture(scope="module")
def store(small_cache: Path) -> SceneStore:
    store = SceneStore(small_cache, torch.device("cpu"), 100)
    store.refresh()
    return store


@pytest.fixture
def prompts(store: SceneStore) -> Prompts:
    return prompts_for(plain(store.first(4), SIDE), 8, torch.Generator().manual_seed(1))


def asked(kind: str, prompts: Prompts, answers: torch.Tensor | None = None):
    return for_one_mask(kind, prompts, np.random.default_rng(0), torch.Generator().manual_seed(2), answers)


def test_a_box_is_about_its_mask(prompts: Prompts) -> None:
    one = asked("box", prompts)
    assert one.labels.unique().tolist() == [2, 3] and one.masks is None
    corners = one.points.flatten(0, 1)
    for box, truth, valid in zip(corners, one.truth, one.valid, strict=True):
        if not valid:
            continue
        rows, columns = torch.nonzero(truth > 0.5, as_tuple=True)
        first = torch.tensor([columns.min(), rows.min()]) * LOGIT_STRIDE - 0.5
        end = (torch.tensor([columns.max(), rows.max()]) + 1) * LOGIT_STRIDE - 0.5
        reach = 0.05 * (end - first) + 1e-3
        assert ((box[0] - first).abs() <= reach).all() and ((box[1] - end).abs() <= reach).all()


def test_clicks_lie_in_the_mask(prompts: Prompts) -> None:
    one = asked("clicks", prompts)
    count = one.points.shape[2]
    assert 2 <= count <= 5 and (one.labels == 1).all()
    assert torch.equal(one.points[:, :, 0], prompts.points)
    cells = (one.points.flatten(0, 1)[:, 1:] / LOGIT_STRIDE).long()
    inside = one.truth[torch.arange(len(cells))[:, None], cells[..., 1], cells[..., 0]] > 0.5
    assert inside[one.valid].all()


def test_a_mask_prompt_is_the_answer_that_fits_best(prompts: Prompts) -> None:
    truth = asked("clicks", prompts).truth
    wrong = torch.randn(len(truth), 2, *truth.shape[1:])
    right = (truth[:, None] - 0.5) * 8
    one = asked("mask", prompts, torch.cat([wrong, right], 1))
    assert one.masks is not None
    some = one.valid & (one.truth > 0.5).flatten(1).any(1)
    assert torch.equal(one.masks[some], ((one.truth[:, None] - 0.5) * 8)[some])


@pytest.mark.parametrize(
    "kind", [kind if kind == KINDS[0] else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_kind_of_prompt_is_learned(kind: str, prompts: Prompts, store: SceneStore, small_config: Path) -> None:
    torch.manual_seed(0)
    network = build(small_config)
    start_local(network)
    set_resolution(network, SIDE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    pixels = plain(store.first(4), SIDE).pixels
    answers = torch.randn(len(prompts.truths), 3, *prompts.truths.shape[2:])
    one = asked(kind, prompts, answers)
    history = []
    for _ in range(40):
        logits, predicted = decode(network, encode(network, pixels), one.points, one.labels, one.masks)
        mask, iou = one_mask_losses(logits, predicted, one, gamma=2.0)
        optimizer.zero_grad()
        (mask + iou).backward()
        torch.nn.utils.clip_grad_norm_([p for p in network.parameters() if p.grad is not None], 1.0)  # as the loop does
        optimizer.step()
        history.append(mask.item())
    # The middle of the last steps: at this learning rate a single one may go far off, on some processors.
    assert np.median(history[-10:]) < 0.7 * np.median(history[:3]), history


def test_the_loop_asks_with_all_of_them(store: SceneStore, small_config: Path, tmp_path: Path) -> None:
    """A mask prompt's layers move only if the loop asks with masks."""
    torch.manual_seed(0)
    network = build(small_config)
    start_local(network)
    recipe = Recipe(phases_of("1:64:2:4"), other_prompts=1.0, log_every=100)
    run = Run(network, recipe, torch.device("cpu"), 0, given_trunk=False)
    before = network.sam_prompt_encoder.mask_downscaling[0].weight.clone()
    corners = network.sam_prompt_encoder.point_embeddings[2].weight.clone()
    assert train(run, store, recipe, Budget(steps=8), tmp_path, report=lambda line: None)
    assert not torch.equal(before, network.sam_prompt_encoder.mask_downscaling[0].weight)
    assert not torch.equal(corners, network.sam_prompt_encoder.point_embeddings[2].weight)
