"""One photo, several presets: as few runs of the model as the grids allow, the rest chosen from their candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import densecli
from densecli.engine.proposals import Floor, same_candidates
from densecli.image_candidates import ImageCandidates
from densecli.masks import Segmentation
from densecli.presets import Preset
from densecli.refiltering import choose_again, refiltered
from densecli.sources import LoadedImage


@dataclass
class _Group:
    """Presets that one run serves: that of `lead`, whose grid holds all the others'."""

    lead: densecli.Segmenter
    members: list[int]


@dataclass(frozen=True)
class Comparison:
    """results: in the order of the presets. runs: how often the model ran."""

    results: list[Segmentation]
    runs: int


def compare_candidates(kept: ImageCandidates, presets: Sequence[Preset]) -> Comparison:
    """All presets on kept candidates. Raises UsageError where these cannot tell what a preset would give."""
    return Comparison([refiltered(kept, preset) for preset in presets], 0)


def compare(
    image: LoadedImage, segmenters: Sequence[densecli.Segmenter], progress: Callable[[int, int], None] | None = None
) -> Comparison:
    """All segmenters on one image. Those with the same model share a run wherever the grid of one holds the other's.

    Raises InputError or EnvironmentProblem.
    """
    size = image.pixels.shape[0], image.pixels.shape[1]
    groups: list[_Group] = []
    for i, segmenter in enumerate(segmenters):
        wish = segmenter.resolved.generator
        for group in groups:
            if (group.lead.network, group.lead.model.name) != (segmenter.network, segmenter.model.name):
                continue
            if same_candidates(size, group.lead.resolved.generator, wish):
                group.members.append(i)
                break
            if same_candidates(size, wish, group.lead.resolved.generator):
                group.lead = segmenter
                group.members.append(i)
                break
        else:
            groups.append(_Group(segmenter, [i]))
    results: dict[int, Segmentation] = {}
    for group in groups:
        wishes = [segmenters[i].resolved for i in group.members]
        floor = Floor(
            min(w.generator.pred_iou_thresh for w in wishes), min(w.generator.stability_score_thresh for w in wishes)
        )
        alone = all(w.generator == wishes[0].generator and w.cleanup == wishes[0].cleanup for w in wishes)
        ran = group.lead(image, progress, keep_candidates=False if alone else floor)
        look = group.lead.second_look(image.pixels)
        for i, resolved in zip(group.members, wishes, strict=True):
            if alone or segmenters[i] is group.lead:
                results[i] = ran
            else:
                assert ran.proposals is not None
                results[i] = choose_again(ran.proposals, resolved, look=look)
    return Comparison([results[i] for i in range(len(segmenters))], len(groups))
