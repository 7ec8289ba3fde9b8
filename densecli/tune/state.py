"""One photo that is being tuned: its candidates by grid, and what any values make of them (tabs keep their own)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from densecli.engine.proposals import Floor, Proposals
from densecli.engine.reasons import Reasons, Verdict, reasons, verdicts_at
from densecli.errors import UsageError
from densecli.image_candidates import ImageCandidates
from densecli.masks import Segmentation
from densecli.preset_keys import SECTION_OF, SECTIONS, allowed_values
from densecli.preset_wording import preset_error, shown_value, unknown_key
from densecli.presets import Preset, ResolvedPreset
from densecli.refiltering import choose_again
from densecli.tune.controls import FIXED_KEYS, MODEL_KEYS, SHOWN_SECTIONS
from densecli.tune.jobs import Job, Jobs, Progress
from densecli.tune.remembering import remembering

if TYPE_CHECKING:
    from densecli.engine.second_look import SecondLook
    from densecli.segmenter import Segmenter

FLOOR = Floor(0.3, 0.5)
"""Candidates below are not kept, so that a dense photo takes tens of megabytes and not hundreds."""
# Grids that are offered, as multiples of the densest one that is there.
_DENSER = (1.5, 2, 3)
_MOST_POINTS_PER_SIDE = 256
_REMEMBERED = 16
_TOO_BIG = 1 << 63
"""For the compiled loops; numbers below are as good as any, images being smaller."""


def _on(kept: Proposals, wish: ResolvedPreset, with_model: bool) -> ResolvedPreset:
    """The values to begin with: those of the preset, as far as these candidates can tell about them."""
    own, generator = kept.parameters, wish.generator
    told = {key: getattr(own, key) for key in FIXED_KEYS} | {
        "pred_iou_thresh": max(generator.pred_iou_thresh, kept.floor.predicted_iou),
        "stability_score_thresh": max(generator.stability_score_thresh, kept.floor.stability),
        **({} if with_model else dict.fromkeys(MODEL_KEYS, False)),
    }
    return wish.model_copy(update={"generator": generator.model_copy(update=told)})


def _quick(wish: ResolvedPreset) -> ResolvedPreset:
    """The values without what takes longer than a move of a slider may."""
    generator = wish.generator.model_copy(update={"fill": False})
    cleanup = wish.cleanup.model_copy(update={"refine_edges": "off"})
    return wish.model_copy(update={"generator": generator, "cleanup": cleanup})


def _is_slow(wish: ResolvedPreset) -> bool:
    return wish.generator.fill or wish.cleanup.refine_edges != "off"


class Tuning:
    """kept: candidates of the first grid. preset: with what the command line set. segmenter: None without a model."""

    def __init__(self, kept: ImageCandidates, preset: Preset, segmenter: Segmenter | None) -> None:
        self.preset, self.segmenter = preset, segmenter
        self.model = dict(kept.model)
        self.pixels = kept.read_pixels("give a photo: densecli tune PHOTO")
        kept = replace(kept, pixels=self.pixels, proposals=remembering(kept.proposals))
        self.start = _on(kept.proposals, preset.resolve(self.model["name"]), segmenter is not None)
        self.jobs = Jobs()
        self._kept = {kept.proposals.parameters.points_per_side: kept}
        self._finished: OrderedDict[ResolvedPreset, tuple[Segmentation, Reasons]] = OrderedDict()
        self._reasons: tuple[ResolvedPreset, Reasons] | None = None
        self._lock = threading.Lock()
        self._look: SecondLook | None = None
        # Whatever is compiled or read only once is done before somebody waits for it; and damage shows at once.
        self.choose(self.start)

    @property
    def first(self) -> ImageCandidates:
        return next(iter(self._kept.values()))

    def grids(self) -> list[int]:
        """Points a side of the grids whose candidates are there."""
        return sorted(self._kept)

    def denser(self) -> list[int]:
        """Points a side of the grids that can be asked for."""
        if self.segmenter is None:
            return []
        densest = self.grids()[-1]
        offered = (round(densest * factor) for factor in _DENSER)
        return sorted({n for n in offered if densest < n <= _MOST_POINTS_PER_SIDE})

    def resolved(self, values: Mapping[str, Any]) -> ResolvedPreset:
        """The values of a tab: those of the start where it names none. Raises UsageError for a bad key or value."""
        sections = {section: getattr(self.start, section).model_dump() for section in SECTIONS}
        for key, value in values.items():
            section = SECTION_OF.get(key)
            if section not in SHOWN_SECTIONS:
                raise unknown_key("tune", "", key, value, [k for s in SHOWN_SECTIONS for k in SECTIONS[s].model_fields])
            if isinstance(value, int) and abs(value) >= _TOO_BIG:
                raise preset_error("tune", f"{section}.{key}", f"{shown_value(value)} given; allowed: smaller numbers")
            sections[section][key] = value
        made = {}
        for section, given in sections.items():
            try:
                made[section] = SECTIONS[section].model_validate(given)
            except ValidationError as error:
                key = str(error.errors()[0]["loc"][0])
                allowed = f"{shown_value(given.get(key))} given; allowed: {allowed_values(section, key)}"
                raise preset_error("tune", f"{section}.{key}", allowed) from None
        return ResolvedPreset.model_validate({"name": self.start.name, "model_name": self.start.model_name, **made})

    def candidates(self, wish: ResolvedPreset) -> ImageCandidates:
        """The candidates of the wished grid. Raises UsageError where it was not asked for yet."""
        side = wish.generator.points_per_side
        if side not in self._kept:
            raise UsageError(f"tune: the model was not asked for {side} points a side yet; add them first")
        return self._kept[side]

    def choose(self, wish: ResolvedPreset) -> tuple[Segmentation, bool]:
        """What these values make of the candidates, and whether `finish` would have more to say.

        Where it was asked for exactly these values, its answer is in. Raises UsageError.
        """
        if (known := self._finished.get(wish)) is not None:
            return known[0], False
        found = choose_again(self.candidates(wish), _quick(wish))
        unasked = wish.generator.ask_for_wholes and bool(found.warnings)
        return found, _is_slow(wish) or unasked

    def verdicts(self, wish: ResolvedPreset, x: int, y: int, limit: int) -> tuple[list[Verdict], Reasons]:
        """What became of the candidates at a pixel, of at most `limit`. Raises UsageError."""
        kept = self.candidates(wish).proposals
        if (known := self._finished.get(wish)) is not None:
            return verdicts_at(kept, known[1], x, y, limit), known[1]
        with self._lock:
            if self._reasons is None or self._reasons[0] != wish:
                quick = _quick(wish)
                if (refusal := kept.refusal(quick.generator)) is not None:
                    raise UsageError(f"tune: {refusal}")
                self._reasons = wish, reasons(kept, quick.generator, quick.cleanup)
            found = self._reasons[1]
        return verdicts_at(kept, found, x, y, limit), found

    def add_points(self, points_per_side: int) -> Job:
        """Have the model propose on another grid. Raises UsageError where it cannot be."""
        segmenter = self._model()
        if points_per_side in self._kept or points_per_side not in self.denser():
            offered = " or ".join(map(str, self.denser())) or "none"
            raise UsageError(f"tune: {points_per_side} points a side cannot be added; on offer: {offered}")
        grid = self.start.generator.model_copy(
            update={"points_per_side": points_per_side, **dict.fromkeys(MODEL_KEYS, False)}
        )
        denser = segmenter.with_values(self.start.model_copy(update={"generator": grid}))

        def work(progress: Progress) -> dict[str, int]:
            kept = denser(self._loaded(), progress, keep_candidates=self.first.proposals.floor).proposals
            assert kept is not None
            self._kept[points_per_side] = replace(kept, proposals=remembering(kept.proposals))
            return {"points_per_side": points_per_side}

        return self.jobs.start(f"{points_per_side} × {points_per_side} points", work)

    def finish(self, wish: ResolvedPreset) -> Job:
        """Work out what takes longer: refined edges, and what the model has to be asked for. Raises UsageError."""
        kept, asks = self.candidates(wish), wish.generator.fill or wish.generator.ask_for_wholes
        segmenter = self._model() if asks else None

        def work(progress: Progress) -> dict[str, int]:
            if segmenter is not None and self._look is None:
                self._look = segmenter.second_look(self.pixels)
            if self._look is not None:
                self._look.progress = progress
            journal = Reasons(kept.proposals, wish.generator)
            look = self._look if asks else None
            found = choose_again(kept, wish, look=look, journal=journal, still_wanted=lambda: progress(0, 0))
            self._finished[wish] = found, journal
            while len(self._finished) > _REMEMBERED:
                self._finished.popitem(last=False)
            return {"masks": len(found.masks)}

        return self.jobs.start("working it out", work)

    def _model(self) -> Segmenter:
        if self.segmenter is None:
            raise UsageError("tune: there is no model, only kept candidates; run densecli tune on the photo itself")
        return self.segmenter

    def _loaded(self) -> Any:
        from densecli.sources import LoadedImage

        first = self.first
        return LoadedImage(str(first.image["path"]), self.pixels, str(first.image["sha256"]), ())
