"""All checks, in the order of the table; what needs a child process runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from densecli.doctor import commands, host, nvidia, packages, pytorch, room, running, symbolic, weights
from densecli.doctor.children import run_probe, time_limit
from densecli.doctor.report import Check, not_stopping, warning

Progress = Callable[[str], None]
# Rows of what a run on a CPU can do without; where it could not, the test run there has failed.
_NOT_FOR_A_CPU = {"shadowing", "sympy", "torchvision"}


def examine(*, deep: bool = False, limit: float | None = None, progress: Progress | None = None) -> list[Check]:
    """Run every check.

    deep: read checkpoints and compare their sha256. limit: seconds that an import may take, time_limit() if None.
    progress: called with the names of what is still running. Raises UsageError for a bad $DENSECLI_DOCTOR_TIMEOUT.
    """
    seconds = time_limit() if limit is None else limit
    with ThreadPoolExecutor(max_workers=6) as pool:
        # The longest first: it decides how long all of it takes.
        run = pool.submit(run_probe, "run", seconds)
        torch = pool.submit(run_probe, "torch", seconds)
        sympy = pool.submit(run_probe, "sympy", seconds)
        images = pool.submit(run_probe, "images", seconds)
        driver = pool.submit(nvidia.look, seconds)
        disk = pool.submit(weights.check_weights, deep=deep)
        names: dict[Future, str] = {
            run: "test run",
            torch: "PyTorch",
            sympy: "sympy",
            images: "image libraries",
            driver: "GPU driver",
            disk: "checkpoints",
        }
        if progress is not None:
            waiting = dict(names)
            progress(", ".join(waiting.values()))
            for done in as_completed(names):
                del waiting[done]
                progress(", ".join(waiting.values()))
    rows: list[Check] = []
    for name, check in (
        ("python", lambda: [host.check_python()]),
        ("environment", lambda: [host.check_environment()]),
        ("platform", lambda: [host.check_platform()]),
        ("shadowing", lambda: [host.check_shadowing()]),
        ("packages", lambda: [packages.check_packages()]),
        ("sympy", lambda: [symbolic.judge_symbolic(sympy.result(), seconds)]),
        ("images", lambda: packages.judge_images(images.result())),
        ("pytorch", lambda: [pytorch.judge_torch(torch.result(), seconds)]),
        ("torchvision", lambda: [row] if (row := pytorch.judge_torchvision(torch.result())) is not None else []),
        ("cuda", lambda: pytorch.judge_gpus(torch.result().facts("devices"), driver.result())),
        ("sam2", lambda: running.judge_run(run.result())),
        ("memory", lambda: room.judge_room(torch.result().facts("memory"))),
        ("checkpoints", disk.result),
    ):
        rows += _guarded(name, check)
    if running.cpu_suffices(run.result()):
        return [not_stopping(row) if row.name in _NOT_FOR_A_CPU else row for row in rows]
    return rows


def _guarded(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    """The rows of a check; one that fails itself, on a machine that nobody thought of, must not hide the others."""
    try:
        return check()
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return [warning(name, f"could not be checked ({what}); please report it", commands.densecli("doctor"))]
