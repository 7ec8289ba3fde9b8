"""Workers as Ray actors, here or on a cluster: pictures go out to them, masks come back, files are written here.

So the cluster needs densecli and the checkpoint on its machines, but no shared folder; and an actor, machine or network
that goes away takes nothing along but an image that another actor then gets.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from densecli.batch.job import SegmenterOptions
from densecli.batch.workers import Aborted, Description, Progress, Unexpected, WorkerDied, with_pixels
from densecli.console import Console
from densecli.errors import DensecliError, EnvironmentProblem, UsageError
from densecli.masks import Segmentation
from densecli.sources import LoadedImage
from densecli.wording import reason_of

_POLL_SECONDS = 0.5


@contextlib.contextmanager
def ray_workers(devices: Sequence[str], count: int | None, console: Console) -> Iterator[list[RayWorker]]:
    """The workers of a run over the cluster of $RAY_ADDRESS, or over one that is started here and ends with the run.

    devices: one of auto, cuda and cpu; auto takes GPUs where the cluster has some. count: actors; default: one a GPU,
    or one a machine. Raises EnvironmentProblem or UsageError.
    """
    if len(devices) != 1 or devices[0] not in ("auto", "cuda", "cpu"):
        raise UsageError(
            f"--device {','.join(devices)}: with --engine ray, give auto, cuda or cpu; Ray chooses which, "
            "and --workers N how many"
        )
    ray = _import_ray()
    connected_before = ray.is_initialized()
    if not connected_before:
        _connect(ray)
    try:
        place = _place(ray, devices[0], count)
        console.notice(f"ray: {place.workers} worker{'' if place.workers == 1 else 's'} on {place.device}")
        yield [RayWorker(ray, place) for _ in range(place.workers)]
    finally:
        if not connected_before:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise EnvironmentProblem(
            f"--engine ray needs Ray; run: {sys.executable} -m pip install 'densecli[ray]'"
        ) from error
    return ray


def _connect(ray: Any) -> None:
    # Nobody asked for reports about their runs to be sent anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Threads that wait busily take the other workers' cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, **({} if address else {"include_dashboard": False}))
    except Exception as error:
        where = f"RAY_ADDRESS={address}: cannot be reached" if address else "Ray cannot be started here"
        raise EnvironmentProblem(f"{where} ({reason_of(error)}); check it with: ray status") from error


@dataclass(frozen=True)
class _Place:
    """What each actor gets."""

    device: str
    workers: int
    cpus: float
    gpus: float


def _place(ray: Any, device: str, count: int | None) -> _Place:
    resources = ray.cluster_resources()
    cpus, gpus = float(resources.get("CPU", 0)), float(resources.get("GPU", 0))
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device == "cuda" and not gpus:
        raise EnvironmentProblem("--device cuda: the Ray cluster has no GPU; use --device cpu")
    if gpus and device != "cpu":
        workers = count or int(gpus)
        return _Place("cuda", workers, cpus=1 if cpus >= workers else 0, gpus=min(1.0, gpus / workers))
    if not cpus:
        raise EnvironmentProblem("the Ray cluster has no CPU to give; check it with: ray status")
    workers = count or sum(1 for machine in machines if machine.get("CPU"))
    smallest = min((float(machine["CPU"]) for machine in machines if machine.get("CPU")), default=cpus)
    return _Place("cpu", workers, cpus=min(smallest, max(1.0, cpus // workers)) if workers <= cpus else 0.0, gpus=0)


class _Actor:
    """What runs on the cluster. Errors are answers, so that they come back as they are."""

    def start(self, options: SegmenterOptions, device: str, threads: int) -> Description | Exception:
        from densecli.batch.workers import segmenter_of

        try:
            self._segmenter = segmenter_of(options, device, threads)
            self._keep_candidates = options.keep_candidates
            return Description.of(self._segmenter)
        except DensecliError as error:
            return error

    def segment(self, image: LoadedImage) -> Segmentation | Exception:
        from dataclasses import replace

        from densecli.batch.child import unexpected
        from densecli.batch.workers import without_pixels

        try:
            # Ray's arrays are views of shared memory that cannot be written.
            own = replace(image, pixels=image.pixels.copy())
            return without_pixels(self._segmenter(own, keep_candidates=self._keep_candidates))
        except DensecliError as error:
            return error
        except Exception as error:
            return unexpected(error)


class RayWorker:
    """An actor that holds the model."""

    def __init__(self, ray: Any, place: _Place) -> None:
        self._ray, self._place = ray, place
        self._actor: Any = None
        self._killed = False

    def start(self, options: SegmenterOptions, threads: int | None) -> Description:
        import torch

        self.stop()
        actor = self._ray.remote(_Actor).options(
            num_cpus=self._place.cpus, num_gpus=self._place.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._actor = actor.remote()
        # Ray lets each actor have as many threads as it has CPUs; with those of this machine, sums are the same to the
        # last bit as if it had segmented itself.
        description = self._answer(
            self._actor.start.remote(options, self._place.device, threads or torch.get_num_threads())
        )
        assert isinstance(description, Description)
        return description

    def segment(self, image: LoadedImage, progress: Progress) -> Segmentation:
        if self._actor is None:
            raise WorkerDied("the Ray worker is not there")
        answer = self._answer(self._actor.segment.remote(image))
        assert isinstance(answer, Segmentation)
        return with_pixels(answer, image)

    def stop(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            with contextlib.suppress(Exception):  # it, or the whole cluster, may be gone
                self._ray.kill(actor)

    def kill(self) -> None:
        self._killed = True  # seen by `_answer`; stop() then ends the actor

    def _answer(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            while not self._ray.wait([reference], timeout=_POLL_SECONDS)[0]:
                if self._killed:
                    raise Aborted
            answer = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise Unexpected(type(error.cause).__name__, reason_of(error.cause), str(error)) from None
        except errors.RayError as error:
            raise WorkerDied(f"a Ray worker ended ({_first_line(error)})") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__
