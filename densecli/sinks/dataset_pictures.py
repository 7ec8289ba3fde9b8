"""Whether the readers of data sets open a picture as densecli does, and leave it as it is.

Ultralytics and labelme know fewer kinds than densecli reads: what they do not know is left out of training without a
word, or is an error in the window. They get a PNG in its place.
"""

from __future__ import annotations

import os
from pathlib import PurePath

from PIL import Image

from densecli.sources.decoding import pillow_settings

# Ultralytics goes by the suffix (8.3 and 8.4), then reads by OpenCV.
_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"])
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "WEBP")
# What labelme 6 takes of everything but TIFF; others are 16-bit grey and CMYK.
_MODES = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA"])
_END_OF_JPEG = b"\xff\xd9"


def opens_everywhere(path: str) -> bool:
    """Whether the file can stand in a data set itself. True for one that cannot be looked at: a copy could not either.

    Ultralytics before 8.4.170 writes a JPEG anew in place, and through a link, where something follows its end, as the
    film of a phone's motion photo does.
    """
    if PurePath(path).suffix.lower() not in _SUFFIXES:
        return False
    try:
        with pillow_settings, open(path, "rb") as file:
            try:
                Image.init()
                image = Image.open(file, formats=[known for known in _FORMATS if known in Image.OPEN])
            except Image.UnidentifiedImageError:
                return False
            kind, mode = image.format, image.mode
            file.seek(-len(_END_OF_JPEG), os.SEEK_END)
            if kind == "JPEG" and file.read() != _END_OF_JPEG:
                return False
    except (OSError, ValueError):
        return True
    return kind == "TIFF" or mode in _MODES
