"""`--save`: which kinds there are, in which order they are written, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from densecli.errors import UsageError
from densecli.sinks import KINDS, WriteOptions, parse_kinds, sink


def test_kinds_come_in_writing_order_and_once() -> None:
    assert parse_kinds("json, overlay,overlay,,masks") == ("overlay", "masks", "json")
    assert parse_kinds(",".join(KINDS))[-1] == "json"  # its presence says that all is there


@pytest.mark.parametrize(("text", "said"), [("overlay,jsn", "'jsn'"), ("", "no kind"), (" , ", "no kind")])
def test_bad_kinds(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        parse_kinds(text)
    assert ",".join(KINDS) in str(raised.value)


def test_each_kind_has_a_path_of_its_own() -> None:
    stem = Path("out/desk.v2")
    paths = {sink(kind).path(stem) for kind in KINDS}
    assert len(paths) == len(KINDS)
    assert all(path.parent == Path("out") and re.match(r"desk\.v2[_.]\w", path.name) for path in paths)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_bad_alpha(alpha: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        WriteOptions(alpha=alpha)
