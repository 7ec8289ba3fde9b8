"""One answer of one source, over HTTP or from a file: where its bytes begin, and what each kind of trouble means."""

from __future__ import annotations

import http.client
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from densecli import __version__
from densecli.checkpoints import one_line
from densecli.http_login import UnusableProxy, open_http
from densecli.wording import reason_of

_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


class SourceFailed(Exception):
    """This URL will not do; the next one may. The reason may hold what a server says."""

    def __init__(self, reason: object) -> None:
        super().__init__(reason_of(reason))


class Dropped(Exception):
    """Nothing more came, but may come if asked again."""

    def __init__(self, reason: str, *, retry_after: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason_of(reason))
        self.retry_after = retry_after  # seconds, as the server asked
        self.unreachable = unreachable  # there was no connection at all


class NoRange(Exception):
    """The server cannot go on from the middle of the file."""


@dataclass
class Body:
    """What a source sends: `read(n)` gives at most n bytes, b"" at the end; the first is byte `offset` of the file."""

    read: Callable[[int], bytes]
    close: Callable[[], None]
    offset: int
    announced: bool  # it is said to belong to a file of the right size
    ends_cleanly: bool  # b"" from `read` means that the sender had nothing more, not that the connection broke


def open_url(url: str, offset: int, size: int, timeout: float) -> Body:
    """Ask `url` for bytes `offset` to the end of a file that must have `size` bytes.

    Raises SourceFailed, Dropped or NoRange.
    """
    if url.startswith("file:"):
        return _open_file(url, offset, size)
    # The answer must be the file itself: its bytes are counted and hashed as they come.
    headers = {"User-Agent": f"densecli/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = open_http(_quoted(url), headers, timeout)
    except urllib.error.HTTPError as error:
        with error:
            _raise_for_status(error, offset, size)
    except UnusableProxy as error:
        raise SourceFailed(error) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise SourceFailed(f"not a usable URL: {one_line(error)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise dropped(error, timeout) from error
    try:
        begins, announced = _check_headers(response, offset, size)
    except BaseException:
        response.close()
        raise
    cleanly = bool(response.chunked) and response.status == 200
    return Body(response.read1, response.close, begins, announced, ends_cleanly=cleanly)


def _quoted(url: str) -> str:
    # A base URL is taken as it is written, the file name may hold a blank or a letter that HTTP does not know.
    base, _, file = url.rpartition("/")
    return f"{base}/{urllib.parse.quote(file)}"


def _open_file(url: str, offset: int, size: int) -> Body:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(_quoted(url)).path))
    try:
        file = path.open("rb")
        there = os.fstat(file.fileno()).st_size
        file.seek(offset)
    except OSError as error:
        raise SourceFailed(error.strerror or one_line(error)) from error
    if there != size:
        file.close()
        raise SourceFailed(f"has {there} bytes instead of {size}")
    return Body(file.read, file.close, offset, announced=True, ends_cleanly=True)


def _raise_for_status(error: urllib.error.HTTPError, offset: int, size: int) -> NoReturn:
    """What an HTTP status other than 2xx means for the download."""
    if error.code == 416 and offset:
        total = _content_range(error.headers.get("Content-Range"))[1]
        if total is not None and total != size:
            raise SourceFailed(f"has {total} bytes instead of {size}")
        raise NoRange
    answer = f"HTTP {error.code} {one_line(error.reason)}"
    if error.code in _TRANSIENT_STATUS:
        after = error.headers.get("Retry-After") or ""
        raise Dropped(answer, retry_after=float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0)
    raise SourceFailed(answer)


def _check_headers(response: http.client.HTTPResponse, offset: int, size: int) -> tuple[int, bool]:
    """Position in the file at which the body of a good response begins, and whether it announces the right size.

    Raises SourceFailed, Dropped or NoRange.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise SourceFailed(f"sends the file encoded as {encoding}")
    if response.status == 206:
        begins, total = _content_range(response.headers.get("Content-Range"))
        if total is not None and total != size:
            raise SourceFailed(f"has {total} bytes instead of {size}")
        if begins != offset:
            raise NoRange
        return offset, total is not None
    if response.status != 200:
        raise SourceFailed(f"HTTP {response.status} {response.reason}")
    length = response.headers.get("Content-Length")
    if response.headers.get_content_type() == "text/html" and length != str(size):
        raise SourceFailed("sent a web page instead of the file (a login page, or a wrong address)")
    if length is not None and length != str(size):
        raise SourceFailed(f"announces {length} bytes instead of {size}")
    return 0, length is not None


def _content_range(header: str | None) -> tuple[int | None, int | None]:
    """First byte and whole length of `bytes 5-9/10` or `bytes */10`, None for what it does not tell."""
    match = re.fullmatch(r"\s*bytes\s+(?:(\d+)-\d+|\*)/(?:(\d+)|\*)\s*", header or "", re.IGNORECASE)
    if match is None:
        return None, None
    first, total = match.groups()
    return (int(first) if first else None), (int(total) if total else None)


def dropped(error: Exception, timeout: float) -> Exception:
    """The download's own error for one of the network: try again, or leave this source."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SourceFailed(f"certificate not trusted: {one_line(reason.verify_message)}")
    if isinstance(reason, str):
        return SourceFailed(reason)
    # urllib wraps what goes wrong until the request is sent in URLError; all later trouble comes as it is.
    unreachable = isinstance(error, urllib.error.URLError)
    if isinstance(reason, TimeoutError):
        text = f"no data for {timeout:g} s"
    elif isinstance(reason, http.client.IncompleteRead):
        text = "connection closed early"
    else:
        text = getattr(reason, "strerror", None) or one_line(reason)
    return Dropped(f"no connection: {text}" if unreachable else text, unreachable=unreachable)
