"""sympy and mpmath: PyTorch's compiler and torchvision import them, and fail with them where they are broken.

A run on the CPU uses neither (`engine/boxes.py`), but some versions of PyTorch import sympy at once.
"""

from __future__ import annotations

from densecli.doctor import commands
from densecli.doctor.children import HANG, Outcome, Step, slow
from densecli.doctor.installed import Installation, installations, place_of, requirement, satisfies, shadow_of
from densecli.doctor.report import Check, Repair, problem, warning

MODULES = frozenset({"sympy", "mpmath"})
# sympy 1.13.3 is the first that says which mpmath it works with; mpmath 1.4 took away what sympy uses.
_SYMPY, _MPMATH = ">=1.13.3", ">=1.3,<1.4"


def cure() -> tuple[str, Repair]:
    """The command that makes sympy and mpmath whole again, for people and for `--fix`."""
    wanted = requirement("torch", "sympy") or _SYMPY
    broken = [record.info for name in sorted(MODULES) for record in installations(name) if not record.is_whole]
    arguments = ["--force-reinstall", f"sympy{wanted}", f"mpmath{_MPMATH}"]
    text = commands.pip_install(*arguments)
    if broken:  # pip cannot uninstall by a record that is not there, and stops
        text = f"{commands.remove(broken)} && {text}"
    return text, Repair(tuple(commands.pip_arguments(*arguments)), tuple(broken))


def judge_symbolic(outcome: Outcome, limit: float) -> Check:
    """The row `sympy`, from the files on disk and from the probe that imports mpmath and sympy."""
    failed = outcome.failed()
    for name in sorted(MODULES):
        shadow = shadow_of(name)
        if shadow is not None and (shadow.suffix == ".py" or failed is not None):
            seen = f"Python takes {shadow} for {name}"
            seen += f", and {_import_fault(failed)}" if failed is not None else ""
            return problem("sympy", seen, commands.rename_away(shadow))
    fix, repair = cure()
    seen = ", ".join(_version(name) for name in ("sympy", "mpmath"))
    faults = [fault for name in ("sympy", "mpmath") for fault in _half_installed(name)] + _unfit_versions()
    if failed is not None:
        faults.insert(0, _import_fault(failed))
        return problem("sympy", f"{seen}: {'; '.join(faults)}", fix, repair)
    if faults:
        return warning("sympy", f"{seen}: {'; '.join(faults)}", fix, repair)
    seconds = sum(step.seconds for step in outcome.steps.values())
    if seconds > slow(limit):
        # Nothing is wrong with the files; compiled ones are missing, or the disk or a virus scanner is slow.
        folder = place_of("sympy")
        where = str(folder.path) if folder else "sympy"
        fix = commands.python("-m", "compileall", "-q", where)
        return warning("sympy", f"{seen}: the import took {seconds:.1f} s", fix)
    return Check("sympy", f"{seen}, imported in {seconds:.1f} s")


def _import_fault(step: Step) -> str:
    assert step.failure is not None
    return f"import {step.name} {'hangs' if step.failure.kind == HANG else 'fails'}: {step.failure.text}"


def _version(name: str) -> str:
    records = installations(name)
    return f"{name} {records[0].version}" if records else f"{name} not installed"


def _half_installed(name: str) -> list[str]:
    """What is wrong with the files of one package, in words."""
    records = installations(name)
    place = place_of(name)
    if not records:
        return [] if place is None else [f"{place.path} has no record of its installation (no {name}-*.dist-info)"]
    faults = [
        f"{record.info} is incomplete (no {'METADATA' if not (record.info / 'METADATA').is_file() else 'RECORD'})"
        for record in records
        if not record.is_whole
    ]
    first = records[0]
    if place is None:
        faults.append(f"{first.info} is there, but the package is not")
    elif missing := first.missing_files():
        more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
        faults.append(f"{first.folder / missing[0]}{more} missing")
    doubles = [record for record in records if record.folder == first.folder]
    if len(doubles) > 1:
        faults.append(f"{len(doubles)} versions installed over each other ({', '.join(map(_shown, doubles))})")
    return faults


def _shown(record: Installation) -> str:
    return record.version


def _unfit_versions() -> list[str]:
    """Versions that do not go together, by what torch and sympy require and by what is known."""
    faults = []
    versions = {name: records[0].version for name in MODULES if (records := installations(name))}
    wanted = requirement("torch", "sympy")
    if wanted and "sympy" in versions and not satisfies(versions["sympy"], wanted):
        faults.append(f"torch requires sympy{wanted}")
    wanted = requirement("sympy", "mpmath")
    if wanted and "mpmath" in versions and not satisfies(versions["mpmath"], wanted):
        faults.append(f"sympy requires mpmath{wanted}")
    elif set(versions) == MODULES and satisfies(versions["sympy"], "<1.13") and satisfies(versions["mpmath"], ">=1.4"):
        faults.append("sympy before 1.13 does not work with mpmath 1.4")
    return faults
