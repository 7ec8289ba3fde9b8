"""The folder in which densecli keeps files of a user between runs: the cache folder of the platform."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def user_cache() -> Path | None:
    """None for a user without a home, as in containers that run under a number nobody has (`docker run -u 12345`)."""
    try:
        folder = platformdirs.user_cache_dir("densecli", appauthor=False)
    except RuntimeError:
        return None
    return None if folder.startswith("~") else Path(folder)  # what older versions of platformdirs say
