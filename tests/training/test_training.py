"""The loop: the loss falls, a stopped run goes on exactly where it was, and its weights reach densecli."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from densecli.segmenter import Segmenter
from training import export
from training.__main__ import _leave_out_pauses
from training.augment import plain
from training.loop import train
from training.loss import point_losses
from training.network import CONFIG, build, decode, encode, fold_norms, parameters_in_millions, set_resolution
from training.prompts import prompts_for
from training.schedule import Budget, Recipe, phases_of
from training.state import LOG, STATE, Run
from training.store import SceneStore
from training.warm_start import find_prompt, load_trunk, start_local

CPU = torch.device("cpu")
CHECKOUT = Path(__file__).parents[2]


def quiet(line: str) -> None:
    pass


def new_run(config: Path, cache: Path, recipe: Recipe, seed: int = 0) -> tuple[Run, SceneStore]:
    torch.manual_seed(seed)
    network = build(config)
    start_local(network)
    store = SceneStore(cache, CPU, 100)
    store.refresh()
    return Run(network, recipe, CPU, seed, given_trunk=False), store


def test_one_tiny_batch_is_learned(small_config: Path, small_cache: Path) -> None:
    """Without augmentation the same points soon get their masks, and predicted IoU follows."""
    recipe = Recipe(phases_of("1:64:4:6"))
    run, store = new_run(small_config, small_cache, recipe)
    views = plain(store.first(2), 64)
    prompts = prompts_for(views, 6, torch.Generator().manual_seed(1))
    set_resolution(run.network, 64)
    optimizer = torch.optim.AdamW(run.network.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        logits, predicted = decode(run.network, encode(run.network, views.pixels), prompts.points)
        losses = point_losses(logits, predicted, prompts.truths, prompts.valid, prompts.photo)
        optimizer.zero_grad()
        (losses.mask + losses.iou).backward()
        optimizer.step()
        history.append((losses.mask.item(), losses.best.item(), losses.error.item()))
    first, last = np.mean(history[:3], 0), np.mean(history[-3:], 0)
    assert last[0] < 0.5 * first[0], "mask loss"
    assert last[1] > first[1] + 0.2, "best IoU"
    assert last[2] < 0.7 * first[2], "error of predicted IoU"


def test_a_run_logs_and_ends_with_its_budget(small_config: Path, small_cache: Path, tmp_path: Path) -> None:
    recipe = Recipe(phases_of("0.5:64:2:4,1:128:2:4"), log_every=2)
    run, store = new_run(small_config, small_cache, recipe)
    assert train(run, store, recipe, Budget(steps=4), tmp_path, report=quiet)
    log = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4]
    assert all(np.isfinite(line[name]) for line in log for name in ("mask", "iou", "best", "error"))
    assert (tmp_path / STATE).stat().st_size


def test_resume_goes_on_exactly_where_it_stopped(small_config: Path, small_cache: Path, tmp_path: Path) -> None:
    recipe = Recipe(phases_of("0.5:64:2:4,1:128:2:4"), log_every=100, balance_steps=2)
    straight, store = new_run(small_config, small_cache, recipe)
    assert train(straight, store, recipe, Budget(steps=6), tmp_path, report=quiet)

    folder = tmp_path / "stopped"
    folder.mkdir()
    first, store = new_run(small_config, small_cache, recipe)
    budget = Budget(steps=6)
    assert not train(first, store, recipe, budget, folder, stop=lambda: budget.step == 3, report=quiet)
    second, store = new_run(small_config, small_cache, recipe, seed=9)  # all of which the state replaces
    again = Budget(steps=6)
    second.load(folder, again)
    assert again.step == 3
    assert train(second, store, recipe, again, folder, report=quiet)
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
        assert torch.equal(straight.average[name], second.average[name]), name


@pytest.mark.parametrize("trunk_lr", [0, 0.5])
def test_a_given_trunk_keeps_its_norms_and_may_stay_as_it_is(
    trunk_lr: float, small_config: Path, small_cache: Path, tmp_path: Path
) -> None:
    recipe = Recipe(phases_of("1:64:2:4"), trunk_lr=trunk_lr, log_every=100)
    network = build(small_config)
    start_local(network)
    store = SceneStore(small_cache, CPU, 100)
    store.refresh()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    run = Run(network, recipe, CPU, 0, given_trunk=True)
    assert train(run, store, recipe, Budget(steps=2), tmp_path, report=quiet)
    given = ("image_encoder.trunk.stem.", "image_encoder.trunk.blocks.")
    for name, value in network.state_dict().items():
        if name.startswith(given):
            moves = trunk_lr > 0 and value.ndim == 4  # convolutions
            assert torch.equal(value, before[name]) != moves, name
    refined = [name for name in before if ".refine." in name and name.endswith("weight")]
    assert refined and all(not torch.equal(network.state_dict()[name], before[name]) for name in refined)


def test_folded_norms_are_the_norms(small_config: Path) -> None:
    torch.manual_seed(0)
    network = build(small_config).eval()
    trunk = network.image_encoder.trunk
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.copy_(torch.rand_like(values) + 0.5)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = trunk(pixels)
        for part in (trunk.stem, trunk.blocks):
            fold_norms(part)
        trunk.stem.train()
        trunk.blocks.train()  # no statistics of this image
        for ours, theirs in zip(trunk(pixels), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_minutes_count_only_while_training() -> None:
    budget = Budget(minutes=10)
    assert budget.progress == 0
    budget.resume({"step": 7, "seconds": 300.0})
    assert budget.progress == 0.5 and budget.step == 7
    budget.start()
    budget.stepped()
    assert 0.5 <= budget.progress < 0.6 and budget.step == 8


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="no such signal")
def test_minutes_of_a_stopped_process_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("training.schedule.time.monotonic", lambda: now)
    budget = Budget(minutes=1)
    before = signal.getsignal(signal.SIGCONT)
    _leave_out_pauses(budget)
    try:
        budget.start()
        now += 2
        budget.stepped()
        now += 500
        signal.raise_signal(signal.SIGCONT)  # what a process gets that goes on after SIGSTOP
        now += 4
        budget.stepped()
    finally:
        signal.signal(signal.SIGCONT, before)
    assert budget.seconds == 6 and budget.step == 2


@pytest.mark.parametrize("norm", [1.0, float("nan"), float("inf")])
def test_a_bad_batch_teaches_nothing(norm: float, small_config: Path) -> None:
    run = Run(build(small_config), Recipe(phases_of("1:64:2:4")), CPU, 0, given_trunk=False)
    weight = run.network.sam_mask_decoder.iou_token.weight
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    run.learn(torch.tensor(norm))
    assert torch.equal(weight, before) == (norm != 1.0)


@pytest.mark.parametrize("text", ["", "1:64", "0.5:64:2:4", "0.6:64:2:4,0.5:64:2:4,1:64:2:4"])
def test_phases_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--phases"):
        phases_of(text)


def test_cross_attention_starts_out_at_the_prompt() -> None:
    torch.manual_seed(0)
    network = build(CONFIG)
    prompts = network.sam_prompt_encoder
    set_resolution(network, 256)
    points = torch.rand(20, 1, 2) * 256

    def misses() -> torch.Tensor:
        """Distance in cells of where the point's own code is looked for, and where it is."""
        attention = network.sam_mask_decoder.transformer.final_attn_token_to_image
        with torch.no_grad():
            code = prompts.pe_layer.forward_with_coords(points + 0.5, (256, 256))
            image = prompts.get_dense_pe()[0].flatten(1).T
            scores = attention.q_proj(code[:, 0]) @ attention.k_proj(image).T
        best = scores.argmax(1)
        found = torch.stack([best % 16, best // 16], 1) * 16 + 8
        return (found - points[:, 0]).norm(dim=1) / 16

    before = misses()
    start_local(network)
    after = misses()
    assert before.median() > 3
    assert after.median() < 1.5


@pytest.mark.slow
def test_the_decoder_learns_to_find_its_prompt(small_config: Path) -> None:
    torch.manual_seed(0)
    network = build(small_config)
    start_local(network)
    before, _ = find_prompt(network, CPU, most=1, side=64, points=8)
    after, steps = find_prompt(network, CPU, most=1000, side=64, points=8, lr=2e-3, good=2.0)
    assert before > 2.5 and after < 2.0 and steps < 1000


def test_the_network_is_what_the_engine_runs(small_config: Path) -> None:
    """Training and the engine lay the official decoder out in two different ways."""
    from densecli.engine.decoder import PromptDecoder
    from densecli.engine.encoder import Features

    torch.manual_seed(0)
    network = build(small_config).eval()
    set_resolution(network, 128)
    with torch.no_grad():
        maps = encode(network, torch.randn(1, 3, 128, 128))
        points = torch.tensor([[[20.0, 30.0], [100.0, 64.0]]])
        logits, predicted = decode(network, maps, points)
        engine = PromptDecoder(network, Features(maps[2], (maps[0], maps[1])), torch.float32)
        decoded = engine.decode(points[0], tile=2, multimask_output=True, pred_iou_thresh=0)
    assert torch.allclose(decoded.predicted_iou, predicted[:, 1:], atol=1e-4)
    assert torch.allclose(decoded.logits.view(2, 3, 32, 32), logits[:, 1:], atol=1e-3)


def test_decoding_is_that_of_the_official_modules(small_config: Path) -> None:
    """Logits, predicted IoU and every gradient, for clicks and for a box with an earlier mask."""
    torch.manual_seed(0)
    network = build(small_config).eval()
    set_resolution(network, 64)
    pixels = torch.randn(2, 3, 64, 64)
    points = torch.tensor([[[20.0, 30.0], [50.0, 11.0], [3.0, 60.0]], [[1.0, 1.0], [40.0, 40.0], [33.0, 8.0]]])
    boxes = torch.stack([points, points + 12], 2)
    clicks = points, torch.ones(2, 3, 1, dtype=torch.int32), None
    with_mask = boxes, torch.tensor([2, 3], dtype=torch.int32).expand(2, 3, 2), torch.randn(6, 1, 16, 16)
    for points, labels, masks in (clicks, with_mask):
        results = []
        for function in (_official_decode, decode):
            network.zero_grad()
            features = encode(network, pixels)
            logits, predicted = function(network, features, points.view(2, 3, -1, 2), labels, masks)
            (logits.square().mean() + predicted.square().sum()).backward()
            gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
            results.append((logits, predicted, gradients))
        (theirs, their_iou, their_gradients), (ours, our_iou, our_gradients) = results
        assert torch.allclose(ours, theirs, atol=1e-5) and torch.allclose(our_iou, their_iou, atol=1e-6)
        for name, gradient in their_gradients.items():
            # A key's bias adds the same to all of a query's scores, which the softmax takes out again.
            nothing = "token_to_image.k_proj.bias" in name
            ours_here = our_gradients.pop(name, torch.zeros_like(gradient)) if nothing else our_gradients.pop(name)
            assert torch.allclose(ours_here, gradient, rtol=1e-3, atol=1e-6), name
        assert not our_gradients


def _official_decode(
    network: torch.nn.Module,
    features: list[torch.Tensor],
    points: torch.Tensor,
    labels: torch.Tensor,
    masks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    count = points.shape[1]
    encoder = network.sam_prompt_encoder
    sparse, dense = encoder(points=(points.flatten(0, 1), labels.flatten(0, 1)), boxes=None, masks=masks)
    fine, middle, coarse = (f.repeat_interleave(count, 0) for f in features)
    logits, predicted, _, _ = network.sam_mask_decoder.predict_masks(
        image_embeddings=coarse,
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine, middle],
    )
    return logits, predicted


def test_the_shipped_config_fits_the_repository(tmp_path: Path) -> None:
    network = build(CONFIG)
    assert parameters_in_millions(network.image_encoder.trunk) < 8
    assert parameters_in_millions(network) * 2e6 < export.MAX_BYTES
    with torch.no_grad():
        shapes = [tuple(m.shape[1:]) for m in encode(network.eval(), torch.zeros(1, 3, 64, 64))]
    width = network.hidden_dim
    assert shapes == [(width // 8, 16, 16), (width // 4, 8, 8), (width, 4, 4)]
    assert network.image_size >= 512, "masks of 128 × 128"


def test_exported_weights_segment_a_photo(small_config: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(small_config)
    path = export.export(network.state_dict(), small_config, tmp_path)
    pixels = np.ascontiguousarray(skimage.data.coffee()[::3, ::3])
    overrides = ["points_per_side=4", "pred_iou_thresh=0", "stability_score_thresh=0", "min_mask_region_area=0"]
    result = Segmenter("dense", path, "cpu", overrides=overrides)(pixels)
    assert result.funnel["candidates"] == 48 and result.model["name"] == "starter"
    assert result.masks and all(m.decode().shape == pixels.shape[:2] for m in result.masks)


def test_sharpening_moves_no_mask(small_config: Path) -> None:
    torch.manual_seed(0)
    network = build(small_config).eval()
    set_resolution(network, 64)
    pixels, points = torch.randn(1, 3, 64, 64), torch.tensor([[[20.0, 30.0]]])
    with torch.no_grad():
        plain, _ = decode(network, encode(network, pixels), points)
        network.load_state_dict(export.sharpened(network.state_dict(), 3.0))
        sharp, _ = decode(network, encode(network, pixels), points)
    assert torch.allclose(sharp, 3 * plain, atol=1e-4)


def test_training_goes_on_from_weights_as_they_were_trained(small_config: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = build(small_config).state_dict()
    path = export.export(weights, small_config, tmp_path, factor=6.0)
    again = export.to_go_on_from(path)
    assert again.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.allclose(again[name].float(), value.float(), rtol=2e-3, atol=1e-6), name


def test_published_trunk_weights_fill_the_trunk(small_config: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given, network = build(small_config), build(small_config)
    given_trunk = given.image_encoder.trunk
    names: dict[str, torch.Tensor] = {}
    parts = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    for part, module in (("_conv_stem", given_trunk.stem[0]), ("_bn0", given_trunk.stem[1])):
        names |= {f"{part}.{k}": v for k, v in module.state_dict().items()}
    for i, block in enumerate(given_trunk.blocks):
        modules = [m for m in block.layers if m.state_dict()]
        for part, module in zip(parts[-len(modules) :], modules, strict=True):
            names |= {f"_blocks.{i}.{part}.{k}": v for k, v in module.state_dict().items()}
    torch.save(names, tmp_path / "lite.pth")
    trunk = network.image_encoder.trunk
    filled = load_trunk(network, tmp_path / "lite.pth")
    assert filled == len(names)
    # The published networks see (x - 127) / 128; ours sees pixels as the engine normalises them.
    from densecli.engine.encoder import MEAN, STD

    values = torch.rand(2, 3, 64, 64)
    theirs = (values * 255 - 127) / 128
    ours = (values - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = given_trunk.eval().stem(theirs)
        got = trunk.eval().stem(ours)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # the border's padding is another grey
    assert torch.allclose(expected[inner], got[inner], atol=1e-4)
    with pytest.raises(ValueError, match="another size"):
        load_trunk(build(CONFIG), tmp_path / "lite.pth")


@pytest.mark.slow
def test_one_command_from_nothing_to_weights(small_config: Path, tmp_path: Path) -> None:
    """Two calls, the first of which stops; scenes are drawn, as there are no photos."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "training", "--out", out, "--config", small_config, "--device", "cpu"]
    command += ["--scenes", "128", "--begin-with", "128", "--workers", "1", "--phases", "1:64:2:4", "--disc-steps", "2"]
    command += ["--steps", "4", "--log-every", "2", "--side", "128"]
    first = subprocess.run([*command, "--stop-after", "0"], cwd=CHECKOUT, capture_output=True, text=True, timeout=240)
    assert first.returncode == 0, first.stderr
    assert "stopped" in first.stdout
    second = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stderr
    assert "going on from step 0" in second.stdout and "finished" in second.stdout
    assert [json.loads(line)["step"] for line in (out / LOG).read_text().splitlines()] == [2, 4]
    segmenter = Segmenter("dense", out / "starter.safetensors", "cpu", overrides=["points_per_side=1"])
    assert segmenter.network.image_size == 128
