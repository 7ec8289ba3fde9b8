"""`refine_edges: guided` against `off`: boundary F-score (2 px) and IoU on scenes with exact truth, seconds a photo.

python benchmarks/edges.py [--megapixels 2 12] [--seeds 2] [--preset dense]

Rows of the starter: one run of the model a photo, both settings chosen from its candidates; each object that has a
mask with an IoU of 0.5 or more counts, by its best mask of either setting. Rows of a grid: no model; the truth of each
object, made as coarse as SAM 2.1's grid of 256 × 256 cells would make it, and a little wrong (noise in the logits).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import scenes
import truth
from common import starter, table

from densecli.engine import edges
from densecli.engine.generator import MaskGenerator
from densecli.engine.parts import Placed
from densecli.engine.proposals import Floor
from densecli.masks import Runs
from densecli.presets import load_preset

# An object without a mask as near as this was not found: there is no edge to speak of.
_FOUND = 0.5
_PARTS = 5  # of many that are alike, so many count

Row = tuple[float, float, float, float]
"""IoU and F before, IoU and F after."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="*", default=[2, 12])
    parser.add_argument("--seeds", type=int, default=2, help="scenes of each kind")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--preset", default="dense")
    parser.add_argument("--kinds", nargs="*", default=scenes.KINDS)
    parser.add_argument("--grid", type=int, default=256, help="cells of the simulated model along a side")
    parser.add_argument("--by-kind", action="store_true")
    arguments = parser.parse_args()
    preset = load_preset(arguments.preset).resolve("starter")
    generator = MaskGenerator(starter(), preset.generator, preset.cleanup, preset.limits)
    rows = []
    for megapixels in arguments.megapixels:
        width = round((megapixels * 1.5e6) ** 0.5)
        size = width, round(width / 1.5)
        of_starter: dict[str, list[Row]] = {}
        of_grid: dict[str, list[Row]] = {}
        seconds: list[tuple[float, float, float]] = []
        for kind in arguments.kinds:
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                scene = scenes.make(kind, seed, *size)
                of_starter.setdefault(kind, []).extend(_with_starter(generator, scene, seconds))
                of_grid.setdefault(kind, []).extend(_with_grid(scene, arguments.grid))
        photo = f"{megapixels:g} MP"
        whole, chosen, added = np.median(seconds, axis=0)
        for name, found in ((f"starter, `{arguments.preset}`", of_starter), (f"{arguments.grid}² grid", of_grid)):
            model = name.startswith("starter")
            cost = [f"{whole:.1f}", f"{chosen:.2f}", f"+{added:.2f}"] if model else ["", "", ""]
            rows.append([photo, name, *_summed([r for some in found.values() for r in some]), *cost])
            if arguments.by_kind:
                rows += [[photo, f"… {kind}", *_summed(some), "", "", ""] for kind, some in found.items()]
    table(
        f"Edges: {len(arguments.kinds)} kinds of scene, {arguments.seeds} of each; off → guided",
        ["photo", "masks of", "objects", "IoU", "boundary F", "F better", "F worse", "run s", "choosing s", "guided s"],
        rows,
    )


def _with_starter(
    generator: MaskGenerator, scene: scenes.Scene, seconds: list[tuple[float, float, float]]
) -> Iterator[Row]:
    begin = time.perf_counter()
    proposals = generator.generate(scene.pixels, keep=Floor(1.0, 1.0)).proposals
    whole = time.perf_counter() - begin
    assert proposals is not None
    results, took = [], []
    for how in ("off", "guided"):
        wish = generator.cleanup.model_copy(update={"refine_edges": how})
        begin = time.perf_counter()
        results.append(proposals.select(generator.parameters, wish, pixels=scene.pixels)[0])
        took.append(time.perf_counter() - begin)
    seconds.append((whole, took[0], took[1] - took[0]))
    things = _measured(scene.objects)
    overlaps = [truth.ious(masks, things) for masks in results]
    for i, thing in enumerate(things):
        row: list[float] = []
        for masks, overlap in zip(results, overlaps, strict=True):
            if not len(masks):
                continue
            best = int(overlap[:, i].argmax())
            row += [float(overlap[best, i]), truth.boundary_f(masks[best], thing)]
        if len(row) == 4 and row[0] >= _FOUND:
            yield row[0], row[1], row[2], row[3]


def _with_grid(scene: scenes.Scene, grid: int) -> Iterator[Row]:
    rng = np.random.default_rng(scene.seed)
    height, width = scene.pixels.shape[:2]
    guide = edges.Guide(scene.pixels, (grid, grid))
    for thing in _measured(scene.objects):
        coarse = coarse_version(thing.mask, grid, rng)
        x, y, runs = Runs.of(coarse).trimmed()
        if runs.area == 0:
            continue
        after = edges.refined([Placed(x, y, runs)], [1.0], [(height, width)], guide)[0]
        fine = np.zeros_like(coarse)
        h, w = after.runs.size
        fine[after.y : after.y + h, after.x : after.x + w] = after.runs.decode()
        before, now = (_scores(mask, thing.mask) for mask in (coarse, fine))
        if before[0] >= _FOUND:
            yield *before, *now


def coarse_version(mask: np.ndarray, grid: int, rng: np.random.Generator, noise: float = 0.1) -> np.ndarray:
    """An H×W bool mask as a model that decides on grid × grid cells would draw it, with noise on its logits."""
    height, width = mask.shape
    logits = cv2.resize(mask.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
    logits = cv2.GaussianBlur(logits, (0, 0), 0.7) - 0.5
    wrong = cv2.GaussianBlur(rng.standard_normal(logits.shape).astype(np.float32), (0, 0), 1.0)
    return cv2.resize(logits + noise / float(wrong.std()) * wrong, (width, height), interpolation=cv2.INTER_LINEAR) > 0


def _scores(found: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    iou = int(np.count_nonzero(found & exact)) / max(1, int(np.count_nonzero(found | exact)))
    rows, columns = ((found | exact).any(axis).nonzero()[0] for axis in (1, 0))
    part = slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2)
    return iou, truth.f_of_windows(np.ascontiguousarray(found[part]), np.ascontiguousarray(exact[part]))


def _measured(objects: Sequence[scenes.SceneObject]) -> list[scenes.SceneObject]:
    """All but backgrounds, and only the first few parts of each whole."""
    parts = [o for o in objects if o.role == "part"][:_PARTS]
    return [o for o in objects if o.role not in ("background", "part")] + parts


def _summed(rows: Sequence[Row]) -> list[object]:
    if not rows:
        return [0, "", "", "", ""]
    a = np.array(rows)
    iou, f, iou_after, f_after = a.mean(0)
    better, worse = ((a[:, 3] > a[:, 1] + 0.02).sum(), (a[:, 3] < a[:, 1] - 0.02).sum())
    return [len(a), f"{iou:.3f} → {iou_after:.3f}", f"{f:.3f} → {f_after:.3f}", int(better), int(worse)]


if __name__ == "__main__":
    main()
