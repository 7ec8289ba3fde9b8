"""Lists of inputs: from files, stdin and URLs, in any encoding; what their lines' outputs are called."""

from __future__ import annotations

import io
import locale
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from densecli.sources.collecting import Collection, Item
from densecli.sources.lists import InputList
from densecli.sources.names import collision_key
from tests.collecting.conftest import NAME, SUFFIX, files, items, problems, stems
from tests.conftest import CHECKOUT, Command, small_disk


def test_a_list() -> None:
    files("d/photos/a.png", "d/photos/b.png", "d/photos/b.jpg", "d/clips/x/c.png", "far/z.png")
    far = Path("far/z.png").absolute()
    Path("d/list.txt").write_text(
        f"\ufeffphotos/b.png\r\n# a comment\n\n  photos/a.png  \nphotos/b.jpg\nphotos/a.png\n{far}\n"
        "clips/x\nphotos/gone.png\n"
    )
    collection = Collection(["d/list.txt"], output_dir="out")
    found = [item for item in collection if isinstance(item, Item)]
    assert stems(found) == [
        "photos/b.png", "photos/a", "photos/b.jpg", "/".join(far.with_suffix("").parts[1:]), "clips/x/c", "photos/gone",
    ]  # fmt: skip
    assert [item.name for item in found][:2] == ["d/photos/b.png", "d/photos/a.png"]
    assert collection.skipped == {"listed twice": 1}
    (problem,) = problems("nolist.txt")
    assert "nolist.txt: does not exist" in str(problem.error)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Before these names were decided pattern by pattern, both were photos/desk.
        (["photos/*.jpg", "photos/*.png"], {"desk.jpg", "desk.png", "Lone", "lamp"}),
        (["photos/*.jpg", "photos/desk.png"], {"desk.jpg", "desk.png", "lamp"}),
        (["photos/*.jpg", "photos/Lone.png"], {"desk", "lamp", "Lone"}),  # nothing in the way: short names stay
        (["photos/*.jpg"], {"desk", "lamp"}),
        (["photos", "photos/*.jpg"], {"desk.jpg", "desk.png", "Lone", "lamp"}),  # and each file once
        (["photos/*.jpg", "photos/sub/*.png"], {"desk", "lamp", "sub/desk", "sub/lone"}),
        (["**/*.jpg", "photos/*.png"], {"desk.jpg", "desk.png", "Lone", "lamp"}),
        (["photos/lamp.jpg", "photos/lamp.xyz", "photos/[l]*"], {"lamp.jpg", "lamp.xyz"}),
    ],
)
def test_no_two_inputs_of_a_list_share_an_output(lines: list[str], expected: set[str]) -> None:
    files("photos/desk.jpg", "photos/desk.png", "photos/lamp.jpg", "photos/Lone.png", "photos/sub/desk.png")
    files("photos/sub/lone.png")
    Image.new("RGB", (3, 2)).save("photos/lamp.xyz", "PNG")
    for number, order in enumerate((lines, lines[::-1])):
        Path(f"list{number}.txt").write_text("\n".join(order))
    there, back = ({item.name: item.stem for item in items(f"list{number}.txt")} for number in (0, 1))
    assert there == back
    assert sorted(there.values()) == sorted(f"photos/{name}" for name in expected)


@pytest.mark.skipif(Path(__file__).with_name("TEST_LISTS.PY").exists(), reason="this file system ignores case")
def test_names_that_differ_in_case_alone_do_so_by_a_digest_whatever_named_them() -> None:
    files("photos/a.jpg", "photos/A.JPG", "PHOTOS/a.jpg")
    Path("list.txt").write_text("photos/*.jpg\nphotos/*.JPG\nPHOTOS/*.jpg\n")
    found = stems(items("list.txt"))
    assert len({collision_key(stem) for stem in found}) == 3 and all(".jpg-" in stem.lower() for stem in found)


def test_a_picture_called_like_a_frame_of_a_listed_video() -> None:
    files("clip/frame_000000.png", "clip/b.png")
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    Path("list.txt").write_text("clip.avi\nclip/*.png\n")
    assert stems(items("list.txt")) == ["clip.avi/frame_000000", "clip/b", "clip/frame_000000"]
    Path("clip/frame_000000.png").unlink()
    assert stems(items("list.txt")) == ["clip/frame_000000", "clip/b"]


def test_patterns_named_one_by_one_share_no_output() -> None:
    files("photos/desk.jpg", "photos/desk.png")
    assert len(set(stems(items("photos/*.jpg", "photos/*.png")))) == 2


@given(
    tree=st.sets(st.tuples(st.sampled_from(["", "a/", "a/b/", "A/"]), NAME, SUFFIX), max_size=8),
    lines=st.lists(
        st.sampled_from(["a", "a/b", ".", "*.jpg", "a/*", "a/*.png", "**/*.jpg", "?/**", "A/*", "*/a.png", "a/1.jpg"]),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    data=st.data(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_list_names_no_two_share_an_output(
    tree: set[tuple[str, str, str]], lines: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tree = {(folder, name, suffix) for folder, name, suffix in tree if suffix != ".mp4"}
    root = tmp_path_factory.mktemp("tree")
    for folder, name, suffix in tree:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / (name + suffix)).touch()
    if tree:  # some with lines of their own
        lines = lines + ["".join(file) for file in data.draw(st.lists(st.sampled_from(sorted(tree)), max_size=3))]
    names = []
    for order in (lines, lines[::-1]):
        (root / "list.txt").write_text("\n".join(order))
        found = list(Collection([str(root / "list.txt")], output_dir=root / "out"))
        names.append({os.path.realpath(item.source): item.stem for item in found if isinstance(item, Item)})
        outputs = [collision_key(item.stem) for item in found if isinstance(item, Item)]
        assert len(set(outputs)) == len(outputs)
    assert names[0] == names[1]


def listed(data: bytes, name: str = "list.txt") -> list[str]:
    """Output names of what a list of these bytes names; of problems what they say."""
    Path(name).write_bytes(data)
    return [
        found.stem if isinstance(found, Item) else str(found.error) for found in Collection([name], output_dir="out")
    ]


def test_lists_of_find_print0_and_of_powershell() -> None:
    files("p/a.png", "p/b c.png", "p/é.png", "p/#d.png")
    text = "p/a.png\r\n# a comment\r\np/b c.png\r\np/é.png"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-8"):
        assert listed(text.encode(encoding)) == ["p/a", "p/b c", "p/é"]
    assert listed(b"\xfe\xff" + text.encode("utf-16-be")) == ["p/a", "p/b c", "p/é"]
    Path("new\nline.png").write_bytes(Path("p/a.png").read_bytes())
    Path("# e .png").write_bytes(Path("p/a.png").read_bytes())
    names = ["./p/a.png", "new\nline.png", "p/b c.png", "# e .png", "p/*.png"]
    assert listed("\0".join(names).encode()) == listed("\0".join([*names, "\n"]).encode())
    assert listed("\0".join(names).encode()) == ["p/a", "new\nline", "p/b c", "# e ", "p/#d", "p/é"]


def test_a_picture_is_no_list() -> None:
    """It gave a hundred lines of garbage, and what its bytes happened to match as a pattern."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for kind in ("jpeg", "png", "gif", "bmp", "webp", "tiff"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=kind)
        (said,) = listed(buffer.getvalue())
        name = "WebP" if kind == "webp" else kind.upper()
        assert said.endswith(f": is a {name} picture, not a list of inputs; for one picture use `densecli segment`")
    (said,) = listed(b"PK\x03\x04\x14\0\x08\0 and more")
    assert said.endswith("is a ZIP archive, not a list of inputs; give a text file with one name a line")
    (said,) = listed(b"<!DOCTYPE html><title>Log in</title>")
    assert "is an HTML page, not a list of inputs" in said
    (said,) = listed(b"\xef\xbb\xbf\n<HTML lang=en>")
    assert "is an HTML page, not a list of inputs" in said
    (said,) = listed(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "is a Git LFS pointer, not a list of inputs" in said


def test_names_may_begin_as_other_files_do() -> None:
    names = ["BMW.png", "FLV_1.png", "GIF89a.png", "OggS.png", "BZhang.png", "Rar!.png", "%PDF.png", "some ftyp.png"]
    files(*names)
    for name in names:
        assert listed(f"{name}\n".encode()) == listed(name.encode() + b"\0") == [Path(name).stem]
    assert listed(b"BMW.png\r\n\x1a\r\n")[0] == listed(b"\fBMW.png\n")[0] == "BMW"  # as DOS and man end a page
    files("<headshots>/a.png")
    assert listed(b"<headshots>/a.png\n") == ["<headshots>/a"]
    assert listed(b"GIF89a.png\n\x1b[01;35mBMW.png\x1b[0m\n")[0] == "GIF89a"  # colours of ls


def test_lists_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """That name files on another drive, and whose letters are those of its own code page."""

    def relpath(path: str, start: str) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    files("p/a.png")
    Path("p/list.txt").write_text(f"{Path('p/a.png').absolute()}\n/else/b.png\n")
    with ExitStack() as stack:
        found = InputList("p/list.txt", stack)
        monkeypatch.setattr(os.path, "relpath", relpath)
        assert [found.relative(path) for path in found.paths()] == ["a.png", "else/b.png"]
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("utf-8", "strict"))
    monkeypatch.setattr(locale, "getpreferredencoding", lambda do_setlocale: "cp1252")
    with ExitStack() as stack:
        Path("list.txt").write_bytes("foto ä.jpg\n".encode("cp1252"))
        assert list(InputList("list.txt", stack).paths()) == ["foto ä.jpg"]


def test_a_bad_line_of_a_list_costs_no_other() -> None:
    files("p/a.png", "p/b.png")
    first, bad, last = listed(b"p/a.png\np/\0b.png\np/b.png\n")
    assert (first, last) == ("p/a", "p/b")
    assert bad == "p/\\x00b.png: a NUL character is in it; write one name a line in the list"


def test_a_list_with_nul_characters_through_the_command(run_densecli: Command) -> None:
    files("p/a.png", "p/b.png")
    done = run_densecli("batch", "-", "--dry-run", "-m", "starter", cwd=Path("."), stdin=b"./p/a.png\0./p/b.png\0")
    assert done.code == 0 and done.errors == [], done.stderr
    assert "p/a.png" in done.stdout and "p/b.png" in done.stdout


def test_a_list_on_stdin_that_finds_no_room_is_told(tmp_path: Path, run_densecli: Command) -> None:
    small = tmp_path / "small"
    with small_disk(small, "size=16k"):
        listed = b"".join(b"%0200d.png\n" % number for number in range(500))
        environment = {"TMPDIR": str(small)}
        done = run_densecli("batch", "-", "-m", "starter", cwd=tmp_path, stdin=listed, environment=environment)
    told = f"stdin: the list cannot be kept in {small} (No space left on device); set TMPDIR to another folder"
    assert (done.code, done.errors) == (1, [told])


def test_a_list_on_stdin() -> None:
    files("p/a.png", "p/b.png")
    code = (
        "from densecli.sources.collecting import Collection\n"
        "for item in Collection(['-'], output_dir='o'): print(item.stem)"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", code], input="p/b.png\np/a.png\n", env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["p/b", "p/a"], done.stderr


@pytest.fixture
def served(inside: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of the current folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(inside))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_list_by_url(served: str, inside: Path) -> None:
    files("d/photos/a b.png", "d/c.png", "e.png")
    own, far = inside / "e.png", f"{served}/d/photos/a%20b.png?size=full"
    Path("d/list.txt").write_text(f"photos/a b.png\n./c.png\n../e.png\n{own}\n{far}\nphotos/a b.png\n")
    collection = Collection([f"{served}/d/list.txt?token=a.b/c"], output_dir="out")
    found = [item for item in collection if isinstance(item, Item)]
    host = served.removeprefix("http://").replace(":", "_")
    assert [(item.source, item.stem) for item in found] == [
        (f"{served}/d/photos/a b.png", "photos/a b"),
        (f"{served}/d/c.png", "c"),
        (f"{served}/e.png", f"{host}/e"),
        (str(own), "e"),
        (far, "photos/a%20b"),
    ]
    assert all((item.load().pixels == [200, 10, 10]).all() for item in found)
    assert collection.skipped == {"listed twice": 1}
    assert {stem.partition("/")[0] for stem in stems(items(f"{served}/d/list.txt?token=a.b/c", "e.png"))} == {
        "list",
        "e",
    }
    assert stems(items((inside / "d" / "list.txt").as_uri()))[:2] == ["photos/a b", "c"]
    (problem,) = problems(f"{served}/none.txt")
    assert "404" in str(problem.error)


def test_a_list_in_a_bucket_or_an_archive() -> None:
    files("p/a.png")
    with zipfile.ZipFile("all.zip", "w") as archive:
        archive.write("p/a.png", "x/p/a.png")
        archive.writestr("x/list.txt", "p/a.png\n")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/x/list.txt", b"p/a.png\np/*.png\n")
    memory.pipe_file("/bucket/x/p/a.png", Path("p/a.png").read_bytes())
    try:
        (item,) = items("memory://bucket/x/list.txt")
        assert (item.source, item.stem) == ("memory://bucket/x/p/a.png", "p/a")
        (item,) = items("zip://x/list.txt::all.zip")
        assert (item.source, item.stem) == ("zip://x/p/a.png::all.zip", "p/a")
        assert item.load().pixels.shape == (2, 3, 3)
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_list_inside_a_list() -> None:
    Path("inner.txt").write_text("a.png\n")
    assert listed(b"inner.txt\n") == ["inner.txt: is a list inside a list; give it to `densecli batch` itself"]
