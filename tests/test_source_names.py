"""Names of inputs: what their outputs are called, which of them meet on a file system, and their order."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from densecli.sources import IMAGE_SUFFIXES, natural_key, output_names, output_stem
from densecli.sources.names import collision_key, stem_and_suffix


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["photos/a/desk.jpg"], ["desk"]),
        (["desk.jpg", "lamp.png"], ["desk", "lamp"]),
        (["desk.jpg", "desk.png", "lamp.png"], ["desk.jpg", "desk.png", "lamp"]),
        (["a/desk.jpg", "b/desk.jpg"], ["a_desk.jpg", "b_desk.jpg"]),
        (["x/a/desk.jpg", "y/a/desk.jpg"], ["x_a_desk.jpg", "y_a_desk.jpg"]),
        (["Desk.jpg", "desk.png"], ["Desk.jpg", "desk.png"]),
        (["desk.jpg", "desk.jpg"], ["desk.jpg", "desk.jpg_2"]),
        (["desk.jpg", "desk_overlay.png"], ["desk", "desk_overlay"]),
        (["desk.jpg", "desk.png", "desk.jpg.webp"], ["desk.jpg", "desk.png", "desk.jpg.webp"]),
        (["-", "-"], ["stdin", "stdin_2"]),
        (["s3://bucket/a/desk.jpg"], ["desk"]),
        (["https://host/my%20desk.jpg?size=a/b.c#top"], ["my desk"]),
        (["zip://inner/a.png::file:///x/b.zip"], ["a"]),
        (["https://host/a:b|c.png"], ["a_b_c"]),
        ([".jpg", "archive.2024.jpg", "/"], [".jpg", "archive.2024", "image"]),
        (["..jpg", "a/...jpg"], ["..jpg", "...jpg"]),
    ],
)
def test_output_names(inputs: list[str], expected: list[str]) -> None:
    assert output_names(inputs) == expected


def test_output_stem() -> None:
    assert output_stem("photos/a/desk.jpg") == "desk"
    assert output_stem("-") == "stdin"
    long = output_stem("ü" * 126 + ".jpg")
    assert len(long.encode()) <= 200 and long != output_stem("ü" * 127 + ".jpg")


NAMES = st.one_of(
    st.text(alphabet="aAbé\u0301.e_2/ßſ", min_size=1, max_size=8),
    st.sampled_from(["-", "a.jpg", "a.png", "A.JPG", "b/a.jpg", "b_a.jpg", "a.jpg_2", "s3://x/a.jpg", "../a.jpg"]),
    st.text(min_size=1, max_size=300),
)


@given(st.lists(NAMES, max_size=12))
@settings(max_examples=300)
def test_output_names_never_meet(inputs: list[str]) -> None:
    names = output_names(inputs)
    assert names == output_names(inputs)
    folded = [unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()) for name in names]
    assert len(set(folded)) == len(inputs)
    suffixes = ("_overlay.png", "_masks.json", "_labels.png", "_labels_wholes.png", "_masks", "_cutouts")
    assert len({name + suffix for name in folded for suffix in suffixes}) == len(inputs) * len(suffixes)
    for name in names:
        assert name and "/" not in name and len(name.encode("utf-8", "surrogatepass")) <= 210


@given(st.permutations(["a/desk.jpg", "b/desk.jpg", "desk.png", "c/desk.png", "lamp.jpg", "cup.png", "cup.jpg"]))
def test_output_names_do_not_depend_on_the_order(inputs: list[str]) -> None:
    assert dict(zip(inputs, output_names(inputs), strict=True)) == {
        "a/desk.jpg": "a_desk.jpg",
        "b/desk.jpg": "b_desk.jpg",
        "desk.png": "desk.png",
        "c/desk.png": "c_desk.png",
        "lamp.jpg": "lamp",
        "cup.png": "cup.png",
        "cup.jpg": "cup.jpg",
    }


@given(st.text(st.characters(exclude_characters="/\\:\0"), max_size=9) | st.text("aB.", min_size=1, max_size=9))
@example("desk.")
@example("a.tar.gz")
def test_stem_and_suffix_are_those_of_pathlib(name: str) -> None:
    assume(name != "." and not (name.endswith(".") and sys.version_info >= (3, 14)))  # whose suffix was none before
    assume(not name.startswith(".."))
    assert stem_and_suffix(name) == (PurePosixPath(name).stem, PurePosixPath(name).suffix)


@pytest.mark.parametrize("name", ["..jpg", "...mp4", "....mp4", "...", "."])
def test_no_stem_leads_out_of_its_folder(name: str) -> None:
    assert stem_and_suffix(name) == (name, "")


@given(st.text(max_size=9) | st.text("aÄß.", max_size=9))
def test_names_that_meet_on_a_file_system_have_one_key(name: str) -> None:
    folded = unicodedata.normalize("NFC", name).casefold()
    assert collision_key(name) == unicodedata.normalize("NFC", folded)


def test_natural_order() -> None:
    files = ["a/img10.png", "a/img2.png", "A/IMG1.png", "a/img02.png", "a b/img1.png", "b/1.png", "img.png"]
    assert sorted(files, key=natural_key) == [
        "A/IMG1.png",
        "a/img02.png",
        "a/img2.png",
        "a/img10.png",
        "a b/img1.png",
        "b/1.png",
        "img.png",
    ]
    assert natural_key(Path("a/img2.png")) == natural_key("a/img2.png")


@given(
    st.lists(st.text(alphabet="aA0129 _/é", max_size=8), max_size=8).flatmap(
        lambda n: st.tuples(st.just(n), st.permutations(n))
    )
)
def test_natural_order_is_the_same_from_any_order(names: tuple[list[str], list[str]]) -> None:
    assert sorted(names[0], key=natural_key) == sorted(names[1], key=natural_key)


def test_image_suffixes_are_lower_case_and_cover_what_people_have() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
