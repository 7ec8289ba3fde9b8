"""What leaves the page: the values as a preset file, and the command line that gives the same masks."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from densecli import __version__, checkpoints, model
from densecli.model_names import names_file
from densecli.preset_wording import to_yaml
from densecli.presets import Preset, ResolvedPreset
from densecli.wording import shown_name


@dataclass(frozen=True)
class Origin:
    """What the command line of `tune` named: photo and preset so that they are found from any folder; the rest as is.

    base: the preset without what --set changed, which is told in the copied command anyway. options: --model and the
    like.
    """

    photo: str
    preset: str
    base: Preset
    options: Sequence[str]


def preset_yaml(wish: ResolvedPreset, preset: Preset, origin: Origin) -> str:
    """Text of a preset file that holds every value and extends nothing."""
    tuned = preset.model_copy(
        update={
            # The values fit the model that they were tuned with, so that is the one to prefer.
            "model": wish.model_name,
            "description": f"{preset.name}, tuned on {shown_name(os.path.basename(origin.photo))}",
            "generator": wish.generator,
            "cleanup": wish.cleanup,
            "limits": wish.limits,
            "for_model": {},
        }
    )
    head = (
        f"# Made by densecli {__version__}, tune: the values as they apply to the model {shown_name(wish.model_name)}."
    )
    document = tuned.as_document()
    if note := weights_note(wish, origin):
        # Any model that could stand here would be another one, with other masks.
        del document["model"]
        head += f"\n# {note}"
    return f"{head}\n{to_yaml(document)}"


def weights_note(wish: ResolvedPreset, origin: Origin) -> str:
    """One line that says how to have the model of the values, where a preset file cannot name it; else empty."""
    told = dict(zip(origin.options[::2], origin.options[1::2], strict=True))
    if names_file(told.get("-m", "")):
        weights = [word for option in ("-m", "--config") if option in told for word in (option, told[option])]
        return f"A preset names no weights of your own; use it with {' '.join(map(_quoted, weights))}"
    if wish.model_name in (model.STARTER, *checkpoints.load_registry().entries):
        return ""
    return (
        "A preset names no weights of your own; use it with -m FILE, the weights that made the candidates "
        f"({shown_name(wish.model_name)})"
    )


def command_line(wish: ResolvedPreset, origin: Origin) -> str:
    """`densecli segment PHOTO -p PRESET -s KEY=VALUE … -m MODEL`, quoted for a shell; only values that differ."""
    base = origin.base.resolve(wish.model_name).parameters()
    argv = ["densecli", "segment", origin.photo, "-p", origin.preset]
    for key, value in wish.parameters().items():
        if value != base[key]:
            argv += ["-s", f"{key}={_scalar(value)}"]
    return " ".join(_quoted(argument) for argument in (*argv, *origin.options))


def _scalar(value: object) -> str:
    return to_yaml({"k": value}).removeprefix("k: ").rstrip()


def _quoted(argument: str) -> str:
    """For sh and its relatives; names that no UTF-8 text can hold by bash's and zsh's own escapes."""
    if argument.isprintable():
        return shlex.quote(argument)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(argument)) + "'"
