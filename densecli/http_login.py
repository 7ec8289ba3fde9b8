"""User and password of an http(s) URL, sent as HTTP wants them: in a header, and to their own server only.

urllib takes `me:password@host` for the name of a host, follows redirects to FTP, and names a proxy with its password.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPMessage
from typing import IO, Any

from densecli.wording import shown_name

_HEADER = "Authorization"
_PORTS = {"http": 80, "https": 443}
_PROXY = re.compile(r"(?:https?://)?(?:[^/]*@)?(?:\[[^\s/@\[\]]+\]|[^\s/:@\[\]]+)(?::(?P<port>\d{1,5}))?(?:/.*)?", re.I)


class UnusableProxy(ValueError):
    """The proxy that the environment names cannot be one. The text says which variable it is, and not its value."""


def open_http(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """The response for `url`, redirects followed, by way of proxies that the environment names; to be closed.

    Raises what urllib does, and never with the password in it, or UnusableProxy.
    """
    plain, login = _split(url)
    request = urllib.request.Request(plain, headers=dict(headers))
    if login is not None:
        request.add_unredirected_header(_HEADER, login)
    return urllib.request.build_opener(_Redirects, _Proxies).open(request, timeout=timeout)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Passes the login on where a server sends us to itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(("http://", "https://")):
            raise urllib.error.HTTPError(
                req.full_url, code, f"{msg}, leads to {shown_name(newurl)}, which is not http(s)", headers, fp
            )
        plain, login = _split(newurl)
        request = super().redirect_request(req, fp, code, msg, headers, plain)
        if login is None and _may_have_login_of(plain, req.full_url):
            login = req.get_header(_HEADER)
        if request is not None and login is not None:
            request.add_unredirected_header(_HEADER, login)
        return request


class _Proxies(urllib.request.ProxyHandler):
    """Looks at the address of a proxy before urllib does, whose errors tell the password and blame the URL."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        match = _PROXY.fullmatch(proxy)
        if req.host and urllib.request.proxy_bypass(req.host):
            return None  # no_proxy
        if match is None or int(match["port"] or 0) > 65535:
            names = (f"{type}_proxy", f"{type}_proxy".upper())
            where = next((f"${name}" for name in names if os.environ.get(name) == proxy), "the system's setting")
            raise UnusableProxy(f"{where} names no proxy that can be used; give http://HOST:PORT, or unset it")
        return super().proxy_open(req, proxy, type)


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
