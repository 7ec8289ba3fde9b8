"""User and password of an http(s) URL, sent as HTTP wants them: in a header, and to their own server only.

urllib takes `me:password@host` for the name of a host.
"""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPMessage
from typing import IO, Any

_HEADER = "Authorization"
_PORTS = {"http": 80, "https": 443}


def open_http(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """The response for `url`, redirects followed, by way of proxies that the environment names; to be closed.

    Raises what urllib does, and never with the password in it.
    """
    plain, login = _split(url)
    request = urllib.request.Request(plain, headers=dict(headers))
    if login is not None:
        request.add_unredirected_header(_HEADER, login)
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Passes the login on where a server sends us to itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        plain, login = _split(newurl)
        request = super().redirect_request(req, fp, code, msg, headers, plain)
        if login is None and _may_have_login_of(plain, req.full_url):
            login = req.get_header(_HEADER)
        if request is not None and login is not None:
            request.add_unredirected_header(_HEADER, login)
        return request


def _split(url: str) -> tuple[str, str | None]:
    """The URL without user and password, and the header that says them; what stands for itself as %40 is decoded."""
    scheme, separator, rest = url.partition("://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    login, at, host = netloc.rpartition("@")  # the last: people write passwords with @ as they are
    if not at:
        return url, None
    user, _, password = map(urllib.parse.unquote_to_bytes, login.partition(":"))
    return f"{scheme}{separator}{host}{rest[len(netloc) :]}", f"Basic {b64encode(user + b':' + password).decode()}"


def _may_have_login_of(url: str, earlier: str) -> bool:
    """Whether it is the same server, or the same by the standard ports with encryption on top."""
    new, old = (urllib.parse.urlsplit(each) for each in (url, earlier))
    where = [(each.scheme, each.port or _PORTS.get(each.scheme)) for each in (old, new)]
    return new.hostname == old.hostname and (where[0] == where[1] or where == [*_PORTS.items()])
