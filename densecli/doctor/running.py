"""sam2, and the smoke run of the starter on each device, from the probe that does them."""

from __future__ import annotations

from densecli.doctor import commands
from densecli.doctor.children import HANG, Outcome
from densecli.doctor.failures import culprit, explain_import, reinstall
from densecli.doctor.installed import version_of
from densecli.doctor.report import Check, problem, warning
from densecli.doctor.source import STARTER, restore_starter


def cpu_suffices(outcome: Outcome) -> bool:
    """Whether the test run on the CPU succeeded, and this machine has nothing else to run on.

    Where there is a GPU, networks may be compiled, which needs sympy.
    """
    tried = [name for name in outcome.steps if name.startswith("run on ")]
    return tried == ["run on cpu"] and outcome.failed() is None


def judge_run(outcome: Outcome) -> list[Check]:
    """The rows `sam2`, `numba` and `run on DEVICE`.

    What fails before them has rows of its own, which `sam2` points to.
    """
    rows = []
    failed = outcome.failed()
    if "sam2" not in outcome.steps:
        if failed is None or failed.failure is None:  # cannot be: a probe that ends early has a step that failed
            raise RuntimeError("the probe ended without a word")
        module = failed.name if failed.name != "start" else "densecli"
        _, fix = explain_import(module, failed.failure, outcome.stderr)
        return [problem("sam2", f"was not tried, because the import of {module} does not come to its end", fix)]
    for step in outcome.steps.values():
        if step.name == "sam2":
            rows.append(_judge_sam2(outcome))
        elif step.name == "numba":
            rows.append(_judge_numba(outcome))
        elif step.name.startswith("run on "):
            rows.append(_judge_device(step.name.removeprefix("run on "), outcome))
        elif step.name == "start" and step.failure is not None:
            rows.append(problem("run", step.failure.text, commands.densecli("segment", "IMAGE", "-v")))
    return rows


def _judge_sam2(outcome: Outcome) -> Check:
    step = outcome.steps["sam2"]
    if step.failure is not None:
        seen, fix = explain_import("sam2", step.failure, outcome.stderr)
        return problem("sam2", seen, fix)
    extension = "with" if step.facts["cuda_extension"] else "without"
    version = version_of("sam2") or "no version known"
    return Check("sam2", f"{version}, {extension} its CUDA extension, which densecli does not need")


def _judge_numba(outcome: Outcome) -> Check:
    """A run does without numba, by way of torch and torchvision."""
    step = outcome.steps["numba"]
    if step.failure is not None:
        seen, fix = explain_import("numba", step.failure, outcome.stderr)
        return problem("numba", seen, fix)
    version = version_of("numba")
    why = step.facts["why_not"]
    if why is None:
        return Check("numba", f"{version or 'no version known'}, its compiled loops can be used")
    seen = f"runs take several times longer: numba cannot be used ({why})"
    if "cannot cache function" in why:
        return warning("numba", seen, commands.variable("NUMBA_CACHE_DIR", commands.own_folder("densecli-numba")))
    if "NUMBA_DISABLE_JIT" in why:
        return warning("numba", seen, commands.unset("NUMBA_DISABLE_JIT"))
    if version is None:
        return warning("numba", seen, commands.pip_install("numba>=0.60"))
    return warning("numba", seen, reinstall("numba"))


def _judge_device(device: str, outcome: Outcome) -> Check:
    name = f"run on {device}"
    step = outcome.steps[name]
    if step.failure is not None:
        verb = "hangs" if step.failure.kind == HANG else "fails"
        if (module := culprit(step.failure)) is not None:
            seen, fix = explain_import(module, step.failure, outcome.stderr)
            seen = f"{module}: {seen}"
        elif STARTER in step.failure.text:
            seen, fix = f"{verb}: {step.failure.text}", restore_starter()
        elif device == "cpu":
            seen, fix = f"{verb}: {step.failure.text}", commands.densecli("segment", "IMAGE", "-d", "cpu", "-v")
        else:
            seen = f"{verb}: {step.failure.text}; the CPU works"
            fix = commands.densecli("segment", "IMAGE", "-d", "cpu")
        return problem(name, seen, fix)
    facts = step.facts
    if device == "cpu":
        return Check(name, f"starter finds {facts['masks']} masks in a test image, {facts['seconds']:.1f} s")
    return Check(
        name,
        f"starter finds {facts['masks']} masks in a test image, {facts['as_cpu']} of the CPU's {facts['of_cpu']} "
        f"among them, {facts['precision']} works too, {facts['seconds']:.1f} s",
    )
