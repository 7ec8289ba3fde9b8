"""Telling what densecli wrote from what it should read: by what a file says of itself, not by its name alone."""

from __future__ import annotations

import contextlib
import os
import re

PNG_MARK = b"tEXtSoftware\0densecli"
"""In the first bytes of every PNG that densecli writes."""

_PICTURE = re.compile(r"(.+)_(?:overlay|labels(?:_wholes|_leaves)?)\.png", re.IGNORECASE | re.DOTALL)
_VIDEO = re.compile(r"(.+)_overlay\.mp4", re.IGNORECASE | re.DOTALL)
_SHEET = re.compile(r".+_compare\.png", re.IGNORECASE | re.DOTALL)
_FOLDER = re.compile(r"(.+)_(?:masks|cutouts)", re.IGNORECASE | re.DOTALL)
_CANDIDATES_HEAD = re.compile(rb"PK\x03\x04.{26}densecli\.json", re.DOTALL)
RUN_FOLDERS = ("yolo", "labelme", "report", "dataset_images")
_MANIFEST = re.compile(r"manifest(\.\d+-of-\d+)?\.jsonl")
_HEAD_BYTES = 512


def is_manifest_name(name: str) -> bool:
    """Whether a file name is that of a run's manifest, or of a shard's."""
    return _MANIFEST.fullmatch(name) is not None


def is_own_file(folder: str, name: str) -> bool:
    """Whether densecli wrote the local file `name` in `folder`."""
    path = os.path.join(folder, name)
    if match := _PICTURE.fullmatch(name):
        return PNG_MARK in _head(path) or _is_summary(os.path.join(folder, f"{match[1]}_masks.json"))
    if name.endswith("_masks.json"):
        return _is_summary(path)
    if _SHEET.fullmatch(name):
        return PNG_MARK in _head(path)
    if name.lower().endswith(".candidates"):
        return _CANDIDATES_HEAD.match(_head(path)) is not None
    if match := _VIDEO.fullmatch(name):
        return _holds(os.path.join(folder, match[1]), r"frame_\d{6,}_(overlay\.png|masks\.json)")
    return False


def is_own_folder(folder: str, name: str) -> bool:
    """Whether densecli wrote all that lies in the local folder `name` in `folder`."""
    if match := _FOLDER.fullmatch(name):
        if _is_summary(os.path.join(folder, f"{match[1]}_masks.json")):
            return True
        first = os.path.join(folder, name, "0001.png")
        return PNG_MARK in _head(first)
    return name in RUN_FOLDERS and _has_manifest(folder)


def _head(path: str) -> bytes:
    with contextlib.suppress(OSError):
        # What is no regular file (a named pipe) could block.
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return file.read(_HEAD_BYTES)
    return b""


def _is_summary(path: str) -> bool:
    return b'"densecli/summary/' in _head(path)


def _has_manifest(folder: str) -> bool:
    with contextlib.suppress(OSError):
        return any(
            is_manifest_name(name) and b'"densecli/manifest/' in _head(os.path.join(folder, name))
            for name in os.listdir(folder)
        )
    return False


def _holds(folder: str, pattern: str) -> bool:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(re.fullmatch(pattern, entry.name) for entry in entries)
    return False
