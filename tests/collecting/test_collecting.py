"""Collecting inputs: the right files in natural order, names of their own for outputs, a reason for what is left."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from densecli.errors import InputError, UsageError
from densecli.sinks.images import save_png
from densecli.sources import collecting, natural_key
from densecli.sources.collecting import Collection, Item, Problem
from densecli.sources.folders import facts_of
from densecli.sources.names import collision_key
from densecli.sources.sorting import sorted_names
from tests.collecting.conftest import NAME, SUFFIX, files, items, problems, stems
from tests.conftest import CHECKOUT, obeying_permissions

# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_in_natural_order_with_what_a_manifest_needs() -> None:
    files("photos/img10.png", "photos/img2.png", "photos/Img1.png", "photos/sub/x.png")
    found = items("photos")
    assert [item.name for item in found] == ["photos/Img1.png", "photos/img2.png", "photos/img10.png"]
    assert stems(found) == ["Img1", "img2", "img10"]
    assert [item.index for item in found] == [0, 1, 2]
    status = os.stat("photos/img2.png")
    assert (found[1].size, found[1].mtime_ns, found[1].frame) == (status.st_size, status.st_mtime_ns, None)
    loaded = found[1].load()
    assert loaded.name == "photos/img2.png" and (loaded.pixels == [200, 10, 10]).all()


def test_recursive_goes_folder_by_folder() -> None:
    files("p/b.png", "p/a/x2.png", "p/a/x10.png", "p/a10/y.png", "p/a9/y.png", "p/a/deep/er/z.png")
    assert stems(items("p", recursive=True)) == ["a/deep/er/z", "a/x2", "a/x10", "a9/y", "a10/y", "b"]
    collection = Collection(["p"], output_dir="out")
    assert stems(collection) == ["b"]  # type: ignore[arg-type]
    assert collection.skipped == {"subfolder (-r goes into them)": 3}


def test_what_is_left_out_is_counted() -> None:
    files("p/a.png", "p/.hidden.png", "p/.git/b.png", "p/__MACOSX/c.png")
    for name in ("notes.md", "Thumbs.db", "photo.JXL", "list.txt", "old.MPG", "code.ts"):
        Path("p", name).write_text("x")
    collection = Collection(["p"], output_dir="out", recursive=True)
    assert stems(collection) == ["a"]  # type: ignore[arg-type]
    assert collection.skipped == {
        "hidden": 4,
        "not an image or video": 3,
        "of a kind that cannot be read (.jxl)": 1,
        "not looked for in folders, name it (.mpg)": 1,
    }


def test_this_folder_has_no_dot_in_its_names() -> None:
    files("a.png", "b/c.png")
    assert [item.name for item in items(".", recursive=True)] == ["a.png", "b/c.png"]


def test_stems_that_collide_keep_the_whole_name() -> None:
    files("p/desk.jpg", "p/desk.png", "p/desk.a.png", "p/lone.png", "p/x/desk.png")
    found = items("p", recursive=True)
    by_name = {item.name: item.stem for item in found}
    assert by_name == {
        "p/desk.jpg": "desk.jpg",
        "p/desk.png": "desk.png",
        "p/desk.a.png": "desk.a",
        "p/lone.png": "lone",
        "p/x/desk.png": "x/desk",
    }


def test_folders_never_stand_where_an_output_goes() -> None:
    files(
        "p/desk.jpg",
        "p/desk_masks/a.png",
        "p/desk_masks_/a.png",
        "p/yolo/a.png",
        "p/q/yolo/a.png",
        "p/desk_cutouts/b.png",
    )
    assert set(stems(items("p", recursive=True))) == {
        "desk", "desk_masks_/a", "desk_masks__/a", "yolo_/a", "q/yolo/a", "desk_cutouts_/b",
    }  # fmt: skip


@given(
    tree=st.sets(
        st.tuples(st.sampled_from(["", "a/", "a.jpg/", "a_masks/", "a_masks_/", "a.mp4/"]), NAME, SUFFIX), max_size=12
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_two_inputs_share_an_output(
    tree: set[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = {folder + name + suffix for folder, name, suffix in tree}
    assume(not any(folder and folder.rstrip("/") in files for folder, _, _ in tree))  # a file is no folder
    root = tmp_path_factory.mktemp("tree")
    for folder, name, suffix in tree:
        (root / folder).mkdir(exist_ok=True)
        (root / folder / (name + suffix)).touch()
    found = list(Collection([str(root)], output_dir=root / "out", recursive=True))
    images = [item for item in found if isinstance(item, Item)]
    # Videos that hold nothing are problems here; what their folders would be called is among the names they keep.
    visible = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(found) == len(visible)
    # On any file system, whatever kind of output.
    outputs = [
        collision_key(item.stem + ending) for item in images for ending in ("_masks", "_overlay.png", "_cutouts")
    ]
    assert len(set(outputs)) == len(outputs)
    folders = {collision_key(item.stem.rpartition("/")[0]) for item in images if "/" in item.stem}
    assert not folders & set(outputs)


# --- links and what cannot be read -----------------------------------------------------------------------------------


def test_links(inside: Path) -> None:
    files("p/a/one.png", "elsewhere/two.png")
    Path("p/a/up").symlink_to("..", target_is_directory=True)
    Path("p/a/self").symlink_to("self")
    Path("p/linked").symlink_to(inside / "elsewhere", target_is_directory=True)
    Path("p/again").symlink_to(inside / "elsewhere", target_is_directory=True)
    Path("p/file.png").symlink_to(inside / "elsewhere" / "two.png")
    Path("p/dangling.png").symlink_to("gone.png")
    Path("p/loop.png").symlink_to("loop.png")
    collection = Collection(["p"], output_dir="out", recursive=True)
    found = {item.stem: item for item in collection if isinstance(item, Item)}
    assert set(found) == {"a/one", "again/two", "file", "dangling", "loop"}  # each folder once, whatever leads there
    assert collection.skipped["folder that was read already (a link, or given twice)"] == 2
    with pytest.raises(InputError, match=r"p/dangling.png: is a link to gone.png, which does not exist"):
        found["dangling"].load()
    assert found["dangling"].size is None
    with pytest.raises(InputError, match="leads back to itself"):
        found["loop"].load()


def test_a_chain_of_folders_deeper_than_pythons_stack() -> None:
    place = Path("p")
    for _ in range(600):
        place /= "d"
    here = os.getcwd()
    for part in place.parts:  # too long a path to make at once on some systems
        os.mkdir(part)
        os.chdir(part)
    files("x.png")
    os.chdir(here)
    files("p/top.png")
    found = list(Collection(["p"], output_dir="out", recursive=True))
    assert [item.stem for item in found if isinstance(item, Item)] == ["top"]
    (problem,) = [item for item in found if isinstance(item, Problem)]
    assert "folders deep" in str(problem.error)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs POSIX permissions, and Linux to lower root's")
def test_a_folder_that_may_not_be_read() -> None:
    files("p/good.png", "p/locked/a.png", "p/z.png")
    os.chmod("p/locked", 0)
    code = (
        "from densecli.sources.collecting import Collection, Problem\n"
        "for found in Collection(['p'], output_dir='o', recursive=True):\n"
        "    print(found.error if isinstance(found, Problem) else found.stem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=obeying_permissions,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    os.chmod("p/locked", 0o700)
    if done.returncode == 99:
        pytest.skip("root's permissions cannot be lowered here")
    assert done.stdout.splitlines() == ["good", "p/locked: permission denied; check who may read it (ls -ld)", "z"], (
        done.stderr
    )


# --- densecli's own outputs ------------------------------------------------------------------------------------------


def outputs_of(stem: str, *, summary: bool) -> None:
    """What densecli writes for one image."""
    pixels = np.zeros((2, 3, 3), np.uint8)
    Path(stem).parent.mkdir(parents=True, exist_ok=True)
    save_png(pixels, Path(f"{stem}_overlay.png"))
    for labels in ("labels", "labels_wholes", "labels_leaves"):
        save_png(pixels[..., 0].astype(np.uint16), Path(f"{stem}_{labels}.png"))
    for folder in ("masks", "cutouts"):
        Path(f"{stem}_{folder}").mkdir()
        save_png(pixels, Path(f"{stem}_{folder}/0001.png"))
    if summary:
        Path(f"{stem}_masks.json").write_text('{\n  "schema": "densecli/summary/1",\n}')


@pytest.mark.parametrize("summary", [True, False])
def test_outputs_beside_the_inputs_are_told_from_them(summary: bool) -> None:
    files("p/desk.png", "p/a/chair.png", "p/my_overlay.png", "p/their_masks/1.png", "p/yolo/mine.png")
    outputs_of("p/desk", summary=summary)
    outputs_of("p/a/chair", summary=summary)
    collection = Collection(["p"], output_dir="p", recursive=True)
    wanted = ["a/chair", "desk", "my_overlay", "their_masks_/1", "yolo_/mine"]
    assert stems(collection) == wanted  # type: ignore[arg-type]
    assert collection.skipped == {"densecli output": 14 if summary else 12}


@pytest.mark.parametrize("named", ["p/desk_cutouts/0001.png", "p/desk_*/*.png", "p/desk_cutouts"])
def test_pictures_of_masks_are_no_inputs_however_they_are_named(named: str) -> None:
    outputs_of("p/desk", summary=False)
    files("q/0001.png")
    found = Collection([named, "q/0001.png"], output_dir="out")
    assert [item.name for item in found if isinstance(item, Item)] == ["q/0001.png"]


def test_sheets_and_candidates_are_outputs_too() -> None:
    files("p/desk.png", "p/my_compare.png", "p/mine.candidates")
    save_png(np.zeros((4, 4, 3), np.uint8), Path("p/desk_compare.png"))
    with zipfile.ZipFile("p/desk.candidates", "w") as file:
        file.writestr("densecli.json", "{}")
    collection = Collection(["p"], output_dir="out")
    assert stems(collection) == ["desk", "my_compare"]  # type: ignore[arg-type]
    assert collection.skipped == {"densecli output": 3}  # of names that are no images', the name decides
    named = Collection(["p/desk.candidates", "p/desk_compare.png", "p/mine.candidates"], output_dir="out")
    assert stems(named) == ["mine"]  # type: ignore[arg-type]  # and reading it will say that it is no image
    assert named.skipped == {"densecli output": 2}


def test_outputs_whose_numbers_are_longer_than_most() -> None:
    """The ten-thousandth mask, and frames of a video of a million."""
    files("p/desk.png", "p/clip_overlay.mp4")
    for name in ("desk_masks/10000.png", "clip/frame_1000000_overlay.png"):
        Path("p", name).parent.mkdir()
        save_png(np.zeros((4, 4, 3), np.uint8), Path("p", name))
    assert stems(items("p", recursive=True)) == ["desk"]


def test_a_buckets_output_folder_is_known_by_its_manifest() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.png", "out/manifest.jsonl", "out/report/ab/c.jpg", "out/yolo/images/a.png", "yolo/mine.png"):
        memory.pipe_file(f"/bucket/{name}", b"")
    try:
        assert stems(items("memory://bucket", recursive=True)) == ["a", "yolo_/mine"]
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_whole_output_folder_in_an_input_folder() -> None:
    files("p/a.png")
    outputs_of("p/out/a", summary=True)
    line = {"schema": "densecli/manifest/1", "input": "p/a.png"}
    Path("p/out/manifest.jsonl").write_text(json.dumps(line))
    files("p/out/report/ab/cd.jpg", "p/out/yolo/images/a.png", "p/out/dataset_images/a.png", "p/out/labelme/a.json")
    Path("p/out/report/ab/cd.js").write_text("/* densecli report 1: none none */")
    Path("p/out/yolo/data.yaml").write_text("# Images are links to the inputs; split them")
    files("p/out/clip/frame_000000.png")
    outputs_of("p/out/clip/frame_000000", summary=True)
    Path("p/out/clip_overlay.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    assert stems(items("p", output_dir="p/out", recursive=True)) == [
        "a",
        "out/clip/frame_000000",
    ]  # not ours by any sign
    outputs = [str(path) for path in Path("p/out").iterdir() if path.name != "clip"]
    assert items(*[path for path in outputs if not path.endswith(".jsonl")], output_dir="p/out") == []


def test_a_new_output_folder_is_left_alone_while_it_fills() -> None:
    files("p/a.png", "p/b.png")
    collection = iter(Collection(["p"], output_dir="p/0-out", recursive=True))
    files("p/0-out/anything.png")
    assert stems(collection) == ["a", "b"]  # type: ignore[arg-type]


# --- several inputs, patterns, lists ---------------------------------------------------------------------------------


def test_several_patterns_of_one_folder_are_named_as_one_folder() -> None:
    files("p/desk.png", "p/desk.jpg", "p/sub/chair.png", "q/a.png", "here.png")
    found = items("p/*.jpg", "p/*.png", "p/**/c*.png", "p/d*.*")
    assert {item.source: item.stem for item in found} == {
        "p/desk.jpg": "desk.jpg",
        "p/desk.png": "desk.png",
        "p/sub/chair.png": "sub/chair",
    }
    assert stems(items("*.png", "h*.png")) == ["here"]
    assert sorted(stems(items("p/*.jpg", "q/*.png", "p/*.png"))) == ["p/desk.jpg", "p/desk.png", "q/a"]
    collection = Collection(["p/*.jpg", "p/*.gif"], output_dir="out")
    told = [str(found.error) if isinstance(found, Problem) else found.stem for found in collection]
    assert told == ["p/*.gif: nothing matches this pattern; check it, and the folder", "desk"]


def test_several_folders_get_folders_of_their_own() -> None:
    files("day1/a.png", "day2/a.png", "x/day1/a.png", "lone.png", "v1.5/a.png")
    assert stems(items("day1", "day2/", "lone.png")) == ["day1/a", "day2/a", "lone"]
    found = items("day1", "x/day1", "v1.5")
    assert len(set(stems(found))) == 3 and found[2].stem == "v1.5/a"
    assert stems(items("day1", "day1")) == ["a"]


def test_single_files_are_named_as_by_segment() -> None:
    files("a/same.png", "b/same.png", "odd.name")
    assert stems(items("a/same.png", "b/same.png", "odd.name", "odd.name")) == ["a_same.png", "b_same.png", "odd"]
    missing = items("gone.png")
    with pytest.raises(InputError, match="gone.png: does not exist"):
        missing[0].load()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p/*.png", ["a", "b2", "b10"]),
        ("p/b*.png", ["b2", "b10"]),
        ("p/[!b]*", ["a", "c"]),
        ("p/?.jpg", ["c"]),
        ("p/**/*.png", ["a", "b2", "b10", "sub/d", "sub/deep/e"]),
        ("p/*/*.png", ["sub/d"]),
        ("p/sub/**", ["d", "deep/e"]),
        ("*/sub/*.png", ["p/sub/d"]),
    ],
)
def test_patterns(pattern: str, expected: list[str], inside: Path) -> None:
    files("p/a.png", "p/b10.png", "p/b2.png", "p/c.jpg", "p/sub/d.png", "p/sub/deep/e.png", "p/.h.png")
    assert stems(items(pattern)) == expected
    assert stems(items(str(inside / pattern))) == expected


def test_patterns_that_are_no_patterns_or_match_nothing() -> None:
    files("p/img[1].png")
    assert stems(items("p/img[1].png")) == ["img[1]"]
    (problem,) = problems("p/*.jpg")
    assert problem.name == "p/*.jpg" and "nothing matches" in str(problem.error)
    (problem,) = problems("gone/*.jpg")
    assert "nothing matches" in str(problem.error)


def test_folders_of_fsspec() -> None:
    filesystem = fsspec.filesystem("memory")
    image = Path("x.png")
    files("x.png")
    for name in ("img10.png", "img2.png", "notes.md", "sub/img1.png", "img2_overlay.png", "img2_masks.json"):
        filesystem.pipe(f"/bucket/frames/{name}", image.read_bytes())
    try:
        found = items("memory://bucket/frames", recursive=True)
        assert [item.name for item in found] == [
            f"memory://bucket/frames/{n}" for n in ("img2.png", "img10.png", "sub/img1.png")
        ]
        assert stems(found) == ["img2", "img10", "sub/img1"]
        assert found[0].size == image.stat().st_size and found[0].mtime_ns is not None
        assert (found[2].load().pixels == [200, 10, 10]).all()
        assert stems(items("memory://bucket/frames/*1*.png")) == ["img10"]
        assert stems(items("memory://bucket/frames/img2.png")) == ["img2"]
        assert stems(items(Path("x.png").absolute().parent.as_uri())) == ["x"]
    finally:
        filesystem.rm("/bucket", recursive=True)


def test_archives_are_read_without_unpacking() -> None:
    files("p/b.png", "p/sub/c1.png", "p/sub/c10.png", "p/sub/c2.jpg")
    shutil.make_archive("all", "zip", "p")
    everything = ["b", "sub/c1", "sub/c2", "sub/c10"]
    for root in ("zip://::all.zip", "zip:///::all.zip", f"zip://::file://{os.getcwd()}/all.zip"):
        found = items(root, recursive=True)
        assert stems(found) == everything, root
        assert found[1].name == f"zip://sub/c1.png{root[root.index('::') :]}" and found[0].name.startswith(
            "zip://b.png::"
        )
        assert [item.load().pixels.shape for item in found] == [(2, 3, 3)] * 4
    assert stems(items("zip://::all.zip")) == ["b"]
    assert stems(items("zip://sub::all.zip")) == stems(items("zip://sub/::all.zip")) == ["c1", "c2", "c10"]
    assert stems(items("zip://sub/*1*.png::all.zip")) == ["c1", "c10"]
    assert stems(items("zip://*.png::all.zip")) == ["b"]
    assert stems(items("zip://**/*.png::all.zip")) == ["b", "sub/c1", "sub/c10"]
    (found,) = items("zip://sub/c2.jpg::all.zip")
    assert (found.stem, found.load().name) == ("c2", "zip://sub/c2.jpg::all.zip")
    assert "nothing matches" in str(problems("zip://*.gif::all.zip")[0].error)
    (item,) = items("zip://a.png::no[ne.zip")
    with pytest.raises(InputError, match="cannot be"):
        item.load()


def test_the_root_of_a_store() -> None:
    filesystem = fsspec.filesystem("memory")
    files("a.png")
    for name in ("a.png", "sub/b.png"):
        filesystem.pipe(f"/{name}", Path("a.png").read_bytes())
    try:
        for root in ("memory://", "memory:///"):
            found = items(root, recursive=True)
            assert stems(found) == ["a", "sub/b"] and all(item.load().pixels.any() for item in found)
        assert stems(items("memory://*.png")) == ["a"]
    finally:
        filesystem.rm("/", recursive=True)


def test_a_missing_bucket_is_one_failure() -> None:
    found = list(Collection(["memory://nowhere/frames"], output_dir="out"))
    (item,) = found
    assert isinstance(item, Item)
    with pytest.raises(InputError, match="does not exist"):
        item.load()


def test_what_is_missing_is_known_at_once_where_nothing_is_there(inside: Path) -> None:
    files("p/a.png")
    Path("empty").mkdir()
    Path("list.txt").write_text("gone.png\np/none*.png\n")
    for inputs, said in (
        (["gone.png"], ["gone.png: does not exist; check the path"]),
        (["gone/", "g*.png"], ["gone/: does not exist; check the path", "g*.png: nothing matches this pattern"]),
        (["empty", "gone.png"], ["gone.png: does not exist"]),
    ):
        missing = Collection(inputs, output_dir="out").missing()
        assert [str(error)[: len(text)] for error, text in zip(missing, said, strict=True)] == said
    for inputs in (
        ["gone.png", "p"],
        ["empty"],
        ["gone.png", "memory://nowhere/a.png"],
        ["-"],
        ["list.txt"],
        [f"{n}.png" for n in range(30)],
    ):
        assert Collection(inputs, output_dir="out").missing() == []  # told of each, and recorded


# --- shards, watching, size ------------------------------------------------------------------------------------------


def test_shards_part_the_inputs_whatever_comes_and_goes() -> None:
    files(*(f"p/{number}.png" for number in range(60)))
    shards = [items("p", shard=(part, 3)) for part in (1, 2, 3)]
    whole = items("p")
    assert sorted((item for shard in shards for item in shard), key=lambda item: item.index) == whole
    assert all(len(shard) >= 8 for shard in shards)
    Path("p/0.png").unlink()
    files("p/new.png")
    again = items("p", shard=(2, 3))
    assert {i.name for i in again} - {"p/new.png"} == {i.name for i in shards[1]} - {"p/0.png"}


@pytest.mark.parametrize("given", ["p", "list.txt"])
def test_a_shard_asks_for_the_facts_of_its_own_files_only(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand shards would else ask a thousand times for those of each file."""
    files(*(f"p/{number}.png" for number in range(60)))
    Path("list.txt").write_text("".join(f"p/{number}.png\n" for number in range(60)))
    asked: list[str] = []
    for module in ("folders", "inputs"):
        monkeypatch.setattr(f"densecli.sources.{module}.facts_of", lambda path: (asked.append(path), facts_of(path))[1])
    mine = items(given, shard=(2, 3))
    assert [item.source for item in mine] == asked and len(mine) < 40
    assert all(item.size == Path(item.source).stat().st_size for item in mine)


def test_watching_gives_files_once_they_stand_still() -> None:
    files("p/a.png")
    collection = Collection(["p"], output_dir="out", poll_seconds=0.05)
    names: list[str] = []
    thread = threading.Thread(target=lambda: [names.append(found.name) for found in collection])
    growing = Path("p/growing.png")
    data = Path("p/a.png").read_bytes()

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(names) < count:
            assert time.monotonic() < deadline, names
            time.sleep(0.01)

    thread.start()
    wait_for(1)
    for end in range(1, 12):
        growing.write_bytes(data[: end * 5])
        time.sleep(0.02)
        assert names == ["p/a.png"]
    growing.write_bytes(data)
    wait_for(2)
    time.sleep(0.2)
    assert names == ["p/a.png", "p/growing.png"]  # each once
    growing.write_bytes(data + b" ")
    wait_for(3)
    collection.stop()
    thread.join(20)
    assert not thread.is_alive() and names[2] == "p/growing.png"


def test_watching_a_large_folder_leaves_most_of_the_time_to_the_run() -> None:
    files(*(f"p/{number}.png" for number in range(200)))
    collection = Collection(["p"], output_dir="out", poll_seconds=1e-6)
    pauses: list[float] = []

    class Noted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0)
            if len(pauses) == 2:
                self.set()
            return super().wait(timeout)

    collection._stopped = Noted()
    assert len(list(collection)) == 200
    # The files that were there from the start do not wait for it. One takes more than a quarter of a microsecond.
    assert pauses[0] == 1e-6 and pauses[1] > 200 * 1e-6


def test_watching_stdin_is_refused() -> None:
    with pytest.raises(UsageError, match="stdin"):
        Collection(["-"], output_dir="out", poll_seconds=2.0)


@given(
    names=st.lists(st.text(st.characters(blacklist_characters="\0"), min_size=1, max_size=6), unique=True),
    piece=st.integers(1, 7),
)
def test_sorting_in_pieces_is_sorting(names: list[str], piece: int) -> None:
    assert list(sorted_names(names, natural_key, piece)) == sorted(names, key=natural_key)


def test_a_huge_folder_is_never_held() -> None:
    numbers = list(range(100_000))
    random.Random(1).shuffle(numbers)
    packed = np.array(numbers, dtype=np.uint32)
    del numbers
    tracemalloc.start()
    try:
        last = -1
        for name in sorted_names((f"img{number}.jpg" for number in packed), lambda text: int(text[3:-4]), 4096):
            number = int(name[3:-4])
            assert number == last + 1
            last = number
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last == 99_999
    assert peak < 3_000_000  # the names alone would be 6 MB, with their keys 15


def test_files_are_opened_only_where_their_name_may_be_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk far away, to open each of a million files takes longer than all else."""
    files("p/a.png", "p/b.jpg", "p/c/d.png", "p/desk_overlay.png")
    Path("list.txt").write_text("p/a.png\np/b.jpg\np/desk_overlay.png\n")
    opened: list[str] = []
    real = open

    def noted(file: str, *given: object, **more: object) -> object:
        opened.append(str(file))
        return real(file, *given, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", noted)
    assert len(items("p", recursive=True)) == 4 and len(items("list.txt")) == 3
    of_pictures = [name for name in opened if name.endswith((".png", ".jpg"))]
    assert set(of_pictures) == {"p/desk_overlay.png"}


def test_a_video_that_a_library_fails_on_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyAV 14 did, which lacks an attribute."""
    files("p/a.png", "p/c.png")
    Path("p/b.mp4").write_bytes(b"\0\0\0\x20ftypisom")

    def broken(*given: object, **more: object) -> Iterator[object]:
        raise AttributeError("no\nduration")
        yield

    monkeypatch.setattr(collecting, "frames", broken)
    first, problem, last = Collection(["p"], output_dir="out")
    assert isinstance(first, Item) and isinstance(last, Item) and isinstance(problem, Problem)
    assert str(problem.error) == "cannot be read (AttributeError: no duration); please report it"
