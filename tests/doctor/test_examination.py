"""The report: document, exit code, and checks that fail themselves."""

from __future__ import annotations

import pytest

from densecli.doctor import examination
from densecli.doctor.report import Check, document, problem, stops_a_run, warning


def test_document_and_exit() -> None:
    checks = [Check("a", "fine"), warning("b", "so-so", "do b")]
    assert not stops_a_run(checks)
    assert document(checks) == {
        "schema": "densecli/doctor/1",
        "ok": True,
        "checks": [
            {"name": "a", "seen": "fine", "status": "ok", "fix": None},
            {"name": "b", "seen": "so-so", "status": "warning", "fix": "do b"},
        ],
    }
    checks.append(problem("c", "bad", "do c"))
    assert stops_a_run(checks) and document(checks)["ok"] is False


@pytest.mark.parametrize(("status", "fix"), [("problem", None), ("warning", None), ("ok", "do")])
def test_what_is_not_ok_needs_a_fix(status: str, fix: str | None) -> None:
    with pytest.raises(ValueError, match="fix"):
        Check("a", "seen", status, fix)


def test_a_check_that_fails_itself_hides_no_other() -> None:
    def check() -> list[Check]:
        raise PermissionError(13, "Permission denied", "/etc/x")

    (row,) = examination._guarded("disk space", check)
    assert (row.name, row.status) == ("disk space", "warning") and "Permission denied" in row.seen
