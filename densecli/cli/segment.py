"""`densecli segment`: images in, masks out."""

from __future__ import annotations

from typing import Annotated

import typer

from densecli.cli import options
from densecli.cli.interruption import interruptible


def segment(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="Images: files, URLs, or - for stdin; or .candidates.")
    ],
    preset: options.PresetOption = "dense",
    set_: options.SetOption = [],  # noqa: B006  (typer makes a new list for each call)
    fill: options.FillOption = None,
    model: options.ModelOption = "auto",
    config: options.ConfigOption = None,
    checkpoint_dir: options.CheckpointDirOption = None,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    output_dir: options.OutputDirOption = "densecli-out",
    save: options.SaveOption = "overlay,json",
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--skip-existing", help="Redo inputs whose outputs are all there, or skip them.")
    ] = True,
    alpha: options.AlphaOption = 0.7,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    json_: Annotated[bool, typer.Option("--json", help="stdout carries one JSON array of summaries.")] = False,
) -> int:
    """Segment everything in images.

    Writes NAME_overlay.png and NAME_masks.json for each INPUT, and prints what it found. --save candidates keeps what
    the model proposed in NAME.candidates; with that as INPUT, other thresholds apply at once and no model runs.
    """
    with interruptible():
        from densecli.console import Console
        from densecli.one_by_one import Job, segment_all
        from densecli.remote.staging import local_folder, output_url
        from densecli.sinks import WriteOptions, parse_kinds

        with Console(quiet=quiet, verbose=verbose, json=json_) as console:
            job = Job(
                inputs=inputs,
                output_dir=local_folder(output_dir),
                output_url=output_url(output_dir),
                kinds=parse_kinds(save),
                write_options=WriteOptions(alpha=alpha),
                skip_existing=not overwrite,
            )
            return segment_all(
                job,
                console,
                preset=preset,
                overrides=options.with_fill(set_, fill),
                model=model,
                device=device,
                precision=precision,
                checkpoint_dir=checkpoint_dir,
                config=config,
            )
