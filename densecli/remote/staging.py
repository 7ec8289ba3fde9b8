"""Where outputs for a URL are made on this machine, and which `--output-dir` is one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from densecli.errors import EnvironmentProblem, UsageError
from densecli.sources.names import fitting
from densecli.sources.urls import local_path, url_scheme
from densecli.user_cache import user_cache
from densecli.wording import shown_name

_LOST_A_SLASH = re.compile(r"[A-Za-z0-9+.\-]{2,}:/[^/]")


def output_url(given: str) -> str | None:
    """The URL of an `--output-dir` that is one; None for a folder. Raises UsageError."""
    shown = shown_name(given)
    scheme = url_scheme(given)
    if scheme is None:
        if _LOST_A_SLASH.match(given):
            raise UsageError(f"--output-dir {shown}: a URL has two slashes after the colon")
        return None
    if scheme in ("http", "https"):
        raise UsageError(
            f"--output-dir {shown}: nothing can be written to {scheme}://; give a folder, or a URL such as s3://BUCKET/OUT"
        )
    if "::" in given:
        raise UsageError(f"--output-dir {shown}: cannot be a chain of URLs; give the URL of a folder")
    return None if local_path(given) is not None else given


def local_folder(given: str) -> Path:
    """The folder of an `--output-dir` that is none of another machine, also as file:// URL."""
    return Path(local_path(given) or given)


def staging_folder(url: str, shard: tuple[int, int] | None = None) -> Path:
    """The folder in which a run makes its outputs for `url`: the same whenever it is taken up on this machine.

    Its last part is that of the URL, by which the report is named. Raises EnvironmentProblem where the user has no
    folder for such things.
    """
    cache = user_cache()
    if cache is None:
        raise EnvironmentProblem("This user has no home folder to make outputs in; set XDG_CACHE_HOME to a folder.")
    clean = url.rstrip("/")
    digest = hashlib.sha256(f"{clean} {shard}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    last = re.sub(r'[<>:"|?*\\\x00-\x1f]', "_", clean.rsplit("/", 1)[-1])
    # Of dots alone it would be the folder of all uploads, which is removed when one of them ends.
    return cache / "uploads" / digest / fitting(last if last.strip(".") else "out")
