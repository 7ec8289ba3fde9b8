"""What goes to stdout and what to stderr, in which form, and that JSON stays JSON whatever happens."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from densecli.console import Console
from densecli.errors import InputError
from densecli.wording import shown_input, shown_name


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_streams(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.notice("starting")
        console.progress("a.png", 1, 2, "point")
        console.result("a.png: Found 1 mask.", "{}")
        console.warning("went on with 4")
        console.failure("b.png: is empty", InputError("b.png: is empty"))
    captured = capsys.readouterr()
    assert captured.out == "a.png: Found 1 mask.\n"
    assert captured.err == "starting\nwarning: went on with 4\ndensecli: error: b.png: is empty\n"


def test_quiet_leaves_results_and_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Console(quiet=True) as console:
        console.notice("starting")
        console.warning("went on with 4")
        console.result("a.png: Found 1 mask.", "{}")
        console.failure("b.png: is empty", InputError())
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a.png: Found 1 mask.\n", "densecli: error: b.png: is empty\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Console(quiet=True) as console:
        console.progress("a.png", 1, 2, "point")
    assert terminal.getvalue() == ""


def test_notices_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        for _ in range(2):
            console.notice("once", once=True)
            console.notice("twice")
    assert capsys.readouterr().err == "once\ntwice\ntwice\n"


def test_verbose_failures_have_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(verbose=True) as console:
        try:
            raise InputError("b.png: is empty")
        except InputError as error:
            console.failure(str(error), error)
    err = capsys.readouterr().err
    assert err.startswith("densecli: error: b.png: is empty\nTraceback (most recent call last):\n")
    assert "in test_verbose_failures_have_a_traceback" in err


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_is_one_array(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Console(json=True) as console:
        for number in range(count):
            console.result(f"{number}", json.dumps({"n": number}, indent=2) + "\n")
    assert json.loads(capsys.readouterr().out) == [{"n": number} for number in range(count)]


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError, RuntimeError])
def test_json_is_closed_when_the_run_breaks_off(
    error: type[BaseException], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error), Console(json=True) as console:
        for number in range(count):
            console.result("", str(number))
        raise error
    assert json.loads(capsys.readouterr().out) == list(range(count))


def test_one_bar_goes_on_over_a_run_and_leaves_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with Console() as console:
        console.progress("a.png", 1, 4, "point")
        bar = console._bar
        console.progress("a.png", 3, 4, "point")
        assert bar is not None and console._bar is bar and bar.n == 3
        console.progress("b.png", 1, 4, "point")
        assert console._bar is not bar
        console.notice("done")
        assert console._bar is None
    drawn = terminal.getvalue()
    assert "a.png:   0%|" in drawn and "b.png:   0%|" in drawn
    assert drawn.endswith("\rdone\n")


@pytest.mark.parametrize("terminal", [io.StringIO(), Terminal()])
def test_no_bar_without_a_terminal_or_with_no_color(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    if terminal.isatty():
        monkeypatch.setenv("NO_COLOR", "1")
    with Console() as console:
        console.progress("a.png", 1, 4, "point")
    assert terminal.getvalue() == ""


def test_library_warnings_are_for_verbose_only() -> None:
    for verbose, count in ((False, 0), (True, 1)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with Console(verbose=verbose):
                warnings.warn("deprecated", UserWarning, stacklevel=1)
        assert len(seen) == count


def child(code: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


def test_a_stdout_that_is_not_utf8() -> None:
    document = '{"path": "caf\\u00e9 \\U0001f5bc"}'
    code = (
        "from densecli.console import Console\n"
        "for json in (False, True):\n"
        "    with Console(json=json) as console:\n"
        f"        console.result('caf\\u00e9: Found', '{document}')\n"
    )
    done = child(code, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    line, _, array = done.stdout.decode("ascii").partition("\n")
    assert line == r"caf\xe9: Found"
    assert json.loads(array) == [{"path": "café 🖼"}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_stdout_that_is_full_is_said_in_one_line() -> None:
    code = (
        "import sys\n"
        "from densecli.cli import app, segment\n"
        "from densecli.console import Console\n"
        "def broken(*arguments, **options):\n"
        "    with Console() as console: console.result('a line', '')\n"
        "app.app = broken\n"
        "app.main()\n"
    )
    with open("/dev/full", "wb") as full:
        done = child(code, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        b"densecli: error: stdout: cannot be written (No space left on device); free some space, or redirect it"
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b'\"é.png", "a b'\"é.png"),
        ("two\nlines\r\t\x1b[31m.png", r"two\nlines\r\t\x1b[31m.png"),
        (os.fsdecode(b"latin-\xe9.png"), r"latin-\udce9.png"),
        ("", "''"),
        ("-", "stdin"),
    ],
)
def test_names_of_inputs_fit_on_a_line(name: str, shown: str) -> None:
    assert shown_input(name) == shown
    assert shown_name("-") == "-"
