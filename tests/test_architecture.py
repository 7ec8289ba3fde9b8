"""The arrows between modules that must never be, and what a light import may bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "densecli"


def imported_by(path: Path) -> set[str]:
    """Modules that a file imports anywhere, also inside functions, but not only for type checking."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def reaches(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    return sorted(m for m in imported_by(path) if any(m == f or m.startswith(f + ".") for f in forbidden))


@pytest.mark.parametrize("path", sorted((PACKAGE / "engine").glob("*.py")), ids=lambda p: p.name)
def test_engine_knows_no_commands_files_or_yaml(path: Path) -> None:
    assert reaches(path, ("yaml", "typer", "PIL", "fsspec")) == []
    own = {name for name in reaches(path, ("densecli",)) if not f"{name}.".startswith("densecli.engine.")}
    assert {name.split(".")[1] for name in own if "." in name} <= {"engine", "errors", "masks", "wording"}


def test_masks_need_only_numpy_and_pycocotools() -> None:
    allowed = {
        "__future__",
        "collections.abc",
        "colorsys",
        "copy",
        "dataclasses",
        "functools",
        "json",
        "pathlib",
        "typing",
    }
    used = {m for m in imported_by(PACKAGE / "masks.py") if not m.startswith(("numpy", "pycocotools"))}
    assert {m for m in used if not any(m == a or m.startswith(a + ".") for a in allowed)} <= {
        "densecli",
        "densecli.__version__",
    }


@pytest.mark.parametrize(
    "path",
    sorted(p for name in ("sinks", "sources", "remote", "report") for p in (PACKAGE / name).glob("*.py")),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_what_runs_use_knows_no_runs(path: Path) -> None:
    assert reaches(path, ("densecli.batch", "densecli.one_by_one")) == []


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent.name != "cli" and p.name != "__main__.py"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_nothing_reaches_into_the_command_line(path: Path) -> None:
    assert reaches(path, ("densecli.cli",)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import densecli",
        "from densecli import Mask, Segmentation",
        "import densecli.cli.app, densecli.cli.tree",
        "from densecli.presets import list_presets; list_presets()",
        "from densecli.checkpoints import load_registry; load_registry()",
        "import densecli.cli.doctor, densecli.doctor.examination",
    ],
)
def test_light_imports_stay_light(code: str) -> None:
    heavy = ("torch", "cv2", "sam2", "numba", "hydra", "starlette", "uvicorn")
    script = f"import sys; {code}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
