"""sam2, and the smoke run of the starter on each device, from the probe that does them."""

from __future__ import annotations

from densecli.doctor import commands
from densecli.doctor.children import HANG, Outcome
from densecli.doctor.failures import explain_import
from densecli.doctor.installed import version_of
from densecli.doctor.report import Check, problem


def judge_run(outcome: Outcome) -> list[Check]:
    """The rows `sam2` and `run on DEVICE`. What fails before them has rows of its own, which `sam2` points to."""
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


def _judge_device(device: str, outcome: Outcome) -> Check:
    name = f"run on {device}"
    step = outcome.steps[name]
    if step.failure is not None:
        verb = "hangs" if step.failure.kind == HANG else "fails"
        if step.failure.missing is not None:
            seen, fix = explain_import(step.failure.missing, step.failure, outcome.stderr)
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
