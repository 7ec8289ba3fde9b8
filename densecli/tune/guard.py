"""Who may talk to the page: only who knows the token, only on this machine, and only from the page itself."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Any port: who forwards one over ssh may choose another.
_HOSTS = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # The address holds the token.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ENCODED = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]


class Guard:
    """ASGI middleware: 403 unless the path begins with the token and Host (and Origin, where sent) are this machine.

    A page of another site whose name resolves to 127.0.0.1 (DNS rebinding) has that name in Host.
    """

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ENCODED]
            await send(message)

        if self._allows(scope["path"], headers):
            await self._app(scope, receive, guarded)
            return
        await guarded({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await guarded({"type": "http.response.body", "body": b"forbidden: open the address that densecli printed\n"})

    def _allows(self, path: str, headers: dict[str, str]) -> bool:
        given = path.split("/", 2)[1] if path.startswith("/") else ""
        if not secrets.compare_digest(given.encode("utf-8", "surrogatepass"), self._token.encode()):
            return False
        origin = headers.get("origin")
        return _is_local(f"//{headers.get('host', '')}") and (origin is None or _is_local(origin))


def _is_local(address: str) -> bool:
    try:
        return urlsplit(address).hostname in _HOSTS
    except ValueError:
        return False
