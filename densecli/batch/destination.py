"""Where a run's outputs end up, and what it takes for that: nothing here; for a URL, the manifest travels with them."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from densecli.batch import lock
from densecli.batch.fetched_manifests import fetch_manifests
from densecli.batch.job import BatchJob
from densecli.batch.manifest import manifest_path, manifest_paths
from densecli.batch.remote_lock import StoreLock
from densecli.console import Console
from densecli.errors import DensecliError
from densecli.files import TEMPORARY_PREFIX, check_writable, explained, sha256_of
from densecli.output_names import COCO, REPORT
from densecli.places import Here, Place
from densecli.remote.place import RemotePlace
from densecli.remote.store import Store, StoreError
from densecli.sources.own_outputs import is_manifest_name
from densecli.wording import shown_name

_FINISHED = ".densecli-finished"
"""File in the store: what the data sets and the report there were made of."""
_INTERVAL_SECONDS = 30.0
# The manifest of a million inputs takes long to send: that must not be all that the run does.
_MOST_OF_THE_TIME = 0.05


class Destination(Protocol):
    """What a run tells the place of its outputs."""

    @property
    def place(self) -> Place:
        """Where they are put."""

    def hurry(self) -> None:
        """The run stops at once: nothing is tried again."""

    def before_finishing(self) -> None:
        """All inputs are recorded; what spans the run comes next."""

    def is_finished(self) -> bool | None:
        """Whether what spans the run was made of the manifests as they are; None: its own files tell."""

    def after_finishing(self) -> None:
        """What spans the run is in place."""


class LocalDestination:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.place = Here(folder)

    def hurry(self) -> None:
        pass

    def before_finishing(self) -> None:
        pass

    def is_finished(self) -> bool | None:
        return None

    def after_finishing(self) -> None:
        pass


class RemoteDestination:
    """A store. The manifest in it is at most some minutes old, and whole when the run has ended."""

    def __init__(self, job: BatchJob, place: RemotePlace) -> None:
        self._job, self.place = job, place
        self._manifest = manifest_path(job.output_dir, job.shard)
        self._lock = StoreLock(place.store, job.shard)
        self._sent_size = 0
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._courier = threading.Thread(target=self._keep_sending, name="densecli-courier", daemon=True)

    def start(self) -> None:
        """Take the lock, fetch what earlier runs recorded. Raises OutputError or StoreError."""
        self._lock.take()
        same = fetch_manifests(self.place.store, self._job.output_dir, self._manifest.name)
        self._sent_size = self._size() if same else -1
        self._courier.start()

    def abandon(self) -> None:
        """It could not be started: let others in."""
        self.place.store.close()
        with contextlib.suppress(DensecliError):
            self._lock.release()

    def hurry(self) -> None:
        self.place.store.close()

    def end(self) -> None:
        """Send what is left to be sent, let go of the lock. Raises StoreError."""
        self._ended.set()
        if self._courier.ident is not None:
            self._courier.join()
        self._send_manifest()
        self._lock.release()

    def before_finishing(self) -> None:
        self._send_manifest()
        if self._job.shard:
            fetch_manifests(self.place.store, self._job.output_dir, self._manifest.name)
        self.place.refresh()

    def is_finished(self) -> bool | None:
        found = self.place.store.read(_FINISHED)
        if found != self._state():
            return False
        folder, job = self._job.output_dir, self._job
        spanning = [REPORT] * job.report + [COCO] * ("coco" in job.kinds)
        return all(self.place.found(folder / name) for name in spanning)

    def after_finishing(self) -> None:
        self.place.store.put_bytes(self._state(), _FINISHED)

    def _state(self) -> bytes:
        digests = {}
        for path in manifest_paths(self._job.output_dir):
            digests[path.name] = sha256_of(path)
        state = {"manifests": digests, "kinds": sorted(self._job.kinds), "report": self._job.report}
        return json.dumps(state).encode()

    def _keep_sending(self) -> None:
        pause = _INTERVAL_SECONDS
        while not self._ended.wait(pause):
            begin = time.monotonic()
            with contextlib.suppress(DensecliError):  # who sends outputs will say it
                self._lock.beat()
                self._send_manifest()
            pause = max(_INTERVAL_SECONDS, (time.monotonic() - begin) / _MOST_OF_THE_TIME)

    def _send_manifest(self) -> None:
        with self._sending:
            size = self._size()
            if size == self._sent_size:
                return
            copy = self._manifest.with_name(f"{TEMPORARY_PREFIX}{self._manifest.name}")  # lines are added meanwhile
            with explained(copy):
                shutil.copyfile(self._manifest, copy)
            try:
                self.place.store.put(copy, self._manifest.name)
            finally:
                copy.unlink(missing_ok=True)
            self._sent_size = size

    def _size(self) -> int:
        return self._manifest.stat().st_size if self._manifest.exists() else 0


@contextlib.contextmanager
def destination_of(job: BatchJob, console: Console) -> Iterator[Destination]:
    """Where the run's outputs go, ready and held for it alone.

    Raises OutputError where another run is at work there, StoreError where it cannot be used.
    """
    if job.output_url is None:
        with lock.locked(job.output_dir, job.shard):
            yield LocalDestination(job.output_dir)
        return
    folder = job.output_dir
    check_writable(folder, "another folder to make outputs in by XDG_CACHE_HOME")
    store = Store(job.output_url)
    with lock.locked(folder, shown=store.shown()), RemotePlace(store, folder, alone=not job.shard) as place:
        _clear(folder)
        destination = RemoteDestination(job, place)
        try:
            destination.start()
        except BaseException:
            destination.abandon()
            if not manifest_paths(folder):
                _remove(folder)
            raise
        clean = False
        try:
            yield destination
            clean = True
        finally:
            said = store.gone is not None  # by the run
            try:
                destination.end()
            except StoreError:
                where = shown_name(str(folder))
                console.notice(f"what was done is recorded in {where}; the same command goes on from there")
                if clean and not said:
                    raise
            else:
                _remove(folder)


@contextlib.contextmanager
def looked_at(job: BatchJob) -> Iterator[tuple[BatchJob, Place]]:
    """The job and its place for a look at what is there; nothing is written. Raises StoreError or OutputError."""
    if job.output_url is None:
        yield job, Here(job.output_dir)
        return
    store = Store(job.output_url)
    with TemporaryDirectory(prefix="densecli-") as name, RemotePlace(store, Path(name)) as place:
        fetch_manifests(store, place.folder, None)
        yield replace(job, output_dir=place.folder, output_url=None), place


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _clear(folder: Path) -> None:
    """Remove what a run that was killed had made and not sent; its manifest stays."""
    with explained(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif not is_manifest_name(path.name) and not path.name.startswith(lock.PREFIX):
                path.unlink()
