"""Losses: assignment, measured IoU, and what a perfect answer costs."""

from __future__ import annotations

import itertools

import pytest
import torch

from training.loss import overlaps, pixel_loss, point_losses


def squares() -> torch.Tensor:
    """Three nested truths of one point, 1×3×16×16."""
    truths = torch.zeros(1, 3, 16, 16)
    for level, reach in enumerate((2, 4, 7)):
        truths[0, level, 8 - reach : 8 + reach, 8 - reach : 8 + reach] = 1
    return truths


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_each_truth_finds_its_output_in_any_order(order: tuple[int, ...], gamma: float) -> None:
    truths = squares()
    logits = torch.stack([truths[0, 1], *(truths[0, g] for g in order)])[None] * 40 - 20
    predicted = torch.ones(1, 4)
    losses = point_losses(
        logits, predicted, truths, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1).bool(), gamma=gamma
    )
    assert losses.mask < 0.01 and losses.iou < 1e-6 and losses.best == 1 and losses.error < 1e-6


def test_predicted_iou_is_held_against_what_the_mask_is() -> None:
    truths = squares()
    logits = (truths[:, [1, 1, 1, 1]] * 40 - 20).clone()
    logits[0, 3] = -20  # nothing
    predicted = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    only_middle = torch.tensor([[False, True, False]])
    losses = point_losses(logits, predicted, truths, only_middle, torch.zeros(1).bool())
    assert losses.error < 1e-6
    wrong = point_losses(logits, 1 - predicted, truths, only_middle, torch.zeros(1).bool())
    assert wrong.iou == pytest.approx(1)


def test_a_mask_nobody_drew_on_a_photo_counts_little() -> None:
    truths = squares()
    logits = torch.full((1, 4, 16, 16), -20.0)
    logits[0, :3] = truths[0, [1, 1, 1]] * 40 - 20
    logits[0, 3, :3, :3] = 20  # elsewhere
    predicted = torch.tensor([[1.0, 1.0, 1.0, 0.9]])
    only_middle = torch.tensor([[False, True, False]])
    drawn, photo = (point_losses(logits, predicted, truths, only_middle, torch.tensor([p])).iou for p in (False, True))
    assert photo < 0.5 * drawn


def test_overlaps_are_intersection_over_union() -> None:
    logits = torch.tensor([[[1.0, 1.0, -1.0, -1.0]]])
    truths = torch.tensor([[[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]])
    assert overlaps(logits, truths)[0, 0].tolist() == pytest.approx([1 / 3, 1.0])


def test_balance_makes_nothing_anywhere_expensive() -> None:
    truth = torch.zeros(1, 400)
    truth[0, :4] = 1
    nothing, something = torch.full((1, 400), -3.0), torch.full((1, 400), -3.0)
    something[0, :8] = 3
    gain = [float(pixel_loss(nothing, truth, balance=b) - pixel_loss(something, truth, balance=b)) for b in (0.0, 1.0)]
    assert gain[1] > gain[0] > 0


def test_a_point_without_a_truth_teaches_nothing() -> None:
    truths = squares().repeat(2, 1, 1, 1)
    logits = torch.randn(2, 4, 16, 16, requires_grad=True)
    predicted = torch.rand(2, 4, requires_grad=True)
    valid = torch.tensor([[True, True, True], [False, False, False]])
    losses = point_losses(logits, predicted, truths, valid, torch.zeros(2).bool())
    (losses.mask + losses.iou).backward()
    assert logits.grad[0].any() and predicted.grad[0].any()
    assert not logits.grad[1].any() and not predicted.grad[1].any()
