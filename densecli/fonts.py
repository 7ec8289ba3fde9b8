"""Fonts for words on pictures: Pillow's own, which is little more than ASCII, and this machine's for all else."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Files of Linux distributions, macOS and Windows, widest first; Pillow looks for them where a system keeps fonts.
_SYSTEM = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "wqy-microhei.ttc",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "YuGothR.ttc",
    "malgun.ttf",
    "segoeui.ttf",
)
# Unicode leaves it without a character, so every font draws what it draws for those that it lacks.
_NOBODYS = "\U0010ffff"


def own_font(size: int) -> Font:
    """Pillow's own font, for what is plain ASCII, at a size in pixels."""
    return ImageFont.load_default(size)


def drawable(text: str, size: int) -> tuple[str, Font]:
    """A text in one line as it can be drawn, and the font for it, at a size in pixels.

    The font is Pillow's own, or that of this machine which has most of the text. A letter that it lacks goes without
    its accents; what is left is drawn as fonts draw what they lack, as a box.
    """
    # macOS gives names with accents as characters of their own.
    text = "".join(c if c.isprintable() else "\ufffd" for c in unicodedata.normalize("NFC", text))
    names = ("", *_there()) if _lacking("", text) else ("",)
    name = min(names, key=lambda name: len(_lacking(name, text)))
    lacking = _lacking(name, text)
    text = "".join(_bare(name, c) if c in lacking else c for c in text)
    return text, ImageFont.truetype(name, size) if name else own_font(size)


def _bare(name: str, character: str) -> str:
    base = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return character if not base or _lacking(name, base) else base


@cache
def _there() -> tuple[str, ...]:
    return tuple(name for name in _SYSTEM if _loaded(name) is not None)


@cache
def _loaded(name: str) -> Font | None:
    """A font to ask what it has; "": Pillow's own."""
    try:
        return ImageFont.truetype(name, 16) if name else own_font(16)
    except OSError:
        return None


def _lacking(name: str, text: str) -> set[str]:
    return {c for c in text if not _has(name, c)}


@cache
def _has(name: str, character: str) -> bool:
    font = _loaded(name)
    assert font is not None
    return character.isspace() or _drawn(font, character) != _drawn(font, _NOBODYS)


def _drawn(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
