"""Presets: the YAML files that name the parameters of a run; finding, checking, extending and overriding them.

Layers. A preset is a pile of layers: the built-in defaults, the file at the far end of `extends`, ... the file itself,
and on top `--set`. For each key the last layer that names it wins. Inside one layer, `for_model: {NAME: ...}` beats the
plain value when the model NAME runs. So a plain value of a later layer beats an inherited `for_model` value (who writes
`pred_iou_thresh: 0.9` gets 0.9, whichever model runs), and a shipped `for_model` value lives on in presets that extend
the shipped one without naming its key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from densecli.engine.parameters import CleanupParameters, GeneratorParameters, Limits
from densecli.errors import EnvironmentProblem
from densecli.preset_keys import SECTION_OF, SECTIONS, allowed_values, takes_word
from densecli.preset_models import preferred_name, running_name
from densecli.preset_wording import dotted, preset_error, shown_value, unknown_key
from densecli.resources import resource_dir

_TEXT_KEYS = ("description", "extends", "model")
_FILE_KEYS = (*_TEXT_KEYS, *SECTIONS, "for_model")
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 1 << 20  # a preset is a page of text; whoever names a checkpoint by mistake should not wait for it to load
_SET = "--set"
# Keys that the first densecli did not have: with their defaults a run is the same as before, and so is its fingerprint.
_ADDED_LATER = {"ask_for_wholes", "fill", "refine_edges", "compile"}


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

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of all values: equal if and only if the values are, on every machine."""
        # -0.0 equals 0.0 but prints differently; adding 0.0 makes them one.
        values = {
            key: v + 0.0 if isinstance(v, float) else v
            for key, v in self.parameters().items()
            if not (key in _ADDED_LATER and v == SECTIONS[SECTION_OF[key]].model_fields[key].default)
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
        own = _Layer(self.name, {}, plain, self.for_model)
        changed = _layer_of_overrides(overrides)
        values, for_model = _merge([own, changed])
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
    layers, paths = [_read_layer(path)], [path]
    while base := layers[-1].texts.get("extends"):
        path = _find(base, extended_by=paths[-1])
        if same_file(path, paths):
            circle = " -> ".join(map(str, [*paths, path]))
            raise preset_error(str(paths[-1]), "extends", f"goes in a circle ({circle}); take one extends out")
        layers.append(_read_layer(path))
        paths.append(path)
    own_texts = layers[0].texts
    layers.reverse()
    if overrides:
        layers.append(_layer_of_overrides(overrides))
    values, for_model = _merge(layers)
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


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """What one file, or all of --set together, names; every value already valid."""

    label: str
    texts: dict[str, str | None] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    for_model: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """YAML that also takes 1e-3 for a number, as YAML 1.2 and Python do; PyYAML's YAML 1.1 reads it as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _read_layer(path: Path) -> _Layer:
    label = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        hint = f"; the shipped preset is named {path.stem}, without path" if path.stem in _shipped() else ""
        raise preset_error(label, "", f"no such preset file{hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise preset_error(label, "", f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > _MAX_BYTES:
        raise preset_error(label, "", "is larger than 1 MiB, so it is no preset; give a YAML file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise preset_error(label, "", "is not UTF-8 text; give a YAML file saved as UTF-8") from None
    document = _parse_yaml(label, "", text)
    if not isinstance(document, dict):
        given = "is empty" if document is None else f"{shown_value(document)} given"
        raise preset_error(label, "", f"{given}; allowed: a mapping with the keys {', '.join(_FILE_KEYS)}")
    return _layer_of_document(label, document)


def _parse_yaml(label: str, key: str, text: str) -> Any:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _refuse_duplicates(label, key, node, set())
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise preset_error(label, key, f"not valid YAML{where}: {error.problem or error.context}") from None
    except RecursionError:
        raise preset_error(label, key, "not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that cannot be
        raise preset_error(label, key, f"not valid YAML: {error}") from None


def _refuse_duplicates(label: str, prefix: str, node: yaml.Node | None, seen: set[int]) -> None:
    """PyYAML lets the last of two equal keys win without a word; here that is an error."""
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name, line = dotted(prefix, key.value), key.start_mark.line + 1
        if key.value in lines:
            raise preset_error(
                label, name, f"given twice, in line {lines[key.value]} and line {line}; keep one of them"
            )
        lines[key.value] = line
        _refuse_duplicates(label, name, value, seen)


def _layer_of_document(label: str, document: dict[Any, Any]) -> _Layer:
    layer = _Layer(label)
    for key, value in document.items():
        if key in _TEXT_KEYS:
            layer.texts[key] = _valid_text(label, key, value)
        elif key in SECTIONS:
            layer.values[key] = _valid_section(label, "", key, value)
        elif key == "for_model":
            given: dict[str, str] = {}
            for model, sections in _mapping(label, key, value, "model names with sections").items():
                prefix = dotted(key, model)
                named = _mapping(label, prefix, sections, f"the sections {', '.join(SECTIONS)}")
                if not isinstance(model, str):
                    raise preset_error(
                        label, prefix, f"{shown_value(model)} given as a model name; allowed: text, such as starter"
                    )
                name = running_name(model)
                if name in given:
                    raise preset_error(label, prefix, f"is the same model as {given[name]}; keep one of them")
                given[name] = model
                for section, values in named.items():
                    if section not in SECTIONS:
                        raise unknown_key(label, prefix, section, values, SECTIONS, root=prefix)
                    layer.for_model.setdefault(name, {})[section] = _valid_section(label, prefix, section, values)
        else:
            raise unknown_key(label, "", key, value, _FILE_KEYS)
    return layer


def _layer_of_overrides(overrides: Sequence[str]) -> _Layer:
    layer = _Layer(_SET)
    elsewhere = {
        "model": "is not set this way; use --model",
        "extends": "is not set this way; use --preset",
        "for_model": "is not set this way; --set values apply to whichever model runs, so name the value itself",
    }
    for override in overrides:
        name, equals, text = override.partition("=")
        name = name.strip()
        if not equals or not name:
            raise preset_error(
                _SET, "", f"{shown_value(override)} given; allowed: KEY=VALUE, such as points_per_side=48"
            )
        section, _, key = name.rpartition(".")
        if name.partition(".")[0] in elsewhere:
            raise preset_error(_SET, name, elsewhere[name.partition(".")[0]])
        if name in SECTIONS:
            example = next(iter(SECTIONS[name].model_fields))
            raise preset_error(_SET, name, f"is a section; name a key in it, such as {name}.{example}")
        value = _parse_yaml(_SET, name, text)
        if name == "description":
            layer.texts[name] = _valid_text(_SET, name, value)
            continue
        if not section and key in SECTION_OF:
            section = SECTION_OF[key]
        if section not in SECTIONS:
            raise unknown_key(_SET, section, key, value, SECTION_OF if not section else ())
        layer.values.setdefault(section, {}).update(_valid_section(_SET, "", section, {key: value}))
    return layer


# Checking ------------------------------------------------------------------------------------------------------------


def _valid_text(label: str, key: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or (key != "description" and not value.strip()):
        raise preset_error(label, key, f"{shown_value(value)} given; allowed: text, or null")
    if key == "description":
        return " ".join(value.split())  # shown on one line
    if key == "model":
        return preferred_name(label, key, value)
    return value.strip()


def _mapping(label: str, key: str, value: Any, allowed: str) -> dict[Any, Any]:
    if value is None:  # a heading whose lines are all commented out
        return {}
    if not isinstance(value, dict):
        raise preset_error(label, key, f"{shown_value(value)} given; allowed: a mapping of {allowed}")
    return value


def _valid_section(label: str, root: str, section: str, given: Any) -> dict[str, Any]:
    model = SECTIONS[section]
    prefix = dotted(root, section)
    valid = {}
    for key, value in _mapping(label, prefix, given, f"the keys {', '.join(model.model_fields)}").items():
        if key not in model.model_fields:
            raise unknown_key(label, prefix, key, value, model.model_fields, root=root)
        if value is False and takes_word(section, key, "off"):
            value = "off"  # YAML 1.1, which PyYAML reads, takes a bare off for false
        try:
            # All fields have defaults, so a section of one key is checked on its own; this also turns 1 into 1.0.
            valid[key] = getattr(model.model_validate({key: value}), key)
        except ValidationError:
            allowed = allowed_values(section, key)
            raise preset_error(label, dotted(prefix, key), f"{shown_value(value)} given; allowed: {allowed}") from None
    return valid


def _merge(layers: Sequence[_Layer]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
    """Lay the layers on each other, by the rule at the top: (plain values, model -> what replaces them)."""
    values: dict[str, dict[str, Any]] = {}
    for_model: dict[str, dict[str, dict[str, Any]]] = {}
    for layer in layers:
        for section, named in layer.values.items():
            values.setdefault(section, {}).update(named)
            for sections in for_model.values():
                kept = {key: value for key, value in sections.pop(section, {}).items() if key not in named}
                if kept:
                    sections[section] = kept
        for model, sections in layer.for_model.items():
            for section, named in sections.items():
                if named:
                    for_model.setdefault(model, {}).setdefault(section, {}).update(named)
        # After each layer, so that the message names the file that brought in what does not fit.
        plain = values.get("generator", {})
        _check_crop_grid(layer.label, "generator", plain)
        for model, sections in for_model.items():
            _check_crop_grid(layer.label, f"for_model.{model}.generator", plain | sections.get("generator", {}))
    return values, {model: sections for model, sections in for_model.items() if sections}


def _check_crop_grid(label: str, prefix: str, given: dict[str, Any]) -> None:
    values = GeneratorParameters.model_validate(given)
    side, factor, layer = values.points_per_side, values.crop_n_points_downscale_factor, values.crop_n_layers
    if int(side / factor**layer) < 1:  # as sam2's build_all_layer_point_grids computes it
        raise preset_error(
            label,
            prefix,
            f"points_per_side {side} with crop_n_layers {layer} and crop_n_points_downscale_factor {factor} leaves no "
            f"point on the crops of layer {layer} (int({side} / {factor}^{layer}) = 0); allowed: "
            "crop_n_points_downscale_factor^crop_n_layers up to points_per_side",
        )
