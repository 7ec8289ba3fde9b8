"""HEIC as phones write it: a grid of tiles, each a picture of its own, which no encoder at hand makes.

Boxes as in ISO/IEC 14496-12 and 23008-12; the tiles are pillow-heif's.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image


def tiled_heic(picture: Image.Image, tile: int = 64) -> bytes:
    """An RGB picture as a HEIC file of `tile` × `tile` pixels a tile; `meta` lies before the tiles."""
    width, height = picture.size
    rows, columns = -(-height // tile), -(-width // tile)
    more = (0, rows * tile - height), (0, columns * tile - width), (0, 0)
    pixels = np.pad(np.asarray(picture), more, "edge")
    parts = pixels.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    first, *others = map(Image.fromarray, parts)
    buffer = io.BytesIO()
    first.save(buffer, "HEIF", save_all=True, append_images=others)
    return _joined(buffer.getvalue(), width, height, rows, columns)


def _joined(tiles: bytes, width: int, height: int, rows: int, columns: int) -> bytes:
    """A file of several pictures with one more, first, that is put together from all of them."""
    top = {kind: (at, body) for kind, at, body in _boxes(tiles)}
    meta = {kind: body for kind, _, body in _boxes(top[b"meta"][1][4:])}
    properties = {kind: body for kind, _, body in _boxes(meta[b"iprp"])}
    items = [body for _, _, body in _boxes(meta[b"iinf"][6:])]
    places = _places(meta[b"iloc"])
    grid = max(places) + 1

    hidden = b"".join(_full(b"infe", item[0], 1, item[4:]) for item in items)
    told = _full(b"infe", 2, 0, struct.pack(">HH4s", grid, 0, b"grid") + b"\0")
    used = struct.pack(">HBB", grid, 1, len(list(_boxes(properties[b"ipco"]))) + 1)
    size = _full(b"ispe", 0, 0, struct.pack(">II", width, height))
    count = struct.unpack(">I", properties[b"ipma"][4:8])[0] + 1
    common = [
        _box(b"hdlr", meta[b"hdlr"]),
        _full(b"pitm", 0, 0, struct.pack(">H", grid)),
        _full(b"iinf", 0, 0, struct.pack(">H", len(items) + 1) + hidden + told),
        _full(b"iref", 0, 0, _box(b"dimg", struct.pack(f">HH{len(places)}H", grid, len(places), *sorted(places)))),
        _box(
            b"iprp",
            _box(b"ipco", properties[b"ipco"] + size)
            + _full(b"ipma", 0, 0, struct.pack(">I", count) + properties[b"ipma"][8:] + used),
        ),
        _box(b"idat", struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)),
    ]

    def described(shift: int) -> bytes:
        lines = [struct.pack(">HHHHII", i, 0, 0, 1, places[i][0] + shift, places[i][1]) for i in sorted(places)]
        lines.append(struct.pack(">HHHHII", grid, 1, 0, 1, 0, 8))  # of `idat`
        return _full(
            b"meta",
            0,
            0,
            b"".join(common) + _full(b"iloc", 1, 0, struct.pack(">BBH", 0x44, 0, len(lines)) + b"".join(lines)),
        )

    begin = _box(b"ftyp", top[b"ftyp"][1])
    shift = len(begin) + len(described(0)) + 8 - top[b"mdat"][0]
    return begin + described(shift) + _box(b"mdat", top[b"mdat"][1])


def _places(iloc: bytes) -> dict[int, tuple[int, int]]:
    """Offset and length of each item, of which each has one extent."""
    version, sizes = iloc[0], struct.unpack(">H", iloc[4:6])[0]
    offset_bytes, length_bytes, base_bytes = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    stream = io.BytesIO(iloc[6:])

    def number(size: int) -> int:
        return int.from_bytes(stream.read(size), "big")

    places = {}
    for _ in range(number(2)):
        item = number(2)
        stream.read(4 if version else 2)
        base = number(base_bytes)
        assert number(2) == 1
        places[item] = base + number(offset_bytes), number(length_bytes)
    return places


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Type, where the body begins, and body."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, at + 8, data[at + 8 : at + size]
        at += size


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def _full(kind: bytes, version: int, flags: int, body: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags) + body)
