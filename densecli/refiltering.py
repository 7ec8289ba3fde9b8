"""Choosing again: kept candidates and a preset in, a Segmentation out; no network is loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from densecli.engine import memory
from densecli.engine.host_settings import own_defaults
from densecli.engine.proposals import GRID_KEYS, MASK_KEYS
from densecli.errors import InputError, UsageError
from densecli.image_candidates import ImageCandidates
from densecli.masks import Segmentation
from densecli.presets import Preset, ResolvedPreset, preset_of
from densecli.results import result_of
from densecli.wording import shown_name

if TYPE_CHECKING:
    from densecli.engine.second_look import SecondLook
    from densecli.engine.selection import Journal


class Refiltered(Segmentation):
    """A Segmentation whose photo is read when its pixels are first asked for: masks and labels do without.

    Reading it raises InputError where the photo has moved or changed.
    """

    _pixels: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        if not self._pixels.size:
            assert self.proposals is not None
            self._pixels = self.proposals.read_pixels()
        return self._pixels

    @pixels.setter
    def pixels(self, pixels: np.ndarray) -> None:  # the inherited __init__ sets it
        self._pixels = pixels


_NOT_READ = np.empty((0, 0, 3), np.uint8)


def refiltered(
    candidates: ImageCandidates | str | os.PathLike[str],
    preset: str | os.PathLike[str] | Preset,
    overrides: Sequence[str] = (),
) -> Segmentation:
    """What a run with this preset over the same image gives, from the candidates that an earlier run kept.

    candidates: `Segmentation.proposals`, or a .candidates file. The values are those for the model that made them.
    Raises UsageError where they cannot tell (another grid, or thresholds below what was kept), InputError for a file
    that is damaged.
    """
    if not isinstance(candidates, (ImageCandidates, str, os.PathLike)):
        kind = f"{type(candidates).__module__}.{type(candidates).__qualname__}"
        raise UsageError(
            f"a {kind} holds no candidates; give Segmentation.proposals, or the path of a .candidates file"
        )
    begin = time.perf_counter()
    kept = candidates if isinstance(candidates, ImageCandidates) else ImageCandidates.load(candidates)
    load_seconds = time.perf_counter() - begin if kept is not candidates else 0.0
    wish = preset_of(preset, overrides)
    return choose_again(kept, wish.resolve(kept.model["name"]), load_seconds)


@own_defaults()
def choose_again(
    kept: ImageCandidates,
    preset: ResolvedPreset,
    load_seconds: float = 0.0,
    look: SecondLook | None = None,
    journal: Journal | None = None,
    still_wanted: Callable[[], None] = lambda: None,
) -> Segmentation:
    """As `refiltered`, with the values as they are to be used.

    look: the model at hand for the same image (Segmenter.second_look), for `fill` and `ask_for_wholes`. Without it
    the first is refused and the second says in a warning what it could not ask. journal: is told what each filter
    takes. still_wanted: called every moment while edges are refined; what it raises calls the work off.
    """
    shown = shown_name(str(kept.path or kept.image["path"]))
    if (refusal := kept.proposals.refusal(preset.generator, with_model=look is not None)) is not None:
        again = "segment the photo again with these values, and --save candidates to keep what that run proposes"
        raise UsageError(f"{shown}: {refusal}; {_same_grid(kept, preset)}{again}")
    begin = time.perf_counter()
    pixels = kept.pixels
    if preset.cleanup.refine_edges != "off":  # only then do masks depend on the photo
        try:
            pixels = kept.read_pixels("leave edges as they are: --set refine_edges=off")
        except InputError as error:
            raise UsageError(str(error)) from error
    try:
        masks, funnel = kept.proposals.select(preset.generator, preset.cleanup, journal, look, pixels, still_wanted)
    except ValueError as error:
        raise InputError(
            f"{shown}: is damaged ({error}); make it again with `densecli segment --save candidates`"
        ) from error
    result = result_of(
        Refiltered,
        _NOT_READ if pixels is None else pixels,
        masks,
        funnel,
        image=kept.image,
        model=kept.model,
        preset=preset,
        seconds={"load": load_seconds, "encode": 0.0, "decode": 0.0, "postprocess": time.perf_counter() - begin},
        peak_memory_mb=memory.peak_megabytes(torch.device("cpu")),
        warnings=_unasked(funnel.unasked),
    )
    result.proposals = kept
    return result


def _same_grid(kept: ImageCandidates, preset: ResolvedPreset) -> str:
    """Values with which the candidates could be chosen from, where it is the grid that they do not hold."""
    own, wish = kept.proposals.parameters, preset.generator
    differing = [key for key in (*MASK_KEYS, *GRID_KEYS) if getattr(own, key) != getattr(wish, key)]
    if not differing:
        return ""
    return f"choose with {' '.join(f'--set {key}={_yaml(getattr(own, key))}' for key in differing)}, or "


def _yaml(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _unasked(groups: int) -> list[str]:
    if not groups:
        return []
    what = "1 group of similar masks has" if groups == 1 else f"{groups} groups of similar masks have"
    return [
        f"{what} no whole among the masks, and without the model it cannot be asked for; segment the photo itself "
        "to have it asked"
    ]
