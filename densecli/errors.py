"""The errors a user can meet, each with the exit code of the command line.

Every message says what happened, which file it was about, and what to do; it is shown as it is, on one line.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_NOTHING_SUCCEEDED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_ENVIRONMENT = 4
EXIT_INTERRUPTED = 130


class DensecliError(Exception):
    """Base of all errors that densecli raises on purpose. `exit_code` is what the command ends with."""

    exit_code = EXIT_NOTHING_SUCCEEDED


class UsageError(DensecliError):
    """A bad option, preset, key or value."""

    exit_code = EXIT_USAGE


class InputError(DensecliError):
    """One input that cannot be read or processed; other inputs go on."""

    exit_code = EXIT_NOTHING_SUCCEEDED


class OutputError(DensecliError):
    """An output that cannot be written (no permission, no space)."""

    exit_code = EXIT_NOTHING_SUCCEEDED


class CheckpointError(DensecliError):
    """A checkpoint that is missing, damaged, or does not fit its config."""

    exit_code = EXIT_ENVIRONMENT


class EnvironmentProblem(DensecliError):
    """A device, driver or package that is missing or broken."""

    exit_code = EXIT_ENVIRONMENT


def is_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C is behind `error`: a library that it strikes in may turn it into an error of its own."""
    seen: set[int] = set()
    behind: BaseException | None = error
    while behind is not None and id(behind) not in seen:
        if isinstance(behind, KeyboardInterrupt):
            return True
        seen.add(id(behind))
        behind = behind.__cause__ or behind.__context__
    return False
