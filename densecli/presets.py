"""Presets: the YAML files that name the parameters of a run; finding, extending and overriding them.

Layers. A preset is a pile of layers: the built-in defaults, the file at the far end of `extends`, ... the file itself,
and on top `--set`. For each key the last layer that names it wins. Inside one layer, `for_model: {NAME: ...}` beats the
plain value when the model NAME runs. So a plain value of a later layer beats an inherited `for_model` value (who writes
`pred_iou_thresh: 0.9` gets 0.9, whichever model runs), and a shipped `for_model` value lives on in presets that extend
the shipped one without naming its key.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from densecli.engine.parameters import CleanupParameters, GeneratorParameters, Limits
from densecli.errors import EnvironmentProblem, UsageError
from densecli.preset_keys import SECTIONS
from densecli.preset_layers import Layer, layer_of_overrides, merged, read_layer
from densecli.preset_models import running_name
from densecli.preset_wording import preset_error, shown_value
from densecli.resources import resource_dir

_SUFFIXES = (".yaml", ".yml")


class ResolvedPreset(BaseModel):
    """The values that apply when one model runs: what the engine gets and the summary records."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    model_name: str
    generator: GeneratorParameters
    cleanup: CleanupParameters
    limits: Limits

    def parameters(self) -> dict[str, Any]:
        """Every value that is used, flat and JSON-ready: `{"points_per_side": 64, ..., "max_memory_gb": None}`."""
        return {key: value for section in SECTIONS for key, value in getattr(self, section).model_dump().items()}


class Preset(BaseModel):
    """A preset with everything it extends, and every `--set`, already merged into it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    """Name of a shipped preset, else the file's name without its ending."""
    description: str = ""
    model: str | None = None
    """Preferred checkpoint; None: no preference."""
    generator: GeneratorParameters
    cleanup: CleanupParameters
    limits: Limits
    for_model: dict[str, dict[str, dict[str, Any]]] = {}
    """Model name -> section -> the values that replace the plain ones when that model runs."""
    source: Path
    bases: tuple[Path, ...] = ()
    """The files it extends, nearest first."""

    def resolve(self, model_name: str) -> ResolvedPreset:
        """The values for the model that runs ("starter", "large", ...); without a `for_model` entry, the plain ones."""
        changed = self.for_model.get(running_name(model_name), {}) if self.for_model else {}
        sections = {
            section: values.model_validate(getattr(self, section).model_dump() | changed.get(section, {}))
            for section, values in SECTIONS.items()
        }
        return ResolvedPreset.model_validate({"name": self.name, "model_name": model_name, **sections})

    def overridden(self, overrides: Sequence[str]) -> Preset:
        """This preset with `KEY=VALUE` strings laid over it, as by `--set`. Raises UsageError as `load_preset`."""
        if not overrides:
            return self
        plain = {section: getattr(self, section).model_dump() for section in SECTIONS}
        own = Layer(self.name, {}, plain, self.for_model)
        changed = layer_of_overrides(overrides)
        values, for_model = merged([own, changed])
        return self.model_copy(
            update={
                **{section: kind.model_validate(values[section]) for section, kind in SECTIONS.items()},
                "for_model": for_model,
                "description": changed.texts.get("description") or self.description,
            }
        )

    def as_document(self, model_name: str | None = None) -> dict[str, Any]:
        """The preset as a file would hold it, every value written out and nothing extended.

        With `model_name`, the values are those for that model and there is no `for_model`.
        """
        values = self if model_name is None else self.resolve(model_name)
        document: dict[str, Any] = {"description": self.description, "model": self.model}
        document |= {section: getattr(values, section).model_dump() for section in SECTIONS}
        if model_name is None and self.for_model:
            document["for_model"] = self.for_model
        return document


def load_preset(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Preset:
    """Read a shipped preset (by name) or a YAML file (by path), what it extends, and the `KEY=VALUE` overrides.

    Keys of overrides are bare (`pred_iou_thresh`) or dotted (`generator.pred_iou_thresh`); values are YAML.
    Raises UsageError for a preset that is unknown or unreadable, and for any key or value that is not valid.
    """
    path = _find(os.fspath(name_or_path))
    layers, paths = [read_layer(path, _shipped())], [path]
    while base := layers[-1].texts.get("extends"):
        path = _find(base, extended_by=paths[-1])
        if same_file(path, paths):
            circle = " -> ".join(map(str, [*paths, path]))
            raise preset_error(str(paths[-1]), "extends", f"goes in a circle ({circle}); take one extends out")
        layers.append(read_layer(path, _shipped()))
        paths.append(path)
    own_texts = layers[0].texts
    layers.reverse()
    if overrides:
        layers.append(layer_of_overrides(overrides))
    values, for_model = merged(layers)
    models = [layer.texts["model"] for layer in layers if "model" in layer.texts]
    return Preset(
        name=paths[0].stem,
        # Not inherited: it describes that file, not one that changes it.
        description=layers[-1].texts.get("description") or own_texts.get("description") or "",
        model=models[-1] if models else None,
        generator=GeneratorParameters.model_validate(values.get("generator", {})),
        cleanup=CleanupParameters.model_validate(values.get("cleanup", {})),
        limits=Limits.model_validate(values.get("limits", {})),
        for_model=for_model,
        source=paths[0],
        bases=tuple(paths[1:]),
    )


def preset_of(preset: str | os.PathLike[str] | Preset, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name or path, or one at hand, with `KEY=VALUE` strings laid over it. Raises as `load_preset`."""
    if isinstance(preset, Preset):
        return preset.overridden(overrides)
    if not isinstance(preset, (str, os.PathLike)):
        raise UsageError(f"preset {preset!r}: give a name, a path or a Preset")
    return load_preset(preset, overrides)


def list_presets() -> list[Preset]:
    """The shipped presets, by name."""
    return [load_preset(path) for path in _shipped().values()]


def is_shipped(preset: Preset) -> bool:
    """True if the preset came with densecli (and so can be named without a path)."""
    return preset.source == _shipped().get(preset.name)


def _shipped() -> dict[str, Path]:
    folder = resource_dir("presets")
    presets = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not presets:
        raise EnvironmentProblem(f"{folder}: the presets that ship with densecli are missing; install densecli again")
    return presets


def _find(given: str, extended_by: Path | None = None) -> Path:
    """The file of a preset; a path in `extends` counts from the folder of the file that holds it."""
    shipped = _shipped()
    if given in shipped:
        return shipped[given]
    path = Path(os.path.expanduser(given))  # Path.expanduser raises for ~nobody
    if extended_by is not None:
        path = extended_by.parent / path
    looks_like_path = path.suffix in _SUFFIXES or "/" in given or os.sep in given
    if "\0" not in given and (looks_like_path or (given and os.path.exists(path))):
        return path
    near = difflib.get_close_matches(given.lower(), shipped, n=2, cutoff=0.5)
    nearest = f"nearest: {' or '.join(near)}; " if near else ""
    allowed = f"no such preset; {nearest}allowed: {', '.join(shipped)}, or a path to a YAML file"
    if extended_by is None:
        raise preset_error(f"preset {shown_value(given)}", "", allowed)
    raise preset_error(str(extended_by), "extends", f"{shown_value(given)} given; {allowed}")


def same_file(path: Path, others: Iterable[Path]) -> bool:
    """True if `path` is one of `others`, links followed."""
    # os.path: Path.resolve raises for a link that points to itself.
    return os.path.realpath(path) in map(os.path.realpath, others)
