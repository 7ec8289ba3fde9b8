"""Versions, specifiers and requirements of what is installed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecli.doctor import installed


@pytest.mark.parametrize(
    ("version", "specifier", "fits"),
    [
        ("1.3.0", "<1.4,>=1.1.0", True),
        ("1.4.0a0", "<1.4,>=1.1.0", False),
        ("1.0", ">=1.1.0", False),
        ("1.14", ">=1.13.3", True),
        ("1.13.1", "==1.13.1", True),
        ("1.13.1", "==1.13.*", True),
        ("1.14.1", "==1.13.*", False),
        ("2.0", "!=2.0.0", False),
        ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("1.0", "", True),
    ],
)
def test_satisfies(version: str, specifier: str, fits: bool) -> None:
    assert installed.satisfies(version, specifier) is fits


_versions = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))


@given(_versions, _versions)
def test_satisfies_agrees_with_packaging(version: str, other: str) -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    for operator in ("==", "!=", "<", "<=", ">", ">="):
        expected = version in specifiers.SpecifierSet(operator + other)
        assert installed.satisfies(version, operator + other) is expected


def test_parse_requirement() -> None:
    assert installed.parse_requirement("sympy>=1.13.3") == ("sympy", ">=1.13.3")
    assert installed.parse_requirement('sympy (==1.13.1) ; python_version >= "3.9"') == ("sympy", "==1.13.1")
    assert installed.parse_requirement('sympy==1.12 ; python_version < "3.9"') is None
    assert installed.parse_requirement('scipy ; extra == "scipy"') is None
