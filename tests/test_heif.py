"""HEIC: read upright and whole or not at all; without pillow-heif it is said what reads it."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from densecli.errors import InputError
from densecli.sources import heif, read_image
from densecli.sources.collecting import Collection, Problem
from densecli.sources.foreign import no_list
from densecli.sources.unfinished import lacks_its_end
from tests.conftest import Command
from tests.phone_photo import tiled_heic
from tests.reading import encoded, read_bytes, refusal

pillow_heif.register_heif_opener()


def heic(picture: Image.Image, **options: object) -> bytes:
    return encoded(picture, "HEIF", **options)


def refused(data: bytes) -> str:
    return refusal("-", stdin=io.BytesIO(data))


@pytest.fixture
def without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heif, "installed", lambda: False)
    monkeypatch.delitem(Image.OPEN, "HEIF")


@pytest.fixture(scope="module")
def small(photo: np.ndarray) -> np.ndarray:
    """150×200×3."""
    return np.asarray(Image.fromarray(photo).resize((200, 150)))


def far(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected).mean())


def test_a_photo(tmp_path: Path, small: np.ndarray) -> None:
    data = heic(Image.fromarray(small))
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(data)
    loaded = read_image(path)
    assert far(loaded.pixels, small) < 6 and loaded.notices == ()
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.pixels.flags.c_contiguous and loaded.pixels.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(small: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = [np.array, np.fliplr, lambda x: np.rot90(x, 2), np.flipud]
    turns += [lambda x: x.swapaxes(0, 1), lambda x: np.rot90(x, -1), lambda x: np.rot90(x, 2).swapaxes(0, 1), np.rot90]
    picture = Image.fromarray(small)
    picture.info["exif"] = exif.tobytes()
    data = heic(picture)
    assert orientation == 1 or b"irot" in data or b"imir" in data
    assert far(read_bytes(data).pixels, turns[orientation - 1](small)) < 6
    # EXIF repeats what these boxes say; readers go by the boxes alone.
    data = heic(Image.fromarray(small), exif=exif)
    assert b"Exif" in data and b"irot" not in data and b"imir" not in data
    assert far(read_bytes(data).pixels, small) < 6


def test_grey_transparent_and_deep_ones(small: np.ndarray) -> None:
    grey = Image.fromarray(small).convert("L")
    assert far(read_bytes(heic(grey)).pixels, np.asarray(grey.convert("RGB"))) < 6
    rgba = np.dstack([small, np.full(small.shape[:2], 255, np.uint8)])
    rgba[:60, :60, 3] = 0
    loaded = read_bytes(heic(Image.fromarray(rgba)))
    assert loaded.notices == ("has transparent pixels; they were put on white",)
    assert loaded.pixels[:50, :50].min() > 245 and far(loaded.pixels[70:], small[70:]) < 6
    buffer = io.BytesIO()
    pillow_heif.encode("RGB;16", (200, 150), (small.astype(np.uint16) << 8).tobytes(), buffer)
    assert far(read_bytes(buffer.getvalue()).pixels, small) < 6


def test_of_several_pictures_the_main_one(small: np.ndarray) -> None:
    other = Image.new("RGB", (64, 64), (255, 0, 0))
    data = heic(other, save_all=True, append_images=[Image.fromarray(small)], primary_index=1)
    loaded = read_bytes(data)
    assert loaded.notices == ("holds several pictures; only the main one is used",)
    assert far(loaded.pixels, small) < 6


def test_a_phones_tiles_are_one_photo(small: np.ndarray) -> None:
    data = tiled_heic(Image.fromarray(small))
    for behind in (b"", b"SEFT of some phone, which is no box", b"\0\0\1\0mpvd" + bytes(10)):
        loaded = read_bytes(data + behind)
        assert far(loaded.pixels, small) < 6 and loaded.notices == ()


def test_one_that_is_cut_off_is_never_half_decoded(small: np.ndarray) -> None:
    """libheif leaves missing tiles out without a word."""
    for data in (heic(Image.fromarray(small)), tiled_heic(Image.fromarray(small))):
        for length in [*range(40, len(data), 211), len(data) - 1]:
            told = refused(data[:length])
            assert "is cut off (the end of the file is missing)" in told or "is a damaged HEIC" in told


def test_boxes_of_all_lengths(small: np.ndarray) -> None:
    """Long ones have their length behind their name, and the last one may go to the end of the file."""
    data = tiled_heic(Image.fromarray(small))
    at = data.index(b"mdat") - 4
    body = data[at + 8 :]
    roomy = data[:at] + b"\0\0\0\x08free" + data[at:]
    for file, whole in (
        (data[:at] + b"\0\0\0\0mdat" + body, True),
        (roomy, True),
        (roomy[:-1], False),
        (data[:at] + b"\0\0\0\1mdat" + (len(body) + 16).to_bytes(8, "big") + body, True),
        (data[:at] + b"\0\0\0\1mdat" + (len(body) + 17).to_bytes(8, "big") + body, False),
        (data[:at] + b"\0\0\0\1mdat" + (1 << 60).to_bytes(8, "big") + body, False),
    ):
        assert lacks_its_end(io.BytesIO(file), "HEIF") is not whole
    assert far(read_bytes(data[:at] + b"\0\0\0\0mdat" + body).pixels, small) < 6


def test_one_whose_end_never_arrived(small: np.ndarray) -> None:
    for data in (heic(Image.fromarray(small), quality=95), tiled_heic(Image.fromarray(small))):
        arrived = len(data) - 5000
        assert "is cut off" in refused(data[:arrived] + bytes(5000))
        assert far(read_bytes(data + bytes(9000)).pixels, small) < 6


def test_a_damaged_one(small: np.ndarray) -> None:
    data = heic(Image.fromarray(small))
    assert "is a damaged HEIC; copy or download it again" in refused(data[:32] + bytes(len(data) - 32))


def test_without_pillow_heif_it_is_said_what_reads_it(without_pillow_heif: None, tmp_path: Path) -> None:
    data = heic(Image.new("RGB", (64, 64)))
    told = "is a HEIC photo, for which pillow-heif is missing; run: pip install 'densecli[heif]', or export it as JPEG"
    assert refused(data) == f"stdin: {told}"
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: {told}"


def test_one_that_does_not_load_is_the_installations_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(Image.new("RGB", (64, 64)))
    monkeypatch.delitem(Image.OPEN, "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    message = refused(data)
    assert "pillow-heif does not load" in message and "pip install --force-reinstall" in message
    assert "damaged" not in message


def test_in_folders_where_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p").mkdir()
    for name in ("a.HEIC", "b.heif", "c.hif", "d.jpg", "a.jpg"):
        Path("p", name).write_bytes(b"x")
    found = Collection(["p"], output_dir="out")
    assert sorted(item.name for item in found) == ["p/a.HEIC", "p/a.jpg", "p/b.heif", "p/c.hif", "p/d.jpg"]
    assert found.skipped == {}
    monkeypatch.setattr(heif, "installed", lambda: False)
    found = Collection(["p"], output_dir="out")
    assert sorted(item.name for item in found) == ["p/a.jpg", "p/d.jpg"]
    reads = "which pip install 'densecli[heif]' reads"
    assert found.skipped == {f".heic, {reads}": 1, f".heif, {reads}": 1, f".hif, {reads}": 1}
    told = f"p/*.HEIC: nothing that can be read matches this pattern (1 .heic, {reads}); check it, and the folder"
    Path("list.txt").write_text("p/*.HEIC\n")
    for inputs in (["p/*.HEIC"], ["list.txt"]):
        (problem,) = Collection(inputs, output_dir="out")
        assert isinstance(problem, Problem) and str(problem.error) == told


@pytest.mark.parametrize("installed", [True, False])
def test_is_no_list(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(heif, "installed", lambda: installed)
    said = no_list(heic(Image.new("RGB", (64, 64))))
    assert said is not None and said.startswith("is a HEIC p") and "not a list of inputs" in said


def test_a_folder_of_a_phone_through_the_command(tmp_path: Path, small: np.ndarray, run_densecli: Command) -> None:
    folder = tmp_path / "phone"
    folder.mkdir()
    (folder / "IMG_1.HEIC").write_bytes(tiled_heic(Image.fromarray(small)))
    (folder / "IMG_2.HEIC").write_bytes(tiled_heic(Image.fromarray(small))[:-500])
    options = ("-m", "starter", "-s", "points_per_side=4", "--save", "overlay,json,yolo")
    done = run_densecli("batch", "phone", "-o", "out", *options, cwd=tmp_path)
    assert done.code == 3, done.stderr
    assert "phone/IMG_2.HEIC: is cut off" in done.stderr
    summary = json.loads((tmp_path / "out" / "IMG_1_masks.json").read_text())
    assert (summary["image"]["width"], summary["image"]["height"]) == (200, 150)
    (picture,) = (tmp_path / "out" / "yolo" / "images").rglob("*.*")
    assert picture.suffix == ".png"  # Ultralytics does not know HEIC
    with Image.open(picture) as opened:
        assert far(np.asarray(opened), small) < 6
