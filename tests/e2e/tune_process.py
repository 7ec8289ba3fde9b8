"""`densecli tune` as a child process: where its page is, and how it ends."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.conftest import Command


class TuneProcess:
    """The command, with its page open. arguments: as on the command line, without `tune`."""

    def __init__(self, run: Command, cwd: Path, *arguments: str, browser: str = "--no-browser") -> None:
        self.process = subprocess.Popen(
            run.argv("tune", *arguments, browser),
            cwd=cwd,
            env=dict(run.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that started the tests in the background may have made SIGINT ignored, for all its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.process.communicate()[1]

    def end(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """Exit code, further stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err
