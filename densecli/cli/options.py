"""Options that several commands share: declared once, so that they are spelt and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densecli.device_names import check_precision, parse_device

PresetOption = Annotated[
    str,
    typer.Option("-p", "--preset", metavar="NAME|FILE", help="A shipped preset (see `presets list`) or a YAML file."),
]
SetOption = Annotated[
    list[str],
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Override one value of the preset; repeatable."),
]
FillOption = Annotated[
    bool | None,
    typer.Option(
        "--fill/--no-fill",
        help="Ask again, with up to 3 denser grids, over what no mask covers (preset key fill).",
        show_default=False,
    ),
]


def _model(given: str | None) -> str | None:
    from densecli.model_names import spelled

    return given and spelled(given)


ModelOption = Annotated[
    str,
    typer.Option(
        "-m",
        "--model",
        callback=_model,
        metavar="NAME|PATH",
        help="auto, starter, tiny, small, base-plus, large, or a .pt/.safetensors file.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="YAML", help="The network's YAML, for --model FILE."),
]
CheckpointDirOption = Annotated[
    Path | None,
    typer.Option("--checkpoint-dir", metavar="DIR", help="Where checkpoints are looked for first."),
]


def _known_device(name: str) -> str:
    parse_device(name)
    return name


def _known_precision(name: str) -> str:
    check_precision(name)
    return name


DeviceOption = Annotated[
    str,
    typer.Option("-d", "--device", metavar="NAME", help="auto, cuda, cuda:N, mps or cpu.", callback=_known_device),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="auto (half on CUDA, else fp32), fp32, bf16 or fp16.",
        callback=_known_precision,
    ),
]
OutputDirOption = Annotated[
    str,
    typer.Option(
        "-o", "--output-dir", metavar="DIR|URL", help="Where results go: a folder, made if missing, or a URL."
    ),
]
SaveOption = Annotated[
    str,
    typer.Option(
        "--save",
        metavar="KINDS",
        help="Comma list of overlay, json, labels, labels-wholes, labels-leaves, masks, cutouts, candidates, "
        "coco, yolo, labelme.",
    ),
]
AlphaOption = Annotated[float, typer.Option("--alpha", metavar="0..1", help="Opacity of the overlay.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Only results and errors.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="More detail, and tracebacks.")]


def with_fill(overrides: list[str], fill: bool | None) -> list[str]:
    """The overrides of `--set`, and that of --fill or --no-fill, where one was given."""
    return overrides if fill is None else [*overrides, f"fill={str(fill).lower()}"]
