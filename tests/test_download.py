"""Downloading from a real local HTTP server that misbehaves in every way a real one may."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densecli import checkpoints
from densecli.download import (
    Patience,
    Progress,
    download,
    fetch,
    named_sources,
    patience_from_environment,
)
from densecli.errors import CheckpointError, InputError, UsageError
from densecli.sources import read_image
from tests.conftest import small_disk

DATA = random.Random(7).randbytes(1_500_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
WRONG = bytes(byte ^ 1 for byte in DATA[:1000]) + DATA[1000:]  # right size, other content
QUICK = Patience(timeout=0.4, attempts=3, backoff=0.01)


# The server


class Request(http.server.BaseHTTPRequestHandler):
    """One request; what is done with it is decided by the server's list of answers."""

    server: Server

    def do_GET(self) -> None:
        with self.server.guard:
            self.server.requests.append(self)
            answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        with contextlib.suppress(ConnectionError):
            answer(self)

    def begin(self) -> int:
        """First byte asked for."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match.group(1)) if match else 0

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        self.server.sent += len(data)  # first: the client may be done before this thread runs again
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        pass


Answer = Callable[[Request], None]


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next of `answers`, the last one for ever; remembers what it was asked."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.sent = 0  # bytes of bodies
        self.guard = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file.pt"

    def begins(self) -> list[int]:
        return [request.begin() for request in self.requests]


def good(data: bytes = DATA, *, upto: int | None = None, pace: float = 0.0) -> Answer:
    """The file, with Range; `upto`: the connection is closed before that byte; `pace`: seconds a 50 kB piece takes."""

    def answer(request: Request) -> None:
        begin = request.begin()
        if "Range" in request.headers:
            content_range = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            request.head(206, Content_Length=len(data) - begin, Content_Range=content_range)
        else:
            request.head(200, Content_Length=len(data))
        end = len(data) if upto is None else upto
        step = 50_000 if pace else len(data)
        for start in range(begin, end, step):
            request.body(data[start : min(start + step, end)])
            time.sleep(pace)

    return answer


def no_range(data: bytes = DATA, *, upto: int | None = None, **headers: object) -> Answer:
    """The whole file from the start with status 200, whatever was asked for."""

    def answer(request: Request) -> None:
        request.head(200, **(headers or {"Content_Length": len(data)}))
        request.body(data[:upto])

    return answer


def chunked(data: bytes) -> Answer:
    def answer(request: Request) -> None:
        request.protocol_version = "HTTP/1.1"
        request.close_connection = True
        request.head(200, Transfer_Encoding="chunked", Connection="close")
        for start in range(0, len(data), 100_000):
            piece = data[start : start + 100_000]
            request.body(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.body(b"0\r\n\r\n")

    return answer


def status(code: int, **headers: object) -> Answer:
    return lambda request: request.head(code, **{"Content_Length": 0, **headers})


def html(request: Request) -> None:
    page = b"<html><body>Please log in</body></html>"
    request.head(200, Content_Type="text/html; charset=utf-8", Content_Length=len(page))
    request.body(page)


def stall(after: int, seconds: float = 3.0) -> Answer:
    def answer(request: Request) -> None:
        good(upto=request.begin() + after)(request)
        time.sleep(seconds)

    return answer


@contextlib.contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    server = Server(*answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# The checkpoint


def made_up(tmp_path: Path, **changes: Any) -> checkpoints.CheckpointEntry:
    values = {"name": "mine", "file": "file.pt", "size": len(DATA), "sha256": SHA256, "config": "mine.yaml"}
    return checkpoints.CheckpointEntry(**{**values, "registry": tmp_path / "mine.yaml", **changes})


@pytest.fixture
def entry(tmp_path: Path) -> checkpoints.CheckpointEntry:
    return made_up(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for variable in (*names, *(name.upper() for name in names)):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("REGISTRY", "CHECKPOINTS", "CHECKPOINT_URL", "DOWNLOAD_TIMEOUT"):
        monkeypatch.delenv(f"DENSECLI_{variable}", raising=False)


def get(entry: checkpoints.CheckpointEntry, folder: Path, *urls: str, patience: Patience = QUICK) -> str:
    """Download, check that the file is complete and nothing else remains; returns the notices."""
    notices = io.StringIO()
    path = download(entry, list(urls), folder, progress=Progress(notices), patience=patience)
    assert path == folder / entry.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    assert not part_of(folder).exists()
    assert checkpoints.is_verified(entry, path)
    return notices.getvalue()


def get_nothing(entry: checkpoints.CheckpointEntry, folder: Path, *urls: str, patience: Patience = QUICK) -> str:
    """Download, which must fail and put nothing in place; returns the message."""
    with pytest.raises(CheckpointError) as caught:
        download(entry, list(urls), folder, progress=Progress(quiet=True), patience=patience)
    assert not (folder / entry.file).exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


def part_of(folder: Path) -> Path:
    return folder / "file.pt.part"


def put_part(folder: Path, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
    part_of(folder).write_bytes(data)


def test_a_part_file_that_is_a_link_is_not_followed(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    """A folder `checkpoints` that came with an archive may hold one to any file of the user's."""
    folder.mkdir()
    mine = folder.parent / "mine"
    mine.write_text("mine")
    part_of(folder).symlink_to(mine)
    with serving(good()) as server:
        message = get_nothing(entry, folder, server.url)
    assert "file.pt.part: it is a link; remove it" in message
    assert mine.read_text() == "mine" and server.requests == []


def test_a_url_of_a_registry_steers_no_terminal() -> None:
    notices = io.StringIO()
    Progress(notices).note("mine: file:///a\x1b[31m\nb: No such file")
    assert notices.getvalue() == "mine: file:///a\\x1b[31m\\nb: No such file\n"


# All goes well


def test_plain_download(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good()) as server:
        notices = get(entry, folder, server.url)
    assert server.begins() == [0]
    assert server.sent == len(DATA)
    assert "mine: 1.5 MB, downloading to " in notices
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("answer", [chunked(DATA), no_range(Content_Type="application/octet-stream")])
def test_download_without_content_length(answer: Answer, entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(answer) as server:
        get(entry, folder, server.url)


def test_web_page_type_does_not_matter_if_the_content_is_right(
    entry: checkpoints.CheckpointEntry, folder: Path
) -> None:
    with serving(no_range(Content_Type="text/html", Content_Length=len(DATA))) as server:
        get(entry, folder, server.url)


def test_already_there_makes_no_request(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    folder.mkdir()
    (folder / "file.pt").write_bytes(DATA)
    with serving(status(500)) as server:
        get(entry, folder, server.url)
    assert server.requests == []


# The connection


def test_twenty_cuts_at_random_bytes(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    cuts = sorted(random.Random(20).sample(range(1, len(DATA)), 20))
    with serving(*(good(upto=cut) for cut in cuts), good()) as server:
        get(entry, folder, server.url)
    assert server.begins() == [0, *cuts], "every attempt must go on exactly where the last one broke"
    assert server.sent == len(DATA), "nothing may be sent twice"


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(DATA)), max_size=6), ranges=st.booleans())
def test_any_cuts_end_with_the_right_file(
    cuts: list[int], ranges: bool, entry: checkpoints.CheckpointEntry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    answer = good if ranges else no_range
    with serving(*(answer(upto=cut) for cut in cuts), answer()) as server:
        get(entry, folder, server.url, patience=Patience(timeout=2.0, attempts=10, backoff=0.001))


def test_server_that_ignores_range_and_cuts(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(no_range(upto=400_000), no_range(upto=900_000), no_range(upto=200_000), no_range()) as server:
        notices = get(entry, folder, server.url)
    assert server.begins() == [0, 400_000, 900_000, 900_000]
    assert "begins anew; passing over the first 0.4 MB" in notices


def test_server_that_always_cuts_at_the_same_byte_is_given_up(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(no_range(upto=400_000)) as server:
        message = get_nothing(entry, folder, server.url)
    assert len(server.requests) == 1 + QUICK.attempts
    assert "connection closed at 400000 of 1500000 bytes" in message
    assert part_of(folder).read_bytes() == DATA[:400_000]


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429])
def test_busy_server_is_asked_again(code: int, entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(status(code), status(code), good()) as server:
        notices = get(entry, folder, server.url)
    assert len(server.requests) == 3
    assert f"HTTP {code}" in notices


def test_back_off_grows_and_retry_after_is_kept_to(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    patience = Patience(timeout=1.0, attempts=5, backoff=0.1, longest_wait=0.6)
    with serving(status(503), status(503), status(503, Retry_After=3600), good()) as server:
        times = []
        server.answers = [timed(answer, times) for answer in server.answers]
        get(entry, folder, server.url, patience=patience)
    waits = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert waits[0] >= 0.07
    assert waits[1] >= 0.15
    assert 0.6 <= waits[2] < 3.0, "an hour that the server asks for is cut to the longest wait"


def timed(answer: Answer, times: list[float]) -> Answer:
    def timed_answer(request: Request) -> None:
        times.append(time.monotonic())
        answer(request)

    return timed_answer


def test_stalled_connection_is_left_and_gone_on_with(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    begun = time.monotonic()
    with serving(stall(after=300_000), stall(after=0), good()) as server:
        notices = get(entry, folder, server.url)
        assert time.monotonic() - begun < 2.5, "waited for the stalled server"
    assert server.begins() == [0, 300_000, 300_000]
    assert "no data for 0.4 s" in notices


def test_server_that_does_not_answer_at_all(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(lambda request: time.sleep(1.0), good()) as server:
        get(entry, folder, server.url)


def test_unreachable_host_is_given_up_soon(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good()) as gone:
        pass
    patience = Patience(timeout=1.0, attempts=50, backoff=0.01)
    message = get_nothing(entry, folder, gone.url, patience=patience)
    assert f"{gone.url} (no connection: Connection refused)" in message
    with serving(good()) as server:
        get(entry, folder, gone.url, server.url)


def test_redirects_keep_the_range(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good(upto=600_000), good()) as behind:
        with serving(lambda request: request.head(302, Location=behind.url, Content_Length=0)) as front:
            get(entry, folder, front.url)
        assert behind.begins() == [0, 600_000]
        assert front.begins() == [0, 600_000]


def test_endless_redirect_leaves_the_source(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with (
        serving(lambda request: request.head(302, Location="/file.pt", Content_Length=0)) as loop,
        serving(good()) as ok,
    ):
        get(entry, folder, loop.url, ok.url)


def test_redirect_to_a_local_file_is_refused(entry: checkpoints.CheckpointEntry, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(DATA)
    target = (tmp_path / "file.pt").as_uri()
    with serving(lambda request: request.head(302, Location=target, Content_Length=0)) as server:
        assert "HTTP 302" in get_nothing(entry, folder, server.url)


def test_redirect_to_ftp_leaves_the_source(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    target = "ftp://me:s3cret@127.0.0.1:9/file.pt"
    with (
        serving(lambda request: request.head(302, Location=target, Content_Length=0)) as server,
        serving(good()) as ok,
    ):
        message = get_nothing(entry, folder, server.url)
        assert "HTTP 302 Found, leads to ftp://me:***@127.0.0.1:9/file.pt, which is not http(s)" in message
        get(entry, folder, server.url, ok.url)


@pytest.mark.parametrize(
    "proxy",
    [
        "http:/me:s3cret@127.0.0.1:80",
        "http://me:p@s3cret:x",
        "127.0.0.1:99999",
        "socks5://me:s3cret@h:1",
        "me:s3cret:x",
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_that_is_none(
    proxy: str, variable: str, entry: checkpoints.CheckpointEntry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy)
    with serving(good()) as server:
        message = get_nothing(entry, folder, server.url)
        assert f"{server.url} (${variable} names no proxy that can be used; give http://HOST:PORT" in message
        assert "s3cret" not in message
        with pytest.raises(InputError, match=rf"cannot be fetched: \${variable} names no proxy that can be used"):
            read_image(server.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        get(entry, folder, server.url)


@pytest.mark.parametrize(
    "written", ["127.0.0.1:{port}", "http://me:s3:c@r@127.0.0.1:{port}/", "HTTP://me@127.0.0.1:{port}"]
)
def test_ways_to_write_a_proxy(
    written: str, entry: checkpoints.CheckpointEntry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(good()) as proxy:
        monkeypatch.setenv("http_proxy", written.format(port=proxy.server_address[1]))
        get(entry, folder, "http://weights.invalid/sam/file.pt")


def raw_answer(answer: bytes) -> Answer:
    return lambda request: request.body(answer)


@pytest.mark.parametrize(
    "answer",
    [
        raw_answer(b"HTTP/1.1 404 \x1b[31mRED\x1b[0m\x07\r\nContent-Length: 0\r\n\r\n"),
        raw_answer(b"HTTP/1.1 206 ok\r\nContent-Encoding: \x1b[31mRED\r\n\r\n"),
        raw_answer(b"HTTP/1.1 200 ok\r\nContent-Length: \x1b[31mRED\r\n\r\n"),
        raw_answer(b"\x1b[31mRED\r\n\r\n"),
        lambda request: request.head(302, Location=request.path, Content_Length=0),
    ],
)
def test_what_servers_say_is_one_printable_line(
    answer: Answer, entry: checkpoints.CheckpointEntry, folder: Path
) -> None:
    with serving(answer) as server:
        assert get_nothing(entry, folder, server.url).isprintable()
        with pytest.raises(InputError, match=server.url) as caught:
            read_image(server.url)
    assert str(caught.value).isprintable()


def test_proxy_of_the_environment(
    entry: checkpoints.CheckpointEntry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(good(upto=500_000), good()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/file.pt"))
        get(entry, folder, "http://weights.invalid/sam/file.pt")
    assert [request.path for request in proxy.requests] == ["http://weights.invalid/sam/file.pt"] * 2


# What the server says


def test_web_page_with_status_200(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(html) as portal:
        message = get_nothing(entry, folder, portal.url)
        assert len(portal.requests) == 1
        assert "web page" in message
        assert list(folder.glob("*.part")) == []
        with serving(good()) as server:
            get(entry, folder, portal.url, server.url)


@pytest.mark.parametrize("answer", [chunked(b"<html>busy</html>"), no_range(b"<html>busy</html>", Server="x")])
def test_short_page_without_length_or_type(answer: Answer, entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(answer) as portal, serving(good()) as server:
        get_nothing(entry, folder, portal.url)
        get(entry, folder, portal.url, server.url)
        assert server.begins() == [0]


@pytest.mark.parametrize("answer", [chunked(b"busy\n" * 999), no_range(b"busy\n" * 999, Content_Type="text/plain")])
@pytest.mark.parametrize("there", [0, 1000, 1_400_000])
def test_a_message_without_length_is_not_gone_on_with(
    answer: Answer, there: int, entry: checkpoints.CheckpointEntry, folder: Path
) -> None:
    put_part(folder, DATA[:there])
    with serving(answer) as portal, serving(good()) as server:
        get_nothing(entry, folder, portal.url)
        assert (part_of(folder).read_bytes() if there else b"") == DATA[:there]
        notices = get(entry, folder, portal.url, server.url)
    assert server.begins() == [there] and "do not fit" not in notices


def test_content_length_that_promises_more_than_comes(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(no_range(DATA[:-5], Content_Length=len(DATA))) as liar:
        assert "connection closed at 1499995 of 1500000 bytes" in get_nothing(entry, folder, liar.url)
        with serving(good()) as server:
            get(entry, folder, liar.url, server.url)
        assert server.begins() == [len(DATA) - 5]


@pytest.mark.parametrize("said", [len(DATA) + 10, len(DATA) - 10, 0])
def test_content_length_that_is_wrong(said: int, entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(no_range(Content_Length=said)) as liar, serving(good()) as server:
        assert f"announces {said} bytes instead of 1500000" in get_nothing(entry, folder, liar.url)
        get(entry, folder, liar.url, server.url)


def test_encoded_answer_leaves_the_source(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(no_range(Content_Encoding="gzip", Content_Length=len(DATA))) as server:
        assert "encoded as gzip" in get_nothing(entry, folder, server.url)


@pytest.mark.parametrize("code", [404, 403, 401, 410])
def test_refusal_is_not_repeated_and_the_next_source_is_tried(
    code: int, entry: checkpoints.CheckpointEntry, folder: Path
) -> None:
    with serving(status(code)) as without, serving(good()) as server:
        notices = get(entry, folder, without.url, server.url)
    assert len(without.requests) == 1
    assert f"HTTP {code}" in notices and "trying the next source" in notices


def test_416_passes_over_what_is_here(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, DATA[:1000])

    def refuse(request: Request) -> None:
        (status(416) if "Range" in request.headers else good())(request)

    with serving(refuse) as server:
        assert "begins anew; passing over the first 0.0 MB" in get(entry, folder, server.url)
    assert server.begins() == [1000, 0]


def test_416_and_then_404_keeps_the_part(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, DATA[:1_400_000])

    def gone(request: Request) -> None:
        status(416 if "Range" in request.headers else 404)(request)

    with serving(gone) as without, serving(good()) as server:
        get(entry, folder, without.url, server.url)
    assert (without.begins(), server.begins()) == ([1_400_000, 0], [1_400_000])


def test_416_for_a_part_of_another_checkpoint(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, WRONG[:1000])

    def refuse(request: Request) -> None:
        (status(416) if "Range" in request.headers else good())(request)

    with serving(refuse) as server:
        assert "the pieces do not fit together" in get(entry, folder, server.url)
    assert server.begins() == [1000, 0, 0]


def test_416_for_ever_is_given_up(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, DATA[:1000])
    with serving(status(416)) as server:
        assert "HTTP 416" in get_nothing(entry, folder, server.url)
    assert len(server.requests) == 2 and part_of(folder).read_bytes() == DATA[:1000]


def test_server_that_refuses_ranges_and_cuts_is_given_up(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    def hopeless(request: Request) -> None:
        (status(416) if "Range" in request.headers else good(upto=400_000))(request)

    with serving(hopeless) as server:
        get_nothing(entry, folder, server.url)
    assert server.begins() == [0, 400_000, 0, 0, 0]


def test_416_of_a_server_with_another_file_keeps_the_part(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, DATA[:1000])
    with serving(status(416, Content_Range="bytes */12")) as other, serving(good()) as server:
        get(entry, folder, other.url, server.url)
    assert server.begins() == [1000]


@pytest.mark.parametrize("content_range", ["bytes 0-1499999/1500000", "bytes 999-1499999/*", "nonsense", ""])
def test_answer_for_another_range_passes_over_what_is_here(
    content_range: str, entry: checkpoints.CheckpointEntry, folder: Path
) -> None:
    put_part(folder, DATA[:1000])

    def confused(request: Request) -> None:
        if "Range" not in request.headers:
            return good()(request)
        request.head(206, Content_Range=content_range)
        return request.body(DATA)

    with serving(confused) as server:
        assert "begins anew; passing over the first 0.0 MB" in get(entry, folder, server.url)
    assert server.begins() == [1000, 0]


def test_partial_answer_of_another_size_leaves_the_source(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, DATA[:1000])
    with serving(good(DATA + b"more")) as other, serving(good()) as server:
        get(entry, folder, other.url, server.url)
    assert server.begins() == [1000]


def test_short_ranges_are_put_together(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    def meagre(request: Request) -> None:
        begin = request.begin()
        end = min(begin + 400_000, len(DATA))
        content_range = f"bytes {begin}-{end - 1}/{len(DATA)}"
        request.head(206, Content_Range=content_range, Content_Length=end - begin)
        request.body(DATA[begin:end])

    with serving(meagre) as server:
        get(entry, folder, server.url)
    assert server.begins() == [0, 400_000, 800_000, 1_200_000]


# What the bytes are


def test_wrong_content_of_the_right_size(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good(WRONG)) as mirror, serving(good()) as server:
        message = get_nothing(entry, folder, mirror.url)
        assert hashlib.sha256(WRONG).hexdigest() in message
        assert SHA256 in message
        assert len(mirror.requests) == 1, "one whole answer that is wrong says enough"
        assert not part_of(folder).exists()
        get(entry, folder, mirror.url, server.url)


def test_pieces_that_do_not_fit_are_fetched_anew_once(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good(WRONG, upto=700_000), status(404)) as mirror, serving(good()) as server:
        notices = get(entry, folder, mirror.url, server.url)
    assert server.begins() == [700_000, 0]
    assert "the pieces do not fit together; starting from zero" in notices


def test_part_of_another_checkpoint(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, WRONG[:1_000_000])
    with serving(good()) as server:
        get(entry, folder, server.url)
    assert server.begins() == [1_000_000, 0]


def test_part_of_another_checkpoint_is_fetched_anew_only_once(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, b"x" * 1_000_000)
    with serving(good(WRONG)) as server:
        get_nothing(entry, folder, server.url)
    assert server.begins() == [1_000_000, 0]


@pytest.mark.parametrize("then", [status(404), chunked(b"busy\n" * 999)])
def test_nothing_of_another_file_without_length_is_left(
    then: Answer, entry: checkpoints.CheckpointEntry, folder: Path
) -> None:
    """Neither its bytes nor zeros in place of what was there before them may be behind the sha256 that is told."""
    put_part(folder, DATA[:1000])
    with serving(chunked(DATA[:1000] + WRONG[:1000] + DATA[2000:]), then) as other, serving(good()) as server:
        get(entry, folder, other.url, server.url)
    assert (other.begins(), server.begins()) == ([1000, 0], [0])


def test_a_message_after_a_part_of_the_file_leaves_the_part(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good(upto=400_000), chunked(b"busy\n" * 999)) as shaky, serving(good()) as server:
        get(entry, folder, shaky.url, server.url)
    assert (shaky.begins(), server.begins()) == ([0, 400_000], [400_000])


def test_part_that_is_too_big(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, DATA + b"x")
    with serving(good()) as server:
        assert "too big; starting from zero" in get(entry, folder, server.url)
    assert server.begins() == [0]


def test_part_that_is_complete_needs_no_request(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, DATA)
    with serving(status(500)) as server:
        get(entry, folder, server.url)
    assert server.requests == []


def test_part_that_is_complete_but_wrong(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    put_part(folder, WRONG)
    with serving(good()) as server:
        get(entry, folder, server.url)
    assert server.begins() == [0]


def test_damaged_file_stays_until_the_good_one_is_complete(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    folder.mkdir()
    (folder / "file.pt").write_bytes(WRONG)
    with serving(good(upto=100_000), status(404)) as server, pytest.raises(CheckpointError):
        download(entry, [server.url], folder, progress=Progress(quiet=True), patience=QUICK)
    assert (folder / "file.pt").read_bytes() == WRONG
    assert not (folder / "file.pt.damaged").exists()
    with serving(good()) as server:
        assert "file.pt.damaged; delete it if nobody needs it" in get(entry, folder, server.url)
    assert server.begins() == [100_000]
    assert (folder / "file.pt.damaged").read_bytes() == WRONG


def test_what_was_set_aside_earlier_stays(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    """A fine-tune of one's own with the name of the original may have become .damaged."""
    folder.mkdir()
    contents = {"file.pt.damaged": b"mine", "file.pt.damaged-2": b"mine too", "file.pt.damaged-3": b"third"}
    with serving(good()) as server:
        for content in contents.values():
            (folder / "file.pt").write_bytes(content)
            get(entry, folder, server.url)
    assert {path.name: path.read_bytes() for path in folder.glob("*.damaged*")} == contents


# Several sources, files, messages


def test_message_tells_how_to_fetch_by_hand(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(status(404)) as first, serving(status(403)) as second:
        message = get_nothing(entry, folder, first.url, second.url)
    for said in (first.url, "HTTP 404", second.url, "HTTP 403", str(folder / "file.pt"), SHA256, "1500000 bytes"):
        assert said in message
    assert "densecli download-checkpoints mine" in message


def test_no_source_at_all(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    assert "names no source" in get_nothing(entry, folder)


@pytest.mark.parametrize("url", ["http://[bad/file.pt", "http://a b/file.pt", "http://ä.example/x/file.pt"])
def test_unusable_url_leaves_the_source(url: str, entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good()) as server:
        get(entry, folder, url, server.url)


def test_file_url(entry: checkpoints.CheckpointEntry, folder: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "my mirror"
    mirror.mkdir()
    url = f"{mirror.as_uri()}/file.pt"
    assert "No such file" in get_nothing(entry, folder, url)
    (mirror / "file.pt").write_bytes(DATA[:-1])
    assert "has 1499999 bytes instead of 1500000" in get_nothing(entry, folder, url)
    (mirror / "file.pt").write_bytes(DATA)
    put_part(folder, DATA[:700_000])
    get(entry, folder, url)


def test_file_name_that_needs_quoting(folder: Path, tmp_path: Path) -> None:
    entry = made_up(tmp_path, file="my #1 weights%20.pt")
    with serving(good()) as server:
        get(entry, folder, server.url.removesuffix("file.pt") + entry.file)
    assert server.requests[0].path == "/my%20%231%20weights%2520.pt"
    (tmp_path / entry.file).write_bytes(DATA)
    get(entry, tmp_path / "other", f"{tmp_path.as_uri()}/{entry.file}")


def test_named_sources(tmp_path: Path) -> None:
    registry = checkpoints.load_registry()
    assert named_sources(registry, ["https://a.example/x", str(tmp_path)]) == ["https://a.example/x", tmp_path.as_uri()]
    assert named_sources(registry, ["huggingface"]) == [registry.sources[1]]
    with pytest.raises(UsageError, match=r"'nowhere'.*dl\.fbaipublicfiles\.com, huggingface\.co"):
        named_sources(registry, ["nowhere"])


@pytest.mark.parametrize("bad", ["soon", "0", "-1", "nan", "inf"])
def test_timeout_variable(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert patience_from_environment() == Patience()
    monkeypatch.setenv("DENSECLI_DOWNLOAD_TIMEOUT", "2.5")
    assert patience_from_environment().timeout == 2.5
    monkeypatch.setenv("DENSECLI_DOWNLOAD_TIMEOUT", bad)
    with pytest.raises(UsageError, match=f"DENSECLI_DOWNLOAD_TIMEOUT is '{bad}'"):
        patience_from_environment()


# The disk


def test_not_enough_space_is_said_before_anything_is_fetched(folder: Path, tmp_path: Path) -> None:
    with serving(good()) as server:
        message = get_nothing(made_up(tmp_path, size=10**18), folder, server.url)
    assert server.requests == []
    assert "does not fit" in message and "1000000000000.0 MB needed" in message and str(folder) in message
    assert list(folder.glob("*.part")) == []


def test_full_disk(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with small_disk(folder, "size=2m"), serving(good()) as server:
        (folder / "photos").write_bytes(b"x" * 1_000_000)
        assert "does not fit" in get_nothing(entry, folder, server.url)
        assert server.requests == []
        (folder / "photos").unlink()

        # The disk fills up while the download runs.
        def filling(request: Request) -> None:
            (folder / "photos").write_bytes(b"x" * 1_000_000)
            good()(request)

        server.answers = [filling, good()]
        message = get_nothing(entry, folder, server.url)
        assert "No space left on device" in message and "make room" in message
        there = part_of(folder).stat().st_size
        assert there > 500_000
        assert part_of(folder).read_bytes() == DATA[:there]
        (folder / "photos").unlink()
        get(entry, folder, server.url)
        assert server.begins() == [0, there]


def test_read_only_folder(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o555)
    read_only: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if os.access(folder, os.W_OK):  # root may write anywhere, but for a file system that is read-only
        read_only = small_disk(folder, "size=2m,ro")
    with read_only, serving(good()) as server:
        message = get_nothing(entry, folder, server.url)
        assert f"Cannot write to folder {folder}" in message and "--dir" in message
        message = get_nothing(entry, folder / "deeper", server.url)
        assert f"Cannot write to folder {folder / 'deeper'}" in message
    assert server.requests == []
    folder.chmod(0o755)


def test_folder_that_is_a_file(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    folder.write_bytes(b"")
    with serving(good()) as server, pytest.raises(CheckpointError, match="Cannot write to folder"):
        download(entry, [server.url], folder, progress=Progress(quiet=True), patience=QUICK)


# Other processes

CHILD = """
import resource, sys
from pathlib import Path
from densecli.checkpoints import CheckpointEntry
from densecli.download import Patience, download
from densecli.errors import CheckpointError

url, folder, size, sha256, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
entry = CheckpointEntry("mine", "file.pt", int(size), sha256, "mine.yaml", Path("mine.yaml"))
try:
    print(download(entry, [url], Path(folder), patience=Patience(timeout=5, attempts=3, backoff=0.01)))
except CheckpointError as error:
    sys.exit(f"CheckpointError: {error}")
"""


def child(server: Server, folder: Path, limit: int = 0) -> subprocess.Popen[str]:
    arguments = [server.url, str(folder), str(len(DATA)), SHA256, str(limit)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_part(folder: Path, size: int) -> None:
    deadline = time.monotonic() + 20
    while not (part_of(folder).exists() and part_of(folder).stat().st_size >= size):
        assert time.monotonic() < deadline, "the download does not get on"
        time.sleep(0.01)


def test_quota_by_file_size(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good()) as server:
        process = child(server, folder, limit=1_000_000)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "CheckpointError: Cannot write" in stderr and "File too large" in stderr
        assert "Traceback" not in stderr
        assert part_of(folder).stat().st_size == 1_000_000
        get(entry, folder, server.url)
        assert server.begins() == [0, 1_000_000]


def test_two_processes_fetch_once(folder: Path) -> None:
    with serving(good(pace=0.05)) as server:
        processes = [child(server, folder), child(server, folder)]
        outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [out for out, _ in outputs] == [f"{folder / 'file.pt'}\n"] * 2
    assert len(server.requests) == 1
    assert (folder / "file.pt").read_bytes() == DATA
    assert sum("another process is downloading it" in err for _, err in outputs) == 1


def test_kill_9_then_resume(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    with serving(good(pace=0.05), good()) as server:
        process = child(server, folder)
        wait_for_part(folder, 400_000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert (folder / "file.pt.lock").exists(), "the lock of the dead process must not matter"
        assert not (folder / "file.pt").exists()
        there = part_of(folder).stat().st_size
        assert 400_000 <= there < len(DATA)
        get(entry, folder, server.url)
        assert server.begins() == [0, there]


# fetch: what is there already


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with the made-up checkpoint; the folder of $DENSECLI_CHECKPOINTS is returned."""
    values = {"file": "file.pt", "size": len(DATA), "sha256": SHA256, "config": "mine.yaml"}
    (tmp_path / "mine.yaml").write_text(json.dumps({"checkpoints": {"mine": values}}))
    monkeypatch.setenv("DENSECLI_REGISTRY", str(tmp_path / "mine.yaml"))
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(tmp_path / "set"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "set"


def test_fetch_downloads_then_finds(registered: Path) -> None:
    with serving(good()) as server:
        sources = [server.url.removesuffix("/file.pt")]
        notices = io.StringIO()
        for _ in range(2):
            path = fetch("Mine", sources=sources, progress=Progress(notices), patience=QUICK)
            assert path == registered / "file.pt"
        assert len(server.requests) == 1
        assert "already there" in notices.getvalue()
        # A folder that is named is where it must be, wherever else it lies.
        other = registered.parent / "other"
        assert fetch("mine", checkpoint_dir=other, sources=sources, patience=QUICK) == other / "file.pt"


@pytest.mark.parametrize("damaged", [WRONG, DATA[:-1]])
def test_fetch_replaces_a_damaged_file(damaged: bytes, registered: Path) -> None:
    registered.mkdir()
    (registered / "file.pt").write_bytes(damaged)
    with serving(good()) as server:
        path = fetch("mine", sources=[server.url.removesuffix("/file.pt")], patience=QUICK)
    assert path.read_bytes() == DATA
    assert checkpoints.locate("mine").path == path


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_with_rate_and_remaining_time_on_a_terminal(
    entry: checkpoints.CheckpointEntry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    with serving(good(pace=0.05, upto=800_000), good(pace=0.05)) as server:
        download(entry, [server.url], folder, progress=Progress(screen), patience=QUICK)
    assert "\r" in screen.getvalue()
    assert re.search(r"\d+%\|.*\| .*1\.50M.*\[\d\d:\d\d<\d\d:\d\d, .*B/s\]", screen.getvalue())
    assert "connection closed at 800000 of 1500000 bytes; trying again" in screen.getvalue()


@pytest.mark.parametrize("no_color", [True, False])
def test_plain_lines_elsewhere(
    no_color: bool, entry: checkpoints.CheckpointEntry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal() if no_color else io.StringIO()
    with serving(good(pace=0.02)) as server:
        download(entry, [server.url], folder, progress=Progress(stream, interval=0.1), patience=QUICK)
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert re.search(r"^mine: \d\.\d of 1\.5 MB \(\d+%\), \d+\.\d MB/s, \d+ s left$", stream.getvalue(), re.MULTILINE)


def test_quiet_says_nothing(entry: checkpoints.CheckpointEntry, folder: Path) -> None:
    stream = Terminal()
    with serving(status(503), good()) as server:
        download(entry, [server.url], folder, progress=Progress(stream, quiet=True), patience=QUICK)
    assert stream.getvalue() == ""
