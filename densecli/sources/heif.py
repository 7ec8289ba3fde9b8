"""HEIC, as iPhones take photos, and its kin: read by pillow-heif, where it is installed."""

from __future__ import annotations

import importlib.util
from functools import cache

from densecli.sources import iso_boxes
from densecli.wording import reason_of

SUFFIXES = frozenset([".heic", ".heif", ".hif"])
"""Lower-case; Canon, Sony and Fuji write .hif."""

# Of ISO/IEC 23008-12: pictures coded as HEVC, sequences of these, and both in general.
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


@cache
def installed() -> bool:
    """Whether pillow-heif is there. Looked for and not imported, as a folder of JPEGs has no need of it."""
    return importlib.util.find_spec("pillow_heif") is not None


def begins_so(head: bytes) -> bool:
    """Whether a file with these first bytes is HEIC or its kin, and not AVIF, which uses the same container."""
    brands = iso_boxes.brands(head)
    return any(brand in brands for brand in _BRANDS) and not (b"avif" in brands or b"avis" in brands)


def register() -> str | None:
    """Let Pillow open HEIC, if pillow-heif is there; what is wrong with it where it does not load."""
    from PIL import Image

    if "HEIF" in Image.OPEN or not installed():
        return None
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except Exception as error:  # of libraries that are missing, or fit another Pillow
        return (
            f"is a HEIC photo, and pillow-heif does not load ({reason_of(error)}); "
            "run: pip install --force-reinstall --no-deps pillow-heif"
        )
    return None
