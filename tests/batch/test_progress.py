"""How far a run is, said now and then where there is no terminal."""

from __future__ import annotations

import io
import sys

import pytest

from densecli.batch.progress import PLAIN_SECONDS, Progress
from densecli.console import Console


def test_a_plain_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = Progress(Console(), clock=lambda: now[0])
    at = {0: ("frames/img9.png", 0.5)}
    for _ in range(int(2 * PLAIN_SECONDS) - 1):
        now[0] += 1
        progress.done += 2
        progress.tick(at)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "60 images, 2.00 images/s, now frames/img9.png"
    progress.total, progress.complete, progress.failed = 1000, 500, 2
    now[0] += 1
    progress.tick(at)
    (line,) = capsys.readouterr().err.splitlines()
    # What was complete already took no time, and says nothing about how long the rest takes.
    assert line == "620 of 1,000 images, 2 failed, 2.00 images/s, 03:10 left, now frames/img9.png"


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = Progress(Console(quiet=True), clock=lambda: now[0])
    now[0] = 1000.0
    progress.tick({})
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal_that_makes_way_for_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    now, console = [0.0], Console()
    progress = Progress(console, clock=lambda: now[0])
    progress.total, progress.done, progress.failed, now[0] = 10, 4, 1, 10.0
    progress.tick({0: ("frames/a very long name that no terminal has room for.png", 0.25)})
    shown = terminal.getvalue().rsplit("\r", 1)[-1]
    assert "5/10 [00:10<00:10" in shown and "1 failed" in shown and len(shown) < 80
    console.notice("a message")
    assert terminal.getvalue().endswith("\r" + " " * len(shown) + "\ra message\n")
