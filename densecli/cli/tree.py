"""The commands of `densecli`, as typer knows them; `app.py` runs them."""

from __future__ import annotations

import inspect

import typer

from densecli import __version__
from densecli.cli import batch, compare, doctor, download_checkpoints, presets, segment, tune
from densecli.cli.help_formatter import in_paragraphs

commands = typer.Typer(
    name="densecli",
    help="Segment everything in photos with SAM 2.1: presets instead of parameter folklore, masks as files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
commands.command("segment")(segment.segment)
commands.command("batch")(batch.batch)
commands.command("compare")(compare.compare)
commands.command("tune")(tune.tune)
commands.command("download-checkpoints")(download_checkpoints.download_checkpoints)
commands.command("doctor")(doctor.doctor)
commands.add_typer(presets.app, name="presets")
for _app in (commands, presets.app):
    for _command in _app.registered_commands:
        _command.help = in_paragraphs(_command.help or inspect.getdoc(_command.callback) or "")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"densecli {__version__}")
        raise typer.Exit


@commands.callback()
def root(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Segment everything in photos with SAM 2.1: presets instead of parameter folklore, masks as files."""
