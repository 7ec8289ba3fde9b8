"""Passwords in URLs: used, and neither printed nor written anywhere."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from densecli import Segmenter
from densecli.batch import BatchJob, run_batch
from densecli.batch.job import SegmenterOptions
from densecli.console import Console
from densecli.errors import InputError
from densecli.image_candidates import ImageCandidates
from densecli.one_by_one import Job, segment_all
from densecli.presets import load_preset
from densecli.remote.staging import staging_folder
from densecli.sinks import WriteOptions
from densecli.wording import reason_of, shown_input, shown_name, without_password
from tests.conftest import FIRST_STARTER

SETTINGS = ("points_per_side=4", "min_mask_region_area=40", "pred_iou_thresh=0.4", "stability_score_thresh=0.6")
MODEL = str(FIRST_STARTER[0])
PHOTO = "memory://me:s3cret@bucket/photos/desk.png"
SHOWN = "memory://me:***@bucket/photos/desk.png"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (PHOTO, SHOWN),
        ("ftp://:pw@host:21/a@b:c", "ftp://:***@host:21/a@b:c"),
        ("zip://a.png::sftp://me:pw@host/b.zip", "zip://a.png::sftp://me:***@host/b.zip"),
        ("sftp://me@host:2222/a", "sftp://me@host:2222/a"),
        ("s3://bucket/a:b@c.png", "s3://bucket/a:b@c.png"),
        ("https://example.org:8080/x", "https://example.org:8080/x"),
        ("odd: a:b@c.png", "odd: a:b@c.png"),
    ],
)
def test_passwords_are_left_out_and_nothing_else(url: str, shown: str) -> None:
    assert without_password(url) == shown_name(url) == shown_input(url) == shown
    assert without_password(shown) == shown


@pytest.fixture
def photos(photo: np.ndarray) -> Iterator[None]:
    """PHOTO, and beside it a text that is no picture."""
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")
    filesystem = fsspec.filesystem("memory")
    with fsspec.open(PHOTO, "wb") as file:
        file.write(data.getvalue())
    with fsspec.open(PHOTO.replace("desk", "broken"), "wb") as file:
        file.write(b"no picture")
    yield
    filesystem.store.clear()


def test_segment(photos: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [PHOTO, PHOTO.replace("desk", "broken"), PHOTO.replace("desk", "nowhere")]
    kinds = ["json", "candidates", "coco", "yolo", "labelme"]
    with Console(verbose=True) as console:
        code = segment_all(
            Job(inputs, tmp_path / "out", kinds, WriteOptions()),
            console,
            preset="dense",
            overrides=SETTINGS,
            model=MODEL,
            device="cpu",
        )
    said = capsys.readouterr()
    assert code == 3 and f"{SHOWN}: Found " in said.out
    assert "s3cret" not in said.out + said.err
    _nowhere(tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "desk_masks.json").read_text(encoding="utf-8"))
    assert summary["image"]["path"] == SHOWN


def test_batch(photos: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = BatchJob(
        [PHOTO.rsplit("/", 1)[0]],
        tmp_path / "out",
        ["overlay", "json", "coco", "yolo", "labelme"],
        segmenter=SegmenterOptions(load_preset("dense", SETTINGS), MODEL),
        devices=("cpu",),
    )
    with Console(verbose=True) as console:
        first = run_batch(job, console)
    with Console(json=True, json_lines=True) as console:
        second = run_batch(job, console)  # it knows the photo again
    said = capsys.readouterr()
    assert (first.done, first.failed, second.done, second.complete) == (1, 1, 0, 1)
    assert "s3cret" not in said.out + said.err and SHOWN in said.out
    _nowhere(tmp_path / "out")


def test_where_outputs_are_sent(
    photos: None, photo: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = "memory://me:s3cret@bucket/out"
    Image.fromarray(photo).save(tmp_path / "desk.png")
    job = BatchJob(
        [str(tmp_path / "desk.png")],
        staging_folder(url, None),
        ["overlay", "json", "coco"],
        segmenter=SegmenterOptions(load_preset("dense", SETTINGS), MODEL),
        devices=("cpu",),
        output_url=url,
    )
    with Console(verbose=True) as console:
        assert run_batch(job, console).done == 1
    said = capsys.readouterr()
    assert "memory://me:***@bucket/out/desk_overlay.png" in said.out and "s3cret" not in said.out + said.err
    sent = {name: file.getvalue() for name, file in fsspec.filesystem("memory").store.items() if "/out/" in name}
    assert any(name.endswith("report.html") for name in sent)
    for name, data in sent.items():
        assert b"s3cret" not in data, name
    _nowhere(tmp_path)


def test_reasons_of_libraries() -> None:
    assert reason_of(OSError(f"cannot reach {PHOTO}")) == f"cannot reach {SHOWN}"
    assert reason_of(OSError(2, f"no such file: {PHOTO}")) == f"no such file: {SHOWN}"


def test_candidates_find_the_photo_beside_them(photos: None, photo: np.ndarray, tmp_path: Path) -> None:
    result = Segmenter("dense", MODEL, "cpu", overrides=SETTINGS)(PHOTO, keep_candidates=True)
    assert result.proposals is not None and result.proposals.read_pixels().shape == photo.shape
    result.proposals.save(tmp_path / "desk.candidates")
    kept = ImageCandidates.load(tmp_path / "desk.candidates")
    with pytest.raises(InputError, match=r"its photo memory://me:\*\*\*@.*; put the photo beside it"):
        kept.read_pixels()
    (tmp_path / "desk.png").write_bytes(fsspec.filesystem("memory").cat_file("/me:s3cret@bucket/photos/desk.png"))
    assert (kept.read_pixels() == photo).all()


def _nowhere(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert b"s3cret" not in path.read_bytes(), path
