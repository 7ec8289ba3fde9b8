"""How long a download waits, and how often it tries again."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

from densecli.errors import UsageError

TIMEOUT_VARIABLE = "DENSECLI_DOWNLOAD_TIMEOUT"
DEFAULT_TIMEOUT = 30.0  # seconds without a byte before a connection counts as stalled


@dataclass(frozen=True)
class Patience:
    """How long a download waits and how often it tries again."""

    timeout: float = DEFAULT_TIMEOUT  # seconds without a byte before a connection counts as stalled
    attempts: int = 5  # failures in a row, without anything new received, before a source is given up
    backoff: float = 1.0  # seconds before the first new attempt; doubles with every failure in a row
    longest_wait: float = 30.0  # seconds; also the most that a server's Retry-After is granted

    def wait(self, failures: int, retry_after: float) -> float:
        """Seconds to wait after this many failures in a row (0: the last attempt brought something new)."""
        # Jitter, so that many machines that lost the same server do not come back at the same moment.
        delay = self.backoff * 2.0 ** (failures - 1) * random.uniform(0.75, 1.25)
        return min(max(delay, retry_after), self.longest_wait)


def patience_from_environment() -> Patience:
    """The defaults, with the timeout of $DENSECLI_DOWNLOAD_TIMEOUT (seconds). Raises UsageError if it is no number."""
    given = os.environ.get(TIMEOUT_VARIABLE)
    if not given:
        return Patience()
    try:
        timeout = float(given)
    except ValueError:
        timeout = 0.0
    if not 0 < timeout < 1e6:
        raise UsageError(f"${TIMEOUT_VARIABLE} is '{given}', but must be a number of seconds above 0.")
    return Patience(timeout=timeout)
