"""Fetches a checkpoint: resumes, retries, tries several sources; only a file with the right sha256 gets its name."""

from densecli.download.fetching import download, fetch, named_sources
from densecli.download.patience import Patience, patience_from_environment
from densecli.download.progress import Progress

__all__ = [
    "Patience",
    "Progress",
    "download",
    "fetch",
    "named_sources",
    "patience_from_environment",
]
