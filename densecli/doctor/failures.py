"""From a failed import to its cause and the command that mends it."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback
from pathlib import Path, PurePath

from densecli.doctor import commands, symbolic
from densecli.doctor.children import HANG, OWN_FOLDER, Failure, failure_of
from densecli.doctor.installed import DISTRIBUTIONS, OPENCV_FLAVOURS, installations, module_of, shadow_of
from densecli.doctor.source import install_densecli

# What extension modules say that were built for another NumPy.
NUMPY_ABI = re.compile(
    r"numpy\.dtype size changed|numpy\.ufunc size changed|compiled using NumPy 1|_ARRAY_API not found"
    r"|numpy\.core\.multiarray failed to import|compiled against (ABI|API) version"
)
_LIBGL = re.compile(r"lib(GL|EGL|gthread-2\.0|SM|Xext|Xrender)\.so[.\d]*")
# Packages that come with another, in the version that it asks for.
_PART_OF = {"pydantic_core": "pydantic", "llvmlite": "numba"}
_LIBRARIES = {*DISTRIBUTIONS, *_PART_OF, "torchgen", "functorch", "triton", "nvidia", "networkx", "jinja2"}
_NO_SUCH_NAME = re.compile(r"cannot import name .+ from (?:partially initialized module )?'([\w.]+)'")
_NO_SUCH_ATTRIBUTE = re.compile(r"module '(\w+)' has no attribute")
_CUDA_ERROR = re.compile(r"CUDA error|cuDNN error|CUDA driver|no kernel image|Torch not compiled with CUDA")


def explain_import(module: str, failure: Failure, stderr: str = "") -> tuple[str, str]:
    """What went wrong when `module` (a top-level name) was imported, in one line, and the command that mends it."""
    if (stray := _stands_for_standard_library(failure)) is not None:
        return f"{failure.text}; {stray} stands in for a module of Python itself", commands.rename_away(stray)
    if "failed to map segment" in failure.text:
        seen = f"{failure.text}: a limit of the address space is in the way, or its folder is mounted with noexec"
        return seen, "ulimit -v unlimited"
    said = f"import fails: {failure.text}" if failure.kind != HANG else f"the import hangs: {failure.text}"
    if blames_symbolic(failure) and module not in symbolic.MODULES:
        return f"{said}; the fault lies in sympy or mpmath", symbolic.cure()[0]
    shadow = shadow_of(module) if module in DISTRIBUTIONS else None
    if shadow is not None:
        return f"{said}; Python takes {shadow} for {module}", commands.rename_away(shadow)
    if NUMPY_ABI.search(failure.text) or NUMPY_ABI.search(stderr):
        return f"{said}; it was built for another NumPy", reinstall(module, "numpy>=1.26")
    blamed = culprit(failure)
    if failure.missing is None and blamed is not None and blamed != module:
        said, module = f"{said}; the fault lies in {blamed}", blamed
        if module in DISTRIBUTIONS and (shadow := shadow_of(module)) is not None:
            return f"{said}, for which Python takes {shadow}", commands.rename_away(shadow)
    if failure.missing is not None:
        missing = failure.missing.partition(".")[0]
        if missing == "sam2":
            return "not installed", commands.install_sam2()
        # A part of a package that is here: half of it is missing.
        if missing == module and installations(_distribution(module)):
            return f"{said}; its files are incomplete", reinstall(module)
        said = "not installed" if missing == module else said
        if missing == "densecli" or missing in _PART_OF:
            return said, reinstall(missing)
        return said, commands.pip_install(_distribution(missing))
    if module == "cv2" and (library := _LIBGL.search(failure.text)):
        there = [name for name in OPENCV_FLAVOURS if installations(name)]
        fix = f"{commands.pip_uninstall(*there)} && {commands.pip_install('opencv-python-headless')}"
        return f"needs {library[0]}, which this system lacks; the headless OpenCV does not", fix
    return said, reinstall(module)


def explain_error(error: BaseException) -> tuple[str, str]:
    """As `explain_import`, for an exception of this process that `is_environment_failure`."""
    failure = failure_of(error)
    module = culprit(failure) or "densecli"
    seen, fix = explain_import(module, failure)
    return (seen if module in seen else f"{module}: {seen}"), fix


def culprit(failure: Failure) -> str | None:
    """The module (a top-level name) that an import failed for; None where nobody can tell, or it was no import."""
    if failure.missing is not None:
        return failure.missing.partition(".")[0]
    if (named := _NO_SUCH_NAME.search(failure.text)) and not named[1].startswith("densecli"):
        return named[1].partition(".")[0]
    # The package that was being imported, and not the one that it called as it failed: torchvision's operators that are
    # not there are missed by a function of torch.
    return next((module for file in failure.importing if (module := module_of(file)) is not None), None)


def _stands_for_standard_library(failure: Failure) -> Path | None:
    """The user's file with the name of a standard module that is to blame, if there is one (`json.py`)."""
    standard = Path(sysconfig.get_path("stdlib"))
    for file in map(Path, failure.files):
        if file.stem in sys.stdlib_module_names and file.parent in map(Path, sys.path) and file.parent != standard:
            return file
    # It was imported without a word, and lacks what Python's own one has.
    named = _NO_SUCH_NAME.search(failure.text) or _NO_SUCH_ATTRIBUTE.search(failure.text)
    if named is None or named[1] not in sys.stdlib_module_names:
        return None
    files = (Path(folder or ".") / f"{named[1]}.py" for folder in sys.path)
    first = next((file for file in files if file.is_file()), None)
    return None if first is None or first.parent == standard else first


def reinstall(module: str, *more: str) -> str:
    """The command that installs the distribution of `module` anew."""
    if module == "sam2":
        return commands.install_sam2().replace(" install ", " install --force-reinstall --no-deps ", 1)
    if module == "densecli":
        return install_densecli()
    module = _PART_OF.get(module, module)
    there = [name for name in DISTRIBUTIONS.get(module, (module,)) if installations(name)]
    names = there[:1] or [_distribution(module)]
    if module == "torchvision" and not more:
        return commands.pip_install("--force-reinstall", "--no-deps", matching_torchvision())
    return commands.pip_install("--force-reinstall", "--no-cache-dir", *names, *more)


def matching_torchvision() -> str:
    """The torchvision that belongs to the installed torch: torch 2.N goes with torchvision 0.(N + 15)."""
    found = installations("torch")
    match = re.match(r"2\.(\d+)", found[0].version) if found else None
    return f"torchvision==0.{int(match[1]) + 15}.*" if match else "torchvision>=0.20.1"


def blames_symbolic(failure: Failure) -> bool:
    """Whether the import came to its end inside sympy or mpmath."""
    return any(symbolic.MODULES & set(PurePath(file).parts) for file in failure.files[-4:]) or (
        failure.missing is not None and failure.missing.partition(".")[0] in symbolic.MODULES
    )


def _distribution(module: str) -> str:
    return DISTRIBUTIONS[module][0] if module in DISTRIBUTIONS else module


def is_environment_failure(error: BaseException) -> bool:
    """Whether an exception that ended a command came from a library that is missing or broken, not from densecli.

    That is: an import that failed, anything that a library raised while it was being imported, or an error of CUDA.
    """
    if isinstance(error, ImportError):
        return not (error.name or "").startswith("densecli")
    if isinstance(error, RuntimeError) and _CUDA_ERROR.search(str(error)):
        return True
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(OWN_FOLDER):
            continue
        parts = PurePath(frame.f_code.co_filename).parts
        being_imported = frame.f_code.co_name == "<module>"
        if being_imported and _LIBRARIES & {*parts, *(os.path.splitext(part)[0] for part in parts[-1:])}:
            return True
    return isinstance(error, OSError) and "cannot open shared object file" in str(error)
