"""A store as the place where outputs end up: made in a folder here, sent when complete, fetched again where needed."""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath

from densecli.files import TEMPORARY_PREFIX
from densecli.output_names import FOLDERS
from densecli.remote.listing import Listing
from densecli.remote.store import Store
from densecli.sources.folders import Facts

_LISTINGS = 512
"""Folders remembered; the report's small pictures lie in 256."""
_TOGETHER = 8
"""Files sent or fetched at the same time: most of it is waiting."""


class RemotePlace:
    """densecli.places.Place over a store. Use as a context manager. Raises StoreError or OutputError throughout."""

    apart = True

    def __init__(self, store: Store, folder: Path, *, alone: bool = False) -> None:
        """folder: in which outputs are made. alone: temporary files in the store are a killed run's, and go."""
        self.store, self.folder = store, folder
        self._alone = alone
        self._lock = threading.Lock()
        self._listings: OrderedDict[str, Listing] = OrderedDict()
        self._sent: set[str] = set()
        """Folders sent since they were listed."""
        self._pool = ThreadPoolExecutor(_TOGETHER, thread_name_prefix="densecli-remote")

    def __enter__(self) -> RemotePlace:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def shown(self, path: Path) -> str:
        return self.store.shown("" if path == self.folder else self._name(path))

    def identity(self, path: Path) -> str:
        return f"{self.store.url}/{self._name(path)}"

    def found(self, path: Path) -> Facts | None:
        folder, _, last = self._name(path).rpartition("/")
        return self._listing(folder).file(last)

    def is_whole(self, path: Path, masks: int | None) -> bool:
        folder, _, last = self._name(path).rpartition("/")
        listing = self._listing(folder)
        facts = listing.file(last)
        if facts is not None:
            return facts[0] != 0
        # There are no empty folders in a bucket.
        return listing.has_folder(last) or (masks == 0 and last.endswith(FOLDERS))

    def head(self, path: Path, most: int) -> bytes:
        facts = self.found(path)
        return self.store.head(self._name(path), min(most, facts[0] or most)) if facts is not None else b""

    def tail(self, path: Path, most: int) -> bytes:
        facts = self.found(path)
        if facts is None or not facts[0]:
            return b""
        return self.store.part(self._name(path), max(0, facts[0] - most), facts[0])

    def bring(self, path: Path) -> bool:
        return not path.exists() and self.store.get(self._name(path), path)

    def bring_all(self, paths: Iterable[Path]) -> None:
        todo = iter(paths)
        while some := list(islice(todo, 16 * _TOGETHER)):
            _finish([self._pool.submit(self.bring, path) for path in some])

    def sample(self, path: Path) -> None:
        folder, _, last = self._name(path).rpartition("/")
        if self._listing(folder).has_folder(last) and not self.bring(path / "0001.png"):
            path.mkdir(parents=True, exist_ok=True)
            (path / "unknown").touch()  # of densecli's own folders, the first file is fetched

    def send(self, paths: Sequence[Path], *, keep: bool = False) -> None:
        for path in paths:
            if path.is_dir():
                self._send_folder(path)
            else:
                self.store.put(path, self._name(path))
            if not keep:
                self.let_go(path)

    def outdate(self, path: Path) -> None:
        if self.found(path) is not None:
            self.store.remove(self._name(path))

    def let_go(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def refresh(self) -> None:
        with self._lock:
            self._listings.clear()

    def _send_folder(self, path: Path) -> None:
        """As a whole: what lay there before and is not in it goes."""
        name = self._name(path)
        new = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        folder, _, last = name.rpartition("/")
        if name in self._sent or self._listing(folder).has_folder(last):
            old = [entry for entry, facts in self.store.names(name) if facts is not None and entry not in new]
            _finish([self._pool.submit(self.store.remove, f"{name}/{entry}") for entry in old])
        _finish([self._pool.submit(self.store.put, file, f"{name}/{entry}") for entry, file in new.items()])
        self._sent.add(name)

    def _listing(self, folder: str) -> Listing:
        with self._lock:
            listing = self._listings.get(folder)
            if listing is None:
                listing = self._listings[folder] = Listing(self._names(folder))
                if len(self._listings) > _LISTINGS:
                    self._listings.popitem(last=False)
            self._listings.move_to_end(folder)
            return listing

    def _names(self, folder: str) -> Iterator[tuple[str, Facts | None]]:
        for name, facts in self.store.names(folder):
            if not name.startswith(TEMPORARY_PREFIX):
                yield name, facts
            elif self._alone:
                self.store.remove(f"{folder}/{name}" if folder else name)

    def _name(self, path: Path) -> str:
        return PurePosixPath(os.path.relpath(path, self.folder).replace(os.sep, "/")).as_posix()


def _finish(futures: Sequence[Future[object]]) -> None:
    """Wait for all; raise the first error."""
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
