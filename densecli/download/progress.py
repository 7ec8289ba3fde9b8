"""What a download says of itself while it goes on."""

from __future__ import annotations

import os
import sys
import time
from typing import IO, Any

from densecli.checkpoints import megabytes
from densecli.wording import printable


class Progress:
    """Says on `stream` how a download goes: a bar on a terminal, now and then a line elsewhere, nothing if `quiet`."""

    def __init__(self, stream: IO[str] | None = None, *, quiet: bool = False, interval: float = 5.0) -> None:
        """`interval`: seconds between two lines where there is no terminal."""
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._interval = interval
        self._bar: Any = None
        self._name, self._size = "", 0
        self._begun_at = self._said_at = 0.0
        self._begun_position = 0

    def start(self, name: str, size: int, position: int) -> None:
        """`position` of `size` bytes of checkpoint `name` are there, the rest follows."""
        self._name, self._size, self._begun_position = name, size, position
        self._begun_at = self._said_at = time.monotonic()
        if not self._quiet and self._stream.isatty() and not os.environ.get("NO_COLOR"):
            from tqdm import tqdm

            self._bar = tqdm(
                total=size,
                initial=position,
                desc=name,
                unit="B",
                unit_scale=True,
                # Some terminals (containers, scripts) say that they are 0 by 0: tqdm would show nothing.
                ncols=None if self._columns() else 80,
                nrows=None if self._columns() else 24,
                dynamic_ncols=self._columns() > 0,
                file=self._stream,
            )

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            return 0

    def at(self, position: int) -> None:
        """`position` bytes are there now."""
        if self._bar is not None:
            self._bar.update(position - self._bar.n)
            return
        self._begun_position = min(self._begun_position, position)  # after a restart from zero
        now = time.monotonic()
        if now - self._said_at < self._interval:
            return
        self._said_at = now
        rate = (position - self._begun_position) / (now - self._begun_at)
        left = f", {(self._size - position) / rate:.0f} s left" if rate > 0 else ""
        self.note(
            f"{self._name}: {position / 1e6:.1f} of {megabytes(self._size)} "
            f"({position / self._size:.0%}), {rate / 1e6:.1f} MB/s{left}"
        )

    def note(self, text: str) -> None:
        """One line that is worth reading."""
        if self._quiet:
            return
        text = printable(text)  # a registry of others has URLs in it
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """The download is over, well or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
