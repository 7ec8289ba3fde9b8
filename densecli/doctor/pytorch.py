"""PyTorch, torchvision, and whether this build can use the GPUs of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from densecli.doctor import commands, failures
from densecli.doctor.children import Failure, Outcome, Step, slow
from densecli.doctor.nvidia import Gpu, Nvidia
from densecli.doctor.report import Check, problem, warning

_LITTLE_MEMORY = 2048  # MiB; less than that is free only where somebody else uses the GPU
# What torch says where the compiled part of torchvision did not load.
_NO_OPERATORS = re.compile(r"torchvision::nms|'torchvision' object has no attribute 'nms'")
_DRIVERS = "https://www.nvidia.com/drivers"


def judge_torch(outcome: Outcome, limit: float) -> Check:
    """The row `pytorch`."""
    start = outcome.steps.get("start")
    if start is not None and start.failure is not None:
        seen, fix = failures.explain_import("densecli", start.failure, outcome.stderr)
        return problem("pytorch", f"was not tried: {seen}", fix)
    step = outcome.steps["torch"]
    if step.failure is not None:
        seen, fix = failures.explain_import("torch", step.failure, outcome.stderr)
        return problem("pytorch", seen, fix)
    facts = outcome.facts("devices") or {}
    build = "ROCm" if facts.get("hip_build") else f"CUDA {facts['cuda_build']}" if facts.get("cuda_build") else "CPU"
    seen = f"{step.facts['version']} ({build} build), imported in {step.seconds:.1f} s"
    if failures.NUMPY_ABI.search(outcome.stderr):
        # `Failed to initialize NumPy`: torch goes on, and every exchange of arrays fails.
        fix = failures.reinstall("torch", "numpy>=1.26")
        return problem("pytorch", f"{seen}; it was built for another NumPy", fix)
    if step.seconds > slow(limit):
        return warning("pytorch", f"{seen}: slow", commands.python("-m", "compileall", "-q", _folder(step)))
    return Check("pytorch", seen)


def _folder(step: Step) -> str:
    return os.path.dirname(step.facts.get("file") or "torch")


def judge_torchvision(outcome: Outcome) -> Check | None:
    """The row `torchvision`, or None where torch itself does not import."""
    step = outcome.steps.get("torchvision")
    if step is None:
        return None
    if step.failure is None:
        return Check("torchvision", f"{step.facts['version']}, with its compiled operators")
    if _NO_OPERATORS.search(step.failure.text) or _is_unloadable(step.failure):
        version = (outcome.facts("torch") or {}).get("version")
        fix = commands.pip_install("--force-reinstall", "--no-deps", *_torchvision_for(version))
        seen = f"does not belong to torch {version}: {step.failure.text}"
        return problem("torchvision", seen, fix)
    seen, fix = failures.explain_import("torchvision", step.failure, outcome.stderr)
    return problem("torchvision", seen, fix)


def _is_unloadable(failure: Failure) -> bool:
    return "undefined symbol" in failure.text or "_C.so" in failure.text


def _torchvision_for(torch_version: str | None) -> list[str]:
    """Arguments of pip for the torchvision that goes with this torch, from the index of the same kind of build."""
    local = re.search(r"\+((?:cu|rocm)[\d.]+|cpu|xpu)$", torch_version or "")
    index = ["--index-url", f"https://download.pytorch.org/whl/{local[1]}"] if local else []
    return [failures.matching_torchvision(), *index]


def judge_gpus(facts: dict[str, Any] | None, nvidia: Nvidia | None) -> list[Check]:
    """The rows `cuda`, `gpu N` and `mps`, from the `devices` step of the torch probe and from the driver."""
    rows = []
    cuda = _judge_cuda(facts, nvidia)
    if cuda is not None:
        rows.append(cuda)
    rows += [_judge_gpu(index, gpu) for index, gpu in enumerate(nvidia.gpus if nvidia else ())]
    if facts is not None and facts["mps"]:
        rows.append(Check("mps", "Apple's GPU is available"))
    return rows


def _judge_cuda(facts: dict[str, Any] | None, nvidia: Nvidia | None) -> Check | None:
    if facts is not None and facts["cuda_available"]:
        return _judge_architectures(facts, nvidia)
    if nvidia is None:
        if facts is None or facts["mps"]:
            return None
        return Check("cuda", "no NVIDIA GPU, no Apple GPU: densecli runs on the CPU")
    if nvidia.error is not None:
        reboot = "mismatch" in nvidia.error  # an update of the driver that waits for a restart
        seen = f"{nvidia.error}; densecli runs on the CPU"
        return warning("cuda", seen, "sudo reboot" if reboot else f"install the driver from {_DRIVERS}")
    driver = f"driver {nvidia.driver}" + (f" (CUDA {_dotted(nvidia.cuda)})" if nvidia.cuda else "")
    if not nvidia.gpus:
        return Check("cuda", f"{driver}, no GPU")
    if facts is None:
        return Check("cuda", f"{driver}; PyTorch does not import, so it was not asked")
    count = f"{len(nvidia.gpus)} NVIDIA GPU{'s' if len(nvidia.gpus) > 1 else ''}"
    if facts["hip_build"] or facts["cuda_build"] is None:
        kind = "ROCm" if facts["hip_build"] else "CPU-only"
        seen = f"this PyTorch is a {kind} build on a machine with {count} ({driver}): densecli runs on the CPU"
        return warning("cuda", seen, commands.install_torch(nvidia.cuda))
    build = tuple(int(part) for part in facts["cuda_build"].split(".")[:2])
    if nvidia.cuda is not None and nvidia.cuda[0] < build[0]:
        # Within a major version of CUDA, newer builds run on older drivers.
        seen = f"{driver} is too old for this PyTorch (CUDA {facts['cuda_build']}): densecli runs on the CPU"
        if nvidia.cuda < (11, 0):
            return warning("cuda", seen, f"install a newer driver from {_DRIVERS}")
        return warning("cuda", seen, commands.install_torch(nvidia.cuda))
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and not re.match(r"\d|GPU-|MIG-", hidden):
        seen = f"CUDA_VISIBLE_DEVICES={hidden!r} hides {count}: densecli runs on the CPU"
        return warning("cuda", seen, commands.unset("CUDA_VISIBLE_DEVICES"))
    why = facts["cuda_warning"] or "PyTorch does not say why"
    seen = f"{count}, {driver}, but PyTorch cannot use it ({why}): densecli runs on the CPU"
    return warning("cuda", seen, "sudo reboot" if os.name != "nt" else "shutdown /r")


def _judge_architectures(facts: dict[str, Any], nvidia: Nvidia | None) -> Check:
    seen = ", ".join(f"{gpu['name']} (compute {_dotted(gpu['capability'])})" for gpu in facts["gpus"])
    if nvidia is not None and nvidia.driver:
        seen += f", driver {nvidia.driver}"
    if facts["hip_build"]:
        return Check("cuda", seen)
    for gpu in facts["gpus"]:
        if not runs_on(gpu["capability"], facts["arch_list"]):
            seen = (
                f"this PyTorch has no code for {gpu['name']} (compute {_dotted(gpu['capability'])}); "
                f"it has {', '.join(facts['arch_list'])}"
            )
            # The CUDA 12.6 builds are the last that carry old GPUs; new GPUs need the newest.
            old = gpu["capability"][0] < 8
            fix = commands.install_torch((12, 6) if old else (nvidia.cuda if nvidia else None))
            return problem("cuda", seen, fix)
    return Check("cuda", seen)


def runs_on(capability: Sequence[int], arch_list: Sequence[str]) -> bool:
    """Whether a build for `arch_list` (torch.cuda.get_arch_list()) has code for a GPU of this compute capability.

    Machine code (sm_86) runs on GPUs of the same major and the same or a later minor version, intermediate code
    (compute_90) on every later one; a suffix (sm_90a) ties it to exactly that version.
    """
    major, minor = capability
    for arch in arch_list:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if match is None:
            continue
        built = (int(match[2]), int(match[3]))
        if match[4] == "a":
            fits = built == (major, minor)
        elif match[1] == "sm" or match[4]:
            fits = built[0] == major and built[1] <= minor
        else:
            fits = built <= (major, minor)
        if fits:
            return True
    return False


def _judge_gpu(index: int, gpu: Gpu) -> Check:
    seen = f"{gpu.name}: {gpu.free / 1024:.1f} of {gpu.total / 1024:.1f} GiB free"
    if gpu.users:
        seen += f"; in use by {', '.join(gpu.users[:3])}{' and others' if len(gpu.users) > 3 else ''}"
    if gpu.total > 0 and gpu.free < min(_LITTLE_MEMORY, gpu.total // 2):
        # What holds the memory is the user's to judge: end it, or keep out of its way.
        return warning(f"gpu {index}", f"{seen}: little is left", commands.densecli("segment", "IMAGE", "-d", "cpu"))
    return Check(f"gpu {index}", seen)


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))
