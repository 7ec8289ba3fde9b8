"""`read_image`: whatever the user named in, one image out."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import BinaryIO

from densecli.sources.decoding import LoadedImage, decode, pillow_settings
from densecli.sources.opening import open_path, read_stdin
from densecli.sources.urls import open_url, url_scheme


def read_image(source: str | os.PathLike[str], *, stdin: BinaryIO | None = None) -> LoadedImage:
    """Read one image completely.

    `source` is a local path, `-` for the bytes of `stdin` (default: the process's), or a URL (http, https, or a scheme
    of fsspec). Transparent pixels are put on white, grey values deeper than 8 bits are scaled (see `_grey_window`),
    and of an animation or multi-page file the first frame is read; each of these adds a notice.

    Raises InputError if there is no such input or it is not an image that can be decoded to its last pixel, and
    EnvironmentProblem if a URL's scheme needs a package that is not installed.
    """
    name = os.fsdecode(source)
    with contextlib.ExitStack() as stack:
        if name == "-":
            file = read_stdin(sys.stdin.buffer if stdin is None else stdin)
        elif scheme := url_scheme(name):
            file = open_url(name, scheme, stack)
        else:
            file = open_path(name, name, stack)
        stack.enter_context(pillow_settings)
        return decode(name, file)
