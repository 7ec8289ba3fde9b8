"""The work of `densecli segment`: one image after the other, each failure on its own, nothing good lost."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from densecli import errors
from densecli.console import Console
from densecli.files import check_writable
from densecli.masks import Segmentation
from densecli.places import Here, Place
from densecli.remote.place import RemotePlace
from densecli.remote.store import Store, StoreError
from densecli.sinks import CANDIDATES, DATASET_KINDS, WriteOptions
from densecli.sinks.candidates import is_candidates
from densecli.sinks.datasets import Datasets
from densecli.sinks.one_image import outputs_of, put_in_place, write_outputs
from densecli.sinks.summary import to_json
from densecli.sources import local_path, output_names, read_image
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

    def planned(self, place: Place) -> list[tuple[str, dict[str, Path]]]:
        """Each distinct input with the paths of its outputs by kind.

        Raises UsageError where an output would take the place of an input, or of a folder that holds one.
        """
        inputs = list(dict.fromkeys(self.inputs))
        plan = [
            (given, outputs_of(name, place.folder, self.kinds))
            for given, name in zip(inputs, output_names(inputs), strict=True)
        ]
        protected: dict[str, str] = {}
        for given in inputs:
            if (local := local_path(given)) is not None:
                real = PurePath(os.path.realpath(local))
                # Outputs of the kinds masks and cutouts are folders, which are replaced as a whole.
                protected |= {str(part): given for part in (real, *real.parents)}
            else:
                protected[given] = given
        for given, outputs in plan:
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
    plan = job.planned(place)
    inputs = len(plan)
    _check_candidates(job)
    datasets = Datasets(job.kinds, place)
    stems = dict(zip((given for given, _ in plan), output_names([given for given, _ in plan]), strict=True))
    if job.skip_existing:
        plan = [
            (given, outputs)
            for given, outputs in plan
            if not (datasets.can_rebuild(stems[given], given) and _skipped(given, outputs, place, console))
        ]
        for given in stems.keys() - {given for given, _ in plan}:
            datasets.add(stems[given], given)
        if not plan:
            _finish(datasets, place, console)
            return errors.EXIT_OK
    if isinstance(place, RemotePlace):
        place.store.check()
    else:
        check_writable(place.folder)
    segmenter = None
    if not all(is_candidates(given) for given, _ in plan):
        from densecli.segmenter import Segmenter

        segmenter = Segmenter(**segmenter_options)
        for notice in segmenter.notices:
            console.notice(notice)
        if console.shows_progress and segmenter.compiles_first:
            console.status(FIRST_RUN)
    failures: list[errors.DensecliError] = []
    for given, outputs in plan:
        shown = shown_input(given)
        try:
            segmentation = _segmented(segmenter, segmenter_options, given, CANDIDATES in outputs, console)
            write_outputs(segmentation, outputs, job.write_options)
            _tell(segmentation, given, console)
            put_in_place(outputs, place, job.kinds)
            datasets.add(stems[given], given, segmentation)
        except StoreError:
            raise  # the other inputs could not be written either
        except Exception as error:
            if errors.is_interruption(error):
                raise KeyboardInterrupt from error
            failures.append(error if isinstance(error, errors.DensecliError) else errors.DensecliError(str(error)))
            console.failure(_told(shown, error), error)
        else:
            # Outside of `try`: a stdout that cannot be written is no fault of this input, and ends the run.
            n = len(segmentation.masks)
            written = ", ".join(place.shown(path) for path in outputs.values())
            found = f"{shown}: Found {n} mask{'' if n == 1 else 's'}. {written}"
            console.result(found, to_json(segmentation.summary()) if console.json else "")
    if len(failures) < inputs:
        _finish(datasets, place, console)
    return _exit_code(failures, inputs)


def _finish(datasets: Datasets, place: Place, console: Console) -> None:
    for path in datasets.finish():
        console.notice(f"data set: {place.shown(path)}")
    for name in datasets.missing:
        console.warning(f"{shown_input(name)}: is not in the data sets, its summary or picture is gone; run again")


def _skipped(given: str, outputs: dict[str, Path], place: Place, console: Console) -> bool:
    if all(place.is_whole(path, None) for path in outputs.values()):
        console.notice(f"{shown_input(given)}: skipped, its outputs are there")
        return True
    return False


def _check_candidates(job: Job) -> None:
    """Raise UsageError for what cannot be had of .candidates files."""
    kept = [given for given in job.inputs if is_candidates(given)]
    datasets = [kind for kind in job.kinds if kind in DATASET_KINDS]
    if kept and datasets:
        raise errors.UsageError(
            f"{shown_input(kept[0])}: --save {datasets[0]} needs the photo itself as input; give that, or take "
            f"{datasets[0]} out"
        )


def _segmented(
    segmenter: Segmenter | None, options: Mapping[str, Any], given: str, keep: bool, console: Console
) -> Segmentation:
    """Read and segment one input, or choose again from its candidates."""
    shown = shown_input(given)
    if is_candidates(given):
        from densecli.image_candidates import ImageCandidates
        from densecli.refiltering import choose_again

        begin = time.perf_counter()
        kept = ImageCandidates.load(local_path(given) or given)
        kept.check_model(options["model"], shown, "segment the photo again")
        load_seconds = time.perf_counter() - begin
        segmentation = choose_again(kept, options["preset"].resolve(kept.model["name"]), load_seconds)
        console.notice(f"{shown}: chosen again from what {kept.model['name']} proposed; no model ran")
        return segmentation
    assert segmenter is not None
    image = read_image(given)
    for notice in image.notices:
        console.notice(f"{shown}: {notice}")
    segmentation = segmenter(
        image, lambda done, total: console.progress(shown, done, total, "point"), keep_candidates=keep
    )
    console.progress_done()
    return segmentation


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
