"""What goes to stdout and what to stderr, in which form, and that JSON stays JSON whatever happens."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densecli.cli import app
from densecli.console import Console
from densecli.errors import InputError
from densecli.wording import shown_input, shown_name
from tests.batch.conftest import make_photos
from tests.conftest import FIRST_STARTER, Command

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


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


def test_what_others_wrote_in_a_file_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.warning("a\x1b[31m\nb")
        console.failure("c\x1b[31m\rd", InputError())
    assert capsys.readouterr().err == "warning: a\\x1b[31m\\nb\ndensecli: error: c\\x1b[31m\\rd\n"


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


def test_what_was_said_is_not_kept() -> None:
    """With -v there are several notices an image."""
    with Console() as console:
        tracemalloc.start()
        try:
            for number in range(2_000):
                console.notice(f"{'x' * 500} {number}")
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 100_000


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


@FULL
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


@FULL
@pytest.mark.parametrize(
    "command",
    ["presets list", "presets list --json", "presets show dense", "download-checkpoints --list", "--version", "--help"],
)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_stdout_of_small_commands(command: str, unbuffered: str, tmp_path: Path, run_densecli: Command) -> None:
    with open("/dev/full", "wb") as full:
        environment = {"PYTHONUNBUFFERED": unbuffered}
        done = run_densecli(*command.split(), cwd=tmp_path, stdout=full, environment=environment)
    assert done.code == 1
    assert done.stderr.splitlines() == [
        "densecli: error: stdout: cannot be written (No space left on device); free some space, or redirect it"
    ]


@pytest.fixture(params=["full", "read only", "reader gone", "terminal gone"])
def deaf(request: pytest.FixtureRequest) -> Iterator[int]:
    """A file descriptor for stderr that nothing can be written to."""
    if request.param == "full":
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        number = os.open("/dev/full", os.O_WRONLY)
    elif request.param == "read only":  # what bash gives for 2>&-
        number = os.open(os.devnull, os.O_RDONLY)
    else:
        reader, number = os.pipe() if request.param == "reader gone" else os.openpty()
        os.close(reader)
    yield number
    os.close(number)


def test_a_stderr_that_cannot_be_written_stops_no_work(
    deaf: int, tmp_path: Path, clean_environment: dict[str, str], photo: np.ndarray
) -> None:
    """A log on a full disk, a terminal that was closed: all photos are done, and the exit code is that of the work."""
    make_photos(tmp_path / "photos", photo, 3)
    (tmp_path / "photos" / "img1.png").write_bytes(b"")
    model = ["--model", str(FIRST_STARTER[0]), "-s", "points_per_side=3"]
    for command, code in (
        (["batch", "photos", "-o", "out", *model], 3),
        (["segment", "photos/img0.png", "photos/img1.png", "photos/img2.png", "-q", "-o", "out2", *model], 3),
        (["segment", "photos/img9.png", *model], 1),
        (["segment", "--nonsense"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "densecli", *command], cwd=tmp_path, env=clean_environment, stderr=deaf,
            stdout=subprocess.PIPE, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, command
    for out in ("out", "out2"):
        assert {path.name for path in (tmp_path / out).glob("*_masks.json")} == {"img0_masks.json", "img2_masks.json"}


def test_whoever_calls_the_command_in_process_has_stdout_back(
    tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    code = """
import sys
from densecli.cli.app import main
given, told = sys.stdout, sys.stderr
for sys.argv in (["densecli", "--version"], ["densecli", "presets", "list"]):
    try:
        main()
    except SystemExit as end:
        given.write(f"ended with {end.code}\\n")
print(sys.stdout is given is sys.__stdout__ and sys.stderr is told is sys.__stderr__)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("densecli ") and lines[-1] == "True", done
    assert [line for line in lines if line.startswith("ended")] == ["ended with 0"] * 2
    assert lines.index("ended with 0") == 1 and "dense" in done.stdout


@pytest.mark.parametrize("closed", [(0, 1), (2,), (0, 1, 2)], ids=str)
def test_streams_that_the_caller_closed(closed: tuple[int, ...], tmp_path: Path, run_densecli: Command) -> None:
    """As with >&- in a shell; no file of the run may get the number of a stream, and what libraries print there."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")

    def close() -> None:
        for number in closed:
            os.close(number)

    options = ("-m", "starter", "-s", "points_per_side=1", "--save", "json", "-d", "cpu")
    done = run_densecli("segment", "a.png", *options, cwd=tmp_path, preexec_fn=close)
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "densecli-out" / "a_masks.json").read_text(encoding="utf-8"))["image"]["width"] == 32
    assert done.stdout == ("" if 1 in closed else "a.png: Found 1 mask. densecli-out/a_masks.json\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_small_commands_where_stdout_is_not_utf8(encoding: str, tmp_path: Path, run_densecli: Command) -> None:
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
    folder = tmp_path / "дир é 🖼"
    folder.mkdir()
    (folder / "own.yaml").write_text("description: é 🖼\n", encoding="utf-8")
    entry = {"file": "a.pt", "size": 3, "sha256": hashlib.sha256(b"abc").hexdigest(), "config": "a.yaml"}
    (tmp_path / "registry.yaml").write_text(json.dumps({"checkpoints": {"own": entry}}))
    (tmp_path / "a.pt").write_bytes(b"abc")
    environment["DENSECLI_REGISTRY"] = str(tmp_path / "registry.yaml")

    def said(*arguments: str) -> str:
        done = run_densecli(*arguments, cwd=tmp_path, environment=environment)
        assert done.code == 0 and not done.errors, done
        return done.stdout.encode("utf-8", "surrogateescape").decode(encoding)

    shown = str(folder).encode(encoding, "backslashreplace").decode(encoding)
    download = ("download-checkpoints", "own", "--dir", str(folder))
    assert said(*download, "--source", str(tmp_path)) == f"own: {shown}/a.pt (0.0 MB, verified)\n"
    assert f"{shown}/a.pt (verified)" in said(*download, "--list")
    assert json.loads(said(*download, "--list", "--json"))["checkpoints"][0]["path"] == f"{folder}/a.pt"
    assert said("presets", "check", f"{folder}/own.yaml") == f"{shown}/own.yaml: ok\n"
    assert json.loads(said("presets", "show", f"{folder}/own.yaml", "--json"))["description"] == "é 🖼"


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    """As a checkout leaves it that replaced the folder; libraries ask for it wherever they are imported."""
    gone = tmp_path / "gone"
    code = f"import os, sys; os.rmdir({str(gone)!r}); from densecli.cli.app import main; main()"
    for command in (["segment", "/x.jpg", "--model", "starter"], ["doctor"], ["download-checkpoints", "--list"]):
        gone.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=gone, env=clean_environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = "densecli: error: the current folder is not there any more; cd to one that is\n"
        assert (done.returncode, done.stdout, done.stderr) == (4, "", said)


def test_a_version_needs_no_folder(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    (tmp_path / "gone").mkdir()
    code = f"import os; os.rmdir({str(tmp_path / 'gone')!r}); from densecli.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], cwd=tmp_path / "gone", env=clean_environment, capture_output=True
    )
    assert done.returncode == 0 and done.stdout.startswith(b"densecli ")


def test_a_system_that_gives_no_more_threads_is_said(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    """ulimit -u, or the pids of a container: no fault of densecli, and nothing that doctor could look into."""
    Image.new("RGB", (40, 30)).save(tmp_path / "desk.png")
    code = "import threading; threading.stack_size(1 << 47); from densecli.cli.app import main; main()"
    for command in ("segment", "batch"):
        done = subprocess.run(
            [sys.executable, "-c", code, command, "desk.png", "--model", str(FIRST_STARTER[0])],
            cwd=tmp_path, env=clean_environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 4, done.stderr
        assert done.stderr.startswith("densecli: error: the system gives no more threads; raise the limit")
        assert done.stderr.count("\n") == 1


def test_a_system_without_a_place_for_temporary_files_is_said(tmp_path: Path, run_densecli: Command) -> None:
    """As a container has none whose root is read-only, with a folder of the host for the outputs."""

    def no_place() -> None:  # Python looks whether it can write there
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    Image.new("RGB", (40, 30)).save(tmp_path / "desk.png")
    for command in (["segment", "desk.png", "-m", "starter"], ["doctor"]):
        done = run_densecli(*command, cwd=tmp_path, preexec_fn=no_place)
        assert (done.code, done.stderr.count("\n")) == (4, 1), done.stderr
        assert done.errors == ["there is no place for temporary files; set TMPDIR to a folder that can be written"]


def test_a_user_without_a_home_gets_no_folder_called_tilde(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    """numba and Triton would make it in the current folder, for compiled code; and whoever removes ~ loses more."""
    environment = {name: value for name, value in clean_environment.items() if name != "HOME"}
    code = """
import atexit, os, pwd
def getpwuid(number): raise KeyError(number)
pwd.getpwuid = getpwuid  # of a user whom the system does not know
atexit.register(lambda: print(os.path.expanduser("~")))
from densecli.cli.app import main
main()
"""
    for given, home in (({}, "/"), ({"HOME": str(tmp_path)}, str(tmp_path))):
        done = subprocess.run(
            [sys.executable, "-c", code, "--version"],
            cwd=tmp_path, env={**environment, **given}, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stdout.splitlines()[1:]) == (0, [home]), done.stderr


def test_files_of_the_current_folder_are_not_taken_for_pythons_own(tmp_path: Path, run_densecli: Command) -> None:
    for name in ("queue", "random", "copy", "select", "json", "typing", "socket", "string"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    Image.new("RGB", (40, 30)).save(tmp_path / "desk.png")
    model = ("--model", str(FIRST_STARTER[0]), "-s", "points_per_side=3")
    done = run_densecli("segment", "desk.png", *model, cwd=tmp_path)
    assert done.code == 0, done.stderr
    done = run_densecli("batch", "desk.png", *model, "--workers", "2", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "verbose"),
    [
        ("batch photos -v", True),
        ("batch photos -rv -o out", True),
        ("batch --verbose photos", True),
        ("batch photos -r", False),
        ("segment -- -v", False),
        ("segment -o v --save overlay", False),
        ("segment a.png -oeval", False),
        ("batch photos -qv", True),
        ("segment a.png -ovideos/1", False),
    ],
)
def test_a_traceback_is_asked_for_among_other_letters_too(
    arguments: str, verbose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["densecli", *arguments.split()])
    assert app._verbose() is verbose
