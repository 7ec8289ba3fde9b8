"""Workers as child processes, one a device: no interpreter lock is shared, and one that dies takes nothing with it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from densecli.batch.job import SegmenterOptions
from densecli.batch.workers import Aborted, Description, Progress, WorkerDied, with_pixels
from densecli.child_python import same_modules
from densecli.masks import Segmentation
from densecli.sources import LoadedImage


class Process:
    """A child process with the model on one device.

    all_devices: those of the run. A process that starts says whether one of them is not there: others may start much
    later, or never.
    """

    def __init__(self, device: str, all_devices: Sequence[str]) -> None:
        self.device, self.all_devices = device, tuple(all_devices)
        self._child: subprocess.Popen[bytes] | None = None
        self._killed = False

    def start(self, options: SegmenterOptions, threads: int | None) -> Description:
        self.stop()
        # Threads that wait busily take the other workers' cores.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        code = f"{same_modules()}; from densecli.batch.child import main; main()"
        self._child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl-C is for the run, which lets its workers finish.
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        if self._killed:
            self._child.kill()
        description = self._ask("start", options, self.device, self.all_devices, threads)
        assert isinstance(description, Description)
        return description

    def segment(self, image: LoadedImage, progress: Progress) -> Segmentation:
        answer = self._ask("segment", image)
        assert isinstance(answer, Segmentation)
        return with_pixels(answer, image)

    def stop(self) -> None:
        if self._child is None:
            return
        child, self._child = self._child, None
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def kill(self) -> None:
        self._killed = True
        child = self._child
        if child is not None:
            child.kill()

    def _ask(self, *request: Any) -> Any:
        child = self._child
        if child is None:
            raise WorkerDied("the worker process is not there")
        assert child.stdin is not None and child.stdout is not None
        try:
            pickle.dump(request, child.stdin, protocol=5)
            child.stdin.flush()
            answer = pickle.load(child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            if self._killed:
                raise Aborted from None
            raise WorkerDied(f"the worker process {_how_it_ended(child)}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _how_it_ended(child: subprocess.Popen[bytes]) -> str:
    try:
        code = child.wait(10)
    except subprocess.TimeoutExpired:
        return "stopped answering"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
