"""What a file that is no image is, from its first bytes, and what to do about it."""

from __future__ import annotations

import io
import re

from PIL import features

from densecli.sources import heif, iso_boxes

HEAD_BYTES = 4096
"""How much of a file's beginning these functions want to see."""


VIDEO = "is a video, not an image; use `densecli batch`"
"""What `foreign_kind` says of a video."""

_NO_HEIF = "for which pillow-heif is missing; run: pip install 'densecli[heif]', or export it as JPEG"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


def foreign_kind(head: bytes) -> str | None:
    """What a file with these first bytes surely is instead of an image, and what to do; None if it may be one."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image itself; run: git lfs pull"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return "is an HTML page, not an image; fetch the image itself (the address of a page, or a login, gives this)"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "is an SVG drawing, not a raster image; export it as PNG"
    if head.startswith(b"%PDF"):
        return "is a PDF, not an image; export its pages as PNG"
    if head.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        return "is a PostScript file, not an image; export it as PNG"
    if head.startswith(b"PK\x03\x04"):
        return "is a ZIP archive, not an image; unpack it, or run: densecli batch -r zip://::FILE"
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")):
        return "is an archive, not an image; unpack it first"
    is_video = head.startswith((b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"))
    if (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or head.startswith(_ASF) or _is_transport_stream(head):
        is_video = True
    if heif.begins_so(head):
        return None if heif.installed() else f"is a HEIC photo, {_NO_HEIF}"
    if brands := iso_boxes.brands(head):
        if b"avif" in brands or b"avis" in brands:
            return None
        is_video = True
    return VIDEO if is_video else None


def _is_transport_stream(head: bytes) -> bool:
    """Whether these are the packets of .ts and .mts: 188 bytes, each with a G in front (of .m2ts after 4 more)."""
    return any(
        all(head[at : at + 1] == b"G" for at in range(begin, begin + 6 * step, step))
        for begin, step in ((0, 188), (4, 192))
    )


_IMAGE_SIGNATURES = {
    rb"\xff\xd8\xff": "JPEG",
    rb"\x89PNG": "PNG",
    rb"GIF8": "GIF",
    rb"BM": "BMP",
    rb"RIFF....WEBP": "WebP",
    rb"....ftyp": "AVIF",
    rb"\x00\x00\x00\x0cjP": "JPEG 2000",
}
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|\?xml|html|head|script|svg)[\s>]", re.IGNORECASE)
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def unreadable_kind(head: bytes) -> str:
    """What a file with these first bytes is, which Pillow cannot open, and what to do."""
    foreign = foreign_kind(head)
    if foreign:
        return foreign
    picture = _picture_kind(head)
    if picture == "AVIF" and not features.check("avif"):
        return "is an AVIF image that this installation of Pillow cannot read; update Pillow or export it as PNG"
    if picture == "TIFF":
        return "is a damaged TIFF, or one of an unusual pixel type or channel count; export it as 8-bit RGB"
    if picture:
        return f"is a damaged {picture}; copy or download it again"
    if not head.strip(b"\0"):
        return "holds nothing but zero bytes (an unfinished download?); copy or download it again"
    if _is_text(head):
        return "is a text file, not an image; for a list of files run `densecli batch LIST.txt`"
    return f"is not an image of a known format (it begins with the bytes {head[:8].hex(' ')}); give a JPEG, PNG or TIFF"


def no_list(head: bytes) -> str | None:
    """What a file with these first bytes surely is instead of a list of names; None if it may be one."""
    # A name may begin as a signature does (BMW.jpg, FLV_1.mp4); what is no text has such characters soon. DOS ends
    # texts by Ctrl-Z, ls colours names by Esc.
    is_text = not re.search(rb"[\x01-\x08\x0e-\x19\x1c-\x1f]", head)
    if is_text and not _MARKUP.match(head) and not head.startswith(b"version https://git-lfs"):
        return None
    picture, kind = _picture_kind(head), foreign_kind(head)
    if kind is not None:
        return f"{kind.partition(',')[0]}, not a list of inputs; give a text file with one name a line"
    return picture and f"is a {picture} picture, not a list of inputs; for one picture use `densecli segment`"


def _picture_kind(head: bytes) -> str | None:
    """The format of which a file with these first bytes is a picture, or would be one."""
    if heif.begins_so(head):
        return "HEIC"
    if head[:4] in _TIFF_SIGNATURES:
        return "TIFF"
    return next((name for signature, name in _IMAGE_SIGNATURES.items() if re.match(signature, head, re.DOTALL)), None)


def _is_text(head: bytes) -> bool:
    try:
        # The head may end inside a character; an incremental decoder does not mind.
        text = io.TextIOWrapper(io.BytesIO(head[: head.rfind(b"\n") + 1] or head[:-4] or head), "utf-8").read()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
