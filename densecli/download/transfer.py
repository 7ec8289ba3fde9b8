"""The growing part file: goes on where it is, tries again, and knows the sha256 of what it holds."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from densecli.checkpoints import CheckpointEntry, fetch_command, megabytes, one_line
from densecli.download.patience import Patience
from densecli.download.progress import Progress
from densecli.download.source import Dropped, NoRange, SourceFailed, dropped, open_url
from densecli.errors import CheckpointError
from densecli.wording import without_password

_CHUNK = 1 << 18  # bytes asked for at a time; what has arrived is written at once, so an interruption loses nothing
_PROGRESS_BYTES = 1024  # an attempt that brought less than this does not reset the count of failures
_CONNECT_ATTEMPTS = 2  # a host that cannot be reached at all: do not keep somebody offline waiting


class _State(NamedTuple):
    """A part file as it was at some time, to which it can be cut back."""

    position: int  # bytes
    digest: hashlib._Hash
    pieced: bool


class Transfer:
    """The growing part file of one checkpoint, with the sha256 of what is in it."""

    def __init__(
        self, entry: CheckpointEntry, part: Path, file: IO[bytes], progress: Progress, patience: Patience
    ) -> None:
        self.entry = entry
        self.part = part
        self.progress = progress
        self.patience = patience
        self._file = file
        self.position = 0  # bytes in the part file
        self._digest = hashlib.sha256()
        self._pieced = False  # whether the bytes came in more than one response, so that they may not belong together
        self._announced = False  # whether the source at hand announced a file of the right size
        self._before = self._state()  # as it was before the source at hand
        try:
            self._take_up_part()
        except OSError as error:
            self.raise_cannot_write(error)

    def _take_up_part(self) -> None:
        there = os.fstat(self._file.fileno()).st_size
        if there > self.entry.size:
            self.progress.note(f"{self.entry.name}: {self.part} is too big; starting from zero")
            self._restart()
            return
        while chunk := self._file.read(_CHUNK):
            self._digest.update(chunk)
            self.position += len(chunk)
        self._pieced = self.position > 0

    def check_space(self) -> None:
        """Raises CheckpointError if the rest of the file does not fit on the disk."""
        needed = self.entry.size - self.position
        try:
            free = shutil.disk_usage(self.part.parent).free
        except OSError:
            return  # some network folders do not tell; a failed write will
        if free < needed:
            raise CheckpointError(
                f"Checkpoint '{self.entry.name}' does not fit in {self.part.parent}: {megabytes(needed)} needed, "
                f"{megabytes(free)} free; make room, or name another folder with --dir or $DENSECLI_CHECKPOINTS."
            )

    def complete_from(self, url: str) -> None:
        """Receive from `url` until the part file has the right size and sha256.

        Raises SourceFailed. What came from a source that never announced the right size is then taken out again: it may
        be a message in place of the file, and the next source is to go on behind what was there before.
        """
        self._before = self._state()
        self._announced = False
        try:
            self._complete_from(url)
        except SourceFailed:
            if not self._announced:
                self._back_to(self._before)
            raise

    def _complete_from(self, url: str) -> None:
        failures = 0
        may_refetch = ranged = True
        while True:
            before = self.position
            try:
                if self.position < self.entry.size:
                    self._receive(url, ranged)
                found = self._digest.hexdigest()
                if found == self.entry.sha256:
                    return
                pieced = self._pieced
                self._restart()
                if not (pieced and may_refetch):
                    raise SourceFailed(f"sent another file: sha256 {found} instead of {self.entry.sha256}")
                may_refetch = False
                self.progress.note(f"{self.entry.name}: the pieces do not fit together; starting from zero")
            except NoRange:
                if not ranged or self.position == 0:
                    raise SourceFailed("answers with parts of the file that were not asked for") from None
                ranged = False  # what is here stays: it is passed over, if all of the file comes
            except Dropped as error:
                failures = 0 if self.position - before >= _PROGRESS_BYTES else failures + 1
                most = min(_CONNECT_ATTEMPTS, self.patience.attempts) if error.unreachable else self.patience.attempts
                if failures >= most:
                    raise SourceFailed(str(error)) from error
                delay = self.patience.wait(failures, error.retry_after)
                self.progress.note(f"{self.entry.name}: {error}; trying again in {delay:.1f} s")
                time.sleep(delay)

    def _receive(self, url: str, ranged: bool) -> None:
        """One response: add what it has to the part file until that is as long as it must be.

        ranged: ask for what is not here yet, not for the whole file.
        """
        begun = self.position
        body = open_url(url, begun if ranged else 0, self.entry.size, self.patience.timeout)
        self._announced |= body.announced
        try:
            skip = begun - body.offset
            if skip:
                self.progress.note(
                    f"{self.entry.name}: {without_password(url)} begins anew; passing over the first {megabytes(skip)}"
                )
            self._pieced = begun > 0
            while self.position < self.entry.size:
                try:
                    chunk = body.read(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise dropped(error, self.patience.timeout) from error
                if not chunk and body.ends_cleanly:
                    raise SourceFailed(f"sent fewer than {self.entry.size} bytes")
                if not chunk:
                    raise Dropped(f"connection closed at {self.position} of {self.entry.size} bytes")
                passed = min(skip, len(chunk))
                skip -= passed
                self._append(chunk[passed : passed + self.entry.size - self.position])
        finally:
            body.close()

    def _append(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                written = self._file.write(rest)
                self._digest.update(rest[:written])
                self.position += written
                rest = rest[written:]
        except OSError as error:
            self.raise_cannot_write(error)
        self.progress.at(self.position)

    def _restart(self) -> None:
        """Nothing of what is in the part file belongs to the checkpoint."""
        self._before = _State(0, hashlib.sha256(), pieced=False)
        self._back_to(self._before)

    def _state(self) -> _State:
        return _State(self.position, self._digest.copy(), self._pieced)

    def _back_to(self, state: _State) -> None:
        try:
            self._file.seek(state.position)
            self._file.truncate()
        except OSError as error:
            self.raise_cannot_write(error)
        self.position, self._digest, self._pieced = state.position, state.digest.copy(), state.pieced

    def raise_cannot_write(self, error: OSError) -> NoReturn:
        """Turn a failed write into an error that says what to do. Raises CheckpointError."""
        again = fetch_command(self.entry.name, self.part.parent)
        raise CheckpointError(
            f"Cannot write {self.part} ({error.strerror or one_line(error)}): "
            f"{megabytes(self.entry.size - self.position)} of checkpoint '{self.entry.name}' are still to come; "
            f"make room and run `{again}` again, or name another folder with --dir."
        ) from error
