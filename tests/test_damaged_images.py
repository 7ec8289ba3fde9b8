"""Pictures that are cut off, damaged or far too large: one clear line, and never half of a picture."""

from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from densecli.errors import InputError
from tests.reading import encoded, read_bytes, refusal


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "TGA", "QOI", "AVIF"]
)
def test_a_truncated_image_is_never_half_decoded(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    # Even if the host program allows it for itself.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(image, format)
    for share in (0.3, 0.6, 0.95):
        message = refusal("-", stdin=io.BytesIO(data[: int(len(data) * share)]))
        assert "cut off" in message or "damaged" in message
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True, "the host's setting is put back"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "JPEG2000", "AVIF"])
def test_an_image_whose_end_never_arrived_is_refused(format: str) -> None:
    """Room was made for a whole file, as some downloaders do and file systems after a crash; its end is zeros."""
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    data = encoded(image, format, quality=90)
    for share in (0.3, 0.6, 0.8):
        arrived = int(len(data) * share)
        assert len(data) - arrived > 4096
        message = refusal("-", stdin=io.BytesIO(data[:arrived] + bytes(len(data) - arrived)))
        assert "cut off" in message or "damaged" in message
    # Zeros behind the image are no harm.
    assert read_bytes(data + bytes(10_000)).notices == ()


def test_the_end_of_a_preview_is_not_that_of_the_photo() -> None:
    """Cameras put a JPEG into the segments before the photo; it is whole where the photo is not."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    photo, preview = encoded(Image.fromarray(noise), "JPEG"), encoded(Image.fromarray(noise[:40, :40]), "JPEG")
    data = photo[:2] + b"\xff\xe5" + (len(preview) + 2).to_bytes(2, "big") + preview + photo[2:]
    assert data.count(b"\xff\xd9") == 2 and read_bytes(data + bytes(6000)).notices == ()
    assert "cut off" in refusal("-", stdin=io.BytesIO(data[:-6000] + bytes(6000)))


@given(place=st.integers(0, 10**9), change=st.integers(1, 255))
@settings(max_examples=40)
def test_a_changed_byte_of_a_pngs_pixels_is_noticed(place: int, change: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = bytearray(encoded(image, "PNG"))
    begin = data.index(b"IDAT") + 4
    end = data.rindex(b"IEND") - 4
    data[begin + place % (end - begin)] ^= change
    assert "damaged" in refusal("-", stdin=io.BytesIO(data))


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    body = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + body + zlib.crc32(b"IHDR" + body).to_bytes(4, "big")


def test_more_than_a_gigapixel_is_refused_and_no_pixels_too() -> None:
    for width, height in ((40_000, 40_000), (1_000_001, 1000)):
        data = png_header(width, height) + b"\0\0\0\x08IDAT" + b"\0" * 12
        message = refusal("-", stdin=io.BytesIO(data))
        assert "1000 megapixels" in message
    refusal("-", stdin=io.BytesIO(png_header(0, 5) + b"\0\0\0\x08IDAT" + b"\0" * 12))


def test_100_megapixels_are_read_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    image = Image.new("1", (10_000, 10_000), 1)
    image.putpixel((9_999, 9_999), 0)
    data = encoded(image, "PNG", compress_level=1)
    del image
    loaded = read_bytes(data)
    assert loaded.pixels.shape == (10_000, 10_000, 3)
    assert loaded.pixels[0, 0].tolist() == [255, 255, 255] and not loaded.pixels[-1, -1].any()
    assert loaded.notices == () and not recwarn.list
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_large_text_in_a_png_does_not_matter() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    assert read_bytes(encoded(Image.new("L", (2, 2), 7), "PNG", pnginfo=info)).pixels.max() == 7


def test_camera_raw_previews_are_not_taken_for_the_photo() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    data = encoded(Image.new("RGB", (160, 120)), "TIFF", tiffinfo=tags)
    assert "camera raw" in refusal("-", stdin=io.BytesIO(data))


@given(
    format=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "TGA", "PPM", "ICO"]),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
@settings(max_examples=150)
def test_any_damage_gives_an_image_or_one_input_error(format: str, damage: list[tuple[int, int]]) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (17, 19, 3), dtype=np.uint8))
    data = bytearray(encoded(image, format))
    for position, value in damage:
        # Mostly the header, where the formats keep their numbers.
        data[position % min(len(data), 120)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            loaded = read_bytes(bytes(data))
        except InputError as error:
            assert str(error).isprintable()
        else:
            assert loaded.pixels.ndim == 3 and loaded.pixels.dtype == np.uint8


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_any_bytes_give_an_image_or_one_input_error(data: bytes) -> None:
    try:
        read_bytes(data)
    except InputError as error:
        assert str(error).isprintable() and "-" not in str(error)[:1]
