"""Fixtures that tests share: the command in a clean environment, and a small photo."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

CHECKOUT = Path(__file__).parents[1]
FIRST_STARTER = tuple(CHECKOUT / "tests" / "data" / f"first_starter.{ending}" for ending in ("safetensors", "yaml"))
"""Weights and config of the starter of the first releases, whose answers to some drawn pictures tests rely on."""

# Threads that wait busily for their next work slow everything down many times over where tests share cores.
# Before torch is imported, which reads it; child processes inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes test at a time: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code, and its streams as UTF-8 text (bytes that are none as surrogates)."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    @property
    def errors(self) -> list[str]:
        """The error lines of stderr, without their prefix."""
        prefix = "densecli: error: "
        return [line.removeprefix(prefix) for line in self.stderr.splitlines() if line.startswith(prefix)]


@dataclass(frozen=True)
class Command:
    """`densecli` as a child process that sees no checkpoints, settings or terminal of the developer."""

    environment: Mapping[str, str]

    def argv(self, *arguments: str | bytes | Path) -> list[str | bytes | Path]:
        return [sys.executable, "-m", "densecli", *arguments]

    def __call__(
        self,
        *arguments: str | bytes | Path,
        cwd: Path,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        stdout: Any = subprocess.PIPE,
        preexec_fn: Callable[[], object] | None = None,
        python: Sequence[str] = (),
        timeout: float = 120,
    ) -> Finished:
        argv = self.argv(*arguments)
        done = subprocess.run(
            [argv[0], *python, *argv[1:]],
            cwd=cwd,
            env={**self.environment, **(environment or {})},
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            preexec_fn=preexec_fn,
            timeout=timeout,
        )
        text = [(stream or b"").decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr)]
        return Finished(done.returncode, *text)


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own at `folder`, with mount options such as size=64k; skips where that cannot be."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def room_of(files: Iterable[Path]) -> int:
    """Bytes that files take on a small disk, which gives them whole pages."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in files if file.is_file())


def obeying_permissions() -> None:
    """`preexec_fn` for a program to be held to permissions even as root; it ends with 99 where that cannot be."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                os._exit(99)


@pytest.fixture(scope="session")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a machine on which densecli was just installed."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.fullmatch(
            r"DENSECLI_.*|XDG_.*|NO_COLOR|FORCE_COLOR|PYTHON(IOENCODING|WARNINGS|OPTIMIZE|DONTWRITEBYTECODE)", name
        )
    }
    return {
        **kept,
        "HOME": str(tmp_path_factory.mktemp("home")),
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUTF8": "1",
    }


@pytest.fixture(scope="session")
def run_densecli(clean_environment: dict[str, str]) -> Command:
    """`run_densecli("segment", "desk.png", cwd=tmp_path)` -> Finished."""
    return Command(clean_environment)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photo of a cup on a table, 107×160×3 uint8 RGB: a run over it takes well under a second with a small grid."""
    from skimage import data

    small = Image.fromarray(data.coffee()).resize((160, 107), Image.Resampling.LANCZOS)
    pixels = np.asarray(small).copy()
    pixels.flags.writeable = False
    return pixels


def screen_of(master: int) -> bytes:
    """All that is written to a terminal until its other end is closed; closes this one too."""
    screen = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # Linux reports the closed other end of a terminal this way
            break
        if not piece:
            break
        screen += piece
    os.close(master)
    return screen
