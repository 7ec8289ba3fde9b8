"""One layer of a preset: what a YAML file, or all of --set together, names, each value checked; and laying them on."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from densecli.engine.parameters import GeneratorParameters
from densecli.preset_keys import SECTION_OF, SECTIONS, allowed_values, takes_word
from densecli.preset_models import preferred_name, running_name
from densecli.preset_wording import dotted, preset_error, shown_value, unknown_key

_TEXT_KEYS = ("description", "extends", "model")
_FILE_KEYS = (*_TEXT_KEYS, *SECTIONS, "for_model")
_MAX_BYTES = 1 << 20  # a preset is a page of text; whoever names a checkpoint by mistake should not wait for it to load
_SET = "--set"


@dataclass(frozen=True)
class Layer:
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


def read_layer(path: Path, shipped: Container[str]) -> Layer:
    """What a preset file names. shipped: names of the presets that need no path. Raises UsageError."""
    label = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        hint = f"; the shipped preset is named {path.stem}, without path" if path.stem in shipped else ""
        raise preset_error(label, "", f"no such preset file{hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise preset_error(label, "", f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > _MAX_BYTES:
        raise preset_error(label, "", "is larger than 1 MiB, so it is no preset; give a YAML file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise preset_error(label, "", "is not UTF-8 text; give a YAML file saved as UTF-8") from None
    document = _parsed(label, "", text)
    if not isinstance(document, dict):
        given = "is empty" if document is None else f"{shown_value(document)} given"
        raise preset_error(label, "", f"{given}; allowed: a mapping with the keys {', '.join(_FILE_KEYS)}")
    return _layer_of_document(label, document)


def _parsed(label: str, key: str, text: str) -> Any:
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


def _layer_of_document(label: str, document: dict[Any, Any]) -> Layer:
    layer = Layer(label)
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


def layer_of_overrides(overrides: Sequence[str]) -> Layer:
    """What `KEY=VALUE` strings of --set name. Raises UsageError."""
    layer = Layer(_SET)
    elsewhere = {
        "model": "is not set this way; use --model",
        "extends": "is not set this way; use --preset",
        "for_model": "is not set this way; --set values apply to whichever model runs, so name the value itself",
    }
    if isinstance(overrides, str):
        raise preset_error(_SET, "", f"{shown_value(overrides)} given; allowed: a list of KEY=VALUE")
    for override in overrides:
        if not isinstance(override, str):
            raise preset_error(_SET, "", f"{override!r} given; allowed: KEY=VALUE, such as points_per_side=48")
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
        value = _parsed(_SET, name, text)
        if name == "description":
            layer.texts[name] = _valid_text(_SET, name, value)
            continue
        if not section and key in SECTION_OF:
            section = SECTION_OF[key]
        if section not in SECTIONS:
            raise unknown_key(_SET, section, key, value, SECTION_OF if not section else ())
        layer.values.setdefault(section, {}).update(_valid_section(_SET, "", section, {key: value}))
    return layer


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


def merged(layers: Sequence[Layer]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
    """Lay the layers on each other, by the rule of presets.py: (plain values, model -> what replaces them).

    Raises UsageError for values that do not go together.
    """
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
