"""The manifests of a store, brought here when a run is taken up, and put together with what was recorded here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from densecli.files import TEMPORARY_PREFIX, complete_file
from densecli.remote.store import Store
from densecli.sources.own_outputs import is_manifest_name


def fetch_manifests(store: Store, folder: Path, own: str | None) -> bool:
    """Bring the manifests of all runs and shards to a folder. Returns whether the own one is the same in both places.

    own: name of the manifest that this run goes on with; what a run that could not send its last lines left of it here
    is not lost. None for a look only. Raises StoreError or OutputError.
    """
    same = own is None or not (folder / own).exists()
    for name, facts in list(store.names()):
        if facts is None or not is_manifest_name(name):
            continue
        local = folder / name
        if name != own or not local.exists():
            store.get(name, local)
            continue
        fetched = folder / f"{TEMPORARY_PREFIX}{name}"
        try:
            store.get(name, fetched)
            same = merge(local, fetched)
        finally:
            fetched.unlink(missing_ok=True)
    return same


def merge(local: Path, fetched: Path) -> bool:
    """Make `local` what `fetched` is, and after that its own lines which are not in there. Returns whether none is.

    Eight bytes of memory and some a line of `fetched`. Raises OutputError.
    """
    known: set[int] = set()
    added = False
    with complete_file(local) as temporary, temporary.open("wb") as out:
        with fetched.open("rb") as file:
            shutil.copyfileobj(file, out)
            file.seek(0)
            torn = False
            for digest, line in _lines(file):
                known.add(digest)
                torn = not line.endswith(b"\n")
        with local.open("rb") as file:
            for digest, line in _lines(file):
                if digest not in known and line.endswith(b"\n"):
                    out.write(b"\n" * torn + line)
                    torn, added = False, True
    return not added


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for line in file:
        yield int.from_bytes(blake2b(line.rstrip(b"\n"), digest_size=8).digest(), "little"), line
