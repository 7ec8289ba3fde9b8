"""The manifest: what is appended is there, torn lines do no harm, and the latest line counts."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecli.batch.manifest import SCHEMA, Manifest, Record, key_of, manifest_path, manifest_paths, to_line
from densecli.errors import OutputError


def line(stem: str | None, finished: float = 1.0, **values: Any) -> dict[str, Any]:
    entry = {"schema": SCHEMA, "input": f"in/{stem}.png", "status": "done", "finished": finished, **values}
    return entry if stem is None else {**entry, "stem": stem}


def write(path: Path, *entries: dict[str, Any]) -> None:
    with Manifest(path) as manifest:
        for entry in entries:
            manifest.append(entry)


def test_lines_come_back(tmp_path: Path) -> None:
    write(tmp_path / "manifest.jsonl", line("a"), line("b"), line("a", 2.0, masks=7))
    write(tmp_path / "manifest.jsonl", line("c", 3.0))
    with Record(tmp_path) as record:
        assert record.of("a") == line("a", 2.0, masks=7)
        assert record.of("d") is None
        assert [entry["stem"] for entry in record.entries()] == ["b", "a", "c"]


@given(st.text(st.characters(exclude_categories=())))
def test_any_name_is_one_line_of_utf8_and_comes_back(name: str) -> None:
    text = to_line(line(name))
    assert "\n" not in text and json.loads(text.encode("utf-8"))["stem"] == name


def test_a_line_is_found_again_by_its_place(tmp_path: Path) -> None:
    with Manifest(manifest_path(tmp_path)) as manifest:
        entries = [{"schema": SCHEMA, "input": name, "stem": "ä\udcff" * count} for count, name in enumerate("abc", 1)]
        places = [manifest.append(entry) for entry in entries]
        assert [manifest.line(*place) for place in places] == entries
        assert manifest.append(entries[0]) != places[0]  # lines go on behind what was read


def test_nothing_is_made_for_nothing(tmp_path: Path) -> None:
    write(tmp_path / "manifest.jsonl")
    assert list(tmp_path.iterdir()) == []
    with Record(tmp_path / "missing") as record:
        assert list(record.entries()) == []


LONG = b'{"schema": "densecli/manifest/1", "stem": "' + b"x" * 200_000


@pytest.mark.parametrize("torn", [b"{", b'{"schema": "densecli/manifest/1", "stem": "b', LONG, b"\0" * 300])
def test_a_torn_line_goes_and_what_follows_is_whole(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "manifest.jsonl"
    write(path, line("a"))
    path.write_bytes(path.read_bytes() + torn)
    with Record(tmp_path) as record:
        assert [entry["stem"] for entry in record.entries()] == ["a"]
    write(path, line("c"))
    assert [json.loads(text)["stem"] for text in path.read_text().splitlines()] == ["a", "c"]
    path.write_bytes(torn)  # and without any whole line before
    write(path, line("d"))
    assert [json.loads(text)["stem"] for text in path.read_text().splitlines()] == ["d"]


def test_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    write(path, line("a"))
    path.write_bytes(path.read_bytes() + b'[1]\nnull\n{"stem": "x"}\n\nno json\n' + b"[" * 9999 + b"\n")
    with Record(tmp_path) as record:
        assert [entry["stem"] for entry in record.entries()] == ["a"]


@pytest.mark.parametrize("stem", ["/etc/x", "../x", "a/../../x", "..", ".", "", "a\0b", 7, ["a"]])
def test_lines_of_outputs_outside_of_the_folder_are_passed_over(tmp_path: Path, stem: Any) -> None:
    write(tmp_path / "manifest.jsonl", line("a"), {**line("b"), "stem": stem}, line("c/..d"))
    with Record(tmp_path) as record:
        assert [entry["stem"] for entry in record.entries()] == ["a", "c/..d"]


@pytest.mark.parametrize("values", [{"finished": "x"}, {"finished": []}, {"frame": "x"}, {"frame": []}])
def test_lines_that_cannot_be_densecli_s_are_passed_over(tmp_path: Path, values: dict[str, Any]) -> None:
    write(tmp_path / "manifest.jsonl", line("a"), line("b") | values)
    with Record(tmp_path) as record:
        assert [entry["stem"] for entry in record.entries()] == ["a"]


def test_over_all_shards_the_latest_line_counts(tmp_path: Path) -> None:
    write(manifest_path(tmp_path), line("a", 5.0, masks=1), line("b", 1.0, masks=1))
    write(manifest_path(tmp_path, (1, 2)), line("a", 4.0, masks=2), line("b", 6.0, masks=2))
    (tmp_path / "manifest.old.jsonl").write_text("not one of ours")
    assert [path.name for path in manifest_paths(tmp_path)] == ["manifest.1-of-2.jsonl", "manifest.jsonl"]
    with Record(tmp_path) as record:
        assert {entry["stem"]: entry["masks"] for entry in record.entries()} == {"a": 1, "b": 2}


LINES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c/d", None]),
        st.sampled_from(["x", "y", None]),
        st.integers(0, 3),
        st.integers(0, 2),
    )
)
"""Output name, source, when it ended, and the shard that says so, of each line."""


@given(LINES)
def test_whatever_manifests_say_the_latest_line_of_an_output_name_counts(
    lines: list[tuple[Any, Any, int, int]],
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        latest: dict[str | None, dict[str, Any]] = {}
        name_of: dict[str, tuple[int, str]] = {}
        for shard in range(3):
            for stem, source, finished, of in lines:
                if of == shard:
                    entry = line(stem, finished, source=source, masks=len(latest))
                    write(manifest_path(folder, (shard + 1, 3)), entry)
                    if stem not in latest or latest[stem]["finished"] <= finished:
                        latest[stem] = entry
                    if None not in (stem, source) and name_of.get(source, (0, ""))[0] <= finished:
                        name_of[source] = finished, stem
        with Record(folder) as record:
            assert sorted(record.entries(), key=repr) == sorted(latest.values(), key=repr)
            assert all(record.of(stem) == entry for stem, entry in latest.items() if stem is not None)
            renamed = {stem for stem, entry in latest.items() if name_of.get(entry["source"], (0, stem))[1] != stem}
            assert record.renamed(()) == {key_of(stem) for stem in renamed - {None}}


def test_a_long_manifest_takes_little_memory(tmp_path: Path) -> None:
    """Of a million images it is read at the start of each run, and by each shard."""
    count = 20_000
    with open(manifest_path(tmp_path), "w") as file:
        file.writelines(to_line(line(f"img{n}", n + 0.5, source=f"/p/img{n}.png")) + "\n" for n in range(count))
    tracemalloc.start()
    try:
        with Record(tmp_path) as record:
            kept, _ = tracemalloc.get_traced_memory()
            assert (record.of("img7") or {})["finished"] == 7.5
    finally:
        tracemalloc.stop()
    assert kept / count < 100


def test_failures_without_an_output_name_are_kept_apart(tmp_path: Path) -> None:
    write(tmp_path / "manifest.jsonl", line(None, input="x"), line(None, input="y"), line(None, input="x"))
    with Record(tmp_path) as record:
        assert [entry["input"] for entry in record.entries()] == ["y", "x"]


def test_a_line_that_does_not_fit_on_the_disk_is_not_there_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "manifest.jsonl"
    write(path, line("a"))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with Manifest(path) as manifest:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"manifest.jsonl: the disk is full"):
            manifest.append(line("b"))
        monkeypatch.undo()
        manifest.append(line("c"))
    assert [json.loads(text)["stem"] for text in path.read_text().splitlines()] == ["a", "c"]
