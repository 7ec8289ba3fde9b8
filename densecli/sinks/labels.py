"""`NAME_labels.png`: 16-bit picture of mask ids, 0 where there is no mask, smaller masks on top."""

from __future__ import annotations

from pathlib import Path

from densecli.files import complete_file
from densecli.masks import Segmentation
from densecli.sinks import WriteOptions
from densecli.sinks.images import save_png


def write(segmentation: Segmentation, path: Path, options: WriteOptions) -> None:
    with complete_file(path) as temporary:
        save_png(segmentation.labels(), temporary)
