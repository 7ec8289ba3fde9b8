"""Reading images: every format and mode gives the right upright RGB pixels, by every way in; what is none is named."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from densecli.errors import EnvironmentProblem, InputError
from densecli.sources import opening, read_image
from tests.reading import encoded, read_bytes, refusal


@pytest.fixture
def colours() -> np.ndarray:
    """12×9×3 uint8, all pixels different."""
    return np.random.default_rng(1).integers(0, 256, (12, 9, 3), dtype=np.uint8)


# --- formats and modes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("BMP", {}),
        ("PPM", {}),
        ("TGA", {}),
        ("SGI", {}),
        ("PCX", {}),
        ("DDS", {}),
        ("QOI", {}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_the_pixels_back(
    tmp_path: Path, colours: np.ndarray, format: str, options: dict[str, object]
) -> None:
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    data = encoded(Image.fromarray(colours), format, **options)
    path = tmp_path / "desk.data"  # the suffix does not matter
    path.write_bytes(data)
    loaded = read_image(path)
    assert loaded.name == str(path)
    assert loaded.notices == ()
    assert loaded.sha256 == hashlib.sha256(data).hexdigest()
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.flags.c_contiguous and loaded.pixels.flags.writeable
    np.testing.assert_array_equal(loaded.pixels, colours)


@pytest.mark.parametrize(("version", "reads"), [("10.1.0", False), ("12.1.1", False), ("12.2.0", True), ("13.0", True)])
def test_fits_where_it_takes_its_pixels_only(monkeypatch: pytest.MonkeyPatch, version: str, reads: bool) -> None:
    monkeypatch.setattr("PIL.__version__", version)
    cards = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    2"]
    cards += ["NAXIS1  =                    4", "NAXIS2  =                    3", "END"]
    data = "".join(f"{card:80}" for card in cards).ljust(2880).encode() + bytes(range(12)).ljust(2880, b"\0")
    if reads:
        assert read_bytes(data).pixels.shape == (3, 4, 3)
    else:
        assert "not an image of a known format" in refusal("-", stdin=io.BytesIO(data))


@pytest.mark.parametrize("format", ["JPEG", "GIF", "AVIF", "WEBP"])
def test_lossy_formats_come_close(format: str) -> None:
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow has no {format}")
    gradient = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], (40, 48, 3))
    loaded = read_bytes(encoded(Image.fromarray(np.ascontiguousarray(gradient)), format))
    assert np.abs(loaded.pixels.astype(int) - gradient).max() <= 12
    assert loaded.notices == ()


def test_white_stays_white_and_black_black_in_cmyk() -> None:
    image = Image.new("CMYK", (8, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 8, 8, 16))
    for format in ("TIFF", "JPEG"):
        pixels = read_bytes(encoded(image, format)).pixels
        assert pixels[:8].min() >= 254 and pixels[8:].max() <= 1, format


def test_lab_becomes_rgb() -> None:
    lab = Image.merge("LAB", [Image.new("L", (3, 3), value) for value in (255, 128, 128)])
    assert (read_bytes(encoded(lab, "TIFF")).pixels >= 250).all()


@given(
    mode=st.sampled_from(["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "PA"]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@settings(max_examples=120)
def test_every_mode_and_size_matches_pillows_conversion(mode: str, width: int, height: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rgba = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgba[0, 0, 3] = 77
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (height, width)).astype(np.uint16))
    elif mode == "PA":
        image = Image.fromarray(rgba, "RGBA").convert("RGB").quantize(16).convert("PA")
    else:
        image = Image.fromarray(rgba, "RGBA").convert(mode)
    data = encoded(image, "TIFF")
    loaded = read_bytes(data)
    assert loaded.pixels.shape == (height, width, 3) and loaded.pixels.dtype == np.uint8
    if mode in ("I;16", "I", "F"):
        assert len(loaded.notices) == 1 and "scaled to 8 bits" in loaded.notices[0]
        grey = np.asarray(image).astype(float)[1:, :]
        order = np.argsort(grey, axis=None)
        assert (np.diff(loaded.pixels[1:, :, 0].ravel()[order].astype(int)) >= 0).all(), "order of greys kept"
    else:
        stored = Image.open(io.BytesIO(data))
        canvas = Image.new("RGBA", stored.size, "white")
        expected = Image.alpha_composite(canvas, stored.convert("RGBA")).convert("RGB")
        assert np.abs(loaded.pixels.astype(int) - np.asarray(expected)).max() <= 1
        assert bool(loaded.notices) == (mode in ("LA", "RGBA"))


def test_transparency_is_put_on_white_and_said_only_when_there_is_some(colours: np.ndarray) -> None:
    rgba = np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)])
    opaque = read_bytes(encoded(Image.fromarray(rgba), "PNG"))
    assert opaque.notices == ()
    np.testing.assert_array_equal(opaque.pixels, colours)

    rgba[0, 0] = (200, 0, 0, 0)
    rgba[0, 1] = (0, 0, 0, 51)  # one fifth black
    seen = read_bytes(encoded(Image.fromarray(rgba), "PNG"))
    assert "transparent" in seen.notices[0] and len(seen.notices) == 1
    assert seen.pixels[0, 0].tolist() == [255, 255, 255]
    assert seen.pixels[0, 1].tolist() == [204, 204, 204]
    np.testing.assert_array_equal(seen.pixels[1:], colours[1:])


def test_transparent_colours_of_palettes_grey_and_rgb() -> None:
    grey = Image.fromarray(np.array([[0, 9], [9, 200]], np.uint8))
    loaded = read_bytes(encoded(grey, "PNG", transparency=9))
    assert loaded.pixels[..., 0].tolist() == [[0, 255], [255, 200]] and loaded.notices

    rgb = Image.new("RGB", (2, 1), (1, 2, 3))
    rgb.putpixel((1, 0), (4, 5, 6))
    loaded = read_bytes(encoded(rgb, "PNG", transparency=(1, 2, 3)))
    assert loaded.pixels.tolist() == [[[255, 255, 255], [4, 5, 6]]] and loaded.notices

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        loaded = read_bytes(encoded(palette, format, transparency=0))
        assert loaded.pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]] and loaded.notices, format
        loaded = read_bytes(encoded(palette, format))
        assert loaded.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]] and not loaded.notices, format


def test_an_image_of_several_strips_is_whole() -> None:
    ramp = (np.arange(2100 * 2100) % 251).astype(np.uint8).reshape(2100, 2100)
    rgba = np.dstack([ramp, ramp[::-1], ramp.T, np.full_like(ramp, 255)])
    rgba[-1, -1, 3] = 0  # only the last strip has a transparent pixel
    loaded = read_bytes(encoded(Image.fromarray(rgba), "PNG", compress_level=1))
    expected = rgba[..., :3].copy()
    expected[-1, -1] = 255
    np.testing.assert_array_equal(loaded.pixels, expected)
    assert loaded.notices


# --- deep grey ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_an_8_bit_photo_saved_with_16_bits_comes_back_exactly(format: str) -> None:
    photo = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for values in (photo, photo * 257):
        loaded = read_bytes(encoded(Image.fromarray(values), format))
        np.testing.assert_array_equal(loaded.pixels, np.repeat(photo[..., None], 3, 2))


def test_twelve_bits_in_sixteen_are_stretched_in_either_byte_order() -> None:
    values = np.linspace(1000, 4095, 400).astype(np.uint16).reshape(20, 20)
    little = read_bytes(encoded(Image.fromarray(values), "TIFF"))
    big_endian = Image.frombytes("I;16B", (20, 20), values.astype(">u2").tobytes())
    big = read_bytes(encoded(big_endian, "TIFF"))
    assert little.pixels.min() == 0 and little.pixels.max() == 255
    assert "1000 to 4095" in little.notices[0]
    np.testing.assert_array_equal(little.pixels, big.pixels)


def test_a_dead_pixel_does_not_darken_a_thermal_image() -> None:
    values = np.random.default_rng(0).integers(7000, 8001, (100, 100)).astype(np.uint16)
    values[3, 4], values[5, 6] = 65535, 0
    pixels = read_bytes(encoded(Image.fromarray(values), "TIFF")).pixels[..., 0]
    assert pixels[3, 4] == 255 and pixels[5, 6] == 0
    assert 60 < pixels.std() < 90


def test_what_differs_in_few_pixels_stays_visible() -> None:
    values = np.full((100, 100), 500, np.uint16)
    values[50, 50:53] = 900
    pixels = read_bytes(encoded(Image.fromarray(values), "TIFF")).pixels
    assert pixels[50, 51, 0] == 255 and pixels[0, 0, 0] == 0


def test_negative_integers_and_unit_floats() -> None:
    scan = np.linspace(-1024, 3071, 256).astype(np.int32).reshape(16, 16)
    pixels = read_bytes(encoded(Image.fromarray(scan), "TIFF")).pixels[..., 0]
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all() and pixels[0, 0] == 0 and pixels[-1, -1] == 255

    unit = np.array([[0.0, 0.5, 0.8]], np.float32)
    assert read_bytes(encoded(Image.fromarray(unit), "TIFF")).pixels[0, :, 0].tolist() == [0, 128, 204]


def test_floats_that_are_no_numbers() -> None:
    values = np.array([[0.0, np.nan, 1.0], [np.inf, -np.inf, 0.2]], np.float32)
    assert read_bytes(encoded(Image.fromarray(values), "TIFF")).pixels[..., 0].tolist() == [[0, 0, 255], [255, 0, 51]]
    nothing = read_bytes(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))
    assert not nothing.pixels.any() and "none is a finite number" in nothing.notices[0]


@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.lists(st.integers(0, 65535), min_size=1, max_size=30))
@settings(max_examples=80)
def test_any_grey_values_are_read_without_a_numeric_warning(floats: list[float], integers: list[int]) -> None:
    for values in (np.array([floats], np.float32), np.array([integers], np.uint16)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first = read_bytes(encoded(Image.fromarray(values), "TIFF"))
        assert len(first.notices) == 1
        finite = np.isfinite(values[0])
        order = np.argsort(values[0][finite])
        assert (np.diff(first.pixels[0, finite, 0][order].astype(int)) >= 0).all()


def test_dark_16_bit_colour_is_pointed_out() -> None:
    def png(peak: int) -> bytes:
        row = b"\0" + np.linspace(0, peak, 8 * 3).astype(">u2").tobytes()
        header = b"\0\0\0\x08\0\0\0\x01\x10\x02\0\0\0"
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
            for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
        )

    assert "nearly black" in read_bytes(png(4095)).notices[0]
    assert read_bytes(png(65535)).notices == ()


# --- EXIF ----------------------------------------------------------------------------------------------------------

# Where the stored image's first and last pixel of its first row are to be seen (EXIF 2.32, table of tag 0x0112).
CORNERS = {
    1: ((0, 0), (0, -1)),
    2: ((0, -1), (0, 0)),
    3: ((-1, -1), (-1, 0)),
    4: ((-1, 0), (-1, -1)),
    5: ((0, 0), (-1, 0)),
    6: ((0, -1), (-1, -1)),
    7: ((-1, -1), (0, -1)),
    8: ((-1, 0), (0, 0)),
}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_exif_orientation(format: str, orientation: int) -> None:
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :16] = (255, 0, 0)
    stored[:16, 48:] = (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"lossless": True} if format == "WEBP" else {}
    if format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = orientation
        options["tiffinfo"] = tags
    else:
        options["exif"] = exif
    loaded = read_bytes(encoded(Image.fromarray(stored), format, **options))
    assert loaded.pixels.shape == ((64, 32, 3) if orientation >= 5 else (32, 64, 3))
    assert loaded.pixels.flags.c_contiguous
    first, last = CORNERS[orientation]
    assert np.abs(loaded.pixels[first].astype(int) - (255, 0, 0)).max() < 10
    assert np.abs(loaded.pixels[last].astype(int) - (0, 0, 255)).max() < 10
    assert loaded.notices == ()


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_broken_exif_does_not_stop_the_image(junk: bytes) -> None:
    image = Image.new("RGB", (8, 8), (0, 128, 0))
    for format in ("JPEG", "PNG"):
        loaded = read_bytes(encoded(image, format, exif=b"Exif\0\0" + junk))
        assert loaded.pixels.shape == (8, 8, 3) and abs(int(loaded.pixels[0, 0, 1]) - 128) < 4


def test_broken_exif_is_said() -> None:
    # (Of a JPEG's, Pillow forgets what was wrong.)
    for format in ("PNG", "WEBP"):
        data = encoded(Image.new("RGB", (8, 8)), format, exif=b"Exif\0\0no tiff header")
        assert "EXIF" in read_bytes(data).notices[0]


def test_an_orientation_out_of_range_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert read_bytes(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).pixels.shape == (4, 8, 3)


# --- several frames ------------------------------------------------------------------------------------------------


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        loaded = read_bytes(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options))
        assert (loaded.pixels == (255, 0, 0)).all(), format
        assert ("page" if format == "TIFF" else "animated") in loaded.notices[0], format
    assert read_bytes(encoded(frames[0], "GIF")).notices == ()


def test_a_damaged_second_frame_does_not_matter() -> None:
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 60, 3), dtype=np.uint8)) for i in (0, 1)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    whole, cut = read_bytes(data), read_bytes(data[: len(data) - 2000])
    np.testing.assert_array_equal(whole.pixels, cut.pixels)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_missing_files_name_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kitchen.JPG").touch()
    assert f"did you mean {tmp_path / 'Kitchen.JPG'}?" in refusal(tmp_path / "kitchn.jpg")
    assert "did you mean" not in refusal(tmp_path / "garden.png")
    assert "nor does its folder" in refusal(tmp_path / "nowhere" / "a.jpg")
    assert "nor does its folder" in refusal(tmp_path / "Kitchen.JPG" / "a.jpg")
    assert "densecli batch '" in refusal(str(tmp_path / "*.jpg"))
    monkeypatch.chdir(tmp_path)
    assert "did you mean Kitchen.JPG?" in refusal("Kitchen.jpeg")


def test_things_that_are_not_files(tmp_path: Path) -> None:
    assert f"use `densecli batch {tmp_path}`" in refusal(tmp_path)
    (tmp_path / "a; b").mkdir()
    assert f"use `densecli batch '{tmp_path}/a; b'`" in refusal(tmp_path / "a; b")
    assert f"run `densecli batch '{tmp_path}/$(b)*'`" in refusal(tmp_path / "$(b)*")
    link = tmp_path / "link.jpg"
    link.symlink_to(tmp_path / "gone.jpg")
    assert f"link to {tmp_path / 'gone.jpg'}, which does not exist" in refusal(link)
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    assert "leads back to itself" in refusal(loop)
    assert "name too long" in refusal(tmp_path / ("x" * 300)).lower()
    refusal("nul\0byte.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        start = time.monotonic()
        assert "named pipe" in refusal(tmp_path / "pipe.jpg")
        assert "device" in refusal("/dev/zero")
        assert time.monotonic() - start < 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "permission denied" in refusal(path)


def test_names_that_are_not_printable_stay_on_one_line(tmp_path: Path) -> None:
    assert "\\n" in refusal(tmp_path / "two\nlines\x1b[31m.jpg")
    assert "\\udcff" in refusal(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\xef\xbb\xbf <!DOCTYPE html><p>Log in", "an HTML page"),
        (b"<html><body>404", "an HTML page"),
        (b"<?xml version='1.0'?><svg xmlns=''/>", "an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"7z\xbc\xaf\x27\x1c", "an archive"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0" * 50, "densecli batch"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + b"\0" * 50, "a video"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01webm", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50, "damaged HEIC"),
        ("Häuser.jpg\nnotes.txt\n".encode(), "a text file"),
        (b"\0" * 500, "zero bytes"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "damaged JPEG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "damaged PNG"),
        (b"\x07\xfe\x80\x81\x82 \xc3(", "begins with the bytes 07 fe 80 81"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "desk.jpg"
    path.write_bytes(data)
    assert expected in refusal(path)
    message = refusal("-", stdin=io.BytesIO(data))
    assert message.startswith("stdin: ")
    assert expected in message


# --- other ways in -------------------------------------------------------------------------------------------------


def test_stdin_and_pipes_of_a_real_process(tmp_path: Path, colours: np.ndarray) -> None:
    data = encoded(Image.fromarray(colours), "PNG")
    code = (
        "import sys; from densecli.sources import read_image; r = read_image(sys.argv[1]); "
        "print(r.name, r.pixels.shape, r.sha256)"
    )
    digest = hashlib.sha256(data).hexdigest()
    for name in ("-", "/dev/stdin") if os.path.exists("/dev/stdin") else ("-",):
        done = subprocess.run([sys.executable, "-c", code, name], input=data, capture_output=True, check=True)
        assert done.stdout.decode().strip() == f"{name} (12, 9, 3) {digest}"


def test_reading_imports_neither_torch_nor_fsspec(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (2, 2)).save(path)
    code = (
        "import sys; from densecli.sources import read_image; read_image(sys.argv[1]); "
        "print([m for m in ('torch', 'cv2', 'fsspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_stream_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            view = memoryview(buffer)  # type: ignore[arg-type]
            view[:] = (b"\xff\xd8\xff" + b"x" * len(view))[: len(view)]
            return len(view)

    monkeypatch.setattr(opening, "MOST_BYTES", 5_000_000)
    with pytest.raises(InputError, match=r"^stdin: does not end after 0.005 GB; give it as a file here$"):
        read_image("-", stdin=io.BufferedReader(Endless()))


def test_urls_of_fsspec(tmp_path: Path, colours: np.ndarray) -> None:
    import fsspec

    data = encoded(Image.fromarray(colours), "PNG")
    with fsspec.open("memory://folder/desk.png", "wb") as file:
        file.write(data)
    loaded = read_image("memory://folder/desk.png")
    assert loaded.name == "memory://folder/desk.png"
    np.testing.assert_array_equal(loaded.pixels, colours)
    assert "does not exist" in refusal("memory://folder/desc.png")
    assert "folder" in refusal("memory://folder")
    with fsspec.open("memory://folder/page.png", "wb") as file:
        file.write(b"<html>")
    assert "HTML" in refusal("memory://folder/page.png")

    path = tmp_path / "my desk.png"
    path.write_bytes(data)
    for url in (f"file://{path}", path.as_uri()):
        assert read_image(url).sha256 == hashlib.sha256(data).hexdigest()
    assert "is a folder" in refusal(f"file://{tmp_path}")

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner/a.png", data)
    assert read_image(f"zip://inner/a.png::file://{tmp_path}/a.zip").pixels.shape == (12, 9, 3)


@pytest.mark.parametrize(
    "url", ["reference://a.png::file://{}", "reference::file://{}", "zip://a::reference::file://{}"]
)
def test_urls_of_texts_that_can_run_code_are_refused(tmp_path: Path, url: str) -> None:
    text = tmp_path / "references.json"
    text.write_text('{"version": 1, "refs": {"a.png": "base64:AAAA"}}')
    assert "reference:// is not read" in refusal(url.format(text))


def test_unknown_schemes_and_missing_packages() -> None:
    message = refusal("gopher://host/desk.png")
    assert "gopher://" in message and "s3://" in message
    try:
        import s3fs  # noqa: F401
    except ImportError:
        message = refusal("s3://bucket/desk.png", EnvironmentProblem)
        assert f"{sys.executable} -m pip install 'densecli[s3]'" in message


class _Server(BaseHTTPRequestHandler):
    image = encoded(Image.new("RGB", (5, 4), (1, 2, 3)), "PNG")

    def do_GET(self) -> None:
        if self.path.startswith("/my%20desk.png"):
            self.send_response(200)
            short = 10 if "broken" in self.path else 0
            self.send_header("Content-Length", str(len(self.image)))
            self.end_headers()
            self.wfile.write(self.image[: len(self.image) - short])
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        loaded = read_image(f"{base}/my desk.png?size=full")
        assert loaded.pixels.shape == (4, 5, 3) and loaded.pixels[0, 0].tolist() == [1, 2, 3]
        assert "404" in refusal(f"{base}/other.png")
        assert "broke off" in refusal(f"{base}/my%20desk.png?broken")
        server.shutdown()
    assert "cannot be fetched" in refusal(f"{base}/my%20desk.png")


def test_many_threads_leave_pillows_settings_as_they_were(colours: np.ndarray) -> None:
    data = encoded(Image.fromarray(colours), "PNG")
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: read_bytes(data).pixels, range(64)))
    assert all(np.array_equal(result, colours) for result in results)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
