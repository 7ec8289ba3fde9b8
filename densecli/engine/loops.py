"""numba's njit for loops whose code is kept on disk, where trouble with what is kept stops no run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from numba import njit

_trouble: list[str] = []


def loop(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called, without the GIL; its code is kept. options: further ones of njit."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, cache=True, **options)(function)
        if hasattr(dispatcher, "_cache"):  # not of another numba's, nor with NUMBA_DISABLE_JIT
            dispatcher._cache = _Forgiving(dispatcher._cache)
        return dispatcher

    return compiled


def not_kept() -> str | None:
    """What kept compiled code from being kept, said once: every run compiles it anew, which takes long."""
    if not _trouble:
        return None
    said = _trouble[0]
    _trouble[:] = [""]
    return said or None


class _Forgiving:
    """The cache of a function. numba raises what is wrong with its files: cut off by a power cut, of another user, a
    full disk."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return self._cache.load_overload(sig, target_context)
        except Exception:  # whatever unpickling raises
            with contextlib.suppress(Exception):
                self._cache.flush()  # else what is compiled now could not be kept either
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            self._cache.save_overload(sig, data)
        except Exception as error:
            if not _trouble:
                _trouble.append(f"{self._cache.cache_path}: {getattr(error, 'strerror', None) or error}")
