"""Ctrl-C in a command: one word and exit code 130, whatever was under way."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import typer

from densecli import errors


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C in the block into what cli.app expects."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if getattr(interrupt, "stuck", False):
            # A thread deep in a library does not listen, and would crash the interpreter on its way out.
            print("densecli: error: interrupted", file=sys.stderr, flush=True)
            os._exit(errors.EXIT_INTERRUPTED)
        # Left to typer, some versions end without a word.
        raise typer.Abort from None
