"""`densecli compare`: one photo, several presets, one picture that shows what each makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densecli.cli import options
from densecli.cli.interruption import interruptible


def compare(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image: file, URL, or - for stdin; or .candidates.")],
    presets: Annotated[
        str, typer.Option("--presets", metavar="A,B,...", help="Comma list of presets: names or YAML files.")
    ] = "dense,default,keyboard-fix",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The sheet, a .png; default: densecli-out/NAME_compare.png."
        ),
    ] = None,
    set_: options.SetOption = [],  # noqa: B006  (typer makes a new list for each call)
    model: options.ModelOption = "auto",
    config: options.ConfigOption = None,
    checkpoint_dir: options.CheckpointDirOption = None,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    alpha: Annotated[float, typer.Option("--alpha", metavar="0..1", help="Opacity of the masks.")] = 0.6,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Show what several presets make of one image, side by side.

    Writes one PNG with a panel for each preset: its masks, how many, how much they cover, and what each filter left.
    The model runs once for all presets that have the same grid.
    """
    from densecli.console import Console
    from densecli.one_sheet import SheetJob, write_sheet

    with interruptible(), Console(quiet=quiet, verbose=verbose) as console:
        return write_sheet(
            SheetJob(image, presets.split(","), set_, output, alpha),
            console,
            model=model,
            device=device,
            precision=precision,
            checkpoint_dir=checkpoint_dir,
            config=config,
        )
