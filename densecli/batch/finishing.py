"""What spans a whole run, made from the manifests and the summaries on disk: data sets, overlay videos, the report.

From disk rather than along the way, so that it is whole after a run that was stopped and taken up, over several shards,
and whichever process segmented.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecli.batch.job import BatchJob
from densecli.batch.manifest import Record, key_of, key_of_input, manifest_paths
from densecli.batch.outputs import relative, source_of
from densecli.batch.workers import Description
from densecli.console import Console
from densecli.errors import DensecliError, OutputError
from densecli.masks import Segmentation
from densecli.output_names import REPORT
from densecli.places import Place
from densecli.sinks import KINDS
from densecli.sinks.one_image import put_in_place
from densecli.sinks.ownership import KEPT
from densecli.sinks.shown_frames import ShownFrame
from densecli.sources import local_path
from densecli.wording import shown_name

if TYPE_CHECKING:
    from densecli.report.entries import Entry
    from densecli.sources.collecting import Item

_SHOWN_MISSING = 20


def image_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds of `kinds` that each image has files of."""
    return tuple(kind for kind in kinds if kind in KINDS)


class Spanning:
    """The data sets, overlay videos and report of one run.

    Raises OutputError where they would take the place of what densecli did not write.
    """

    def __init__(self, job: BatchJob, place: Place) -> None:
        from densecli.report.sent_pictures import SentPictures
        from densecli.sinks.datasets import Datasets
        from densecli.sinks.ownership import refuse_foreign_report
        from densecli.sinks.video import OverlayVideos

        if job.report:
            refuse_foreign_report(place)
        self._job, self._place = job, place
        self._datasets = Datasets(job.kinds, place)
        self._overlay_videos = OverlayVideos(place)
        self._pictures = SentPictures(place) if place.apart else None
        self._videos = False
        self._met: set[int] = set()
        """Keys of the output names of all inputs of this run."""
        self._mended: set[int] = set()
        """Keys of inputs whose failure, which this run recorded, is none any more."""
        self._states: dict[str, tuple[int, tuple[Any, ...]]] = {}
        """By a video's output name: the running number of its last frame, and the state of its file then."""

    def can_rebuild(self, item: Item) -> bool:
        """Whether an input that an earlier run completed can be in this run's data sets as it is."""
        return self._datasets.can_rebuild(item.stem, _dataset_name(item.name, source_of(item), item.frame))

    def written(self, item: Item, segmentation: Segmentation, outputs: dict[str, Path]) -> None:
        """The outputs of an input are complete: put them in place. From any thread. Raises OutputError, StoreError."""
        pictures: list[Path] = []
        if self._pictures is not None and self._job.report:
            pictures = self._pictures.make(_as_reported(item, relative(outputs, self._place.folder)))
        put_in_place(outputs, self._place, self._job.kinds)
        self._datasets.add(item.stem, _dataset_name(item.name, source_of(item), item.frame), segmentation)
        self._place.send(pictures)

    def met(self, item: Item) -> None:
        """An input belongs to this run, whatever becomes of it."""
        self._met.add(key_of(item.stem))
        if item.video_stem is not None and self._states.get(item.video_stem, (-1,))[0] < item.index:
            self._states[item.video_stem] = (item.index, self._state(item.size, item.mtime_ns))

    def failed(self, name: str) -> None:
        """An input that has no outputs failed."""
        self._mended.discard(key_of_input(name))

    def mended(self, name: str) -> None:
        """It did not any more."""
        self._mended.add(key_of_input(name))

    def ended(self, item: Item, console: Console) -> None:
        """An input is recorded as done, now or by an earlier run."""
        self.met(item)
        if item.frame is not None and item.video_stem is not None:
            self._videos = True
            state, rank = self._state(item.size, item.mtime_ns), (1, item.index)
            shown = ShownFrame(item.frame, item.fps, item.seconds_in_video, item.pixel_aspect)
            is_first = self._overlay_videos.add(item.video_stem, shown, state, rank)
            if is_first and "overlay" in self._job.kinds:
                try:
                    self._overlay_videos.refuse_foreign(item.video_stem)
                except OutputError as error:  # it costs none of the frames
                    console.warning(str(error))

    def is_up_to_date(self) -> bool:
        """Whether a run that did nothing can leave all of it as it is."""
        job = self._job
        if self._datasets.kinds or self._videos:
            return False  # they know themselves what is up to date
        return not job.report or _is_newer(job.output_dir / REPORT, manifest_paths(job.output_dir))

    def finish(
        self, record: Record, console: Console, description: Description, began: float
    ) -> Sequence[DensecliError]:
        """Write it all; returns why some is missing. began: when the run did, as Unix time. Raises OutputError."""
        job = self._job
        # A shard does not see what the others have met.
        gone = set() if job.shard else record.renamed(self._met)
        gone |= self._mended | (record.outdated(self._is_outdated) if self._states else set())
        for entry in record.entries(renamed=gone) if self._datasets.kinds or job.shard else ():
            if entry.get("status") != "done" or entry.get("stem") is None:
                continue
            stem, frame = str(entry["stem"]), entry.get("frame")
            # What earlier runs and other shards did belongs to the data sets of the folder as well.
            self._datasets.add(stem, _dataset_name(str(entry.get("input")), str(entry.get("source")), frame))
            if frame is not None and job.shard and job.takes(frame):
                state = self._state(entry.get("size"), entry.get("mtime_ns"))
                rank = (0, float(entry.get("finished") or 0))
                shown = ShownFrame(frame, entry.get("fps"), entry.get("seconds_in_video"))
                self._overlay_videos.add(stem.rpartition("/")[0], shown, state, rank)
        if self._datasets.kinds:
            for entry in record.of_keys(gone) if gone else ():
                if entry.get("stem") is None:  # a failure that is none any more
                    continue
                stem, frame = str(entry["stem"]), entry.get("frame")
                self._datasets.remove(stem, _dataset_name(str(entry.get("input")), str(entry.get("source")), frame))
            console.status("writing data sets")
            for path in self._datasets.finish():
                console.notice(f"data set: {self._place.shown(path)}")
            for path in self._datasets.kept[:_SHOWN_MISSING]:
                console.warning(f"{self._place.shown(path)}: {KEPT}")
            for name in self._datasets.missing[:_SHOWN_MISSING]:
                console.warning(
                    f"{shown_name(name)}: is not in the data sets, its summary or picture is damaged or not there; "
                    "run again with --overwrite"
                )
        if "overlay" in job.kinds:
            console.status("writing overlay videos")
            for path in self._overlay_videos.finish():
                console.notice(f"video: {self._place.shown(path)}")
            for error in self._overlay_videos.failed:
                console.failure(str(error), error)
        if job.report:
            from densecli.report import write_report

            console.status("writing the report")
            path = write_report(
                job.output_dir,
                record.entries(renamed=gone) if job.shard else reported(record, began, gone),
                run_settings(job, description),
                progress=lambda done, total: console.status(f"writing the report: {done:,} of {total:,} pictures"),
                make=self._pictures,
            )
            self._place.send([path])
            console.notice(f"report: {self._place.shown(path)}")
        console.progress_done()
        return self._overlay_videos.failed

    def _state(self, size: int | None, mtime_ns: int | None) -> tuple[Any, ...]:
        """What tells a video that was replaced. Machines that share the work may have copies of different times."""
        return (size,) if self._job.shard else (size, mtime_ns)

    def _is_outdated(self, video_stem: str, entry: Mapping[str, Any]) -> bool:
        met = self._states.get(video_stem)
        return met is not None and met[1] != self._state(entry.get("size"), entry.get("mtime_ns"))


def _as_reported(item: Item, outputs: list[str]) -> Entry:
    """An input that is done as the report takes it: as much as its picture needs."""
    from densecli.report.entries import Entry

    source = None if item.frame is not None else source_of(item)
    return Entry(0, item.name, "done", None, None, None, "", source, tuple(outputs))


def _is_newer(path: Path, others: Sequence[Path]) -> bool:
    try:
        return all(path.stat().st_mtime_ns > other.stat().st_mtime_ns for other in others)
    except OSError:
        return False


def _dataset_name(name: str, source: str, frame: int | None) -> str:
    """How data sets name a picture: by a path that holds in any folder; a frame by its own name."""
    return source if frame is None else name


def reported(record: Record, began: float, gone: Container[int]) -> Iterator[dict[str, Any]]:
    """The latest lines but those of `gone`, and without failures of earlier runs that are no more.

    What failed is tried again by each run (not for shards, which cannot tell what another one will try again).
    """
    for entry in record.entries(renamed=gone):
        if entry.get("status") == "failed" and float(entry.get("finished") or 0) < began:
            local = local_path(str(entry.get("source") or entry.get("input")))
            if entry.get("stem") is None or (local is not None and not os.path.lexists(local)):
                continue
        yield entry


def run_settings(job: BatchJob, description: Description) -> dict[str, Any]:
    """What the run was asked for, for people to read."""
    return {
        "inputs": [str(given) for given in job.inputs],
        "preset": description.preset,
        "parameters": description.parameters,
        "model": {"name": description.model, "sha256": description.sha256, "precision": description.precision},
        "engine": job.engine if job.engine != "local" else ", ".join(job.devices),
        "device": description.device,
        "save": ", ".join(job.kinds),
        "alpha": job.write_options.alpha,
        "every": job.every,
        "max_frames": job.max_frames,
        "shard": f"{job.shard[0]}/{job.shard[1]}" if job.shard else None,
    }
