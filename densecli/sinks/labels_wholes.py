"""`NAME_labels_wholes.png`: as labels, of masks that are no part of another one."""

from __future__ import annotations

from pathlib import Path

from densecli.files import complete_file
from densecli.masks import Segmentation
from densecli.sinks import WriteOptions
from densecli.sinks.images import save_png


def write(segmentation: Segmentation, path: Path, options: WriteOptions) -> None:
    with complete_file(path) as temporary:
        save_png(segmentation.labels("wholes"), temporary)
