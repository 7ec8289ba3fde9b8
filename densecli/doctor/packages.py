"""The required packages, leftovers of pip, and the image libraries NumPy, OpenCV, Pillow and pycocotools."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from densecli.doctor import commands
from densecli.doctor.children import Outcome
from densecli.doctor.failures import explain_import
from densecli.doctor.installed import (
    OPENCV_FLAVOURS,
    installations,
    parse_requirement,
    place_of,
    satisfies,
)
from densecli.doctor.report import Check, problem, warning
from densecli.doctor.source import install_densecli

# Where these are missing, rows of their own know better what to do.
_ELSEWHERE = {"torch", "torchvision", "sam2", "opencv-python", "numpy"}


def check_packages() -> Check:
    """Whether what densecli requires is installed, in versions that it works with."""
    try:
        lines = metadata.requires("densecli") or []
    except metadata.PackageNotFoundError:
        seen = "densecli itself is not installed, it runs from its source folder"
        return warning("packages", seen, install_densecli())
    wrong, wanted = [], []
    required = [parsed for line in lines if (parsed := parse_requirement(line))]
    for name, specifier in required:
        records = installations(name)
        if not records and name in _ELSEWHERE:
            continue
        if not records:
            wrong.append(f"{name} is not installed")
        elif not satisfies(records[0].version, specifier):
            wrong.append(f"{name} is {records[0].version}, {specifier} is required")
        else:
            continue
        wanted.append(name + specifier)
    if wrong:
        return problem("packages", "; ".join(wrong), " && ".join(_install(wanted)))
    if leftovers := _pip_leftovers():
        seen = f"left by an installation that was interrupted: {', '.join(str(path) for path in leftovers)}"
        return warning("packages", seen, commands.remove(leftovers))
    return Check("packages", f"all {len(required)} that densecli requires, in versions that it works with")


def _install(wanted: list[str]) -> list[str]:
    plain = [requirement for requirement in wanted if not requirement.startswith("sam2")]
    return [commands.pip_install(*plain)] * bool(plain) + [commands.install_sam2()] * (len(plain) < len(wanted))


def _pip_leftovers() -> list[Path]:
    """Folders `~name` that pip sets aside while it replaces a package, and forgets when it is interrupted."""
    folders = [Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    return [path for folder in folders for path in sorted(folder.glob("~*"))]


def judge_images(outcome: Outcome) -> list[Check]:
    """The rows numpy, opencv, pillow and pycocotools, from the probe that imports them."""
    start = outcome.steps.get("start")
    if start is not None and start.failure is not None:
        seen, fix = explain_import("densecli", start.failure, outcome.stderr)
        return [problem("numpy", seen, fix)]
    rows = [
        _judge("numpy", "numpy", "numpy", outcome),
        _opencv(_judge("opencv", "cv2", "cv2", outcome)),
        _judge("pillow", "PIL", "PIL.Image", outcome),
        _judge("pycocotools", "pycocotools", "pycocotools.mask", outcome),
    ]
    return [row for row in rows if row is not None]


def _judge(name: str, module: str, step_name: str, outcome: Outcome) -> Check | None:
    step = outcome.steps.get(step_name)
    if step is None:  # the one before ended the process
        return None
    if step.failure is not None:
        seen, fix = explain_import(module, step.failure, outcome.stderr)
        return problem(name, seen, fix)
    return Check(name, str(step.facts.get("version") or "imports"))


def _opencv(row: Check | None) -> Check | None:
    """Adds what only the list of installed packages tells: flavours of OpenCV that overwrote each other's files."""
    flavours = [name for name in OPENCV_FLAVOURS if installations(name)]
    if row is None or len(flavours) < 2:
        return row
    keep = "opencv-python" if row.fix is None or "headless" not in row.fix else "opencv-python-headless"
    fix = f"{commands.pip_uninstall(*flavours)} && {commands.pip_install('--force-reinstall', '--no-deps', keep)}"
    seen = f"{' and '.join(flavours)} are installed over each other"
    place = place_of("cv2")
    if row.fix is None:
        return warning("opencv", f"{row.seen}; {seen}{f' in {place.path}' if place else ''}", fix)
    return problem("opencv", f"{row.seen}; {seen}", fix)
