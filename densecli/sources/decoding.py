"""Decoding: an open file in, upright 8-bit RGB pixels out, complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL import Image, ImageFile, PngImagePlugin

from densecli.errors import InputError
from densecli.sources import heif
from densecli.sources.foreign import HEAD_BYTES, unreadable_kind
from densecli.sources.grey import STRIP_PIXELS, write_deep_grey
from densecli.sources.opening import CHUNK_BYTES
from densecli.sources.unfinished import lacks_its_end
from densecli.wording import reason_of, shown_name

MAX_PIXELS = 1_000_000_000
"""Largest width × height that is read. Decoding one gigapixel takes 7 GB (4 bytes a pixel in Pillow, 3 here)."""

# Raster formats only: Pillow also "opens" EPS and WMF, for which it runs an interpreter, and stubs that it cannot
# decode. TGA has no signature, so it comes last.
# fmt: off
_FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM", "QOI", "ICO", "ICNS", "PSD",
    "DDS", "SGI", "SUN", "FITS", "DIB", "PCX", "TGA",
)
# fmt: on
# Before this Pillow, a FITS file unpacked to more than its pixels: 3 MB took 6 GB.
_FITS_SINCE = (12, 2)
# In these, further frames are previews, depth maps or layers of the same picture: nothing a user would miss.
_FORMATS_OF_ONE_PICTURE = {"MPO", "PSD", "ICO", "ICNS"}
_MORE_FRAMES = {
    "TIFF": "has several pages; only the first page is used",
    "HEIF": "holds several pictures; only the main one is used",
}


@dataclass(frozen=True)
class LoadedImage:
    """One image, ready for the engine."""

    name: str
    """The source as the user gave it; `-` for stdin."""
    pixels: np.ndarray = field(repr=False, compare=False)  # sha256 tells them apart
    """H×W×3 uint8 RGB, C-contiguous and writable, upright (EXIF orientation applied)."""
    sha256: str
    """Hex digest of the file's bytes; of the pixels where there is no file (frames, arrays, pictures of Pillow)."""
    notices: tuple[str, ...]
    """What was done to the pixels that the user may not expect; one sentence each, without the file's name."""


class _PillowSettings:
    """Pillow's process-wide settings as densecli needs them, while at least one thread reads an image.

    A host program finds its own settings again afterwards; threads that read at the same time share one change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                # Pillow warns above this value, and raises above twice of it; what is too large is refused before.
                self._change(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS)
                # A half-decoded image must never pass for a whole one.
                self._change(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
                # Image generators store workflows of many megabytes in a PNG's text; that is no reason to refuse it.
                self._change(PngImagePlugin, "MAX_TEXT_CHUNK", 64 << 20)
                self._change(PngImagePlugin, "MAX_TEXT_MEMORY", 256 << 20)
                # A warning about metadata must not become an error. Else filters stay as they are: they are the
                # process's, and the host program may be changing them in another thread.
                if any(action == "error" for action, *_ in warnings.filters):
                    self._stack.enter_context(warnings.catch_warnings())
                    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
            self._readers += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._stack.close()

    def _change(self, module: Any, name: str, value: object) -> None:
        self._stack.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)


pillow_settings = _PillowSettings()


def decode(name: str, file: BinaryIO) -> LoadedImage:
    """The image in a file that can seek; within `pillow_settings`. name: as the user gave it. Raises InputError."""
    shown = "stdin" if name == "-" else shown_name(name)
    size: tuple[int, int] | None = None
    try:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        if not head:
            raise InputError(f"{shown}: is empty (0 bytes); copy or download it again")
        image = _opened(shown, file, head)
        size = image.size
        if min(size) < 1:
            raise InputError(f"{shown}: has no pixels ({size[0]}×{size[1]}); export it again")
        if size[0] * size[1] > MAX_PIXELS:
            raise InputError(f"{shown}: {_too_large(size)}")
        if _is_raw_photo(image, head):
            raise InputError(
                f"{shown}: is a camera raw file, whose small preview alone could be read; export it as JPEG or TIFF"
            )
        digest = _sha256(file)
        deep_colour = ";16" in str(image.tile[:1])  # load() empties this list
        image.load()
        notices: list[str] = []
        pixels = upright_rgb(image, notices)
        if deep_colour and image.mode in ("RGB", "RGBA") and (brightest := int(pixels.max())) < 64:
            notices.append(
                f"16-bit colour using only {100 * (brightest + 1) / 256:.0f} % of its range and is nearly black; "
                "stretch it to the full range first"
            )
        if _has_more_frames(image):
            notices.append(_MORE_FRAMES.get(image.format or "", "is animated; only the first frame is used"))
        return LoadedImage(name=name, pixels=pixels, sha256=digest, notices=tuple(notices))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{shown}: {_too_large(size)}") from None
    except MemoryError:
        what = f"its {size[0]}×{size[1]} pixels need" if size else "it needs"
        raise InputError(f"{shown}: {what} more memory than is free; scale it down or close other programs") from None
    except PermissionError:
        raise InputError(f"{shown}: permission denied; check who may read it (ls -l)") from None
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on bad data
        reason = reason_of(error)
        truncated = isinstance(error, EOFError) or re.search("truncated|not enough|end of file|No more data", reason)
        state = "is cut off (the end of the file is missing)" if truncated else f"is damaged: {reason}"
        raise InputError(f"{shown}: {state}; copy or download it again") from error


def _opened(shown: str, file: BinaryIO, head: bytes) -> ImageFile.ImageFile:
    Image.init()  # registers every format, so that the ones this Pillow lacks can be left out
    if heif.begins_so(head) and (trouble := heif.register()):
        raise InputError(f"{shown}: {trouble}")
    try:
        image = Image.open(file, formats=_readable())
    except Image.UnidentifiedImageError:
        raise InputError(f"{shown}: {unreadable_kind(head)}") from None
    if lacks_its_end(file, image.format):
        raise EOFError
    return image


def _readable() -> list[str]:
    old = tuple(map(int, PIL.__version__.split(".")[:2])) < _FITS_SINCE
    return [known for known in _FORMATS if known in Image.OPEN and not (old and known == "FITS")]


def from_pillow(image: Image.Image, name: str) -> LoadedImage:
    """A picture that Pillow has opened or made. sha256: of its pixels. Raises InputError where there are none."""
    notices: list[str] = []
    try:
        with pillow_settings:
            image.load()
            if min(image.size) < 1:
                raise InputError(f"{name}: has no pixels ({image.size[0]}×{image.size[1]})")
            pixels = upright_rgb(image, notices)
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(f"{name}: cannot be read ({reason_of(error)}); open it again") from error
    return LoadedImage(name, pixels, hashlib.sha256(pixels.data).hexdigest(), tuple(notices))


def _too_large(size: tuple[int, int] | None) -> str:
    what = f"has {size[0]}×{size[1]} pixels" if size else "has too many pixels"
    return f"{what}; the limit is {MAX_PIXELS // 10**6} megapixels; scale it down or cut it into tiles"


def _is_raw_photo(image: Image.Image, head: bytes) -> bool:
    """Whether a TIFF is a DNG, NEF, ARW, CR2 …, whose first page is a preview of the picture proper."""
    if image.format != "TIFF":
        return False
    tags = getattr(image, "tag_v2", {})
    subfile_type = tags.get(254, 0)
    return head[8:10] == b"CR" or (isinstance(subfile_type, int) and subfile_type & 1 == 1) or 50706 in tags


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    position = file.tell()
    file.seek(0)
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    file.seek(position)  # some of Pillow's decoders go on from where its header ended
    return digest.hexdigest()


def _has_more_frames(image: Image.Image) -> bool:
    if image.format in _FORMATS_OF_ONE_PICTURE:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame is damaged, and is not used
        return False


# An array with the shape of the upright image, seen in the row and column order of the stored image (EXIF orientation).
_AS_STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def upright_rgb(image: Image.Image, notices: list[str]) -> np.ndarray:
    """Pixels of a loaded image, H×W×3 uint8 RGB, upright; converted in strips straight to their place."""
    width, height = image.size
    orientation = _orientation(image, notices)
    upright = np.empty((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    stored = _AS_STORED[orientation](upright)
    if image.mode == "F" or image.mode.startswith("I"):
        write_deep_grey(np.asarray(image), stored, notices)
        return upright
    transparent = False
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        transparent |= _write_strip(strip, stored[top:bottom])
    if transparent:
        notices.append("has transparent pixels; they were put on white")
    return upright


def _orientation(image: Image.Image, notices: list[str]) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none. (Pillow has already applied a TIFF's own while loading.)"""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # whatever is wrong with the metadata, the pixels are whole
        notices.append("its EXIF data are damaged, so it may lie on its side")
        return 1
    return value if isinstance(value, int) and value in _AS_STORED else 1


def _write_strip(strip: Image.Image, out: np.ndarray) -> bool:
    """Write an 8-bit image of any mode to `out` (h×w×3 uint8 RGB); True if some pixel was transparent."""
    if strip.has_transparency_data:
        if strip.mode == "La":
            strip = strip.convert("LA")
        rgba = np.asarray(strip if strip.mode == "RGBA" else strip.convert("RGBA"))
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        if (alpha < 255).any():
            over_white = rgb.astype(np.uint16)
            over_white *= alpha
            over_white += 255 * (255 - alpha.astype(np.uint16)) + 127  # at most 65152; the 127 rounds
            over_white //= 255
            out[:] = over_white
            return True
        out[:] = rgb
    elif strip.mode == "L":
        out[:] = np.asarray(strip)[..., None]
    else:
        out[:] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return False
