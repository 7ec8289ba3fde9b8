"""Passwords in URLs: used, and neither printed nor written anywhere."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from densecli import Segmenter
from densecli.batch import BatchJob, run_batch
from densecli.batch.job import SegmenterOptions
from densecli.batch.rehearsal import rehearse
from densecli.checkpoints import load_registry
from densecli.console import Console
from densecli.download import named_sources
from densecli.errors import InputError, UsageError
from densecli.image_candidates import ImageCandidates
from densecli.one_by_one import Job, segment_all
from densecli.presets import load_preset
from densecli.remote.staging import staging_folder
from densecli.sinks import WriteOptions
from densecli.sources import read_image
from densecli.wording import reason_of, shown_input, shown_name, without_password
from tests.conftest import FIRST_STARTER, Command, Finished

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
        ("ftp://me@corp.com:s3cret@host/a.png", "ftp://me@corp.com:***@host/a.png"),
        ("sftp://me:p@ss@host/a@b:c@d", "sftp://me:***@host/a@b:c@d"),
        ("http://me:p#w?d@host:8080/x?y=a:b@c", "http://me:***@host:8080/x?y=a:b@c"),
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


def test_what_would_be_done(photos: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmenter = SegmenterOptions(load_preset("dense", SETTINGS), MODEL)
    job = BatchJob([PHOTO, "memory://me:s3cret@bucket/photos/none.png"], tmp_path / "out", segmenter=segmenter)
    for as_json in (False, True):
        with Console(json=as_json, json_lines=as_json) as console:
            assert rehearse(job, console) in (0, 3)
        said = capsys.readouterr()
        assert "s3cret" not in said.out + said.err and SHOWN in said.out


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


@dataclass(frozen=True)
class Guarded:
    """A server that sends `body` to whoever knows user and password, at /old by way of `moved_to`."""

    port: int
    logins: list[str | None]
    """The Authorization headers that came, decoded."""


@contextlib.contextmanager
def guarded(body: bytes, login: str | None, moved_to: str = "/new") -> Iterator[Guarded]:
    logins: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, _, token = self.headers.get("Authorization", "").partition("Basic ")
            logins.append(base64.b64decode(token).decode() if token else None)
            status = 401 if logins[-1] != login else 302 if self.path.startswith("/old") else 200
            self.send_response(status)
            if status == 302:
                self.send_header("Location", moved_to)
            self.send_header("Content-Length", str(len(body) if status == 200 else 0))
            self.end_headers()
            self.wfile.write(body if status == 200 else b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Guarded(server.server_port, logins)
        finally:
            server.shutdown()


@pytest.fixture
def png(photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("written", ["me@home:p@ss:w%rd", "me%40home:p%40ss%3Aw%25rd"])
def test_http_sends_the_login(written: str, png: bytes, photo: np.ndarray) -> None:
    with guarded(png, "me@home:p@ss:w%rd") as server:
        loaded = read_image(f"http://{written}@127.0.0.1:{server.port}/old/a.png?x=a@b")
    assert (loaded.pixels == photo).all()
    assert server.logins == ["me@home:p@ss:w%rd"] * 2, "the server itself, after a redirect too"


def test_http_sends_no_login_to_another_server(png: bytes, photo: np.ndarray) -> None:
    with guarded(png, None) as other, guarded(b"", "me:s3cret", f"http://127.0.0.1:{other.port}/a.png") as server:
        assert (read_image(f"http://me:s3cret@127.0.0.1:{server.port}/old").pixels == photo).all()
    assert (server.logins, other.logins) == (["me:s3cret"], [None])
    with (
        guarded(png, "you:too") as other,
        guarded(b"", "me:s3cret", f"http://you:too@127.0.0.1:{other.port}") as server,
    ):
        assert (read_image(f"http://me:s3cret@127.0.0.1:{server.port}/old").pixels == photo).all()
    assert other.logins == ["you:too"]


def test_http_refuses(png: bytes) -> None:
    with guarded(png, "me:other") as server:
        with pytest.raises(InputError, match=r"http://me:\*\*\*@.*answered 401 .*check user and password") as caught:
            read_image(f"http://me:s3cret@localhost:{server.port}/a.png")
        assert "s3cret" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        read_image(f"http://me:s3cret@localhost:{server.port}/a.png")
    assert "s3cret" not in str(caught.value)


def test_download_checkpoints(png: bytes, tmp_path: Path, run_densecli: Command) -> None:
    entry = {"file": "mine.pt", "size": len(png), "sha256": hashlib.sha256(png).hexdigest(), "config": "x.yaml"}
    registry = tmp_path / "registry.yaml"
    registry.write_text(json.dumps({"checkpoints": {"mine": entry}, "sources": ["http://me:s3cret@127.0.0.1:9/a"]}))
    environment = {
        "DENSECLI_REGISTRY": str(registry),
        "DENSECLI_CHECKPOINT_URL": "http://me@home:s3cret@127.0.0.1:9/b",
        "no_proxy": "127.0.0.1",
    }

    def download(*arguments: str) -> Finished:
        done = run_densecli("download-checkpoints", "mine", *arguments, cwd=tmp_path, environment=environment)
        assert "s3cret" not in done.stdout + done.stderr, done
        return done

    with guarded(png, "me:s3cret") as server:
        listed = json.loads(download("--list", "--json").stdout)["checkpoints"][0]
        assert listed["urls"] == ["http://me@home:***@127.0.0.1:9/b/mine.pt", "http://me:***@127.0.0.1:9/a/mine.pt"]
        assert "http://me:***@127.0.0.1:9/a/mine.pt (" in download().errors[0]
        assert download("--source", "ftp://me:s3cret@host/a").code == 2
        assert ", 127.0.0.1:9)" in download("--source", "elsewhere").errors[0]
        assert download("--source", f"http://me:s3cret@127.0.0.1:{server.port}/ck").code == 0
    assert (server.logins, (tmp_path / "checkpoints").exists()) == (["me:s3cret"], False)


@pytest.mark.parametrize("slashes", ["//", "/"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("segment", "a.png", "-m", "URL"), "SHOWN: is a URL; download it first, and give the path of the file"),
        (("segment", "a.png", "-m", "w.safetensors", "--config", "URL"), "SHOWN: is a URL; download it first, and g"),
        (("segment", "a.png", "-m", "tiny", "--checkpoint-dir", "URL"), "--checkpoint-dir: 'SHOWN' is a URL; give a p"),
        (("batch", "a.png", "-m", "URL"), "SHOWN: is a URL; download it first, and give the path of the file"),
        (("download-checkpoints", "URL"), "'SHOWN' is a URL; give the name of a checkpoint, and --source for where"),
        (("download-checkpoints", "tiny", "--dir", "URL"), "'SHOWN' is a URL; give a path on this machine"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_url_where_a_path_belongs(
    arguments: tuple[str, ...], told: str, slashes: str, tmp_path: Path, run_densecli: Command
) -> None:
    """Python's paths make one slash of two."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "w.safetensors").symlink_to(FIRST_STARTER[0])
    url = f"https:{slashes}me:s3cret@example.org/x.pt"
    done = run_densecli(*(url if part == "URL" else part for part in arguments), cwd=tmp_path)
    assert done.code == 2 and len(done.errors) == 1, done.stderr
    assert told.replace("SHOWN", "https://me:***@example.org/x.pt") in done.errors[0]
    assert "s3cret" not in done.stdout + done.stderr and not list(tmp_path.glob("https*"))


@pytest.mark.parametrize("variable", ["DENSECLI_CHECKPOINTS", "DENSECLI_REGISTRY"])
def test_a_url_in_a_variable_for_a_path(variable: str, tmp_path: Path, run_densecli: Command) -> None:
    environment = {variable: "https://me:s3cret@example.org/x"}
    done = run_densecli("download-checkpoints", "tiny", cwd=tmp_path, environment=environment)
    told = f"${variable}: 'https://me:***@example.org/x' is a URL; give a path on this machine."
    assert (done.code, done.errors) == (2, [told]) and "s3cret" not in done.stderr


def test_a_source_that_lost_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_registry()
    given, shown = "https:/me:s3cret@example.org/x", r"'https://me:\*\*\*@example\.org/x'"
    with pytest.raises(UsageError, match=f"--source: {shown} is neither a URL"):
        named_sources(registry, [given])
    monkeypatch.setenv("DENSECLI_CHECKPOINT_URL", given)
    with pytest.raises(UsageError, match=rf"\$DENSECLI_CHECKPOINT_URL: {shown} is not a base URL"):
        registry.urls(registry.entry("tiny"))
    (tmp_path / "registry.yaml").write_text(json.dumps({"sources": [given]}))
    monkeypatch.setenv("DENSECLI_REGISTRY", str(tmp_path / "registry.yaml"))
    with pytest.raises(UsageError, match=f"sources.0. is {shown}, but must be"):
        load_registry()


def _nowhere(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert b"s3cret" not in path.read_bytes(), path
