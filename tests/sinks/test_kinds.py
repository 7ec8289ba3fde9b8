"""`--save`: which kinds there are, in which order they are written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from densecli.errors import OutputError, UsageError
from densecli.sinks import KINDS, WriteOptions, parse_kinds
from densecli.sinks.one_image import outputs_of, write_outputs
from tests.sinks.conftest import segmentation_of


def test_kinds_come_in_writing_order_and_once() -> None:
    assert parse_kinds("json, overlay,overlay,,masks") == ("overlay", "masks", "json")
    assert parse_kinds(",".join(KINDS))[-1] == "json"  # its presence says that all is there


@pytest.mark.parametrize(("text", "said"), [("overlay,jsn", "'jsn'"), ("", "no kind"), (" , ", "no kind")])
def test_bad_kinds(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        parse_kinds(text)
    assert ",".join(KINDS) in str(raised.value)


def test_where_each_kind_goes() -> None:
    paths = outputs_of("a/desk.v2", Path("out"), (*KINDS, "coco"))
    assert list(paths) == list(KINDS)
    assert {kind: path.as_posix() for kind, path in paths.items()} == {
        "overlay": "out/a/desk.v2_overlay.png",
        "labels": "out/a/desk.v2_labels.png",
        "labels-wholes": "out/a/desk.v2_labels_wholes.png",
        "labels-leaves": "out/a/desk.v2_labels_leaves.png",
        "masks": "out/a/desk.v2_masks",
        "cutouts": "out/a/desk.v2_cutouts",
        "candidates": "out/a/desk.v2.candidates",
        "json": "out/a/desk.v2_masks.json",
    }


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf")])
def test_bad_alpha(alpha: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        WriteOptions(alpha=alpha)


@pytest.mark.parametrize("first", [True, False])
def test_what_was_there_goes_only_when_something_new_has_come(tmp_path: Path, first: bool) -> None:
    """Else half a set could pass for a whole one."""
    segmentation = segmentation_of(np.zeros((20, 30, 3), np.uint8), [np.ones((20, 30), bool)])
    outputs = outputs_of("desk", tmp_path, ("overlay", "labels", "json"))
    write_outputs(segmentation, outputs, WriteOptions())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    blocked = outputs["overlay" if first else "labels"]
    blocked.unlink()
    blocked.mkdir()  # a folder where a file must go
    with pytest.raises(OutputError, match="is a folder where a file must go"):
        write_outputs(segmentation, outputs, WriteOptions(alpha=0.1))
    blocked.rmdir()
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = before.keys() - {blocked.name} - (set() if first else {"desk_masks.json"})
    assert after.keys() == kept
    if first:
        assert all(after[name] == before[name] for name in kept)
    write_outputs(segmentation, outputs, WriteOptions())
    assert {path.name for path in tmp_path.iterdir()} == before.keys()
