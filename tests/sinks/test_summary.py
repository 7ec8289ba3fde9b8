"""The summary as text: it reads back as the same values, one mask a line, and is UTF-8 whatever the path."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from densecli.masks import Segmentation
from densecli.sinks import WriteOptions, summary


def test_reads_back_and_has_a_line_a_mask(segmentation: Segmentation, tmp_path: Path) -> None:
    path = tmp_path / "desk_masks.json"
    summary.write(segmentation, path, WriteOptions())
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == segmentation.summary()
    assert sum(line.startswith('    {"id": ') for line in text.splitlines()) == 3


def test_without_masks(empty: Segmentation) -> None:
    assert json.loads(summary.to_json(empty.summary()))["masks"] == []


@pytest.mark.parametrize("name", [b'caf\xc3\xa9 "q" \'\n.png', b"latin-\xe9.png", "…🖼.png".encode()])
def test_any_file_name(name: bytes, segmentation: Segmentation, tmp_path: Path) -> None:
    segmentation.image["path"] = os.fsdecode(name)
    summary.write(segmentation, tmp_path / "s.json", WriteOptions())
    text = (tmp_path / "s.json").read_bytes().decode("utf-8", "strict")
    assert os.fsencode(json.loads(text)["image"]["path"]) == name


def test_what_json_does_not_know_is_refused(segmentation: Segmentation, tmp_path: Path) -> None:
    segmentation.seconds["load"] = float("nan")
    with pytest.raises(ValueError):
        summary.write(segmentation, tmp_path / "s.json", WriteOptions())
    assert list(tmp_path.iterdir()) == []
