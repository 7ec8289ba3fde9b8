"""`densecli presets`: list, show, check and start preset files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densecli.streams import print_json

# densecli.presets (pydantic, yaml) and rich are imported inside the commands: `densecli --help` must stay instant.
if TYPE_CHECKING:
    from densecli.presets import Preset

app = typer.Typer(
    help="List, show, check and start presets (YAML files with the parameters of a run).", no_args_is_help=True
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the presets that ship with densecli."""
    from densecli.presets import list_presets

    presets = list_presets()
    if as_json:
        print_json(
            [{"name": p.name, "model": p.model, "description": p.description, "path": str(p.source)} for p in presets]
        )
        return
    rows = [(p.name, p.model or "-", p.description) for p in presets]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("PRESET", "MODEL", "DESCRIPTION", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    rows.insert(0, ("PRESET", "MODEL", "DESCRIPTION"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, model, description in rows:
        print(f"{name:<{widths[0]}}  {model:<{widths[1]}}  {description}".rstrip())


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped preset, or a path to a YAML file.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Show what applies when this model runs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a preset with every value written out, as YAML that is itself a valid preset."""
    from densecli.preset_wording import to_yaml
    from densecli.presets import load_preset

    preset = load_preset(name)
    document = preset.as_document(model)
    if as_json:
        about: dict[str, Any] = {"name": preset.name, "path": str(preset.source), "for": model}
        print_json(about | document)
        return
    runs = f", as it applies to the model {model}" if model else ""
    print(_comment(f"The preset {preset.name} ({preset.source}){runs}, with every value."))
    print(to_yaml(document), end="")


@app.command("check")
def check_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The preset file to check.")],
    as_json: AsJson = False,
) -> None:
    """Check a preset file and what it extends; exit code 2 and a message if something is wrong."""
    from densecli.errors import UsageError
    from densecli.presets import load_preset

    try:
        notes = _notes(load_preset(file))
    except UsageError as error:
        if as_json:
            print_json({"file": file, "ok": False, "error": str(error), "notes": []})
        raise
    if as_json:
        print_json({"file": file, "ok": True, "error": None, "notes": notes})
        return
    print(f"{file}: ok")
    for note in notes:
        print(f"{file}: note: {note}", file=sys.stderr)


@app.command("new")
def new_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; ends in .yaml.")],
    base_name: Annotated[
        str, typer.Option("--from", metavar="NAME", help="The preset to start from: a shipped one, or a path.")
    ] = "dense",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write a preset file to edit: it extends NAME and lists every key as a comment."""
    from densecli.errors import UsageError
    from densecli.files import complete_file
    from densecli.preset_wording import template
    from densecli.presets import is_shipped, load_preset, same_file
    from densecli.wording import command_line, shown_name

    base = load_preset(base_name)
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{file}: a preset file ends in .yaml; write for example {file.name or 'mine'}.yaml")
    if os.path.lexists(file) and not overwrite:
        raise UsageError(f"{file}: exists already; choose another name, or replace it with --overwrite")
    if same_file(file, (base.source, *base.bases)):
        raise UsageError(f"{file}: is part of the preset it should extend; choose another name")
    extends = base.name if is_shipped(base) else _path_from(base.source, file.parent)
    with complete_file(file, "another place") as temporary:
        temporary.write_text(template(base, extends), encoding="utf-8")
    print(str(file))
    word = shown_name(command_line([str(file)]))
    print(f"Edit it, then: densecli presets check {word}, and densecli segment IMAGE --preset {word}", file=sys.stderr)


def _notes(preset: Preset) -> list[str]:
    """What is valid and yet may not do what its author thinks."""
    from densecli.checkpoints import load_registry
    from densecli.preset_models import OFFICIAL, known_name

    notes = []
    for name in preset.for_model:
        if known_name(name) is None:
            near = load_registry().nearest(name, beside=OFFICIAL)
            meant = f", or is {near} meant?" if near else ""
            notes.append(
                f"for_model.{name}: {name} is none of densecli's models ({', '.join(OFFICIAL)}); "
                f"it counts only for weights of your own, called {name}{meant}"
            )
    return notes


def _path_from(target: Path, folder: Path) -> str:
    """`target` as `extends` needs it in a file that lies in `folder`; always with a separator, so it is no name."""
    try:
        relative = Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return target.resolve().as_posix()
    return relative if "/" in relative else f"./{relative}"


def _comment(text: str) -> str:
    return "# " + " ".join(text.splitlines())
