"""Train the starter: `python -m training --data PHOTOS --out FOLDER --minutes 25`, from photos to weights."""

from __future__ import annotations

import argparse
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training import cache, export, photos, warm_start
from training.loop import train
from training.network import CONFIG, build, parameters_in_millions
from training.scenes import Bank
from training.scenes.canvas import SIZE
from training.schedule import Budget, Phase, Recipe, phases_of
from training.state import STATE, Run, averaged_weights
from training.store import SceneStore

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

# 128 pixels first: four times the images a second, and edges and prompts are learned there as well.
PHASES = "0.12:128:192:16,0.5:256:96:16,1:512:32:16"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    p.add_argument("--data", type=Path, help="folder of COCO panoptic photos, or a file that --pack made")
    p.add_argument("--pack", type=Path, metavar="FILE", help="only pack the photos of --data into FILE, to carry them")
    p.add_argument("--out", type=Path, help="where state, log and weights go; a run that stopped goes on from there")
    p.add_argument("--cache", type=Path, help="where generated scenes go (default: OUT/cache)")
    p.add_argument("--config", type=Path, default=CONFIG, help="the network (default: %(default)s)")
    p.add_argument("--trunk-weights", type=Path, help="EfficientNet-Lite weights of the trunk's size to start from")
    p.add_argument("--init", type=Path, metavar="FILE", help="weights to start from, as --out's starter.safetensors")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="of training in all (default: 25)")
    length.add_argument("--steps", type=int, help="of training in all, instead of minutes")
    p.add_argument("--stop-after", type=float, metavar="SECONDS", help="stop this command then, to go on in another")
    p.add_argument("--scenes", type=int, default=24_000, help="to generate (default: %(default)s)")
    p.add_argument("--begin-with", type=int, default=8_000, metavar="SCENES", help="train as soon as there are so many")
    p.add_argument("--side", type=int, default=SIZE, help="pixels of a generated scene (default: %(default)s)")
    p.add_argument("--workers", type=int, default=2, help="processes that generate (default: %(default)s)")
    p.add_argument("--phases", default=PHASES, help="SHARE:SIDE:IMAGES:POINTS, … (default: %(default)s)")
    p.add_argument("--lr", type=float, default=Recipe.lr)
    p.add_argument(
        "--trunk-lr",
        type=float,
        default=Recipe.trunk_lr,
        metavar="SHARE",
        help="of --lr, for given trunk weights; 0 leaves them alone: a third less work (default: %(default)s)",
    )
    p.add_argument(
        "--disc-steps", type=int, default=2000, help="of learning to find the prompt at most, before all else"
    )
    p.add_argument("--save-seconds", type=float, default=60)
    p.add_argument("--log-every", type=int, default=50, metavar="STEPS")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return p


def main(arguments: list[str] | None = None) -> None:
    p = parser()
    a = p.parse_args(arguments)
    if a.pack is not None:
        if a.data is None:
            p.error("--pack needs --data")
        count = photos.pack(a.data, a.pack)
        print(f"{a.pack}: {count} photos, {a.pack.stat().st_size / 1e6:.1f} MB")
        return
    if a.out is None:
        p.error("--out is needed")
    try:
        phases = phases_of(a.phases)
    except ValueError as error:
        p.error(str(error))
    a.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    finished = run(a, phases, lambda: time.monotonic() - began)
    print("finished" if finished else "stopped; the same command goes on from here")


def run(a: argparse.Namespace, phases: list[Phase], elapsed: Callable[[], float]) -> bool:
    """Scenes, network, training, weights. False where `--stop-after` came first; then the next call goes on."""
    device = torch.device(a.device)
    torch.set_float32_matmul_precision("high")  # counts of pixels are exact all the same
    scenes = a.cache or a.out / "cache"
    makers = _begin_scenes(a, scenes)
    # Weights that were trained already need no easy start.
    start: dict[str, Any] = {"focal_until": 0.0, "balance_steps": 1} if a.init else {}
    recipe = Recipe(phases, lr=a.lr, trunk_lr=a.trunk_lr, log_every=a.log_every, **start)
    budget = Budget(None if a.steps else a.minutes or 25.0, a.steps)
    state = Run(_network(a, device), recipe, device, a.seed, given_trunk=bool(a.trunk_weights or a.init))
    if (a.out / STATE).exists():
        state.load(a.out, budget)
        print(f"going on from step {budget.step}, {budget.progress:.0%} of the run")
    store = SceneStore(scenes, device, a.scenes)
    _await_scenes(store, min(a.begin_with, a.scenes), makers)
    print(f"{len(store)} scenes after {elapsed():.0f} s", flush=True)

    interrupted = _interruption()
    _leave_out_pauses(budget)

    def stop() -> bool:
        return interrupted.is_set() or (a.stop_after is not None and elapsed() > a.stop_after)

    finished = train(state, store, recipe, budget, a.out, save_seconds=a.save_seconds, stop=stop)
    _export(a, scenes, device)
    for maker in makers:
        maker.terminate()
    return finished


def _interruption() -> threading.Event:
    """Set by Ctrl-C and by SIGTERM: the run then saves its state after the step at hand. A second one ends at once."""
    event = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    return event


def _leave_out_pauses(budget: Budget) -> None:
    """A process that was stopped for a while (SIGSTOP), so that something else has the GPU, goes on where it was."""
    if hasattr(signal, "SIGCONT"):  # not on Windows
        signal.signal(signal.SIGCONT, lambda number, frame: budget.start())


def _begin_scenes(a: argparse.Namespace, scenes: Path) -> list[BaseProcess]:
    """Start making what the cache lacks."""
    scenes.mkdir(parents=True, exist_ok=True)
    bank_file = scenes / "bank.pickle"
    if not bank_file.exists():
        bank = Bank() if a.data is None else photos.bank_of(a.data, a.workers)
        print(f"{len(bank.photos)} photos, {len(bank.cutouts)} cut-outs, {len(bank.patches)} patches", flush=True)
        temporary = bank_file.with_suffix(".part")
        temporary.write_bytes(pickle.dumps(bank, protocol=5))
        temporary.rename(bank_file)
    shards = -(-a.scenes // cache.SHARD_SCENES)
    return cache.start_making(scenes, bank_file, shards, a.seed, a.workers, a.side)


def _await_scenes(store: SceneStore, count: int, makers: list[BaseProcess]) -> None:
    """Take scenes in until there are so many, and held-out ones too. Ends the run where nobody makes any."""
    while len(store) < count or not cache.shard_path(store.cache, cache.HELD_OUT).exists():
        before = len(store)
        store.refresh()
        if len(store) == before:
            if not any(maker.is_alive() for maker in makers):
                store.refresh()  # the last ones may have come just now
                if len(store) == 0:
                    raise SystemExit(f"{store.cache}: no scenes came out; see the messages above")
                return
            time.sleep(0.5)


def _network(a: argparse.Namespace, device: torch.device) -> SAM2Base:
    """With the weights it starts from, on the device. A run that goes on overwrites them."""
    torch.manual_seed(a.seed)
    network = build(a.config)
    print(f"{parameters_in_millions(network):.2f} M parameters")
    going_on = (a.out / STATE).exists()
    if a.init is not None:
        network.load_state_dict(export.to_go_on_from(a.init))
    else:
        if a.trunk_weights is not None:
            print(f"{warm_start.load_trunk(network, a.trunk_weights)} tensors of {a.trunk_weights.name}")
        warm_start.start_local(network)
    network.to(device, memory_format=torch.channels_last).train()
    if a.init is None and not going_on:
        loss, steps = warm_start.find_prompt(network, device, a.disc_steps)
        print(f"a disc around the point: loss {loss:.2f} after {steps} steps", flush=True)
        if loss > warm_start.FOUND:
            print("the decoder has not found its prompt; more --disc-steps, or another --seed", file=sys.stderr)
    return network


def _export(a: argparse.Namespace, scenes: Path, device: torch.device) -> None:
    weights = averaged_weights(a.out)
    held_out = SceneStore(scenes, device, cache.SHARD_SCENES)
    held_out.add(cache.shard_path(scenes, cache.HELD_OUT))
    factor, rows = export.choose_factor(weights, a.config, held_out, device)
    for row in rows:
        print("logits × {factor}: {good:.0%} of the good masks are stable, {bad:.0%} of the bad ones".format(**row))
    path = export.export(weights, a.config, a.out, factor=factor)
    print(f"{path}: {path.stat().st_size:,} bytes, logits × {factor}")


if __name__ == "__main__":
    main()
