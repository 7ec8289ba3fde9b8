"""`NAME_masks.json`: the summary, with one line per mask so that it can be read and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from densecli.files import complete_file
from densecli.masks import Segmentation
from densecli.sinks import WriteOptions


def write(segmentation: Segmentation, path: Path, options: WriteOptions) -> None:
    with complete_file(path) as temporary:
        temporary.write_text(to_json(segmentation.summary()), encoding="utf-8")


def to_json(summary: dict[str, Any]) -> str:
    """The summary as JSON text: fields indented, masks one a line; always encodable as UTF-8."""
    lines = []
    for key, value in summary.items():
        if key == "masks":
            text = ",\n    ".join(json.dumps(mask, ensure_ascii=False, allow_nan=False) for mask in value)
            text = f"[\n    {text}\n  ]" if value else "[]"
        else:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        lines.append(f"  {json.dumps(key)}: {text}")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    # Bytes of a file name that are no UTF-8 are lone surrogates here; as \udcXX, JSON can carry them.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
