"""Who segments: the model in this process. Other workers (child processes, Ray actors) look the same from outside."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from densecli.batch.job import SegmenterOptions
from densecli.engine.parameters import Limits
from densecli.errors import DensecliError
from densecli.masks import SUMMARY_SCHEMA, Segmentation
from densecli.sources import LoadedImage

if TYPE_CHECKING:
    from densecli.segmenter import Segmenter

Progress = Callable[[int, int], None]


def fingerprint_of(parameters: Mapping[str, Any], sha256: str, precision: str) -> str:
    """SHA-256 (64 hex digits) of values of a preset, as in the summary, of the weights' SHA-256 and of the precision.

    Limits are no part of it: they change time and memory, never masks.
    """
    limits = set(Limits.model_fields)
    values = {
        "schema": SUMMARY_SCHEMA,
        # -0.0 equals 0.0 but prints differently; adding 0.0 makes them one.
        "parameters": {
            key: value + 0.0 if isinstance(value, float) else value
            for key, value in parameters.items()
            if key not in limits
        },
        "model": sha256,
        "precision": precision,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Description:
    """What a worker runs: enough to tell whether another worker, or an earlier run, would give the same masks."""

    model: str
    sha256: str
    precision: str
    device: str
    preset: str
    parameters: dict[str, Any]
    notices: tuple[str, ...] = ()
    compiles_first: bool = field(default=False, compare=False)
    """As of the Segmenter: of that worker's, at that time."""
    threads: int = 0
    """CPU threads of the arithmetic. Sums depend on it in their last bits, so all workers get the same."""

    @staticmethod
    def of(segmenter: Segmenter) -> Description:
        import torch

        return Description(
            model=segmenter.model.name,
            sha256=segmenter.model.sha256,
            precision=segmenter.model.precision,
            device=str(segmenter.model.device),
            preset=segmenter.resolved.name,
            parameters=segmenter.resolved.parameters(),
            notices=tuple(segmenter.notices),
            compiles_first=segmenter.compiles_first,
            threads=torch.get_num_threads(),
        )

    @staticmethod
    def without_loading(options: SegmenterOptions, device: str) -> Description:
        """Of the Segmenter that these would give. Raises its errors, but those of reading the weights."""
        import torch

        from densecli import model
        from densecli.presets import Preset, load_preset

        place = model.resolve_device(device)
        precision = model.resolve_precision(options.precision, place)
        preset = options.preset if isinstance(options.preset, Preset) else load_preset(options.preset)
        choice = model.choose(options.model, preset.model, place, options.checkpoint_dir, options.config)
        resolved = preset.resolve(choice.name)
        return Description(
            model=choice.name,
            sha256=model.weights_sha256(choice),
            precision=precision,
            device=str(place),
            preset=resolved.name,
            parameters=resolved.parameters(),
            notices=tuple(model.notices_of(choice)),
            threads=torch.get_num_threads(),
        )

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of all that masks depend on but the image."""
        return fingerprint_of(self.parameters, self.sha256, self.precision)

    def fixed(self, options: SegmenterOptions) -> SegmenterOptions:
        """`options` for further workers, with everything `auto` decided as it was for this one."""
        return replace(
            options, model=self.model if options.model == "auto" else options.model, precision=self.precision
        )


class Aborted(BaseException):
    """The run stops at once; not an Exception, so that nothing takes it for a failure of the input."""


class WorkerDied(Exception):
    """A worker ended while it had work. Nothing is known against the work."""


class Unusable(Exception):
    """The worker cannot do any image; `cause` says why."""

    def __init__(self, cause: DensecliError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Unexpected(Exception):
    """An exception of another process that is none of ours. str() is its message."""

    def __init__(self, kind: str, message: str, trace: str) -> None:
        super().__init__(kind, message, trace)
        self.kind, self.message, self.trace = kind, message, trace

    def __str__(self) -> str:
        return self.message


class Worker(Protocol):
    """One loaded model that does one image at a time. Used from one thread; `kill` from any."""

    def start(self, options: SegmenterOptions, threads: int | None) -> Description:
        """Load the model. Raises the errors of Segmenter, or WorkerDied. After a death it may be called again."""

    def segment(self, image: LoadedImage, progress: Progress) -> Segmentation:
        """Raises the errors of Segmenter, WorkerDied, Unusable or Unexpected."""

    def stop(self) -> None:
        """Let go of the model."""

    def kill(self) -> None:
        """End what is under way as soon as possible; `segment` then raises Aborted or WorkerDied."""


class InProcess:
    """The model in this process. late: it is loaded for the first image, so that a run without any need not wait."""

    def __init__(self, device: str, *, late: bool = False) -> None:
        self.device, self._late = device, late
        self._segmenter: Segmenter | None = None
        self._start: Callable[[], Segmenter] | None = None
        self._keep_candidates = False
        self._killed = threading.Event()

    def start(self, options: SegmenterOptions, threads: int | None) -> Description:
        self._start = partial(segmenter_of, options, self.device, threads)
        self._keep_candidates = options.keep_candidates
        if self._late:
            return Description.without_loading(options, self.device)
        self._segmenter = self._start()
        return Description.of(self._segmenter)

    def segment(self, image: LoadedImage, progress: Progress) -> Segmentation:
        assert self._start is not None
        if self._segmenter is None:
            try:
                self._segmenter = self._start()
            except DensecliError as error:
                raise Unusable(error) from error

        def report(done: int, total: int) -> None:
            if self._killed.is_set():
                raise Aborted
            progress(done, total)

        return self._segmenter(image, progress=report, keep_candidates=self._keep_candidates)

    def stop(self) -> None:
        self._segmenter = None

    def kill(self) -> None:
        self._killed.set()


def segmenter_of(options: SegmenterOptions, device: str, threads: int | None) -> Segmenter:
    """A Segmenter in this process, with `threads` CPU threads if given."""
    from densecli.segmenter import Segmenter

    if threads:
        import torch

        torch.set_num_threads(threads)
    return Segmenter(
        preset=options.preset,
        model=options.model,
        device=device,
        precision=options.precision,
        checkpoint_dir=options.checkpoint_dir,
        config=options.config,
    )


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def without_pixels(segmentation: Segmentation) -> Segmentation:
    """For the way back from another process: who sent the image has its pixels."""
    kept = segmentation.proposals
    return replace(segmentation, pixels=_NO_PIXELS, proposals=kept and replace(kept, pixels=None))


def with_pixels(segmentation: Segmentation, image: LoadedImage) -> Segmentation:
    """The opposite of `without_pixels`."""
    kept = segmentation.proposals
    if kept is not None:
        from densecli.image_candidates import photo_of

        # Another machine may not know the photo's place.
        kept = replace(kept, pixels=image.pixels, photo=photo_of(image.name))
    return replace(segmentation, pixels=image.pixels, proposals=kept)
