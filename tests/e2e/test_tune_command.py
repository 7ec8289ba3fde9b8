"""`densecli tune` from the terminal: what it prints, how it is reached, how it ends, what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from densecli import Segmenter
from tests.conftest import Command
from tests.e2e.tune_process import TuneProcess

pytest.importorskip("starlette", reason="starlette is not installed (pip install 'densecli[web]')")
GRID = ("-m", "starter", "-s", "points_per_side=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    Image.fromarray(photo).save(folder / "desk.png")
    (folder / "my preset.yaml").write_text("extends: dense\ngenerator: {pred_iou_thresh: 0.5}\n")
    return folder


@pytest.fixture(scope="module")
def tune(folder: Path, run_densecli: Command) -> Iterator[TuneProcess]:
    process = TuneProcess(run_densecli, folder, "desk.png", *GRID, "-p", "my preset.yaml", "-d", "cpu")
    yield process
    code, out, err = process.end()
    assert (code, out) == (0, "")
    assert err.endswith("tune: closed\n") and "Traceback" not in err


def blocking(folder: Path, package: str, run: Command) -> str:
    """PYTHONPATH with which a package cannot be imported, as where it is not installed."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return os.pathsep.join([str(folder), run.environment["PYTHONPATH"]])


def status(url: str, path: str, host: str | None = None, method: str = "GET") -> int:
    """What the server answers for a path, sent as it is."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host or place.netloc}\r\nConnection: close\r\n"
        body = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" if method == "POST" else "\r\n"
        connection.sendall((head + body).encode())
        answer = connection.makefile("rb").read()
    return int(answer.split(b" ", 2)[1])


def test_the_url_is_all_that_stdout_carries_and_leads_to_the_page(tune: TuneProcess) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{16,}/", tune.url)
    place = urlsplit(tune.url)
    assert status(tune.url, place.path) == status(tune.url, f"{place.path}tune.js") == 200
    assert status(tune.url, f"{place.path}api/start", method="POST") == 200


def test_without_the_token_it_is_forbidden(tune: TuneProcess) -> None:
    for path in ("/", "/wrong/", "/tune.js", "/api/start", "/wrong/api/start"):
        assert status(tune.url, path) == status(tune.url, path, method="POST") == 403
    assert status(tune.url, urlsplit(tune.url).path, host="evil.example") == 403


def test_path_tricks_find_nothing(tune: TuneProcess) -> None:
    base = urlsplit(tune.url).path
    for trick in ("../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/server.py", "server.py", "/etc/passwd"):
        assert status(tune.url, base + trick) == 404


def test_it_listens_on_this_machine_only(tune: TuneProcess) -> None:
    port = urlsplit(tune.url).port or 0
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not str(address).startswith("127.0.0.1"):
            with pytest.raises(OSError), socket.create_connection((str(address), port), timeout=2):
                pass


def test_two_at_a_time_have_ports_and_tokens_of_their_own(
    tune: TuneProcess, folder: Path, run_densecli: Command
) -> None:
    without_display = {k: v for k, v in run_densecli.environment.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    other = TuneProcess(Command(without_display), folder, "desk.png", *GRID, browser="--browser")
    one, two = urlsplit(tune.url), urlsplit(other.url)
    assert one.port != two.port and one.path != two.path
    assert status(other.url, one.path) == 403
    taken = run_densecli("tune", "nothing.png", "--no-browser", "--port", str(two.port), cwd=folder)
    assert taken.code == 2 and len(taken.errors) == 1 and f"--port {two.port}: cannot be used" in taken.errors[0]
    # A connection that stays open does not hold it up, nor does SIGTERM end it otherwise than it ends others.
    kept = http.client.HTTPConnection(two.hostname or "", two.port)
    kept.request("GET", two.path)
    kept.getresponse().read()
    code, _, err = other.end(signal.SIGTERM)
    assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM) and "Traceback" not in err
    assert "there is no display to open a browser on" in err


def asked(url: str, name: str) -> Any:
    """The server's answer to a question without values."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    connection.request("POST", f"{place.path}api/{name}", "{}", {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def test_the_command_can_be_run_from_any_folder(tune: TuneProcess, folder: Path) -> None:
    preset = str(folder / "my preset.yaml")
    grid = ["-s", "points_per_side=4"]
    wanted = ["densecli", "segment", str(folder / "desk.png"), "-p", preset, *grid, "-m", "starter", "--device", "cpu"]
    assert shlex.split(asked(tune.url, "command")["text"]) == wanted
    assert asked(tune.url, "start")["values"]["pred_iou_thresh"] == 0.5
    assert asked(tune.url, "preset")["name"] == "my preset-tuned.yaml"


@pytest.mark.slow
def test_candidates_need_no_model(folder: Path, run_densecli: Command) -> None:
    kept = Segmenter("dense", "starter", "cpu", overrides=["points_per_side=4"])(
        folder / "desk.png", keep_candidates=True
    )
    assert kept.proposals is not None
    kept.proposals.save(folder / "desk.candidates")
    process = TuneProcess(run_densecli, folder, "desk.candidates", "-p", "keyboard-fix")
    start, command = asked(process.url, "start"), asked(process.url, "command")["text"]
    assert not start["has_model"] and start["denser"] == [] and start["grids"] == [4]
    assert not {"fill", "ask_for_wholes"} & {control["key"] for control in start["controls"]}
    code, _, err = process.end()
    assert code == 0 and "Traceback" not in err
    argv = shlex.split(command)
    again = run_densecli(*argv[1:], "-o", "again", "--save", "json", cwd=folder)
    assert again.code == 0 and "no model ran" in again.stderr


def test_mistakes_are_said_before_any_work(folder: Path, run_densecli: Command, tmp_path: Path) -> None:
    """Not even torch is imported for them."""
    (folder / "text.png").write_text("no picture")
    for arguments, code, said in [
        (("nothing.png", *GRID), 1, "nothing.png"),
        (("text.png", *GRID), 1, "text.png"),
        (("desk.png", "-s", "pred_iou_tresh=1"), 2, "nearest"),
        (("desk.png", "-p", "nothing"), 2, "no such preset"),
    ]:
        path = blocking(tmp_path, "torch", run_densecli)
        done = run_densecli("tune", *arguments, "--no-browser", cwd=folder, environment={"PYTHONPATH": path})
        assert (done.code, done.stdout) == (code, ""), done.stderr
        assert len(done.errors) == 1 and said in done.errors[0] and "Traceback" not in done.stderr


def test_without_the_extra_it_names_the_command_that_installs_it(
    folder: Path, run_densecli: Command, tmp_path: Path
) -> None:
    path = blocking(tmp_path, "starlette", run_densecli)
    done = run_densecli("tune", "desk.png", *GRID, cwd=folder, environment={"PYTHONPATH": path})
    assert done.code == 4 and done.stdout == ""
    assert len(done.errors) == 1 and "pip install 'densecli[web]'" in done.errors[0]


def test_help_imports_neither_server_nor_torch(folder: Path, run_densecli: Command) -> None:
    done = run_densecli("tune", "--help", cwd=folder, python=("-X", "importtime"))
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.code == 0 and "--no-browser" in done.stdout
    assert not imported & {"torch", "cv2", "starlette", "uvicorn", "numba"}
