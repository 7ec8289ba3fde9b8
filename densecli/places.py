"""Where the outputs of a run are in the end: on this machine's disk (`Here`), or in a bucket (densecli.remote)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import Protocol

from densecli.sources.folders import Facts, facts_of
from densecli.sources.own_outputs import head_of, tail_of
from densecli.wording import shown_name


class Place(Protocol):
    """Paths are always those of the folder in which outputs are made, on this machine. Usable from several threads."""

    folder: Path
    apart: bool
    """Whether outputs leave this machine, so that nothing in them may point at a file of it."""

    def shown(self, path: Path) -> str:
        """An output as messages name it: printable, on one line."""

    def identity(self, path: Path) -> str:
        """Equal to that of an input where the output would take its place."""

    def found(self, path: Path) -> Facts | None:
        """Size and time of a file that is there; None where there is none."""

    def is_whole(self, path: Path, masks: int | None) -> bool:
        """Whether an output, file or folder, is there and not empty. masks: how many its image has."""

    def head(self, path: Path, most: int) -> bytes:
        """The first bytes of a file; none where there is no file."""

    def tail(self, path: Path, most: int) -> bytes:
        """The last bytes of a file; none where there is no file."""

    def bring(self, path: Path) -> bool:
        """Make a file of the place readable at its path; whether that took fetching it. None there is no error."""

    def bring_all(self, paths: Iterable[Path]) -> None:
        """`bring` many."""

    def sample(self, path: Path) -> None:
        """Bring as much of a folder as tells who wrote it, until `let_go`."""

    def send(self, paths: Sequence[Path], *, keep: bool = False) -> None:
        """These files and folders are complete: put them in place, in this order.

        keep: what reads them again will follow; else they need not stay on this machine.
        """

    def outdate(self, path: Path) -> None:
        """The output that was there does not count any more."""

    def let_go(self, path: Path) -> None:
        """What was brought is not needed any more."""

    def refresh(self) -> None:
        """Much was sent since the place was looked at: look again."""


class Here:
    """A folder on this machine: what is written is in place."""

    apart = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def shown(self, path: Path) -> str:
        return shown_name(str(path))

    def identity(self, path: Path) -> str:
        return os.path.realpath(path)

    def found(self, path: Path) -> Facts | None:
        return facts_of(str(path)) if path.is_file() else None

    def is_whole(self, path: Path, masks: int | None) -> bool:
        # A power cut leaves empty files.
        try:
            status = path.stat()
        except OSError:
            return False
        return S_ISDIR(status.st_mode) or status.st_size > 0

    def head(self, path: Path, most: int) -> bytes:
        return head_of(str(path), most)

    def tail(self, path: Path, most: int) -> bytes:
        return tail_of(str(path), most)

    def bring(self, path: Path) -> bool:
        return False

    def bring_all(self, paths: Iterable[Path]) -> None:
        pass

    def sample(self, path: Path) -> None:
        pass

    def send(self, paths: Sequence[Path], *, keep: bool = False) -> None:
        pass

    def outdate(self, path: Path) -> None:
        pass

    def let_go(self, path: Path) -> None:
        pass

    def refresh(self) -> None:
        pass
