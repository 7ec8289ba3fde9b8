"""`doctor --fix`: runs the commands of checks that carry one."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

from densecli.doctor.report import Check, Repair
from densecli.errors import EnvironmentProblem


def repairs(checks: Sequence[Check]) -> list[tuple[str, Repair]]:
    """(command as text, repair) of the checks that `--fix` can mend."""
    found = {check.fix: check.repair for check in checks if check.repair is not None and check.fix is not None}
    return [(text, repair) for text, repair in found.items() if repair is not None]


def mend(repair: Repair) -> None:
    """Carry out one repair; what the command says goes to stderr. Raises EnvironmentProblem when it fails."""
    try:
        for folder in repair.remove:
            shutil.rmtree(folder)
        code = subprocess.run(repair.command, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        what = error.filename or repair.command[0]
        raise EnvironmentProblem(f"the repair stopped: {what}: {error.strerror}; run the command by hand") from error
    if code != 0:
        raise EnvironmentProblem(
            f"the repair ended with exit code {code}: {' '.join(repair.command)}; what it said stands above"
        )
    importlib.invalidate_caches()
