"""The other end of a worker process: pickled requests on stdin, pickled answers on what was stdout."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from densecli.batch.workers import Description, Unexpected, segmenter_of, without_pixels
from densecli.errors import DensecliError


def main() -> None:
    """Answer until the parent closes the pipe, also by dying."""
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    requests = sys.stdin.buffer
    segmenter = options = None
    while True:
        try:
            kind, *arguments = pickle.load(requests)
        except EOFError:
            return
        answer: Any
        try:
            if kind == "start":
                options, device, all_devices, threads = arguments
                _take(device, all_devices)
                segmenter = segmenter_of(options, device, threads)
                answer = Description.of(segmenter)
            else:
                assert segmenter is not None and options is not None
                answer = without_pixels(segmenter(arguments[0], keep_candidates=options.keep_candidates))
        except DensecliError as error:
            answer = error
        except Exception as error:
            answer = unexpected(error)
        try:
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
        except BrokenPipeError:
            return


def _take(device: str, all_devices: Sequence[str]) -> None:
    """Make a device the current one. Raises EnvironmentProblem where it, or another one of the run, is not there."""
    import torch

    from densecli.model import resolve_device

    place, *_ = [resolve_device(name) for name in (device, *all_devices)]
    if place.type == "cuda":
        # Some libraries take memory on the current device, whatever device the tensors are on.
        torch.cuda.set_device(place)


def _follow(parent: int) -> None:
    """End with the parent even in the middle of an image: a killed run must not go on using the device."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def unexpected(error: Exception) -> Unexpected:
    """An exception of any class in a form that other processes can read."""
    return Unexpected(type(error).__name__, " ".join(str(error).split()), "".join(traceback.format_exception(error)))
