"""The training loop: draw, augment, ask, answer, learn; log, save, and stop when the budget is spent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from training.augment import augmented
from training.loss import point_losses, similarity_loss
from training.network import decode, encode, set_resolution
from training.other_prompts import KINDS, for_one_mask, one_mask_losses
from training.prompts import Prompts, prompts_for
from training.schedule import Budget, Recipe
from training.state import LOG, Run
from training.store import SceneStore

Report = Callable[[str], None]


def train(
    run: Run,
    store: SceneStore,
    recipe: Recipe,
    budget: Budget,
    folder: Path,
    *,
    save_seconds: float = 60,
    stop: Callable[[], bool] = lambda: False,
    report: Report = partial(print, flush=True),
) -> bool:
    """Train until the budget is spent (True), or until `stop` says so between two steps (False: go on from `folder`).

    folder: where state.pt and log.jsonl go.
    """
    budget.start()
    saved = logged_at = time.monotonic()
    sums: dict[str, torch.Tensor] = {}
    logged_step = budget.step
    while (progress := budget.progress) < 1:
        if stop():
            run.save(folder, budget)
            return False
        values = step(run, store, recipe, budget.step, progress)
        budget.stepped()
        run.average_in(recipe.ema_decay(budget.step))
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value
        if budget.step % recipe.log_every == 0:
            now = time.monotonic()
            done = budget.step - logged_step
            means = {name: round(float(value) / done, 4) for name, value in sums.items()}
            _log(folder, run, store, recipe, budget, means, done / (now - logged_at), report)
            sums, logged_step, logged_at = {}, budget.step, now
            store.refresh(beside=True)
        if time.monotonic() - saved > save_seconds:
            run.save(folder, budget)
            saved = time.monotonic()
    run.save(folder, budget)
    return True


def step(run: Run, store: SceneStore, recipe: Recipe, number: int, progress: float) -> dict[str, torch.Tensor]:
    """One step of the optimiser. Returns what to log, still on the device."""
    phase = recipe.phase(progress)
    network = run.training_mode()
    set_resolution(network, phase.side)
    views = augmented(store.draw(phase.images, run.rng), phase.side, run.generator)
    prompts = prompts_for(views, phase.points, run.generator)
    with _half(run.device):
        features = encode(network, views.pixels.contiguous(memory_format=torch.channels_last))
        logits, predicted = decode(network, features, prompts.points)
    losses = point_losses(
        logits,
        predicted,
        prompts.truths,
        prompts.valid,
        prompts.photo,
        gamma=recipe.gamma(progress),
        balance=recipe.balance(number),
    )
    loss = losses.mask + recipe.iou_weight * losses.iou
    values = {"mask": losses.mask, "iou": losses.iou, "best": losses.best, "error": losses.error}
    if run.rng.random() < recipe.other_prompts:
        mask, iou = _one_mask(run, recipe, features, prompts, logits.detach(), progress)
        loss = loss + mask + recipe.iou_weight * iou
    if progress < recipe.similarity_until:
        alike = similarity_loss(features, prompts.points, prompts.truths, prompts.valid, run.scale, phase.side)
        loss = loss + recipe.similarity_weight * alike
        values["similarity"] = alike
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in run.trained if p.grad is not None], recipe.clip)
    rate = recipe.learning_rate(number, progress)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["share"]
    run.learn(norm)
    return {name: value.detach() for name, value in values.items()}


def _one_mask(
    run: Run, recipe: Recipe, features: list[torch.Tensor], prompts: Prompts, answers: torch.Tensor, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of a box, of several clicks or of a mask as prompt."""
    kind = KINDS[run.rng.integers(len(KINDS))]
    one = for_one_mask(kind, prompts, run.rng, run.generator, answers[:, 1:])
    with _half(run.device):
        logits, predicted = decode(run.network, features, one.points, one.labels, one.masks)
    return one_mask_losses(logits, predicted, one, recipe.gamma(progress))


def _half(device: torch.device) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _log(
    folder: Path,
    run: Run,
    store: SceneStore,
    recipe: Recipe,
    budget: Budget,
    means: dict[str, float],
    rate: float,
    report: Report,
) -> None:
    phase = recipe.phase(budget.progress)
    line = {
        "minutes": round(budget.seconds / 60, 2),
        "step": budget.step,
        "side": phase.side,
        "images_per_second": round(rate * phase.images, 1),
        "scenes": len(store),
        **means,
    }
    if run.device.type == "cuda":
        line["gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    with (folder / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")
    report("  ".join(f"{name} {value}" for name, value in line.items()))
