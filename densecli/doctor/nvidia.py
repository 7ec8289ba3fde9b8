"""What the NVIDIA driver says about its GPUs, by nvidia-ml-py where that is installed, else by nvidia-smi."""

from __future__ import annotations

import importlib.util
import queue
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU. Memory in MiB; users: who holds memory of it, as `name (pid 12, 300 MiB)`."""

    name: str
    total: int
    free: int
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nvidia:
    """The driver and its GPUs; `error` is what it said instead. `cuda`: the newest CUDA that the driver runs."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    error: str | None = None


def look(limit: float) -> Nvidia | None:
    """What is there, or None where nothing hints at an NVIDIA GPU. Takes `limit` seconds at most."""
    if importlib.util.find_spec("pynvml") is not None:
        answers: queue.Queue[Nvidia | None] = queue.Queue()
        # A driver in trouble may never come back from a call; a daemon thread does not keep the command alive.
        threading.Thread(target=lambda: answers.put(_by_library()), daemon=True).start()
        try:
            if (answer := answers.get(timeout=limit)) is not None:
                return answer
        except queue.Empty:
            return Nvidia(error=f"the NVIDIA driver does not answer within {limit:g} s")
    if program := shutil.which("nvidia-smi"):
        return by_program(program, limit)
    if _on_the_bus():
        return Nvidia(error="an NVIDIA GPU is built in, but there is no driver (no nvidia-smi)")
    return None


def _by_library() -> Nvidia | None:
    """The answers of nvidia-ml-py; None where it fails, because nvidia-smi says in words what is wrong."""
    try:
        return _asked_library()
    except Exception:
        return None


def _asked_library() -> Nvidia:
    import pynvml

    pynvml.nvmlInit()
    try:
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            users = tuple(
                f"pid {process.pid} ({(process.usedGpuMemory or 0) >> 20} MiB)"
                for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            )
            gpus.append(Gpu(_text(pynvml.nvmlDeviceGetName(handle)), memory.total >> 20, memory.free >> 20, users))
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return Nvidia(tuple(gpus), driver, (version // 1000, version % 1000 // 10))
    finally:
        pynvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def by_program(program: str, limit: float) -> Nvidia:
    """The answers of nvidia-smi."""
    try:
        said = _run([program], limit)
        listed = _run([program, "--query-gpu=name,uuid,memory.total,memory.free", *_CSV], limit)
        used = _run([program, "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", *_CSV], limit)
    except subprocess.TimeoutExpired:
        return Nvidia(error=f"nvidia-smi does not answer within {limit:g} s")
    except (OSError, RuntimeError) as error:
        return Nvidia(error=f"nvidia-smi: {error}")
    users: dict[str, list[str]] = {}
    for uuid, pid, name, megabytes in _rows(used, 4):
        users.setdefault(uuid, []).append(f"{Path(name).name} (pid {pid}, {megabytes} MiB)")
    gpus = [
        Gpu(name, _number(total), _number(free), tuple(users.get(uuid, ())))
        for name, uuid, total, free in _rows(listed, 4)
    ]
    driver = re.search(r"Driver Version:\s*([\d.]+)", said)
    cuda = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", said)
    return Nvidia(tuple(gpus), driver and driver[1], (int(cuda[1]), int(cuda[2])) if cuda else None)


_CSV = ("--format=csv,noheader,nounits",)


def _run(command: list[str], limit: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit, check=False)
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        raise RuntimeError(said or f"ended with exit code {done.returncode}")
    return done.stdout


def _rows(text: str, columns: int) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return [row for row in rows if len(row) == columns]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0  # `[N/A]` on devices that share the memory of the host


def _on_the_bus() -> bool:
    """Whether Linux sees a display controller (class 03) of NVIDIA (vendor 10de)."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False
