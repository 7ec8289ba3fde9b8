"""Inputs on servers that drop a connection now and then, as SFTP servers do: the next input makes a new one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from densecli.errors import InputError
from densecli.sources import read_image
from densecli.sources.folders import folder_at
from densecli.sources.video import frames


class Dropped(MemoryFileSystem):
    """A file system whose connection is dropped after so many calls; what lies there stays."""

    protocol = "dropped"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    lives = 2
    made = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls = 0
        Dropped.made += 1

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("dropped://")))

    def _use(self) -> None:
        self.calls += 1
        if self.calls > self.lives:
            raise OSError("Socket is closed")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._use()
        return super()._open(path, mode, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._use()
        return super().ls(path, detail, **options)

    def info(self, path: str, **options: Any) -> Any:
        self._use()
        return super().info(path, **options)


@pytest.fixture(autouse=True)
def server() -> Iterator[None]:
    fsspec.register_implementation("dropped", Dropped, clobber=True)
    photo = io.BytesIO()
    Image.new("RGB", (8, 6)).save(photo, "PNG")
    Dropped.clear_instance_cache()
    Dropped.lives = 1_000
    for name in ("a.png", "sub/b.png"):
        fsspec.filesystem("dropped").pipe_file(f"/photos/{name}", photo.getvalue())
    Dropped.clear_instance_cache()
    Dropped.lives, Dropped.made = 2, 0
    yield
    Dropped.store.clear()
    Dropped.pseudo_dirs[:] = [""]
    Dropped.clear_instance_cache()


def test_images() -> None:
    for _ in range(6):
        assert read_image("dropped://photos/a.png").pixels.shape == (6, 8, 3)
    assert Dropped.made > 2


def test_videos(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (32, 24))  # type: ignore[attr-defined]
    writer.write(np.zeros((24, 32, 3), np.uint8))
    writer.release()
    Dropped.lives = 1_000
    fsspec.filesystem("dropped").pipe_file("/photos/clip.mp4", (tmp_path / "clip.mp4").read_bytes())
    Dropped.clear_instance_cache()
    Dropped.lives = 2
    for _ in range(6):
        assert len(list(frames("dropped://photos/clip.mp4", decoder="pyav"))) == 1


def test_folders() -> None:
    for _ in range(3):
        folder = folder_at("dropped://photos")
        assert folder is not None and sorted(folder.names()) == [("a.png", False), ("sub", True)]
        assert list(folder.child("sub").names()) == [("b.png", False)]


def test_what_is_not_there_is_asked_for_once() -> None:
    Dropped.lives = 1_000
    with pytest.raises(InputError, match=r"dropped://photos/c\.png: does not exist; check the URL"):
        read_image("dropped://photos/c.png")
    assert folder_at("dropped://photos/c.png") is None
    assert Dropped.made == 1


def test_where_new_connections_break_too_it_is_told() -> None:
    Dropped.lives = 0
    with pytest.raises(InputError, match=r"a\.png: cannot be read: Socket is closed; check the URL"):
        read_image("dropped://photos/a.png")
    with pytest.raises(InputError, match=r"photos: cannot be read: Socket is closed; check the URL"):
        folder_at("dropped://photos")
