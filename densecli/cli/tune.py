"""`densecli tune`: a web page on this machine on which one photo's thresholds are moved."""

from __future__ import annotations

from typing import Annotated

import typer

from densecli.cli import options
from densecli.cli.interruption import interruptible


def tune(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image: file, URL, or - for stdin; or .candidates.")],
    preset: options.PresetOption = "dense",
    set_: options.SetOption = [],  # noqa: B006  (typer makes a new list for each call)
    model: options.ModelOption = "auto",
    config: options.ConfigOption = None,
    checkpoint_dir: options.CheckpointDirOption = None,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="Default: any free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page, or only print where it is.")
    ] = True,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
) -> int:
    """Find the thresholds for a photo: move them on a page in the browser, and see the masks follow at once.

    The model runs once; the page chooses from what it proposed. It says why a candidate is no mask, and gives the
    values as a preset file or as the command line that makes these masks. Needs the extra named web.
    """
    with interruptible():
        from densecli.console import Console
        from densecli.tune.opening import tune as serve_page

        with Console(quiet=quiet, verbose=verbose) as console:
            return serve_page(
                image,
                console,
                preset=preset,
                overrides=set_,
                port=port,
                open_browser=browser,
                model=model,
                device=device,
                precision=precision,
                checkpoint_dir=checkpoint_dir,
                config=config,
            )
