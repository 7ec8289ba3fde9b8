"""Decoding the next inputs, segmenting, and writing the last outputs at the same time, in threads with bounded queues.

One feeder takes inputs from the source in order and has them decoded ahead; each worker has a thread that segments;
writers write. What became of each input comes out of `events`, in the order in which they ended.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecli import errors
from densecli.batch.job import SegmenterOptions
from densecli.batch.reusing import Reused
from densecli.batch.workers import Aborted, Description, Unusable, Worker, WorkerDied
from densecli.batch.worklist import Work, WorkList
from densecli.masks import Segmentation
from densecli.sinks import WriteOptions
from densecli.sinks.one_image import write_outputs
from densecli.sources import LoadedImage, collecting

if TYPE_CHECKING:
    from densecli.sources.collecting import Collection, Item, Problem

MAX_DEATHS = 3
"""Workers that an input may cost before it is given up: the fault may be its own."""
MAX_RESTARTS = 3
"""Times in a row that a worker is started without finishing anything, before it is given up."""
_TOGETHER_SECONDS = 0.05
"""For which complete inputs are gathered before they are handed on."""
_ABORT_SECONDS = 5.0


@dataclass(frozen=True)
class Done:
    """An input whose outputs are all written, with what there is to say about it (and no array of it)."""

    item: Item
    outputs: dict[str, Path]
    masks: int
    coverage: float
    seconds: dict[str, float]
    sha256: str
    warnings: tuple[str, ...]
    advice: str | None
    notices: tuple[str, ...]
    """What was done to its pixels."""
    details: tuple[str, ...]
    """Lines for --verbose."""
    is_reused: bool = False
    """No model ran; `seconds` are those of writing."""

    @staticmethod
    def of(item: Item, segmentation: Segmentation, outputs: dict[str, Path], is_reused: bool) -> Done:
        times = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in segmentation.seconds.items())
        return Done(
            item,
            outputs,
            len(segmentation.masks),
            segmentation.coverage,
            dict(segmentation.seconds),
            segmentation.image["sha256"],
            tuple(segmentation.warnings),
            segmentation.advice,
            tuple(segmentation.notices),
            ()
            if is_reused
            else (
                segmentation.funnel_line(),
                f"{times}; peak memory {segmentation.peak_memory_mb:,} MB",
            ),
            is_reused,
        )


@dataclass(frozen=True)
class Failed:
    """An input that came to nothing; or a place that could not be read, which has no Item."""

    item: Item | Problem
    error: Exception


@dataclass(frozen=True)
class Complete:
    """Inputs that an earlier run has finished, each with its line of the manifest.

    Several at a time: one by one, handing them from thread to thread would take most of the time of a run over
    thousands of them.
    """

    inputs: list[tuple[Item, dict[str, Any]]]


@dataclass(frozen=True)
class Note:
    """Something about the run that a user should know."""

    text: str


Event = Done | Failed | Complete | Note | collecting.Mended


@dataclass
class Plan:
    """What to do with an input; `outputs` and `earlier` are called in the feeder's thread only."""

    outputs: Callable[[Item], dict[str, Path]]
    """Paths by kind. Raises UsageError for an input that must not be done."""
    earlier: Callable[[Item, dict[str, Path]], dict[str, Any] | None]
    """The manifest's line where the input is complete already."""
    reused: Callable[[Item, LoadedImage], Reused | None] = lambda item, image: None
    """What it takes no model for. From several threads, after `earlier`."""
    write_options: WriteOptions = field(default_factory=WriteOptions)
    written: Callable[[Item, Segmentation, dict[str, Path]], None] = lambda item, segmentation, outputs: None
    """Called by the writers, from several threads, when an input's outputs are there."""


class Pipeline:
    """Start it, read `events` until None comes, and `stop()` or `abort()` it in between at will."""

    def __init__(
        self,
        source: Collection,
        plan: Plan,
        workers: Sequence[Worker],
        description: Description,
        options: SegmenterOptions,
    ) -> None:
        """workers: the first is started already and gave `description`; the others are started here."""
        self._source, self._plan, self._workers = source, plan, workers
        self._description, self._options = description, description.fixed(options)
        self.events: queue.Queue[Event | None] = queue.Queue(maxsize=256)
        # Two ahead: one being decoded while another waits, so that a slow one does not leave the engine idle.
        self._todo = WorkList(len(workers), room=len(workers) + 1)
        self._writes: queue.Queue[tuple[Work, Segmentation, dict[str, Path] | None] | None]
        self._writes = queue.Queue(maxsize=len(workers))  # outputs: None for all of them
        self._loaders = ThreadPoolExecutor(len(workers) + 1, thread_name_prefix="densecli-load")
        self._writers = [threading.Thread(target=self._write, daemon=True) for _ in range(min(8, 2 * len(workers)))]
        self._segmenting = [
            threading.Thread(target=self._guarded, args=(self._segment, number), daemon=True)
            for number in range(len(workers))
        ]
        self._feeder = threading.Thread(target=self._guarded, args=(self._feed,), daemon=True)
        self._stopped, self._aborted = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        """Why the run cannot go on, if so; to be raised when it has finished."""
        self.busy_seconds = [0.0] * len(workers)
        """Time that each worker spent on images."""
        self.current: dict[int, tuple[str, float]] = {}
        """Name and fraction of what each worker is at."""

    def start(self) -> None:
        for thread in (*self._writers, *self._segmenting, self._feeder):
            thread.start()
        threading.Thread(target=self._close, daemon=True).start()

    def stop(self) -> None:
        """Take no new inputs; finish what the workers and writers have."""
        self._stopped.set()
        self._source.stop()
        for work in self._todo.stop():
            work.image.cancel()

    def abort(self) -> bool:
        """End now: no output is left half-written. False: a thread does not listen, and should not be waited for."""
        self._aborted.set()
        self.stop()
        for worker in self._workers:
            worker.kill()
        until = time.monotonic() + _ABORT_SECONDS
        started = [thread for thread in (*self._segmenting, *self._writers) if thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, until - time.monotonic()))
        self._loaders.shutdown(wait=False, cancel_futures=True)
        return not any(thread.is_alive() for thread in started)

    @property
    def over(self) -> bool:
        """Whether it takes no new inputs."""
        return self._stopped.is_set()

    def _emit(self, event: Event | None) -> None:
        while not self._aborted.is_set():
            try:
                return self.events.put(event, timeout=0.2)
            except queue.Full:
                continue

    def _guarded(self, body: Callable[..., None], *arguments: Any) -> None:
        """Nothing that goes wrong in a thread of ours may leave the run waiting for ever."""
        try:
            body(*arguments)
        except Aborted:
            pass
        except BaseException as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self.error = self.error or error
        self.stop()

    def _feed(self) -> None:
        complete: list[tuple[Item, dict[str, Any]]] = []
        begin = time.monotonic()
        try:
            for item in self._source:
                if self._stopped.is_set():
                    return
                if isinstance(item, collecting.Mended):
                    self._emit(item)
                    continue
                if not isinstance(item, collecting.Item):
                    self._emit(Failed(item, item.error))
                    continue
                try:
                    entry = self._plan.earlier(item, self._plan.outputs(item))
                except errors.DensecliError as refused:
                    item.discard()
                    self._emit(Failed(item, refused))
                    continue
                if entry is not None:
                    item.discard()
                    complete.append((item, entry))
                    if time.monotonic() - begin > _TOGETHER_SECONDS:
                        self._emit(Complete(complete))
                        complete, begin = [], time.monotonic()
                elif not self._todo.put(partial(self._work, item)):
                    return
        finally:
            if complete:
                self._emit(Complete(complete))
            self._todo.close()

    def _work(self, item: Item) -> Work:
        return Work(item, self._loaders.submit(self._load, item))

    def _load(self, item: Item) -> LoadedImage | Reused:
        image = item.load()
        return self._plan.reused(item, image) or image

    def _segment(self, number: int) -> None:
        worker = self._workers[number]
        try:
            starts = 0
            ready = number == 0
            while (work := self._todo.get(number)) is not None:
                try:
                    if known := _reused(work):
                        self._writes.put((work, known.segmentation, known.outputs))
                        self._todo.done()
                        continue
                    if not ready:
                        starts += 1
                        self._start(worker)
                        ready = True
                    segmentation = self._timed(number, worker, work)
                    starts = 0
                except WorkerDied as died:
                    if ready:  # else it died before it had the image
                        work.deaths += 1
                    ready = False
                    self._after_death(number, work, died)
                    if starts >= MAX_RESTARTS:
                        return self._worker_lost(number, died)
                except Unusable as error:
                    self._todo.give_back(work)
                    return self._worker_lost(number, error.cause)
                except errors.DensecliError as error:
                    if not ready:
                        self._todo.give_back(work)
                        return self._worker_lost(number, error)
                    self._after_error(number, work, error)
                except Aborted:
                    self._todo.done()
                    raise
                except Exception as error:
                    self._after_error(number, work, error)
                else:
                    self._writes.put((work, segmentation, None))
                    self._todo.done()
        finally:
            self._todo.leave(number)
            worker.stop()

    def _timed(self, number: int, worker: Worker, work: Work) -> Segmentation:
        name = work.item.name
        self.current[number] = (name, 0.0)
        image = work.image.result()
        assert isinstance(image, LoadedImage)
        begin = time.perf_counter()
        try:
            return worker.segment(
                image, lambda done, total: self.current.__setitem__(number, (name, done / max(1, total)))
            )
        finally:
            self.busy_seconds[number] += time.perf_counter() - begin

    def _start(self, worker: Worker) -> None:
        description = worker.start(self._options, self._description.threads)
        if (description.sha256, description.parameters) != (self._description.sha256, self._description.parameters):
            raise errors.CheckpointError(
                f"a worker loaded other weights than the first one ({description.model} {description.sha256[:12]}, not "
                f"{self._description.model} {self._description.sha256[:12]}); put the same checkpoint on all machines"
            )

    def _after_death(self, number: int, work: Work, died: WorkerDied) -> None:
        name = work.item.name
        if work.deaths < MAX_DEATHS:
            self._emit(Note(f"{died}; {name} goes to another"))
            return self._todo.give_back(work)
        self._emit(
            Failed(
                work.item,
                errors.EnvironmentProblem(
                    f"{died}, {MAX_DEATHS} times with this image; try it alone, smaller, or with -p low-vram"
                ),
            )
        )
        self._todo.done()

    def _after_error(self, number: int, work: Work, error: Exception) -> None:
        work.failed_on.add(number)
        # A picture that cannot be read is that everywhere; anything else may be this worker's own trouble.
        if (
            not isinstance(error, errors.InputError)
            and len(self._workers) > 1
            and len(work.failed_on) == 1
            and self._todo.others_left(number)
        ):
            return self._todo.give_back(work)
        self._emit(Failed(work.item, error))
        self._todo.done()

    def _worker_lost(self, number: int, error: Exception) -> None:
        if self._todo.leave(number) == 0:
            if isinstance(error, errors.DensecliError):
                raise error
            raise errors.EnvironmentProblem(f"{error}, and no other worker is left; see the messages above")
        self._emit(Note(f"worker {number + 1} is given up: {error}"))

    def _write(self) -> None:
        while (waiting := self._writes.get()) is not None:
            if self._aborted.is_set():
                continue
            work, segmentation, wanted = waiting
            try:
                outputs = self._plan.outputs(work.item) if wanted is None else wanted
                write_outputs(segmentation, outputs, self._plan.write_options)
                self._plan.written(work.item, segmentation, outputs)
                self._emit(Done.of(work.item, segmentation, outputs, wanted is not None))
            except Exception as error:
                self._emit(Failed(work.item, error))
            del work, segmentation, waiting

    def _close(self) -> None:
        """When the last worker has ended, let the writers end."""
        for thread in self._segmenting:
            thread.join()
        for _ in self._writers:
            self._writes.put(None)
        for thread in self._writers:
            thread.join()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        self._emit(None)


def _reused(work: Work) -> Reused | None:
    """What it takes no model for, once it is loaded; where it cannot be, `result` will say why."""
    if work.image.exception() is not None:
        return None
    loaded = work.image.result()
    return loaded if isinstance(loaded, Reused) else None
