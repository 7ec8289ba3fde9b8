"""A run from its inputs to its exit code: takes up what an earlier one left, records each input as it ends."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecli import errors
from densecli.batch import finishing, lock, messages
from densecli.batch.destination import Destination, destination_of
from densecli.batch.interruption import Interruption
from densecli.batch.job import BatchJob
from densecli.batch.manifest import SCHEMA, Manifest, Record, key_of, manifest_path, manifest_paths, to_line
from densecli.batch.outcome import Outcome
from densecli.batch.outputs import is_complete, relative, same_masks, source_of
from densecli.batch.pipeline import Complete, Done, Failed, Note, Pipeline, Plan
from densecli.batch.progress import Progress
from densecli.batch.reusing import Reused, reused
from densecli.batch.workers import Description, InProcess, Worker
from densecli.console import Console
from densecli.files import check_writable
from densecli.model_names import named
from densecli.remote.store import StoreError
from densecli.sinks.one_image import outputs_of
from densecli.sinks.ownership import refuse_foreign
from densecli.sources import collecting
from densecli.wording import FIRST_RUN, shown_input, without_password

if TYPE_CHECKING:
    from densecli.sources import LoadedImage
    from densecli.sources.collecting import Collection, Item, Problem

_GOES_ON = "the same command goes on from here"
# Errors that will meet every further input as well.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class StoppedAtOnce(KeyboardInterrupt):
    """Ctrl-C for the second time. stuck: some thread cannot be ended, so that the process should be."""

    def __init__(self, stuck: bool) -> None:
        super().__init__()
        self.stuck = stuck


def run_batch(job: BatchJob, console: Console) -> Outcome:
    """Do everything and say what came of it.

    Raises UsageError, OutputError, CheckpointError or EnvironmentProblem where nothing (more) can be done, and
    StoppedAtOnce at the second Ctrl-C.
    """
    # Before seconds go into importing torch, or into starting Ray.
    named(job.segmenter.model, job.segmenter.checkpoint_dir, job.segmenter.config)
    if not (job.watch or console.json):  # there every input has a line
        _refuse_nothing(collection_of(job).missing(), console)
    with contextlib.ExitStack() as stack:
        if job.output_url is None:
            check_writable(job.output_dir)
        else:
            # Whether it can be used shows only by using it, and what is done there tells whether a model is needed.
            destination = stack.enter_context(destination_of(job, console))
        workers = stack.enter_context(_workers(job, console))
        description = workers[0].start(job.worker_options, None)
        for notice in description.notices:
            console.notice(notice)
        if console.shows_progress and description.compiles_first:
            console.notice(FIRST_RUN)
        # Up to here nothing is lost by an interruption. (And Ray sets handlers of its own.)
        if job.output_url is None:
            destination = stack.enter_context(destination_of(job, console))
        interruption = stack.enter_context(Interruption())
        return _Run(job, console, interruption, workers, description, destination).run()


def _refuse_nothing(missing: Sequence[errors.DensecliError], console: Console) -> None:
    """Tell of inputs of which not one is there. Raises the last one's error."""
    for error in missing[:-1]:
        console.failure(str(error), error)
    if missing:
        raise missing[-1]


@contextlib.contextmanager
def _workers(job: BatchJob, console: Console) -> Iterator[Sequence[Worker]]:
    """The workers of the run, none started."""
    with contextlib.ExitStack() as stack:
        workers: Sequence[Worker]
        if job.engine == "ray":
            from densecli.batch.ray_workers import ray_workers

            workers = stack.enter_context(ray_workers(job.devices, job.workers, console))
        else:
            count = job.workers or len(job.devices)
            if count == 1:
                # What is wrong with the model should be said before a folder is made; where one is there, there may be
                # nothing to do.
                workers = [InProcess(job.devices[0], late=bool(manifest_paths(job.output_dir)))]
            else:
                from densecli.batch.processes import Process

                workers = [Process(job.devices[number % len(job.devices)], job.devices) for number in range(count)]
        for worker in workers:
            stack.callback(worker.stop)
        yield workers


class _Run:
    def __init__(
        self,
        job: BatchJob,
        console: Console,
        interruption: Interruption,
        workers: Sequence[Worker],
        description: Description,
        destination: Destination,
    ) -> None:
        self.destination, self.place = destination, destination.place
        self.job, self.console, self.interruption = job, console, interruption
        self.workers, self.description = workers, description
        self.kinds = finishing.image_kinds(job.kinds)
        self.settings = description.fingerprint()
        self.spanning = finishing.Spanning(job, self.place)
        self.outcome = Outcome()
        self.messages = messages.Messages(console)
        self.environment_only = True
        self.hopeless: errors.DensecliError | None = None
        self.is_short = False
        """Something that spans the run could not be written."""
        self.redoing: set[str] = set()
        """Output names of inputs on their way that an earlier run has tried or done otherwise."""
        self.as_before: dict[str, dict[str, Any]] = {}
        """Lines by output name of inputs on their way that get the same masks again, for other kinds to be saved."""
        self.done_since: dict[int, tuple[int, int]] = {}
        """Where in the manifest lines of this run are, by the key of their output name: where files are looked at again
        and again, they may change more than once."""
        self.failing: set[str] = set()
        """Inputs that failed, of the same."""
        self.began = time.time()

    def run(self) -> Outcome:
        job = self.job
        collection = collection_of(job)
        progress = Progress(self.console)
        begin = time.perf_counter()
        path = manifest_path(job.output_dir, job.shard)
        with Record(job.output_dir) as record, Manifest(path, self.place.shown(path)) as manifest:
            plan = Plan(
                self._outputs,
                lambda item, outputs: self._earlier(record, manifest, item, outputs),
                self._reused,
                job.write_options,
                self.spanning.written,
            )
            pipeline = Pipeline(collection, plan, self.workers, self.description, job.worker_options)
            try:
                if self.console.shows_progress and not job.watch:
                    threading.Thread(target=_count, args=(job, progress, pipeline), daemon=True).start()
                pipeline.start()
                self._follow(pipeline, manifest, progress)
            except BaseException as error:
                self.destination.hurry()
                listening = pipeline.abort()
                self.console.progress_done()
                if not listening:
                    lock.sweep(job.output_dir, everything=True)
                if isinstance(error, KeyboardInterrupt):
                    raise StoppedAtOnce(stuck=not listening) from None
                raise
        self.console.progress_done()
        self.outcome.seconds = time.perf_counter() - begin
        self.outcome.busy_seconds = sum(pipeline.busy_seconds) / len(self.workers)
        self.outcome.skipped = dict(collection.skipped)
        if pipeline.error is not None:
            self._summarise()
            raise pipeline.error
        interrupted = self.interruption.asked
        try:
            if self.hopeless is None and (not interrupted or job.watch):
                self._finish()
        finally:
            self.console.progress_done()
            self._summarise()
        self.outcome.exit_code = self._exit_code()
        return self.outcome

    def _outputs(self, item: Item) -> dict[str, Path]:
        return outputs_of(item.stem, self.job.output_dir, self.kinds)

    def _earlier(
        self, record: Record, manifest: Manifest, item: Item, outputs: dict[str, Path]
    ) -> dict[str, Any] | None:
        since = self.done_since.get(key_of(item.stem)) if self.job.watch else None
        entry = record.of(item.stem) if since is None else manifest.line(*since)
        if (
            not self.job.overwrite
            and is_complete(entry, item, outputs, self.place, self.settings, self.job.write_options.alpha)
            and self.spanning.can_rebuild(item)
        ):
            return entry
        refuse_foreign(outputs.values(), self.place, (entry or {}).get("outputs") or ())
        if entry is not None:
            self.redoing.add(item.stem)
            if same_masks(entry, item, self.settings):
                self.as_before[item.stem] = entry
        return None

    def _reused(self, item: Item, image: LoadedImage) -> Reused | None:
        entry = self.as_before.get(item.stem)
        if entry is None or self.job.overwrite:
            return None
        return reused(entry, item.stem, image, self._outputs(item), self.place, self.job.write_options.alpha)

    def _follow(self, pipeline: Pipeline, manifest: Manifest, progress: Progress) -> None:
        """Record and say what comes out of the pipeline, until it is empty."""
        stopping = False
        while True:
            if self.interruption.asked and not stopping:
                stopping = True
                pipeline.stop()
                self.console.notice("finishing what is in work; Ctrl-C again stops at once")
            try:
                event = pipeline.events.get(timeout=0.1)
            except queue.Empty:
                progress.tick(pipeline.current)
                continue
            if event is None:
                return
            if isinstance(event, Note):
                self.console.notice(event.text)
            elif isinstance(event, Complete):
                self.outcome.complete += len(event.inputs)
                progress.complete += len(event.inputs)
                for item, entry in event.inputs:
                    self.spanning.ended(item, self.console)
                    with self._heard():
                        self.messages.complete(item, entry)
            elif isinstance(event, Done):
                line = self._done_entry(event)
                place = manifest.append(line)
                if self.job.watch:
                    self.done_since[key_of(event.item.stem)] = place
                self.outcome.done += 1
                self._mended(event.item.name, progress)
                self.spanning.ended(event.item, self.console)
                progress.done += 1
                if event.item.stem in self.redoing:
                    self.redoing.discard(event.item.stem)
                    self.outcome.redone += 1
                with self._heard():
                    self.messages.done(event, line, map(self.place.shown, event.outputs.values()))
            elif isinstance(event, collecting.Mended):
                self.spanning.mended(without_password(event.name))
                self._mended(event.name, progress)
            else:
                self._fail(event, manifest)
                progress.failed = self.outcome.failed
                if not stopping and (self.job.fail_fast or self.hopeless):
                    stopping = True
                    pipeline.stop()
            progress.tick(pipeline.current)

    # --- one input ---------------------------------------------------------------------------------------------------

    def _entry(self, item: Item | Problem, status: str) -> dict[str, Any]:
        name = without_password(item.name)
        entry: dict[str, Any] = {"schema": SCHEMA, "input": name, "status": status, "error": None}
        if isinstance(item, collecting.Item):
            entry |= {
                "stem": item.stem,
                "source": source_of(item),
                "frame": item.frame,
                "size": item.size,
                "mtime_ns": item.mtime_ns,
                "index": item.index,
            }
            if item.frame is not None:
                at = item.seconds_in_video
                entry |= {"fps": item.fps, "seconds_in_video": None if at is None else round(at, 6)}
        return entry | {"settings": self.settings, "finished": round(time.time(), 3)}

    def _done_entry(self, event: Done) -> dict[str, Any]:
        outputs = relative(event.outputs, self.job.output_dir)
        before = self.as_before.pop(event.item.stem, {})
        if before.get("sha256") != event.sha256:
            before = {}  # another picture in its place, as old and as large
        return self._entry(event.item, "done") | {
            "seconds": before.get("seconds") if event.is_reused else event.seconds["total"],
            "masks": event.masks,
            "coverage": event.coverage,
            "sha256": event.sha256,
            # What was saved before shows these masks as well.
            "outputs": [*outputs, *(name for name in before.get("outputs") or () if name not in outputs)],
            "alpha": self.job.write_options.alpha if "overlay" in event.outputs else before.get("alpha"),
        }

    def _fail(self, event: Failed, manifest: Manifest) -> None:
        error, text = event.error, messages.reason(event)
        if isinstance(event.item, collecting.Item):
            self.spanning.met(event.item)
        else:
            self.spanning.failed(without_password(event.item.name))
        self.outcome.failed += event.item.name not in self.failing
        if self.job.watch:
            self.failing.add(event.item.name)
        self.redoing.discard(getattr(event.item, "stem", ""))
        self.as_before.pop(getattr(event.item, "stem", ""), None)
        if not isinstance(error, errors.EnvironmentProblem):
            self.environment_only = False
        self.messages.failed(event, text)
        entry = self._entry(event.item, "failed") | {"error": text, "seconds": None, "masks": None, "outputs": []}
        cause = error.__cause__
        disk_is_full = isinstance(error, errors.OutputError) and isinstance(cause, OSError) and cause.errno in _HOPELESS
        if isinstance(error, errors.DensecliError) and (disk_is_full or isinstance(error, StoreError)):
            self.hopeless = error
            with contextlib.suppress(errors.OutputError):  # there is no room for this line either
                manifest.append(entry)
        else:
            manifest.append(entry)
        if self.console.json:
            with self._heard():
                self.console.result("", to_line(entry))

    def _mended(self, name: str, progress: Progress) -> None:
        """An input that failed, before all of it had arrived, does not any more."""
        if name in self.failing:
            self.failing.remove(name)
            self.outcome.failed -= 1
            progress.failed = self.outcome.failed
            self.messages.mended(name)

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """A stdout that fails ends the run, but not one that is ending: with a closed terminal its stdout is gone."""
        try:
            yield
        except errors.OutputError:
            if not self.interruption.asked:
                raise

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Write what spans the run: data sets, overlay videos, the report."""
        with lock.finishing(self.job.output_dir, self.job.shard):
            nothing_new = not self.outcome.done and not self.outcome.failed
            finished = self.destination.is_finished() if nothing_new else False
            if finished or (finished is None and self.spanning.is_up_to_date()):
                return
            self.destination.before_finishing()
            with Record(self.job.output_dir) as record:
                missing = self.spanning.finish(record, self.console, self.description, self.began)
            self.is_short = bool(missing)
            if not missing:
                self.destination.after_finishing()

    def _summarise(self) -> None:
        path = manifest_path(self.job.output_dir, self.job.shard)
        self.messages.summary(self.outcome, self.place.shown(path) if path.exists() else None)

    def _exit_code(self) -> int:
        outcome = self.outcome
        if self.interruption.asked:
            self.console.notice(f"stopped; {_GOES_ON}")
            return errors.EXIT_INTERRUPTED
        if self.hopeless is not None:
            spanning = "data sets and report" if self.job.report else "data sets"
            self.console.notice(f"stopped: nothing could be written any more, {spanning} neither; {_GOES_ON}")
        elif outcome.failed and self.job.fail_fast:
            self.console.notice(f"stopped at the first failure (--fail-fast); {_GOES_ON}")
        succeeded = outcome.done + outcome.complete
        if not outcome.failed:
            if not succeeded and not self.job.shard:
                raise errors.InputError(nothing_found(self.job))
            return errors.EXIT_SOME_FAILED if self.is_short else errors.EXIT_OK
        if succeeded:
            return errors.EXIT_SOME_FAILED
        return errors.EXIT_ENVIRONMENT if self.environment_only else errors.EXIT_NOTHING_SUCCEEDED


def nothing_found(job: BatchJob) -> str:
    """Said where there is not a single input."""
    shown = ", ".join(shown_input(given) for given in list(job.inputs)[:3])
    more = "" if job.recursive else "; -r looks into subfolders"
    return f"{shown}: no images found{more}"


def collection_of(job: BatchJob) -> Collection:
    """The inputs of a run."""
    return collecting.Collection(
        job.inputs,
        output_dir=job.output_dir,
        recursive=job.recursive,
        every=job.every,
        max_frames=job.max_frames,
        shard=job.shard,
        poll_seconds=job.poll_seconds if job.watch else None,
    )


def _count(job: BatchJob, progress: Progress, pipeline: Pipeline) -> None:
    """Find the total for the bar, beside the run: listing is much faster than segmenting."""
    total = 0
    with contextlib.suppress(Exception):
        for found in collection_of(job):
            total += 1
            if pipeline.over or getattr(found, "frame", None) is not None:
                return  # to count a video's frames would take decoding it
        progress.total = total
