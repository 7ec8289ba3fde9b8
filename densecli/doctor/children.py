"""Runs a probe (probes.py) in a child process and survives whatever it does: raise, crash, hang."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from densecli.child_python import same_modules
from densecli.errors import UsageError

TIMEOUT_VARIABLE = "DENSECLI_DOCTOR_TIMEOUT"
DEFAULT_TIMEOUT = 60.0  # seconds; a first import of PyTorch from a network file system takes tens of seconds
# The child ends itself at its limit, with a traceback. The parent waits this much longer (seconds) before it kills.
_GRACE = 5.0
_SLOW_SHARE = 1 / 6
OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
"""densecli's, whose frames in a traceback are nobody's fault."""

ERROR, HANG, CRASH = "error", "hang", "crash"


@dataclass(frozen=True)
class Failure:
    """Why a step failed: it raised (ERROR), took longer than the limit (HANG) or ended the process (CRASH).

    files: source files of the traceback, innermost last. missing: the module that a ModuleNotFoundError names.
    importing: those of `files` that belong to the last import that was under way; none where there was none.
    """

    kind: str
    text: str
    files: tuple[str, ...] = ()
    missing: str | None = None
    importing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of a probe: how long it took, what it found, or why it failed."""

    name: str
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True)
class Outcome:
    """The steps of a probe that were begun, in order, and what the child wrote to stderr."""

    steps: dict[str, Step]
    stderr: str = ""

    def facts(self, name: str) -> dict[str, Any] | None:
        """What step `name` found, or None where it failed or was not reached."""
        step = self.steps.get(name)
        return None if step is None or step.failure is not None else step.facts

    def failed(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps.values() if step.failure is not None), None)


def time_limit() -> float:
    """Seconds that a step of a probe may take: $DENSECLI_DOCTOR_TIMEOUT, or 60. Raises UsageError for no number."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    if not text:
        return DEFAULT_TIMEOUT
    try:
        seconds = float(text)
        if not 0 < seconds < 1e6:
            raise ValueError
    except ValueError as error:
        raise UsageError(f"${TIMEOUT_VARIABLE} is {text!r}; give seconds, for example 120") from error
    return seconds


def slow(limit: float) -> float:
    """Seconds from which an import is worth a warning."""
    return limit * _SLOW_SHARE


def run_probe(name: str, limit: float) -> Outcome:
    """Run probe `name` of probes.py; each of its steps may take `limit` seconds."""
    # The child must find the modules that this process would find, shadowing ones included.
    code = f"{same_modules()}; from densecli.doctor.probes import run; run({name!r}, {limit!r}, sys.argv[1:])"
    with tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],  # as runs do, whatever $PYTHONWARNINGS says
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=os.name != "nt",
        )
        try:
            assert child.stdout is not None
            steps, begun, timed_out, limit = _follow(child.stdout, limit)
        finally:
            _kill(child)
        stderr.seek(0)
        said = stderr.read().decode("utf-8", "replace")
    if begun is not None:
        steps[begun] = Step(begun, limit, failure=_ended(child.returncode, timed_out, limit, said))
    return Outcome(steps, said)


def _follow(stdout: IO[bytes], limit: float) -> tuple[dict[str, Step], str | None, bool, float]:
    """Read the child's lines to the end: steps done, the step that was begun and not done, whether time ran out for it,
    and how long it had."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        with stdout:
            for line in stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    steps: dict[str, Step] = {}
    begun: str | None = "start"
    while True:
        try:
            line = lines.get(timeout=limit + _GRACE)
        except queue.Empty:
            return steps, begun, True, limit
        if line is None:
            return steps, begun, False, limit
        message = json.loads(line)
        if "begin" in message:
            begun, limit = message["begin"], message["limit"]
            continue
        begun = None
        if "step" not in message:  # the farewell: the probe came to its end
            continue
        failure = message.get("failure")
        if failure is not None:
            files, importing = tuple(failure["files"]), tuple(failure["importing"])
            failure = Failure(ERROR, failure["text"], files, failure["missing"], importing)
        name = message["step"]
        steps[name] = Step(name, message["seconds"], message.get("facts") or {}, failure)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it started."""
    try:
        child.wait(0.5)
    except subprocess.TimeoutExpired:
        if os.name != "nt":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.wait()


def _ended(code: int, timed_out: bool, limit: float, stderr: str) -> Failure:
    # faulthandler prints the innermost frame first, and Python's own traceback, which has commas, last.
    lines = re.findall(r'^  File "([^<"][^"]*)", line \d+(,?) in (.*)', stderr, re.M)
    frames = [(file, function) for file, comma, function in lines if comma]
    frames += [(file, function) for file, comma, function in reversed(lines) if not comma]
    files, importing = files_of(frames)
    where = f", in {frames[-1][0]}" if frames else ""
    if timed_out or re.search(r"^Timeout \(", stderr, re.M):
        return Failure(HANG, f"still not done after {limit:g} s{where}", files, importing=importing)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return Failure(CRASH, f"ended the process with {name}{where}", files, importing=importing)
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    return Failure(CRASH, f"ended the process with exit code {code} ({last.strip()})", files, importing=importing)


def failure_of(error: BaseException) -> Failure:
    """What an exception says of itself."""
    text = " ".join(str(error).split()) or "no message"
    files, importing = files_of([(f.filename, f.name) for f in traceback.extract_tb(error.__traceback__)])
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return Failure(ERROR, f"{type(error).__name__}: {text}"[:500], files, missing, importing)


def files_of(frames: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`files` and `importing` of a Failure, from the (file, function) of its frames, innermost last."""
    imports = [i for i, (file, function) in enumerate(frames) if function == "<module>" and not file.startswith("<")]
    first = imports[-1] if imports else len(frames)
    files, importing = (
        tuple(file for file, _ in some if not file.startswith(("<", OWN_FOLDER))) for some in (frames, frames[first:])
    )
    return files, importing
