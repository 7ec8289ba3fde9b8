"""`densecli download-checkpoints` as users and scripts see it: streams, exit codes, interruption."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import screen_of

DATA = random.Random(11).randbytes(1_200_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves /mine.pt with Range, slowly if the server says so, and 404 for everything else."""

    server: Mirror

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        if not self.path.endswith("/mine.pt"):
            self.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(match.group(1)) if match else 0
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}")
        self.send_header("Content-Length", str(len(DATA) - begin))
        self.end_headers()
        try:
            for start in range(begin, len(DATA), 20_000):
                self.wfile.write(DATA[start : start + 20_000])
                time.sleep(self.server.pause)
        except ConnectionError:
            pass

    def log_message(self, *arguments: object) -> None:
        pass


class Mirror(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.pause = 0.0  # seconds after every 20 kB
        self.base = f"http://127.0.0.1:{self.server_address[1]}/weights/"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def surroundings(tmp_path: Path, mirror: Mirror) -> dict[str, str]:
    """The environment of a machine that has nothing but a registry with one small checkpoint called `mine`."""
    document = {
        "sources": [mirror.base],
        "checkpoints": {
            "mine": {"file": "mine.pt", "size": len(DATA), "sha256": SHA256, "config": "mine.yaml"},
        },
    }
    (tmp_path / "registry.yaml").write_text(json.dumps(document))
    (tmp_path / "work").mkdir()
    kept = {name: value for name, value in os.environ.items() if not re.match("DENSECLI_|.*_proxy$|.*_PROXY$", name)}
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "DENSECLI_REGISTRY": str(tmp_path / "registry.yaml"),
        "DENSECLI_CHECKPOINTS": str(tmp_path / "set"),
        "DENSECLI_DOWNLOAD_TIMEOUT": "10",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "densecli", "download-checkpoints", *arguments]


def densecli(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    work = Path(environment["DENSECLI_REGISTRY"]).parent / "work"
    done = subprocess.run(command(*arguments), env=environment, cwd=work, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stderr
    return done


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("densecli: error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_download_then_already_there(surroundings: dict[str, str], mirror: Mirror, tmp_path: Path) -> None:
    line = f"mine: {tmp_path / 'set' / 'mine.pt'} (1.2 MB, verified)\n"
    first = densecli(surroundings, "mine")
    assert (first.returncode, first.stdout) == (0, line)
    assert "mine: 1.2 MB, downloading to" in first.stderr
    assert (tmp_path / "set" / "mine.pt").read_bytes() == DATA
    again = densecli(surroundings, "MINE")
    assert (again.returncode, again.stdout) == (0, line)
    assert "already there" in again.stderr
    assert mirror.requests == [("/weights/mine.pt", None)]


def test_quiet_leaves_only_the_result(surroundings: dict[str, str]) -> None:
    done = densecli(surroundings, "mine", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mine: ")


def test_url_variable_is_tried_first(surroundings: dict[str, str], mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    bases = f"{(tmp_path / 'copies').as_uri()},{mirror.base}first"
    done = densecli({**surroundings, "DENSECLI_CHECKPOINT_URL": bases}, "mine")
    assert done.returncode == 0
    assert "No such file" in done.stderr and "trying the next source" in done.stderr
    assert mirror.requests == [("/weights/first/mine.pt", None)]


def test_dir_and_source_folder(surroundings: dict[str, str], mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "mine.pt").write_bytes(DATA)
    target = tmp_path / "elsewhere" / "deep"
    done = densecli(surroundings, "mine", "--dir", str(target), "--source", str(tmp_path / "copies"))
    assert (done.returncode, done.stdout) == (0, f"mine: {target / 'mine.pt'} (1.2 MB, verified)\n")
    assert mirror.requests == []


def test_large_is_the_default_and_its_size_is_shown(
    surroundings: dict[str, str], mirror: Mirror, tmp_path: Path
) -> None:
    done = densecli(surroundings, "--source", mirror.base)
    assert done.returncode == 4
    assert "large: 898.1 MB, downloading to" in done.stderr
    message = error_line(done)
    sha256 = "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"
    target = tmp_path / "set" / "sam2.1_hiera_large.pt"
    for said in (f"{mirror.base}sam2.1_hiera_large.pt", "HTTP 404", str(target), sha256):
        assert said in message
    assert done.stdout == ""
    assert len(mirror.requests) == 1


def test_offline(surroundings: dict[str, str], mirror: Mirror) -> None:
    mirror.server_close()
    done = densecli(surroundings, "mine")
    assert done.returncode == 4
    message = error_line(done)
    assert "no connection" in message and f"{mirror.base}mine.pt" in message and SHA256 in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["larg"], "Did you mean 'large'"),
        (["mine", "qqqq"], "no checkpoint called 'qqqq'"),
        (["--list", "minee"], "Did you mean 'mine'"),
        (["mine", "--json"], "--json goes with --list"),
        (["mine", "--source", "nowhere"], "'nowhere'"),
        (["mine", "--source", "ftp://a.example/"], "'ftp://a.example/'"),
        (["--lst"], "--lst"),
    ],
)
def test_usage_errors(arguments: list[str], said: str, surroundings: dict[str, str], mirror: Mirror) -> None:
    done = densecli(surroundings, *arguments)
    assert done.returncode == 2
    assert said in error_line(done)
    assert done.stdout == ""
    assert mirror.requests == []


def test_bad_registry_is_a_usage_error(surroundings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text("checkpoints: {mine: {file: mine.pt}}")
    done = densecli(surroundings, "mine")
    assert done.returncode == 2
    assert f"{tmp_path / 'registry.yaml'}: checkpoints.mine.size is missing" in error_line(done)


def test_one_failure_does_not_stop_the_others(surroundings: dict[str, str], mirror: Mirror) -> None:
    done = densecli(surroundings, "--all", "--source", mirror.base)
    assert done.returncode == 4
    assert done.stdout.startswith("mine: ") and done.stdout.count("\n") == 1
    assert done.stderr.count("HTTP 404") == 4
    assert "4 of 5 checkpoints could not be fetched: tiny, small, base-plus, large." in done.stderr
    assert len(mirror.requests) == 5


def test_starter_needs_no_download(surroundings: dict[str, str], mirror: Mirror) -> None:
    done = densecli(surroundings, "starter")
    assert done.returncode == 0
    assert re.fullmatch(r"starter: /.*starter\.safetensors \(\d+\.\d MB, part of densecli\)\n", done.stdout)
    assert mirror.requests == []


def test_list(surroundings: dict[str, str], mirror: Mirror, tmp_path: Path) -> None:
    path = tmp_path / "set" / "mine.pt"
    path.parent.mkdir()

    def row() -> str:
        done = densecli(surroundings, "--list")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["tiny", "small", "base-plus", "large", "mine"]
        assert re.fullmatch(r"large +898\.1 MB +not here", lines[3])
        return " ".join(lines[4].split())

    assert row() == "mine 1.2 MB not here"
    path.write_bytes(DATA[:-1])
    assert row() == f"mine 1.2 MB not here; {path} has 1199999 bytes instead of 1200000"
    path.write_bytes(DATA)
    assert row() == f"mine 1.2 MB {path} (not verified yet)"
    assert densecli(surroundings, "--verify").returncode == 0
    assert row() == f"mine 1.2 MB {path} (verified)"
    assert mirror.requests == []


def test_list_as_json(surroundings: dict[str, str], mirror: Mirror, tmp_path: Path) -> None:
    before = json.loads(densecli(surroundings, "--list", "--json").stdout)
    assert before["download_dir"] == str(tmp_path / "set")
    assert [row["name"] for row in before["checkpoints"]] == ["tiny", "small", "base-plus", "large", "mine"]
    assert before["checkpoints"][4] == {
        "name": "mine",
        "file": "mine.pt",
        "size": len(DATA),
        "sha256": SHA256,
        "config": "mine.yaml",
        "registry": str(tmp_path / "registry.yaml"),
        "urls": [f"{mirror.base}mine.pt"],
        "path": None,
        "verified": False,
        "problem": None,
    }
    assert densecli(surroundings, "mine").returncode == 0
    (after,) = json.loads(densecli(surroundings, "--list", "--json", "mine").stdout)["checkpoints"]
    assert (after["path"], after["verified"]) == (str(tmp_path / "set" / "mine.pt"), True)


def test_verify(surroundings: dict[str, str], mirror: Mirror, tmp_path: Path) -> None:
    nothing = densecli(surroundings, "--verify")
    assert nothing.returncode == 4 and "There is no checkpoint to verify" in error_line(nothing)
    missing = densecli(surroundings, "--verify", "mine")
    assert missing.returncode == 4 and "`densecli download-checkpoints mine`" in error_line(missing)

    path = tmp_path / "set" / "mine.pt"
    path.parent.mkdir()
    path.write_bytes(DATA)
    elsewhere = densecli(surroundings, "--verify", "mine", "--checkpoint-dir", str(tmp_path / "other"))
    assert elsewhere.returncode == 4 and f"'mine' is not in {tmp_path / 'other'}; " in error_line(elsewhere)
    good = densecli(surroundings, "--verify", "mine")
    assert (good.returncode, good.stdout) == (0, f"mine: {path} (1.2 MB, verified)\n")

    # A flipped bit under the same size and time: the stamp must not hide it from --verify.
    status = path.stat()
    path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    bad = densecli(surroundings, "--verify")
    assert (bad.returncode, bad.stdout) == (4, "")
    assert f"{path} is damaged" in error_line(bad)
    listed = densecli(surroundings, "--list", "--verify", "mine")
    assert "not verified" in listed.stdout and "is damaged" in listed.stdout
    assert mirror.requests == []

    # The command that the message names repairs it.
    assert densecli(surroundings, "mine").returncode == 0
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_then_resumed(
    kill: signal.Signals, surroundings: dict[str, str], mirror: Mirror, tmp_path: Path
) -> None:
    mirror.pause = 0.05
    part = tmp_path / "set" / "mine.pt.part"
    process = subprocess.Popen(
        command("mine"),
        env=surroundings,
        cwd=tmp_path / "work",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that started the tests in the background may have made SIGINT ignored, for all its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 200_000):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(kill)
    stdout, stderr = process.communicate(timeout=30)
    assert stdout == ""
    assert "Traceback" not in stderr
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert re.search(r"mine: interrupted with 0\.\d MB of 1\.2 MB in .*mine\.pt\.part", stderr)
    assert not (tmp_path / "set" / "mine.pt").exists()
    there = part.stat().st_size
    assert 200_000 <= there < len(DATA)
    assert part.read_bytes() == DATA[:there]

    mirror.pause = 0.0
    done = densecli(surroundings, "mine")
    assert done.returncode == 0
    assert mirror.requests == [("/weights/mine.pt", None), ("/weights/mine.pt", f"bytes={there}-")]
    assert (tmp_path / "set" / "mine.pt").read_bytes() == DATA
    assert not part.exists()


@pytest.mark.parametrize("columns", [100, 0])  # 0: what terminals of containers and scripts often say
def test_bar_on_a_terminal(columns: int, surroundings: dict[str, str], mirror: Mirror, tmp_path: Path) -> None:
    fcntl, pty, termios = (pytest.importorskip(module) for module in ("fcntl", "pty", "termios"))
    mirror.pause = 0.02
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    environment = {name: value for name, value in surroundings.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        command("mine"), env=environment, cwd=tmp_path / "work", stdout=subprocess.PIPE, stderr=slave
    )
    os.close(slave)
    screen = screen_of(master)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert stdout.decode() == f"mine: {tmp_path / 'set' / 'mine.pt'} (1.2 MB, verified)\n"
    assert re.search(rb"mine: +\d+%\|", screen) and b"B/s" in screen


def test_imports_no_torch(surroundings: dict[str, str], tmp_path: Path) -> None:
    arguments = [sys.executable, "-X", "importtime", "-m", "densecli", "download-checkpoints", "mine"]
    done = subprocess.run(
        arguments, env=surroundings, cwd=tmp_path / "work", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "densecli" in imported
    assert not imported & {"torch", "torchvision", "cv2", "sam2", "numpy"}
