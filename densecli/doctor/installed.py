"""Which packages are installed, how completely, and which files Python would take for them; imports none of them."""

from __future__ import annotations

import csv
import importlib.machinery
import importlib.util
import json
import re
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

OPENCV_FLAVOURS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
# Packages by the name that is imported; the first distribution is the one to install.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "numpy": ("numpy",),
    "cv2": OPENCV_FLAVOURS,
    "PIL": ("Pillow",),
    "sympy": ("sympy",),
    "mpmath": ("mpmath",),
    "sam2": ("sam2", "SAM-2"),
    "hydra": ("hydra-core",),
    "omegaconf": ("omegaconf",),
    "pycocotools": ("pycocotools",),
    "safetensors": ("safetensors",),
    "pydantic": ("pydantic",),
    "yaml": ("pyyaml",),
    "numba": ("numba",),
    "llvmlite": ("llvmlite",),
    "iopath": ("iopath",),
    "typer": ("typer",),
}


@dataclass(frozen=True)
class Installation:
    """The record (`NAME-VERSION.dist-info`) of an installed distribution in `folder`."""

    folder: Path
    info: Path
    version: str

    @property
    def is_whole(self) -> bool:
        """Whether the record has what pip needs to uninstall it."""
        return (self.info / "METADATA").is_file() and (self.info / "RECORD").is_file()

    @property
    def is_editable(self) -> bool:
        return self.origin.get("dir_info", {}).get("editable") is True

    @property
    def origin(self) -> dict[str, Any]:
        """What pip noted of where the package came from (`direct_url.json`); empty where that is an index."""
        try:
            found = json.loads((self.info / "direct_url.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def missing_files(self) -> list[str]:
        """Python files that the record names and that are not there."""
        try:
            with (self.info / "RECORD").open(newline="", encoding="utf-8") as record:
                names = [row[0] for row in csv.reader(record) if row]
        except (OSError, UnicodeDecodeError):
            return []
        return [name for name in names if name.endswith(".py") and not (self.folder / name).is_file()]


def installations(distribution: str) -> list[Installation]:
    """Records of `distribution` on Python's path, the one that counts first."""
    wanted = _normalised(distribution)
    found = []
    for folder in dict.fromkeys(Path(entry or ".").absolute() for entry in sys.path):
        if not folder.is_dir():
            continue
        for info in sorted(folder.glob("*.dist-info")):
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            if _normalised(name) == wanted:
                found.append(Installation(folder, info, version))
    return found


def version_of(module: str) -> str | None:
    """Version of the distribution of `module`, or None where none is installed."""
    found = [record for name in DISTRIBUTIONS.get(module, (module,)) for record in installations(name)]
    return found[0].version if found else None


@dataclass(frozen=True)
class Place:
    """Where Python finds a module: `path` is its file or folder; kind is package, module or namespace."""

    path: Path
    kind: str


def place_of(module: str) -> Place | None:
    """What `import module` (a top-level name) would take, without importing it."""
    spec = importlib.machinery.PathFinder.find_spec(module)
    if spec is None or spec.loader is None:
        # Editable installs come in by finders of their own, after the path.
        others = [f for f in sys.meta_path if f is not importlib.machinery.PathFinder and hasattr(f, "find_spec")]
        spec = spec or next((s for f in others if (s := f.find_spec(module, None)) is not None), None)
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        return Place(Path(spec.origin or "").absolute(), "module")
    folder = Path(next(iter(spec.submodule_search_locations))).absolute()
    return Place(folder, "namespace" if spec.origin is None or spec.loader is None else "package")


def module_of(file: str) -> str | None:
    """The top-level module that a source file on Python's path belongs to; None for the standard library's."""
    path = Path(file)
    standard = Path(sysconfig.get_path("stdlib"))
    # The innermost first: site-packages lies within the standard library's folder.
    folders = sorted((Path(entry or ".").absolute() for entry in sys.path), key=lambda f: len(f.parts), reverse=True)
    for folder in folders:
        if path.suffix == ".py" and path.is_relative_to(folder):
            return None if folder == standard else path.relative_to(folder).parts[0].removesuffix(".py")
    return None


def shadow_of(module: str) -> Path | None:
    """The file or folder that Python takes instead of the installed `module`, if there is one."""
    place = place_of(module)
    if place is None:
        return None
    if place.kind == "module" and place.path.suffix == ".py":
        return place.path  # all of DISTRIBUTIONS are folders or compiled
    records = [record for name in DISTRIBUTIONS[module] for record in installations(name)]
    if any(record.folder == place.path.parent or record.is_editable for record in records):
        return None
    return place.path if records or place.kind == "namespace" else None


def requirement(of: str, on: str) -> str | None:
    """The version specifier with which distribution `of` requires `on` (`>=1.13.3`, may be empty), None if it does not.

    Of environment markers, only python_version and extra are looked at.
    """
    try:
        lines = metadata.requires(of) or []
    except (metadata.PackageNotFoundError, TypeError, ValueError):
        return None
    for line in lines:
        parsed = parse_requirement(line)
        if parsed is not None and _normalised(parsed[0]) == _normalised(on):
            return parsed[1]
    return None


def parse_requirement(line: str) -> tuple[str, str] | None:
    """(name, specifier) of a requirement that applies to this Python and no extra; None for others."""
    text, _, marker = line.partition(";")
    if "extra" in marker:
        return None
    running = ".".join(map(str, sys.version_info[:2]))
    for operator, version in re.findall(r"python_version\s*([<>=!]+)\s*[\"']([0-9.]+)[\"']", marker):
        if not satisfies(running, operator + version):
            return None
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)\)?\s*$", text)
    return None if match is None else (match[1], match[2].replace(" ", ""))


def satisfies(version: str, specifier: str) -> bool:
    """Whether `version` fits `specifier` (`>=1.1.0,<1.4`); a pre-release counts as its release, so 1.4.0a0 is not <1.4.

    Clauses that are not understood count as met.
    """
    return all(_meets(version, clause.strip()) for clause in specifier.split(",") if clause.strip())


def _meets(version: str, clause: str) -> bool:
    match = re.match(r"(===|==|!=|~=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?", clause)
    have, want = _release(version), _release(match[2]) if match else None
    if match is None or have is None or want is None:
        return True
    operator, prefix = match[1], match[3] is not None
    if operator == "~=":
        return _compare(have, want) >= 0 and have[: len(want) - 1] == want[:-1]
    same = have[: len(want)] == want if prefix else _compare(have, want) == 0
    if operator in ("==", "==="):
        return same
    if operator == "!=":
        return not same
    order = _compare(have, want)
    return {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}[operator]


def _release(version: str) -> tuple[int, ...] | None:
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else None


def _compare(a: Sequence[int], b: Sequence[int]) -> int:
    length = max(len(a), len(b))
    left, right = ([*numbers, *[0] * (length - len(numbers))] for numbers in (a, b))
    return (left > right) - (left < right)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
