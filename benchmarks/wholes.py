"""Wholes, lone parts and small things on scenes with exact truth: `parts: drop`, `ask_for_wholes` and `fill`.

python benchmarks/wholes.py [--megapixels 2] [--seeds 2] [--kinds keyboard shelf] [--forest-only]

The starter runs once a scene with the grid of `dense`; every row is chosen from its candidates, with the model at hand
for what is asked again. A thing is found if a mask has an IoU of 0.5 with it; a whole counts as one mask from 0.8.
`exact parts` leaves the starter's grid out: the true parts take the place of its masks, so that only the grouping and
the answers count. The last table needs no scene: the forest of 2,000 masks at 12 megapixels.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import scenes
import torch
import truth
from common import show, starter, table

from densecli.engine import asking, parts, wholes
from densecli.engine.generator import MaskGenerator
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.parts import Placed
from densecli.engine.proposals import Floor
from densecli.engine.second_look import SecondLook
from densecli.engine.selection import Funnel, Winner
from densecli.masks import Mask, Runs
from densecli.presets import load_preset

_FOUND, _ONE_MASK = 0.5, 0.8
_MANY = 4  # parts that make a whole one of those that `keyboard-fix` is for
_LOOSE = {"pred_iou_thresh": 0.2, "stability_score_thresh": 0.5}

Tally = dict[str, list[float]]
"""Row -> 1 or 0 for each thing that counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=2)
    parser.add_argument("--seeds", type=int, default=2, help="scenes of each kind")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--kinds", nargs="*", default=scenes.KINDS)
    parser.add_argument("--forest-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.forest_only:
        _scenes(arguments)
    _forest()


def _scenes(arguments: argparse.Namespace) -> None:
    dense, fix = (load_preset(name).resolve("starter") for name in ("dense", "keyboard-fix"))
    generator = MaskGenerator(starter(), dense.generator, dense.cleanup)
    width = round((arguments.megapixels * 1.5e6) ** 0.5)
    tallies: dict[str, Tally] = defaultdict(lambda: defaultdict(list))
    seconds: Tally = defaultdict(list)
    for kind in arguments.kinds:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            scene = scenes.make(kind, seed, width, round(width / 1.5))
            proposals = generator.generate(scene.pixels, keep=Floor(1.0, 1.0)).proposals
            assert proposals is not None
            look = SecondLook(generator, scene.pixels)

            def select(
                name: str, values: GeneratorParameters, cleanup: CleanupParameters, proposals=proposals, look=look
            ) -> tuple[list[Mask], Funnel]:
                begin = time.perf_counter()
                found = proposals.select(values, cleanup, look=look)
                seconds[name].append(time.perf_counter() - begin)
                return found

            plain, _ = select("dense", dense.generator, dense.cleanup)
            filled, funnel = select("fill", dense.generator.model_copy(update={"fill": True}), dense.cleanup)
            keep, _ = select("keep", dense.generator, fix.cleanup.model_copy(update={"parts": "keep"}))
            off, _ = select("off", fix.generator.model_copy(update={"ask_for_wholes": False}), fix.cleanup)
            on, asked = select("on", fix.generator, fix.cleanup)
            tally = tallies[kind]
            for name, masks in (("dense", plain), ("off", off), ("on", on)):
                _count_wholes(scene, masks, name, tally)
            _count_found(scene, "lone_part", {"keep": keep, "drop": off}, tally)
            _count_found(scene, "small", {"plain": plain, "filled": filled}, tally)
            tally["asked"].append(asked.asked)
            tally["answered"].append(asked.answered)
            assert funnel.fill is not None
            tally["added"].append(funnel.fill.masks_added)
            tally["before"].append(funnel.fill.coverage_before)
            tally["after"].append(funnel.fill.coverage_after)
            tally["fill points"].append(funnel.fill.points)
            _count_exact_parts(scene, look, fix.generator, tally)
    _print(tallies, seconds, arguments)


def _print(tallies: dict[str, Tally], seconds: Tally, arguments: argparse.Namespace) -> None:
    every: Tally = defaultdict(list)
    for tally in tallies.values():
        for name, values in tally.items():
            every[name] += values
    rows = [*tallies.items(), ("all", every)]
    photo = f"{arguments.megapixels:g} MP, {arguments.seeds} scenes a kind, starter"
    columns = [f"{row} {what}" for row in ("dense", "off", "on") for what in ("one", "no parts", "both")]
    table(
        f"A whole of many parts is one mask (IoU 0.8) / no part of it is left / both; {photo}",
        ["kind", "wholes", "`dense`", "`keyboard-fix`, not asking", "`keyboard-fix`", "asked", "answered"],
        [
            [
                kind,
                len(tally["dense one"]),
                *(" / ".join(_share(tally[c]) for c in columns[3 * k : 3 * k + 3]) for k in range(3)),
                sum(tally["asked"]),
                sum(tally["answered"]),
            ]
            for kind, tally in rows
            if tally["dense one"]
        ],
    )
    table(
        f"Lone parts (handles, doors) found (IoU 0.5) without `parts: drop` and with it; {photo}",
        ["kind", "lone parts", "keep", "drop"],
        [[k, len(t["keep"]), _share(t["keep"]), _share(t["drop"])] for k, t in rows if t["keep"]],
    )
    table(
        f"Small things found (IoU 0.5), and coverage; {photo}",
        ["kind", "small things", "`dense`", "`dense --fill`", "coverage", "with fill", "masks added", "points added"],
        [
            [
                kind,
                len(tally["plain"]),
                _share(tally["plain"]),
                _share(tally["filled"]),
                _share(tally["before"]),
                _share(tally["after"]),
                sum(tally["added"]),
                f"{np.mean(tally['fill points']):.0f} a scene",
            ]
            for kind, tally in rows
        ],
    )
    table(
        f"Exact parts: the group has 80 % of them / an answer is the whole (IoU 0.8); {photo}",
        ["kind", "wholes", "grouped", "answered, preset's thresholds", "answered, 0.2 and 0.5", "best answer's IoU"],
        [
            [
                kind,
                len(tally["grouped"]),
                _share(tally["grouped"]),
                _share(tally["exact"]),
                _share(tally["loose"]),
                f"{np.mean(tally['best']):.2f}",
            ]
            for kind, tally in rows
            if tally["grouped"]
        ],
    )
    print(f"\nchoosing, median s a photo: {', '.join(f'{n} {np.median(s):.2f}' for n, s in seconds.items())}")


def _share(values: Sequence[float]) -> str:
    return f"{100 * np.mean(values):.0f} %" if values else "–"


def _crowded(scene: scenes.Scene) -> list[tuple[int, list[int]]]:
    """Wholes with at least four parts, and these parts (places in the scene's objects)."""
    found = []
    for i, thing in enumerate(scene.objects):
        of = [k for k, o in enumerate(scene.objects) if o.role == "part" and o.parent == i]
        if thing.role == "whole" and len(of) >= _MANY:
            found.append((i, of))
    return found


def _count_wholes(scene: scenes.Scene, masks: Sequence[Mask], name: str, tally: Tally) -> None:
    overlap = truth.ious(masks, scene.objects)
    for whole, of in _crowded(scene):
        one = bool((overlap[:, whole] >= _ONE_MASK).any())
        none = not (overlap[:, of] >= _FOUND).any()
        for what, good in (("one", one), ("no parts", none), ("both", one and none)):
            tally[f"{name} {what}"].append(good)


def _count_found(scene: scenes.Scene, role: str, by: dict[str, Sequence[Mask]], tally: Tally) -> None:
    things = [k for k, o in enumerate(scene.objects) if o.role == role]
    for name, masks in by.items():
        overlap = truth.ious(masks, scene.objects)
        tally[name] += [bool((overlap[:, k] >= _FOUND).any()) for k in things]


def _count_exact_parts(scene: scenes.Scene, look: SecondLook, values: GeneratorParameters, tally: Tally) -> None:
    for whole, of in _crowded(scene):
        things = [scene.objects[k] for k in of]
        placed = [Placed(o.x, o.y, Runs.of(o.window)) for o in things]
        groups = wholes.groups(placed, _MANY)
        tally["grouped"].append(bool(groups) and len(groups[0].members) >= 0.8 * len(of))
        target = scene.objects[whole].mask
        for name, thresholds in (("exact", {}), ("loose", _LOOSE), ("best", dict.fromkeys(_LOOSE, 0.0))):
            # Scored above all answers, the parts stand back from no NMS.
            winners = [Winner(p.x, p.y, p.runs, 2.0, 1.0, ((0.0, 0.0),), (0, 0, 1, 1)) for p in placed]
            wish = values.model_copy(update={**thresholds, "box_nms_thresh": 1.0})
            left = asking.with_wholes(winners, wish, _MANY, list, look, Funnel())
            best = max((_iou(w, target) for w in left[len(winners) :]), default=0.0)
            tally[name].append(best if name == "best" else best >= _ONE_MASK)


def _iou(winner: Winner, target: np.ndarray) -> float:
    mask = np.zeros_like(target)
    h, w = winner.runs.size
    mask[winner.y : winner.y + h, winner.x : winner.x + w] = winner.runs.decode()
    return float((mask & target).sum() / (mask | target).sum())


def _forest(n: int = 2000, height: int = 3000, width: int = 4000) -> None:
    """Parents, dropping and grouping of many masks: nested discs of all sizes, and the same with 1,000 keys in rows."""
    rows = []
    for name, keys in (("nested ellipses", 0), ("with 1,000 keys in rows", 1000)):
        random = np.random.default_rng(0)
        placed = [_ellipse(random, height, width) for _ in range(n - keys)]
        placed += [_key(k, width) for k in range(keys)]
        placed.sort(key=lambda p: -p.runs.area)
        areas = [p.runs.area for p in placed]
        parts.parents(placed)  # the loops are compiled, and each mask's columns found
        for place in placed:
            place.__dict__.pop("column_starts", None)
        work: dict[str, Callable[[], Any]] = {
            "parents": partial(parts.parents, placed),
            "grouping": partial(wholes.without_whole, placed, _MANY),
        }
        taken = {}
        for stage, function in work.items():
            times = []
            for _ in range(5):
                for place in placed:
                    place.__dict__.pop("column_starts", None)
                begin = time.perf_counter()
                result = function()
                times.append(time.perf_counter() - begin)
            taken[stage] = times
            if stage == "parents":
                gone = parts.dropped(result, areas, "drop", _MANY)
        rows.append([name, n, len(gone), show(taken["parents"]), show(taken["grouping"])])
    table("2,000 masks at 12 MP", ["masks are", "masks", "dropped", "parents s", "grouping s"], rows)


def _ellipse(random: np.random.Generator, height: int, width: int) -> Placed:
    h, w = (random.uniform(8, 700, 2) ** random.choice([0.75, 0.9, 1.0])).astype(int) + 4
    y, x = random.integers(0, height - h), random.integers(0, width - w)
    down, across = np.ogrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    left, top, runs = Runs.of(down**2 + across**2 <= 1).trimmed()
    return Placed(int(x) + left, int(y) + top, runs)


def _key(k: int, width: int) -> Placed:
    in_row = width // 90
    return Placed(90 * (k % in_row), 90 * (k // in_row), Runs.of(np.ones((80, 80), dtype=bool)))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
