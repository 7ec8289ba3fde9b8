"""One run at a time in a store, as far as can be: there are no locks, so two that start at once both get in."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import Any

from densecli.batch.lock import PREFIX, this_process
from densecli.errors import OutputError
from densecli.remote.store import Store
from densecli.wording import shown_name

_NAME = re.compile(re.escape(PREFIX) + r"(\.\d+-of-\d+)?\.json")
_BEAT_SECONDS = 60.0
STALE_SECONDS = 600.0
"""A run that has said nothing for so long has gone."""


class StoreLock:
    """A file in the store that says who writes there."""

    def __init__(self, store: Store, shard: tuple[int, int] | None) -> None:
        self._store = store
        self._whole = f"{PREFIX}.json"
        self._name = f"{PREFIX}.{shard[0]}-of-{shard[1]}.json" if shard else self._whole
        self._owner = this_process()
        self._beaten: float | None = None

    def take(self) -> None:
        """Raises OutputError where another run is at work, StoreError where nothing can be written."""
        for name, _ in list(self._store.names()):
            # Shards work side by side; everything else excludes each other.
            if name in (self._name, self._whole) or (self._name == self._whole and _NAME.fullmatch(name)):
                self._refuse_if_alive(name)
        self.beat()

    def beat(self) -> None:
        """Say that this run is still there, if it is time to."""
        if self._beaten is None or time.monotonic() - self._beaten >= _BEAT_SECONDS:
            self._store.put_bytes(json.dumps(self._owner | {"beat": time.time()}).encode(), self._name)
            self._beaten = time.monotonic()

    def release(self) -> None:
        """Let others in."""
        if self._beaten is not None:
            self._store.remove(self._name)
            self._beaten = None

    def _refuse_if_alive(self, name: str) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            owner = json.loads(self._store.read(name) or b"")
            silent = time.time() - float(owner["beat"])
            if silent < STALE_SECONDS and not self._is_gone(owner):
                raise OutputError(
                    f"{self._store.shown()}: process {int(owner['pid'])} on {shown_name(str(owner['host']))}, started "
                    f"{shown_name(str(owner['started']))}, is writing there; wait until it has ended, or choose "
                    f"another --output-dir (if it was killed: wait {STALE_SECONDS / 60:.0f} minutes, or remove "
                    f"{self._store.shown(name)})"
                )

    def _is_gone(self, owner: dict[str, Any]) -> bool:
        """Whether it was a process of this machine, and is no more."""
        if owner["host"] != self._owner["host"] or os.name != "posix":
            return False
        if owner["pid"] == os.getpid():
            return True
        try:
            os.kill(int(owner["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
