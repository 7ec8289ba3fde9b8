"""The work of `densecli compare`: check, read, run, draw, write, say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from densecli import errors
from densecli.console import Console
from densecli.files import check_writable, complete_file
from densecli.model_names import check_named
from densecli.output_names import SHEET
from densecli.presets import Preset, load_preset
from densecli.sinks import WriteOptions
from densecli.sinks.candidates import is_candidates
from densecli.sources import local_path, output_stem, read_image
from densecli.wording import shown_input, shown_name

DEFAULT_FOLDER = Path("densecli-out")
MOST_PRESETS = 12


@dataclass(frozen=True)
class SheetJob:
    """image: as the user gave it. presets: names or files. output: None for the default place."""

    image: str
    presets: Sequence[str]
    overrides: Sequence[str]
    output: Path | None
    alpha: float

    def place(self) -> Path:
        """Where the sheet goes. Raises UsageError for a place that cannot be meant."""
        path = self.output or DEFAULT_FOLDER / (output_stem(self.image) + SHEET)
        if path.suffix.lower() != ".png":
            raise errors.UsageError(
                f"--output {shown_name(str(path))}: the sheet is a PNG; give a name that ends in .png"
            )
        local = local_path(self.image)
        if local is not None and os.path.realpath(local) == os.path.realpath(path):
            raise errors.UsageError(f"--output {shown_name(str(path))}: would overwrite the input; give another name")
        return path

    def loaded_presets(self) -> list[tuple[str, Preset]]:
        """Title and values of each preset, each once. Raises UsageError."""
        names = list(dict.fromkeys(name.strip() for name in self.presets if name.strip()))
        if not names or len(names) > MOST_PRESETS:
            what = "names no preset" if not names else f"names {len(names)} presets"
            raise errors.UsageError(
                f"--presets: {what}; give 1 to {MOST_PRESETS}, such as --presets dense,default,keyboard-fix"
            )
        return [(name, load_preset(name, self.overrides)) for name in names]


def write_sheet(job: SheetJob, console: Console, **segmenter_options: Any) -> int:
    """Make the sheet and say what is on it. Returns the exit code; raises DensecliError."""
    WriteOptions(alpha=job.alpha)  # checks it
    presets, path = job.loaded_presets(), job.place()
    check_writable(path.parent, "another --output")
    shown = shown_input(job.image)
    image = None
    if not is_candidates(job.image):
        # What a user may have mistyped comes before the seconds that importing torch takes.
        check_named(segmenter_options)
        image = read_image(job.image)
    from densecli.comparison import compare, compare_candidates
    from densecli.contact_sheet import contact_sheet
    from densecli.sinks.images import save_png

    if image is None:
        from densecli.image_candidates import ImageCandidates

        kept = ImageCandidates.load(local_path(job.image) or job.image)
        kept.check_model(segmenter_options["model"], shown, "give the photo")
        # The sheet shows it. What can be had without is nothing that this command makes.
        kept = replace(kept, pixels=kept.read_pixels("give a photo: densecli compare PHOTO"))
        comparison = compare_candidates(kept, [preset for _, preset in presets])
    else:
        from densecli.segmenter import Segmenter

        for notice in image.notices:
            console.notice(f"{shown}: {notice}")
        segmenters = [Segmenter(preset=preset, **segmenter_options) for _, preset in presets]
        for segmenter in segmenters:
            for notice in segmenter.notices:
                console.notice(notice, once=True)
        comparison = compare(image, segmenters, lambda done, total: console.progress(shown, done, total, "point"))
        console.progress_done()
    titles = _titles(presets)
    sheet = contact_sheet(list(zip(titles, comparison.results, strict=True)), job.alpha)
    with complete_file(path, "another --output") as temporary:
        save_png(sheet, temporary)
    for title, result in zip(titles, comparison.results, strict=True):
        console.notice(f"{shown}: {title}: {result.funnel_line()}")
        for warning in result.warnings:
            console.warning(f"{shown}: {title}: {warning}")
    times = {0: "no model ran", 1: "the model ran once"}.get(comparison.runs, f"the model ran {comparison.runs} times")
    console.notice(f"{shown}: {times} for {len(presets)} preset{'' if len(presets) == 1 else 's'}")
    found = ", ".join(f"{title} {len(r.masks)} masks" for title, r in zip(titles, comparison.results, strict=True))
    console.result(f"{shown}: {found}. {shown_name(str(path))}", "")
    return errors.EXIT_OK


def _titles(presets: Sequence[tuple[str, Preset]]) -> list[str]:
    """The presets' own names; where several files have one, as the user gave them."""
    times = Counter(preset.name for _, preset in presets)
    return [preset.name if times[preset.name] == 1 else given for given, preset in presets]
