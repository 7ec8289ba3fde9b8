"""The page's server: static files and a few questions in JSON, on 127.0.0.1 only."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from densecli.errors import DensecliError, UsageError
from densecli.tune import answers, export
from densecli.tune.guard import Guard
from densecli.tune.state import Tuning
from densecli.wording import reason_of

_PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_MAX_BODY = 1 << 16
# A larger photo is shown smaller: browsers would take too long to paint masks over all its pixels.
_SHOWN_PIXELS = 2_500_000
_SHOWN_SIDE = 16_384
"""No longer side can be painted on in every browser; a JPEG ends at 65,500."""

Question = Callable[[Tuning, Mapping[str, Any]], Any]


def application(tuning: Tuning, origin: export.Origin, token: str, failed: Callable[[str, Exception], None]) -> Guard:
    """The ASGI application. failed: is told of what should not happen, so that the terminal says so."""
    picture, shown = _picture(tuning.pixels)
    routes = []
    for path in sorted(_PAGE.iterdir()):
        if path.suffix in _TYPES:
            name = "" if path.name == "index.html" else path.name
            routes.append(Route(f"/{token}/{name}", _file(path.read_bytes(), _TYPES[path.suffix])))
    routes.append(Route(f"/{token}/photo.jpg", _file(picture, "image/jpeg")))
    questions: dict[str, Question] = {
        "start": lambda tuning, asked: answers.start(tuning, shown),
        "scores": lambda tuning, asked: answers.scores(tuning, _wish(tuning, asked)),
        "choose": _choose,
        "why": _why,
        "preset": lambda tuning, asked: {
            "name": f"{tuning.preset.name}-tuned.yaml",
            "text": export.preset_yaml(_wish(tuning, asked), tuning.preset, origin),
            "note": export.weights_note(_wish(tuning, asked), origin),
        },
        "command": lambda tuning, asked: {"text": export.command_line(_wish(tuning, asked), origin)},
        "add-points": lambda tuning, asked: answers.job(tuning.add_points(_integer(asked, "points_per_side"))),
        "finish": lambda tuning, asked: answers.job(tuning.finish(_wish(tuning, asked))),
        "job": lambda tuning, asked: answers.job(tuning.jobs.latest()),
        "stop": lambda tuning, asked: {"ended": tuning.jobs.stop()},
    }
    for name, question in questions.items():
        endpoint = partial(_answered, tuning=tuning, question=question, failed=failed)
        routes.append(Route(f"/{token}/api/{name}", endpoint, methods=["POST"]))
    return Guard(Starlette(routes=routes), token)


def serve(app: Guard, listening: socket.socket) -> None:
    """Answer until Ctrl-C (or SIGTERM), which is raised as KeyboardInterrupt."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _file(content: bytes, media_type: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


def _picture(pixels: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """The photo as JPEG, made smaller where it is large; and its width and height."""
    height, width = pixels.shape[:2]
    scale = min(1.0, (_SHOWN_PIXELS / (width * height)) ** 0.5, _SHOWN_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(pixels)
    if scale < 1:
        image = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue(), size


async def _answered(
    request: Request, *, tuning: Tuning, question: Question, failed: Callable[[str, Exception], None]
) -> Response:
    asked = await _asked(request)
    try:
        answer = await run_in_threadpool(question, tuning, asked)
    except DensecliError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    except Exception as error:
        failed(f"tune: unexpected {type(error).__name__}: {reason_of(error)}", error)
        return JSONResponse({"error": f"unexpected {type(error).__name__}; the terminal says more"}, status_code=500)
    return JSONResponse(answer)


async def _asked(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "JSON only")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise HTTPException(413, "too long")
    try:
        asked = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(400, "no JSON") from None
    if not isinstance(asked, dict):
        raise HTTPException(400, "no JSON object")
    return asked


def _wish(tuning: Tuning, asked: Mapping[str, Any]) -> Any:
    values = asked.get("values", {})
    if not isinstance(values, dict):
        raise UsageError("tune: values must be a mapping of keys to values")
    return tuning.resolved(values)


def _integer(asked: Mapping[str, Any], name: str) -> int:
    value = asked.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"tune: {name} must be a whole number")
    return value


def _choose(tuning: Tuning, asked: Mapping[str, Any]) -> Any:
    return answers.choice(tuning, *tuning.choose(_wish(tuning, asked)))


def _why(tuning: Tuning, asked: Mapping[str, Any]) -> Any:
    height, width = tuning.first.proposals.size
    x, y = _integer(asked, "x"), _integer(asked, "y")
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(f"tune: pixel {x}, {y} is outside of the image")
    return answers.why(tuning, _wish(tuning, asked), x, y)
