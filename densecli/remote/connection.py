"""The fsspec file systems behind a URL: one for all threads, or one for each where a connection cannot be shared."""

from __future__ import annotations

import logging
import threading
from typing import Any

from densecli.errors import EnvironmentProblem, UsageError
from densecli.sources.urls import missing_package
from densecli.wording import reason_of, shown_name


class Connection:
    """The file systems of one URL, as many as its threads need.

    Those on an event loop (buckets, mostly) serve all threads. Others hold one connection (SFTP, FTP, SMB), on which
    answers for two threads get mixed up: paramiko then waits for ever. fsspec keeps such ones apart by thread, too.
    """

    def __init__(self, url: str, scheme: str) -> None:
        """Raises UsageError for a URL that is none, EnvironmentProblem for a package or account that is missing."""
        logging.getLogger("asyncio").addFilter(_is_of_use)
        self._url = url
        self._of_thread = threading.local()
        first, self.location = _explained(url, scheme)
        """`location`: path of the URL in its file system."""
        self._shared = first if first.async_impl else None
        self._of_thread.filesystem = first

    @property
    def filesystem(self) -> Any:
        """The one for this thread, made where there is none yet, with the errors that it raises then."""
        if self._shared is not None:
            return self._shared
        filesystem = getattr(self._of_thread, "filesystem", None)
        if filesystem is None:
            filesystem = self._of_thread.filesystem = _connected(self._url)[0]
        return filesystem

    def renew(self) -> None:
        """Let this thread have another one next time: after an error, its connection may be of no use."""
        self._of_thread.filesystem = None


def _connected(url: str) -> tuple[Any, str]:
    import fsspec

    # Not one that fsspec remembers, which may be the one that broke.
    filesystem, location = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return filesystem, str(location)


def _explained(url: str, scheme: str) -> tuple[Any, str]:
    shown = shown_name(url)
    try:
        return _connected(url)
    except ImportError as error:
        raise EnvironmentProblem(f"{shown}: {missing_package('writing', scheme, error)}") from error
    except ValueError as error:
        if "rotocol" in str(error):
            raise UsageError(f"--output-dir {shown}: {scheme}:// is not a known kind of URL; check it") from None
        raise UsageError(f"--output-dir {shown}: is not a usable URL ({reason_of(error)}); check it") from error
    except Exception as error:
        raise EnvironmentProblem(
            f"{shown}: cannot be reached ({reason_of(error)}); check the URL and your credentials"
        ) from error


def _is_of_use(record: logging.LogRecord) -> bool:
    """Not asyncio's traceback of a task whose error nobody asked for: of parts that a library sent side by side, the
    first error was raised, and is explained.
    """
    return "was never retrieved" not in record.getMessage()
