"""Opening URLs: file:// as a path, http(s) by the standard library, everything else by fsspec."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from densecli.errors import EnvironmentProblem, InputError, is_interruption
from densecli.http_login import UnusableProxy, open_http
from densecli.sources.opening import open_path, slurp
from densecli.wording import reason_of, shown_name

T = TypeVar("T")

_URL = re.compile(r"(?:[A-Za-z0-9+.\-]+::)*([A-Za-z][A-Za-z0-9+.\-]+)://")
# What a server says of a path, and would say again.
_ANSWERS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_RUNS_CODE = "reference"
"""A kind of URL whose texts hold templates, which fsspec fills in: without a sandbox up to 2026.4, so that a line of a
list could run any code."""
_WORKING_URLS = "file://, memory://, http://, https://, s3:// and the other schemes of fsspec"


def url_scheme(name: str) -> str | None:
    """The scheme of a URL, in lower case, of a chain the first; None for a path."""
    match = _URL.match(name)
    return match.group(1).lower() if match else None


def location_of(url: str) -> tuple[str, str, str]:
    """A URL in three: `zip://photos::s3://bucket/b.zip` is `zip://`, `photos` and `::s3://bucket/b.zip`."""
    scheme, separator, rest = url.partition("://")
    location, chain, archive = rest.partition("::")
    return scheme + separator, location, chain + archive


def local_path(given: str) -> str | None:
    """The path of an input that is a local file (also as file:// URL), else None."""
    if given == "-":
        return None
    if url_scheme(given) is None:
        return given
    return _file_url_path(given) if given.lower().startswith("file://") else None


def open_url(name: str, scheme: str, stack: contextlib.ExitStack) -> BinaryIO:
    """The bytes behind a URL, in a file that can seek. Raises InputError or EnvironmentProblem."""
    if name.lower().startswith(("http://", "https://")):
        return _read_http(name)
    if name.lower().startswith("file://"):
        return open_path(name, _file_url_path(name), stack)
    shown = shown_name(name)
    filesystem, path = _filesystem(name, scheme)

    def read(filesystem: Any) -> BinaryIO:
        with filesystem.open(path, "rb") as file:
            return slurp(name, file)

    try:
        return tried_twice(filesystem, name, read)
    except InputError:
        raise
    except Exception as error:
        with contextlib.suppress(Exception):
            if is_folder(filesystem, path):
                raise InputError(f"{shown}: is a folder; give one image") from None
        if isinstance(error, FileNotFoundError):
            raise InputError(f"{shown}: does not exist; check the URL") from None
        if isinstance(error, PermissionError):
            raise InputError(f"{shown}: permission denied; check your credentials for {scheme}://") from None
        raise InputError(f"{shown}: cannot be read: {reason_of(error)}; check the URL and your credentials") from error


def filesystem_of(name: str) -> tuple[Any, str] | None:
    """fsspec file system and the path in it of a URL; None for what is a local path, stdin or http(s).

    Raises InputError or EnvironmentProblem.
    """
    scheme = url_scheme(name)
    if name == "-" or scheme is None or name.lower().startswith(("http://", "https://", "file://")):
        return None
    return _filesystem(name, scheme)


def tried_twice(filesystem: Any, url: str, call: Callable[[Any], T]) -> T:
    """`call(filesystem)`, and once more with a new one for `url` where the connection may have been dropped.

    Servers of SFTP, FTP and SMB do that, and fsspec would give the same file system for every further input. Buckets
    have no connection that stays, and their packages try again themselves.
    """
    try:
        return call(filesystem)
    except (InputError, *_ANSWERS):
        raise
    except Exception as error:  # each file system has its own family of errors
        if filesystem.async_impl or is_interruption(error):
            raise
        import fsspec

        type(filesystem).clear_instance_cache()
        return call(fsspec.core.url_to_fs(url)[0])


def is_folder(filesystem: Any, location: str) -> bool:
    """Whether a folder lies there. Raises what keeps it from being known, but for file systems on an event loop."""
    if filesystem.async_impl:
        return bool(filesystem.isdir(location))
    try:
        return bool(filesystem.info(location)["type"] == "directory")  # isdir says no where the connection broke
    except (FileNotFoundError, NotADirectoryError):
        return False


def _filesystem(name: str, scheme: str) -> tuple[Any, str]:
    import fsspec

    shown = shown_name(name)
    if any(link.partition("://")[0].lower() == _RUNS_CODE for link in name.split("::")):
        raise InputError(f"{shown}: reference:// is not read, as its files can run code; give the URL of the picture")
    try:
        filesystem, path = fsspec.core.url_to_fs(name)
        return filesystem, path
    except ImportError as error:
        raise EnvironmentProblem(f"{shown}: {missing_package('reading', scheme, error)}") from error
    except ValueError as error:
        if "rotocol" in str(error):
            raise InputError(f"{shown}: {scheme}:// is not a known kind of URL; use {_WORKING_URLS}") from None
        raise InputError(f"{shown}: is not a usable URL: {reason_of(error)}; check its spelling") from error
    except Exception as error:  # each file system has its own family of errors
        raise InputError(
            f"{shown}: cannot be reached: {reason_of(error)}; check the URL and your credentials"
        ) from error


def missing_package(doing: str, scheme: str, error: ImportError) -> str:
    """What to install. doing: `reading` or `writing`."""
    pip = f"{sys.executable} -m pip install"
    if scheme in ("s3", "s3a"):
        return f"{doing} s3:// needs s3fs; run: {pip} 'densecli[s3]'"
    return f"{doing} {scheme}:// needs a package that is missing: {reason_of(error)} (with: {pip} PACKAGE)"


def _file_url_path(url: str) -> str:
    """Path of a file:// URL; percent codes are decoded unless a file of just that name exists."""
    path = url[len("file://") :]
    path = path[len("localhost") :] if path.startswith("localhost/") else path
    if os.path.exists(path):
        return path
    return urllib.request.url2pathname(path) if path.startswith("/") else urllib.parse.unquote(path)


def _read_http(url: str) -> BinaryIO:
    # By the standard library: fsspec needs aiohttp for this, which densecli does not.
    shown = shown_name(url)
    quoted = urllib.parse.quote(url, safe=":/?#[]@!$&'()*+,;=%~")
    try:
        with open_http(quoted, {"User-Agent": "densecli"}, timeout=60) as response:
            file = slurp(url, response)
            promised = response.headers.get("Content-Length")
            if promised and promised.isdigit() and int(promised) != file.seek(0, os.SEEK_END):
                raise InputError(f"{shown}: the download broke off; try again")
            return file
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        check = "check user and password in the URL" if error.code == 401 else "check the URL"
        raise InputError(f"{shown}: the server answered {error.code} ({reason_of(error.reason)}); {check}") from None
    except UnusableProxy as error:
        raise InputError(f"{shown}: cannot be fetched: {error}") from None
    except Exception as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(f"{shown}: cannot be fetched: {reason_of(reason)}; check the URL and the network") from error
