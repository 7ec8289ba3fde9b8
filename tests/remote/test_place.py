"""A store as the place of outputs: what is there, what is sent and goes from here, what is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecli.errors import UsageError
from densecli.places import Here
from densecli.remote.listing import Listing
from densecli.remote.place import RemotePlace
from densecli.remote.staging import output_url, staging_folder
from densecli.remote.store import Store
from densecli.sources.folders import Facts

NUMBERS = st.none() | st.integers(0, 2**62)


@given(st.dictionaries(st.text(min_size=1), st.none() | st.tuples(NUMBERS, NUMBERS)), st.text())
def test_a_listing_knows_what_was_listed(names: dict[str, Facts | None], other: str) -> None:
    listing = Listing(names.items())
    for name, facts in names.items():
        assert listing.file(name) == facts and listing.has_folder(name) == (facts is None)
    if other not in names:
        assert listing.file(other) is None and not listing.has_folder(other)


@pytest.fixture
def place(tmp_path: Path) -> RemotePlace:
    return RemotePlace(Store(f"local://{tmp_path}/bucket/out"), tmp_path / "made", alone=True)


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_is_sent_is_there_and_not_here(place: RemotePlace, tmp_path: Path) -> None:
    paths = [write(place.folder / "a" / "x.json"), write(place.folder / "y.png")]
    assert place.found(paths[0]) is None and not place.is_whole(paths[1], 3)
    place.send(paths[:1])
    place.send(paths[1:], keep=True)
    place.refresh()
    assert not paths[0].exists() and paths[1].exists()
    assert place.is_whole(paths[0], 3) and (place.found(paths[1]) or (0,))[0] == 4
    assert place.shown(paths[0]) == f"local://{tmp_path}/bucket/out/a/x.json"
    assert place.bring(paths[0]) and paths[0].read_text() == "text"
    assert not place.bring(paths[0]) and not place.bring(place.folder / "none")
    place.outdate(paths[0])
    place.refresh()
    assert place.found(paths[0]) is None


def test_the_first_bytes_of_a_file(place: RemotePlace, tmp_path: Path) -> None:
    path = place.folder / "a" / "x.json"
    assert place.head(path, 4) == b"" and not path.exists()
    write(tmp_path / "bucket" / "out" / "a" / "x.json", "0123456789")
    place.refresh()
    assert (place.head(path, 4), place.head(path, 400)) == (b"0123", b"0123456789") and not path.exists()
    write(tmp_path / "bucket" / "out" / "a" / "empty.json", "")
    place.refresh()
    assert place.head(path.with_name("empty.json"), 4) == b""
    assert Here(tmp_path).head(tmp_path / "bucket" / "out" / "a" / "x.json", 4) == b"0123"
    assert Here(tmp_path).head(tmp_path / "none", 4) == b""


def test_the_last_bytes_of_a_file(place: RemotePlace, tmp_path: Path) -> None:
    here = Here(tmp_path / "bucket" / "out")
    for kind in (place, here):
        path = kind.folder / "a" / "x.mp4"
        assert kind.tail(path, 4) == b""
        write(here.folder / "a" / "x.mp4", "0123456789")
        place.refresh()
        assert (kind.tail(path, 4), kind.tail(path, 400)) == (b"6789", b"0123456789")
        (here.folder / "a" / "x.mp4").write_bytes(b"")
        place.refresh()
        assert kind.tail(path, 4) == b""


def test_a_folder_is_sent_as_a_whole(place: RemotePlace, tmp_path: Path) -> None:
    folder = place.folder / "x_masks"
    for names in (["0001.png", "0002.png"], ["0001.png"]):
        for name in names:
            write(folder / name, names[-1])
        place.send([folder])
        assert not folder.exists()
    there = tmp_path / "bucket" / "out" / "x_masks"
    assert [(path.name, path.read_text()) for path in there.iterdir()] == [("0001.png", "0001.png")]
    place.refresh()
    assert place.is_whole(folder, 1)
    none = place.folder / "empty.v2_masks"
    none.mkdir()
    place.send([none])
    assert place.is_whole(none, 0) and not place.is_whole(none, 1)  # a bucket has no empty folders


def test_a_killed_runs_temporary_files_go(place: RemotePlace, tmp_path: Path) -> None:
    left = write(tmp_path / "bucket" / "out" / ".densecli-tmp-1.png")
    empty = write(tmp_path / "bucket" / "out" / "x.png", "")
    assert not place.is_whole(place.folder / "x.png", 1) and empty.exists()
    assert not left.exists()


def test_many_are_brought_together(place: RemotePlace) -> None:
    paths = [write(place.folder / f"{number}.json", str(number)) for number in range(300)]
    place.send(paths)
    place.bring_all([*paths, place.folder / "none"])
    assert [path.read_text() for path in paths] == [str(number) for number in range(300)]


def test_which_output_dirs_are_urls() -> None:
    assert output_url("s3://bucket/out") == "s3://bucket/out"
    for given_dir in ("out", "/a/b", "C:/out", "file:///a/b", "a:b"):
        assert output_url(given_dir) is None
    for given_dir, said in (
        ("s3:/bucket", "two slashes"),
        ("https://a/b", "nothing can be written"),
        ("zip://a::s3://b/c.zip", "chain"),
    ):
        with pytest.raises(UsageError, match=said):
            output_url(given_dir)


def test_each_url_and_shard_has_a_folder_of_its_own_named_as_the_url() -> None:
    folders = [staging_folder(url, shard) for url in ("s3://b/out", "s3://c/out") for shard in (None, (1, 2), (2, 2))]
    assert len(set(folders)) == 6 and {folder.name for folder in folders} == {"out"}
    assert staging_folder("s3://b/out/") == folders[0] == staging_folder("s3://b/out")
    assert {staging_folder(url).name for url in ("s3://b/..", "s3://b/a/../.", "memory://...")} == {"out"}
    assert staging_folder("s3://").name and "/" not in staging_folder("s3://b/a?b*c").name
