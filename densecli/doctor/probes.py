"""What runs in the child processes: imports and first use of the packages that may be broken, one step after the other.

Each step prints a line when it begins and a line when it is done, so that the parent knows where a child got stuck.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import IO, Any

from densecli.doctor.children import failure_of

Facts = dict[str, Any]


class _Reporter:
    """Runs steps and prints their lines; `limit`: seconds that a step may take before the process is ended."""

    def __init__(self, limit: float, out: IO[str]) -> None:
        self._limit, self._out = limit, out

    def step(self, name: str, action: Callable[[], Facts | None], *, limits: float = 1.0) -> bool:
        """Run one step; False if it raised. limits: as many times the limit it may take."""
        limit = limits * self._limit
        self._print({"begin": name, "limit": limit})
        faulthandler.dump_traceback_later(limit, exit=True)
        begin = time.perf_counter()
        line: Facts = {"step": name}
        try:
            line["facts"] = action()
        except BaseException as error:  # a broken package may even call sys.exit()
            failed = failure_of(error)
            line["failure"] = {
                "text": failed.text,
                "files": failed.files,
                "missing": failed.missing,
                "importing": failed.importing,
            }
        finally:
            faulthandler.cancel_dump_traceback_later()
        line["seconds"] = round(time.perf_counter() - begin, 3)
        self._print(line)
        return "failure" not in line

    def end(self) -> None:
        """Say that the probe came to its end."""
        self._print({"end": True})

    def _print(self, message: Facts) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def run(probe: str, limit: float, arguments: list[str]) -> None:
    """Entry point of the child."""
    # Libraries print to stdout when they please; the lines for the parent must stay clean.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    reporter = _Reporter(limit, out)
    _PROBES[probe](reporter)
    reporter.end()


def _probe_sympy(reporter: _Reporter) -> None:
    for name in ("mpmath", "sympy"):
        if not reporter.step(name, lambda name=name: _import(name)):  # type: ignore[misc]
            return


def _probe_images(reporter: _Reporter) -> None:
    for name in ("numpy", "cv2", "PIL.Image", "pycocotools.mask"):
        reporter.step(name, lambda name=name: _import(name))  # type: ignore[misc]


def _probe_torch(reporter: _Reporter) -> None:
    if reporter.step("torch", lambda: _import("torch")):
        reporter.step("devices", _devices)
        reporter.step("memory", _memory)
        reporter.step("torchvision", _torchvision)


def _probe_run(reporter: _Reporter) -> None:
    # As in a run, which imports neither torchvision nor sympy, unless it cannot do without.
    for name in ("torch", "cv2"):
        if not reporter.step(name, lambda name=name: _import(name)):  # type: ignore[misc]
            return
    if not reporter.step("sam2", _sam2):
        return
    from densecli.doctor import smoke

    if not reporter.step("numba", _numba):
        return
    # The first one compiles: 30 s on two cores, over a minute where they are busy.
    if not reporter.step("run on cpu", lambda: smoke.run_on("cpu"), limits=3.0):
        return
    for device in _accelerators():
        reporter.step(f"run on {device}", lambda device=device: smoke.run_on(device))  # type: ignore[misc]


_PROBES: dict[str, Callable[[_Reporter], None]] = {
    "sympy": _probe_sympy,
    "images": _probe_images,
    "torch": _probe_torch,
    "run": _probe_run,
}


def _import(name: str) -> Facts:
    __import__(name)
    module = sys.modules[name.partition(".")[0]]
    return {"version": str(getattr(module, "__version__", "")), "file": getattr(module, "__file__", None)}


def _sam2() -> Facts:
    from importlib.util import find_spec

    facts = _import("sam2.modeling.sam2_base")
    return facts | {"cuda_extension": find_spec("sam2._C") is not None}


def _numba() -> Facts:
    from densecli.engine import compiled

    return {"why_not": compiled.why_not()}


def _torchvision() -> Facts:
    import torch

    facts = _import("torchvision")
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    # The compiled part of torchvision: missing where it does not belong to this torch.
    kept = torch.ops.torchvision.nms(boxes, torch.tensor([1.0, 0.5]), 0.5)
    if kept.tolist() != [0]:
        raise RuntimeError(f"torchvision::nms gives {kept.tolist()} for two equal boxes")
    return facts


def _accelerators() -> list[str]:
    import torch

    found = [f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _devices() -> Facts:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()  # says in a warning why not
    gpus = []
    for index in range(torch.cuda.device_count() if available else 0):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"index": index, "name": properties.name, "capability": [properties.major, properties.minor]})
    return {
        "cuda_build": torch.version.cuda,
        "hip_build": torch.version.hip,
        "cuda_available": available,
        "cuda_warning": " ".join(" ".join(str(w.message) for w in caught).split()),
        "arch_list": torch.cuda.get_arch_list() if available else [],
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
    }


def _memory() -> Facts:
    """Free and total bytes of each device, and what fits: "all points", points a batch, or 0, for each checkpoint."""
    import torch

    from densecli.doctor.room import what_fits

    found: Facts = {}
    for name in ["cpu", *_accelerators()]:
        device = torch.device(name)
        total = None
        if device.type == "cuda":
            total = torch.cuda.mem_get_info(device)[1]
        elif hasattr(os, "sysconf"):
            with contextlib.suppress(OSError, ValueError):
                total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found[name] = {"total": total, **what_fits(device)}
    return found
