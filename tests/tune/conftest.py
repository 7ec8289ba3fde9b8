"""One small photo that is being tuned, and its server without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="starlette is not installed (pip install 'densecli[web]')")

from densecli import Segmenter
from densecli.presets import load_preset
from densecli.tune.export import Origin
from densecli.tune.server import application
from densecli.tune.state import FLOOR, Tuning

TOKEN = "the-token"
OVERRIDES = ["points_per_side=8", "min_mask_region_area=20"]


@dataclass(frozen=True)
class Answer:
    """What the server sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Speaks ASGI, so that it can send what no HTTP library would."""

    app: Any
    failures: list[str] = field(default_factory=list)

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, host: str = "127.0.0.1"
    ) -> Answer:
        return asyncio.run(self._send(method, path, body, {"host": f"{host}:1234"} | (headers or {})))

    def get(self, path: str, **options: Any) -> Answer:
        return self.send("GET", path, **options)

    def ask(self, name: str, body: Any = None, status: int = 200, **values: Any) -> Any:
        content = json.dumps({"values": values} if body is None else body).encode()
        answer = self.send("POST", f"/{TOKEN}/api/{name}", content, {"content-type": "application/json"})
        assert answer.status == status, answer.body
        return answer.json

    async def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:]))


@pytest.fixture(scope="session")
def photo_file(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "my desk.png"
    Image.fromarray(photo).save(path)
    return path


@pytest.fixture(scope="session")
def first(photo_file: Path) -> tuple[Segmenter, Any]:
    """The model, and what it proposed."""
    segmenter = Segmenter("dense", "starter", "cpu", overrides=OVERRIDES)
    kept = segmenter(photo_file, keep_candidates=FLOOR).proposals
    assert kept is not None
    return segmenter, kept


@pytest.fixture
def tuning(first: tuple[Segmenter, Any]) -> Tuning:
    segmenter, kept = first
    return Tuning(kept, segmenter.preset, segmenter)


def client_of(tuning: Tuning, photo_file: Path) -> Client:
    failures: list[str] = []
    origin = Origin(str(photo_file), "dense", load_preset("dense"), ["-m", "starter"])
    return Client(application(tuning, origin, TOKEN, lambda text, error: failures.append(text)), failures)


@pytest.fixture
def client(tuning: Tuning, photo_file: Path) -> Client:
    return client_of(tuning, photo_file)
