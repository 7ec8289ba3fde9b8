"""The work of `densecli segment`: one image after the other, each failure on its own, nothing good lost."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from densecli import errors
from densecli.console import Console
from densecli.files import check_writable
from densecli.masks import Segmentation
from densecli.model_names import check_named
from densecli.output_names import COCO, MANIFEST
from densecli.places import Here, Place
from densecli.remote.place import RemotePlace
from densecli.remote.store import Store, StoreError
from densecli.sinks import CANDIDATES, DATASET_KINDS, WriteOptions
from densecli.sinks.candidates import is_candidates
from densecli.sinks.datasets import Datasets, read_summary, summary_path
from densecli.sinks.one_image import outputs_of, put_in_place, write_outputs
from densecli.sinks.ownership import KEPT, refuse_foreign
from densecli.sinks.summary import to_json
from densecli.sources import LoadedImage, local_path, output_names, read_image
from densecli.sources.own_outputs import has_manifest, is_own_file
from densecli.wording import FIRST_RUN, shown_input

if TYPE_CHECKING:
    from densecli.segmenter import Segmenter


@dataclass(frozen=True)
class Job:
    """What to read and what to write. inputs: as the user gave them. kinds: as `parse_kinds` gives them."""

    inputs: Sequence[str]
    output_dir: Path
    kinds: Sequence[str]
    write_options: WriteOptions
    skip_existing: bool = False
    output_url: str | None = None
    """Where the outputs go in the end, instead of `output_dir`, if not to a folder of this machine."""

    def planned(self, place: Place) -> list[tuple[str, str, dict[str, Path]]]:
        """Each distinct input with the name of its outputs, and their paths by kind.

        Raises UsageError where an output would take the place of an input, or of a folder that holds one.
        """
        inputs = list(dict.fromkeys(self.inputs))
        plan = [
            (given, stem, outputs_of(stem, place.folder, self.kinds))
            for given, stem in zip(inputs, output_names(inputs), strict=True)
        ]
        protected: dict[str, str] = {}
        for given in inputs:
            if (local := local_path(given)) is not None:
                real = PurePath(os.path.realpath(local))
                # Outputs of the kinds masks and cutouts are folders, which are replaced as a whole.
                protected |= {str(part): given for part in (real, *real.parents)}
            else:
                protected[given] = given
        for given, _, outputs in plan:
            for path in outputs.values():
                victim = protected.get(place.identity(path))
                if victim is not None:
                    raise errors.UsageError(
                        f"{place.shown(path)}: an output of {shown_input(given)} would overwrite the input "
                        f"{shown_input(victim)}; choose another --output-dir"
                    )
        return plan


def segment_all(job: Job, console: Console, **segmenter_options: Any) -> int:
    """Segment every input and say what came of it. Returns the exit code.

    segmenter_options: arguments of Segmenter. Raises UsageError, OutputError, CheckpointError or EnvironmentProblem
    when nothing can be done at all.
    """
    if job.output_url is None:
        return _segment_all(job, Here(job.output_dir), console, segmenter_options)
    store = Store(job.output_url)
    with TemporaryDirectory(prefix="densecli-") as folder, RemotePlace(store, Path(folder)) as place:
        return _segment_all(job, place, console, segmenter_options)


def _segment_all(job: Job, place: Place, console: Console, segmenter_options: dict[str, Any]) -> int:
    from densecli.presets import load_preset

    # A bad preset must be said before seconds go into importing torch, and also where there is nothing to do.
    preset, overrides = segmenter_options.pop("preset"), segmenter_options.pop("overrides", ())
    segmenter_options["preset"] = load_preset(preset, overrides)
    job = _without_own(job, console)
    plan = job.planned(place)
    _check_candidates(job)
    _check_coco(job, place)
    datasets = Datasets(job.kinds, place)
    skipped: set[str] = set()
    if job.skip_existing:
        for given, stem, outputs in plan:
            if datasets.can_rebuild(stem, given) and _skipped(given, outputs, place, console):
                skipped.add(given)
                datasets.add(stem, given)
        if len(skipped) == len(plan):
            for _, stem, _ in plan:
                _repeat(stem, place, console)
            _finish(datasets, place, console)
            return errors.EXIT_OK
    if isinstance(place, RemotePlace):
        place.store.check()
    else:
        check_writable(place.folder)
    if not all(is_candidates(given) for given, *_ in plan if given not in skipped):
        check_named(segmenter_options)
    run = _Run(job, place, console, datasets, segmenter_options)
    for given, stem, outputs in plan:
        if given in skipped:
            _repeat(stem, place, console)
        else:
            run.do(given, stem, outputs)
    if len(run.failures) < len(plan):
        _finish(datasets, place, console)
    return _exit_code(run.failures, len(plan))


def _without_own(job: Job, console: Console) -> Job:
    """The job without densecli's own pictures, which `*.png` brings along. Raises InputError where that leaves none."""
    own = [given for given in job.inputs if not is_candidates(given) and _is_own(given)]
    if not own:
        return job
    if len(own) == len(job.inputs):
        raise errors.InputError(f"{shown_input(own[0])}: densecli made this picture itself; give the photo")
    more = f" and {len(own) - 1} more" if len(own) > 1 else ""
    console.notice(f"{shown_input(own[0])}{more}: skipped, densecli made it itself")
    passed_over = set(own)
    return replace(job, inputs=[given for given in job.inputs if given not in passed_over])


def _is_own(given: str) -> bool:
    local = local_path(given)
    return local is not None and is_own_file(*os.path.split(local))


def _finish(datasets: Datasets, place: Place, console: Console) -> None:
    for path in datasets.finish():
        console.notice(f"data set: {place.shown(path)}")
    for path in datasets.kept:
        console.warning(f"{place.shown(path)}: {KEPT}")
    for name in datasets.missing:
        console.warning(
            f"{shown_input(name)}: is not in the data sets, its summary or picture is damaged or not there; run again"
        )


def _skipped(given: str, outputs: dict[str, Path], place: Place, console: Console) -> bool:
    if all(place.is_whole(path, None) for path in outputs.values()):
        console.notice(f"{shown_input(given)}: skipped, its outputs are there")
        return True
    return False


def _repeat(stem: str, place: Place, console: Console) -> None:
    """Print the summary of what is skipped: whoever reads --json wants those of all inputs."""
    if not console.json:
        return
    path = summary_path(place.folder, stem)
    brought = place.bring(path)
    if (document := read_summary(place.folder, stem)) is not None:
        console.result("", to_json(document))
    if brought:
        place.let_go(path)


def _check_candidates(job: Job) -> None:
    """Raise UsageError for what cannot be had of .candidates files."""
    kept = [given for given in job.inputs if is_candidates(given)]
    datasets = [kind for kind in job.kinds if kind in DATASET_KINDS]
    if kept and datasets:
        raise errors.UsageError(
            f"{shown_input(kept[0])}: --save {datasets[0]} needs the photo itself as input; give that, or take "
            f"{datasets[0]} out"
        )


def _check_coco(job: Job, place: Place) -> None:
    """Raise OutputError where the file of all masks would be replaced that a run of batch keeps whole."""
    path = place.folder / COCO
    of_batch = place.found(place.folder / MANIFEST) if place.apart else has_manifest(str(place.folder))
    if "coco" in job.kinds and place.found(path) and of_batch:
        raise errors.OutputError(
            f"{place.shown(path)}: is of a run of batch; add to it with densecli batch, or choose another --output-dir"
        )


def _tell(segmentation: Segmentation, given: str, console: Console) -> None:
    """Say how it went, all but the result itself."""
    shown = shown_input(given)
    console.notice(f"{shown}: {segmentation.funnel_line()}")
    for warning in segmentation.warnings:
        console.warning(f"{shown}: {warning}")
    if segmentation.advice:
        console.notice(f"{shown}: {segmentation.advice}")
    if console.verbose:
        times = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in segmentation.seconds.items())
        console.notice(f"{shown}: {times}; peak memory {segmentation.peak_memory_mb:,} MB")


class _Run:
    """One input after the other.

    The model is loaded when the first image has been read: a slip in a path is told before the seconds that takes.
    """

    def __init__(
        self, job: Job, place: Place, console: Console, datasets: Datasets, segmenter_options: Mapping[str, Any]
    ) -> None:
        self.job, self.place, self.console, self.datasets = job, place, console, datasets
        self.options = segmenter_options
        self.segmenter: Segmenter | None = None
        self.failures: list[errors.DensecliError] = []

    def do(self, given: str, stem: str, outputs: dict[str, Path]) -> None:
        """Segment an input and write its outputs, or say why not. Raises what would meet every other input too."""
        try:
            refuse_foreign(outputs.values(), self.place)
            image = None if is_candidates(given) else read_image(given)
        except Exception as error:
            return self._failed(given, error)
        if image is not None and self.segmenter is None:
            self.segmenter = self._load()
        try:
            if image is None:
                segmentation = self._chosen_again(given)
            else:
                segmentation = self._segmented(given, image, CANDIDATES in outputs)
            write_outputs(segmentation, outputs, self.job.write_options)
            _tell(segmentation, given, self.console)
            put_in_place(outputs, self.place, self.job.kinds)
            self.datasets.add(stem, given, segmentation)
        except StoreError:
            raise  # the other inputs could not be written either
        except Exception as error:
            return self._failed(given, error)
        # Outside of `try`: a stdout that cannot be written is no fault of this input, and ends the run.
        n = len(segmentation.masks)
        written = ", ".join(self.place.shown(path) for path in outputs.values())
        found = f"{shown_input(given)}: Found {n} mask{'' if n == 1 else 's'}. {written}"
        self.console.result(found, to_json(segmentation.summary()) if self.console.json else "")

    def _load(self) -> Segmenter:
        from densecli.segmenter import Segmenter

        segmenter = Segmenter(**self.options)
        for notice in segmenter.notices:
            self.console.notice(notice)
        if self.console.shows_progress and segmenter.compiles_first:
            self.console.status(FIRST_RUN)
        return segmenter

    def _segmented(self, given: str, image: LoadedImage, keep: bool) -> Segmentation:
        assert self.segmenter is not None
        shown = shown_input(given)
        for notice in image.notices:
            self.console.notice(f"{shown}: {notice}")
        segmentation = self.segmenter(
            image, lambda done, total: self.console.progress(shown, done, total, "point"), keep_candidates=keep
        )
        self.console.progress_done()
        return segmentation

    def _chosen_again(self, given: str) -> Segmentation:
        """Other masks from the candidates of an earlier run."""
        from densecli.image_candidates import ImageCandidates
        from densecli.refiltering import choose_again

        shown = shown_input(given)
        begin = time.perf_counter()
        kept = ImageCandidates.load(local_path(given) or given)
        kept.check_model(self.options["model"], shown, "segment the photo again")
        load_seconds = time.perf_counter() - begin
        segmentation = choose_again(kept, self.options["preset"].resolve(kept.model["name"]), load_seconds)
        self.console.notice(f"{shown}: chosen again from what {kept.model['name']} proposed; no model ran")
        return segmentation

    def _failed(self, given: str, error: Exception) -> None:
        """Note and say it. Raises KeyboardInterrupt where it was Ctrl-C, inside a library."""
        if errors.is_interruption(error):
            raise KeyboardInterrupt from error
        self.failures.append(error if isinstance(error, errors.DensecliError) else errors.DensecliError(str(error)))
        self.console.failure(_told(shown_input(given), error), error)


def _told(shown: str, error: Exception) -> str:
    """What the user reads of a failure, on one line that begins with the input."""
    if isinstance(error, errors.DensecliError):
        text = str(error)
        return text if text.startswith(f"{shown}: ") else f"{shown}: {text}"
    what = " ".join(str(error).split()) or "no message"
    return f"{shown}: unexpected {type(error).__name__}: {what} (-v shows where; please report it)"


def _exit_code(failures: list[errors.DensecliError], inputs: int) -> int:
    if not failures:
        return errors.EXIT_OK
    if len(failures) < inputs:
        return errors.EXIT_SOME_FAILED
    if all(isinstance(f, errors.EnvironmentProblem) for f in failures):
        return errors.EXIT_ENVIRONMENT
    if all(isinstance(f, errors.UsageError) for f in failures):
        return errors.EXIT_USAGE  # values that candidates cannot answer
    return errors.EXIT_NOTHING_SUCCEEDED
