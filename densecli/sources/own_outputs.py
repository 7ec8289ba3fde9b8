"""Telling what densecli wrote from what it should read: by what a file says of itself, not by its name alone."""

from __future__ import annotations

import contextlib
import os
import re
import struct

from densecli.output_names import (
    ENDINGS,
    FOLDERS,
    FRAME_NAME,
    LABELME,
    MANIFEST_NAME,
    MASK_NAME,
    OVERLAY_VIDEO,
    PICTURES,
    REPORT_PICTURES,
    RUN_FOLDERS,
    SHEET,
    YOLO,
)

PNG_MARK = b"tEXtSoftware\0densecli"
"""In the first bytes of every PNG that densecli writes."""

_SUMMARY_MARK = b'"densecli/summary/'


def _named(*endings: str) -> re.Pattern[str]:
    """Names that end so, whatever becomes of capitals on their way; what stands before is their first group."""
    return re.compile(f"(.+)(?:{'|'.join(map(re.escape, endings))})", re.IGNORECASE | re.DOTALL)


_PICTURE, _VIDEO, _SHEET, _FOLDER = _named(*PICTURES), _named(OVERLAY_VIDEO), _named(SHEET), _named(*FOLDERS)
_FRAME_FILE = re.compile(f"{FRAME_NAME.pattern}(?:{ENDINGS['overlay']}|{ENDINGS['json']})")
_VIDEO_END = re.compile(rb"(?:free(?P<mark>densecli/overlay/1 [0-9a-f]{16})|\xa9cmt.{4}data.{8}densecli)\Z", re.DOTALL)
"""Of an overlay video: the box that follows all others, which no player looks at; before that, a comment was last."""
_CLUTTER = ("thumbs.db", "desktop.ini")
"""What systems leave in folders that they show; so do names that begin with a dot."""
_PNG_HEAD, _SUMMARY_HEAD = re.compile(re.escape(PNG_MARK)), re.compile(re.escape(_SUMMARY_MARK))
_CANDIDATES_HEAD = re.compile(rb"\APK\x03\x04.{26}densecli\.json", re.DOTALL)
YOLO_MARK = "# Images are links to the inputs"
"""Begins the `data.yaml` of a data set that densecli wrote."""
REPORT_MARK = "/* densecli report "
"""Begins every script in the report's folder."""
_REPORT_PART = re.compile(r"[0-9a-f]{2}")
HEAD_BYTES = 4096
"""In which a file says who wrote it; a report says it late."""
TAIL_BYTES = 64
"""At the end of a video, in which it says who wrote it."""


def is_manifest_name(name: str) -> bool:
    """Whether a file name is that of a run's manifest, or of a shard's."""
    return MANIFEST_NAME.fullmatch(name) is not None


def is_own_file(folder: str, name: str) -> bool:
    """Whether densecli wrote the local file `name` in `folder`.

    A picture beside its summary counts too: programs that make PNGs smaller take the mark out.
    """
    mark = _mark(name)
    if mark is not None and mark.search(head_of(os.path.join(folder, name))):  # nearly all are never opened
        return True
    if match := _PICTURE.fullmatch(name):
        return _is_summary(os.path.join(folder, match[1] + ENDINGS["json"]))
    if match := _VIDEO.fullmatch(name):
        beside = _holds(os.path.join(folder, match[1]), _FRAME_FILE)
        return beside or is_own_video(tail_of(os.path.join(folder, name)))
    return False


def is_video_name(name: str) -> bool:
    """Whether an overlay video may be called so: only then `is_own_video` is worth a look."""
    return _VIDEO.fullmatch(name) is not None


def video_mark(digest: str) -> bytes:
    """What the end of an overlay video says of it. digest: 16 hex digits, of what it was made of."""
    return f"densecli/overlay/1 {digest}".encode()


def marked(mark: bytes) -> bytes:
    """The box of an MP4 that holds a mark; goes behind all others."""
    return struct.pack(">I4s", 8 + len(mark), b"free") + mark


def is_own_video(tail: bytes) -> bool:
    """Whether densecli wrote the overlay video whose last bytes (TAIL_BYTES) these are."""
    return _VIDEO_END.search(tail) is not None


def says_own(name: str, head: bytes) -> bool:
    """Whether a file's first bytes (HEAD_BYTES) say that densecli wrote it; not asked of other names than it gives."""
    mark = _mark(name)
    return mark is not None and mark.search(head) is not None


def _mark(name: str) -> re.Pattern[bytes] | None:
    """What is in the first bytes of densecli's files that are called so; None for names that it does not give."""
    if any(kind.fullmatch(name) for kind in (_PICTURE, _SHEET, MASK_NAME)):
        return _PNG_HEAD
    if name.endswith(ENDINGS["json"]):
        return _SUMMARY_HEAD
    return _CANDIDATES_HEAD if name.lower().endswith(ENDINGS["candidates"]) else None


def is_own_folder(folder: str, name: str, *, marked: bool = False) -> bool:
    """Whether densecli wrote all that lies in the local folder `name` in `folder`, and something does.

    marked: only where each of its pictures says so itself, as before they are removed; else as `is_own_file`.
    """
    path = os.path.join(folder, name)
    if match := _FOLDER.fullmatch(name):
        beside = not marked and _is_summary(os.path.join(folder, match[1] + ENDINGS["json"]))
        return beside or _are_numbered_pictures(path, each=marked)
    if _REPORT_PART.fullmatch(name):
        return any(
            REPORT_MARK.encode() in head_of(os.path.join(path, entry))
            for entry in _names(path)
            if entry.endswith(".js")
        )
    if name not in RUN_FOLDERS or not has_manifest(folder):
        return False
    # A user's own folder may be called the same.
    if name == YOLO:
        return is_own_yolo(path)
    if name == LABELME:
        return all(file.endswith(".json") for _, _, files in os.walk(path) for file in files)
    return name != REPORT_PICTURES or all(map(_REPORT_PART.fullmatch, _names(path)))


def is_own_yolo(path: str) -> bool:
    """Whether densecli wrote the YOLO data set in the local folder `path`.

    Without the mark (people write a data.yaml of their own) where its pictures are links, beside a run's manifest.
    """
    if YOLO_MARK.encode() in head_of(os.path.join(path, "data.yaml")):
        return True
    if not has_manifest(os.path.dirname(path)) or not set(_names(path)) <= {"images", "labels", "data.yaml"}:
        return False
    files = (os.path.join(top, name) for top, _, names in os.walk(os.path.join(path, "images")) for name in names)
    return (first := next(files, None)) is not None and os.path.islink(first)


def is_empty(path: str) -> bool:
    """Whether nothing lies in a local folder but what systems leave there."""
    return not _names(path)


def is_own_coco(head: bytes) -> bool:
    """Whether densecli wrote the COCO file that begins so."""
    return b'"description": "densecli"' in head


def is_own_report(head: bytes) -> bool:
    """Whether densecli wrote the page that begins so."""
    return b'<meta name="generator" content="densecli' in head


def _are_numbered_pictures(path: str, *, each: bool) -> bool:
    names = _names(path)
    if not names or not all(map(MASK_NAME.fullmatch, names)):
        return False
    return all(PNG_MARK in head_of(os.path.join(path, name)) for name in (names if each else [min(names)]))


def _names(path: str) -> list[str]:
    """What lies in a folder, but for what systems leave there."""
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return [name for name in names if not name.startswith(".") and name.casefold() not in _CLUTTER]


def head_of(path: str, most: int = HEAD_BYTES) -> bytes:
    """The first bytes of a local file; none of what is no regular file (a named pipe), which could block."""
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(most)
    return b""


def tail_of(path: str, most: int = TAIL_BYTES) -> bytes:
    """The last bytes, as `head_of` gives the first."""
    with contextlib.suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
                return file.read()
    return b""


def _is_summary(path: str) -> bool:
    return _SUMMARY_MARK in head_of(path)


def has_manifest(folder: str) -> bool:
    """Whether a run of batch, or a shard of one, recorded what it did in a local folder."""
    with contextlib.suppress(OSError):
        return any(
            is_manifest_name(name) and b'"densecli/manifest/' in head_of(os.path.join(folder, name))
            for name in os.listdir(folder)
        )
    return False


def _holds(folder: str, pattern: re.Pattern[str]) -> bool:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(pattern.fullmatch(entry.name) for entry in entries)
    return False
