"""Code that a child process begins with."""

from __future__ import annotations

import sys
from pathlib import Path


def same_modules() -> str:
    """By which a child finds modules where this process does, and this very densecli, wherever it was found."""
    folder = str(Path(__file__).resolve().parents[1])
    return f"import sys; sys.path[:] = {[folder, *sys.path]!r}; import densecli; sys.path[:] = {sys.path!r}"
