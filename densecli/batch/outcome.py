"""What became of a run, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from densecli import errors


@dataclass
class Outcome:
    """Counts of inputs, and times."""

    exit_code: int = errors.EXIT_OK
    done: int = 0
    complete: int = 0
    """Inputs that an earlier run had finished."""
    redone: int = 0
    """Of the done ones, those that an earlier run had tried, or done with other settings or another input."""
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """Files that are no inputs, by reason."""
    seconds: float = 0.0
    """From the first input to the last; loading the model and the report are not in it."""
    busy_seconds: float = 0.0
    """Time in which the workers segmented, on average over them."""
