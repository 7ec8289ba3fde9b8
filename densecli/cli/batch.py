"""`densecli batch`: folders, patterns, lists and videos in; masks, a manifest and a report out."""

from __future__ import annotations

from typing import Annotated

import typer

from densecli.cli import options
from densecli.cli.interruption import interruptible


def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Folders, patterns (quoted), .txt lists, images, videos, or URLs of these; - for a list on stdin.",
        ),
    ],
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Look into subfolders too.")] = False,
    preset: options.PresetOption = "dense",
    set_: options.SetOption = [],  # noqa: B006  (typer makes a new list for each call)
    fill: options.FillOption = None,
    model: options.ModelOption = "auto",
    config: options.ConfigOption = None,
    checkpoint_dir: options.CheckpointDirOption = None,
    device: Annotated[
        str,
        typer.Option(
            "-d", "--device", metavar="NAMES", help="auto, cuda, cuda:N, mps, cpu; or several: cuda:0,cuda:1."
        ),
    ] = "auto",
    precision: options.PrecisionOption = "auto",
    output_dir: options.OutputDirOption = "densecli-out",
    save: options.SaveOption = "overlay,json",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite/--skip-existing", help="Redo all, or skip what an earlier run completed with these settings."
        ),
    ] = False,
    alpha: options.AlphaOption = 0.7,
    every: Annotated[int, typer.Option("--every", metavar="N", min=1, help="Every Nth frame of a video.")] = 1,
    max_frames: Annotated[
        int | None,
        typer.Option("--max-frames", metavar="N", min=1, help="At most N frames of a video."),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first input that fails.")] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Do the I-th of N parts (for job arrays); I from 1."),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="local, or ray for a cluster ($RAY_ADDRESS).")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Processes with a model each; default: one a device."),
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with files that arrive, once they are complete; Ctrl-C ends it.")
    ] = False,
    quiet: options.QuietOption = False,
    verbose: options.VerboseOption = False,
    json_: Annotated[bool, typer.Option("--json", help="stdout carries one JSON line an input.")] = False,
) -> int:
    """Segment everything in many images and videos.

    Writes for each what `segment` writes, a line to manifest.jsonl as it ends, and report.html for the run. Run again,
    it skips what is complete, and does what failed, changed or is new. Ctrl-C finishes what is in work and stops.
    """
    with interruptible():
        from densecli.batch.job import BatchJob, SegmenterOptions, parse_shard
        from densecli.console import Console
        from densecli.device_names import parse_devices
        from densecli.presets import load_preset
        from densecli.remote.staging import local_folder, output_url, staging_folder
        from densecli.sinks import WriteOptions, parse_kinds

        with Console(quiet=quiet, verbose=verbose, json=json_, json_lines=True) as console:
            part, url = parse_shard(shard), output_url(output_dir)
            job = BatchJob(
                inputs=inputs,
                output_dir=staging_folder(url, part) if url else local_folder(output_dir),
                output_url=url,
                kinds=parse_kinds(save),
                write_options=WriteOptions(alpha=alpha),
                segmenter=SegmenterOptions(
                    load_preset(preset, options.with_fill(set_, fill)), model, precision, checkpoint_dir, config
                ),
                devices=parse_devices(device),
                recursive=recursive,
                every=every,
                max_frames=max_frames,
                overwrite=overwrite,
                fail_fast=fail_fast,
                shard=part,
                engine=engine,
                workers=workers,
                report=report,
                watch=watch,
            )
            if dry_run:
                from densecli.batch.rehearsal import rehearse

                return rehearse(job, console)
            from densecli.batch.run import run_batch

            return run_batch(job, console).exit_code
