"""An S3 server on this machine, as far as moto goes, that can be told to refuse or to be slow to come to its senses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ACCOUNT = {"AWS_ACCESS_KEY_ID": "densecli", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
_REFUSED = b'<?xml version="1.0"?><Error><Code>%b</Code><Message>%b</Message></Error>'


class S3Server:
    """moto's S3 behind a real HTTP server on 127.0.0.1, with one bucket."""

    def __init__(self, application: Any) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._application = application
        self.refuse: tuple[int, bytes] | None = None
        """Status and code with which writes are answered from now on."""
        self.refuse_after: str | None = None
        """Refuse writes from when an object with this ending is there."""
        self.writes: list[str] = []
        self._port = 0
        self.open()
        self.environment = {
            **ACCOUNT,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def open(self) -> None:
        """Answer, after `close` at the same address and with what was there."""
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """As if the network were gone."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            if self.refuse is not None:
                status, code = self.refuse
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(f"{status} Refused", [("Content-Type", "application/xml")])
                return [_REFUSED % (code, code)]
            self.writes.append(path)
        answer = self._application(environ, start)
        if self.refuse_after is not None and environ["REQUEST_METHOD"] == "PUT" and path.endswith(self.refuse_after):
            self.refuse = (403, b"AccessDenied")
        return answer

    def filesystem(self) -> Any:
        """A look at it that remembers nothing."""
        import s3fs

        return s3fs.S3FileSystem(
            key=ACCOUNT["AWS_ACCESS_KEY_ID"],
            secret=ACCOUNT["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def objects(self, prefix: str) -> dict[str, tuple[str, Any]]:
        """Digest and time of each object by its name under `prefix`."""
        found = self.filesystem().find(prefix, detail=True)
        return {name.removeprefix(f"{prefix}/"): (info["ETag"], info["LastModified"]) for name, info in found.items()}

    def download(self, prefix: str, folder: Path) -> Path:
        """All objects under `prefix` as files of a folder, but densecli's own notes."""
        filesystem = self.filesystem()
        for name in self.objects(prefix):
            if not name.startswith(".densecli-"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                filesystem.get_file(f"{prefix}/{name}", str(folder / name))
        return folder


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with a bucket `bucket`; skips the test where moto or s3fs is not installed."""
    pytest.importorskip("s3fs")
    pytest.importorskip("flask_cors")
    moto = pytest.importorskip("moto.server")
    server = S3Server(moto.DomainDispatcherApplication(moto.create_backend_app))
    try:
        server.filesystem().mkdir("bucket")
        yield server
    finally:
        server.close()
