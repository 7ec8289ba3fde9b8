"""What presets look like as text: values and mistakes in words, YAML, and the template of a new file."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import yaml

from densecli.errors import UsageError
from densecli.preset_keys import SECTION_OF, SECTIONS, allowed_values, meanings

if TYPE_CHECKING:
    from densecli.presets import Preset


def template(base: Preset, extends: str) -> str:
    """Text of a new preset file that extends `base` (named `extends` there), every key a comment with its value."""
    lines = [
        "# A preset for densecli. Remove the '# ' before a key to set it; all other values come from what it extends.",
        "# A value that you set here holds for every model, unless for_model below names the same key.",
        "# description: one line, shown by `densecli presets list`",
        to_yaml({"extends": extends}).rstrip(),
        f"# {to_yaml({'model': base.model}).rstrip()}   # preferred checkpoint; null: no preference",
    ]
    for section in SECTIONS:
        lines += ["", f"{section}:"]
        for key, value in getattr(base, section).model_dump().items():
            meaning = f"{meanings(section).get(key, '')} Allowed: {allowed_values(section, key)}."
            lines += textwrap.wrap(meaning, width=110, initial_indent="  # ", subsequent_indent="  # ")
            lines.append(f"  # {to_yaml({key: value}).rstrip()}")
    lines += ["", "# Values that replace those above when the model of that name runs.", "for_model:"]
    for model, values in base.for_model.items() or {"starter": {"generator": {"points_per_side": 32}}}.items():
        lines.append(f"  # {to_yaml({model: values}, nested_on_one_line=True).rstrip()}")
    return "\n".join(lines) + "\n"


def to_yaml(document: dict[str, Any], nested_on_one_line: bool = False) -> str:
    """`document` as YAML text that reads back as the same values."""
    if nested_on_one_line:
        head, inner = next(iter(document.items()))
        flow = yaml.safe_dump(inner, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20)
        return f"{to_yaml({head: None}).rpartition(':')[0]}: {flow}"
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1 << 20)


def unknown_key(label: str, prefix: str, key: Any, value: Any, known: Iterable[str], root: str = "") -> UsageError:
    """`prefix` is where the key stands, `root` the place that holds the sections: "" or "for_model.NAME"."""
    name, places = dotted(prefix, key), {k: dotted(root, f"{section}.{k}") for k, section in SECTION_OF.items()}
    if key in places:
        section = SECTION_OF[key]
        return preset_error(
            label, name, f"unknown key here ({shown_value(value)} given); {key} belongs under {section}: {places[key]}"
        )
    known = list(known)
    pool = places | {k: dotted(prefix, k) for k in known if k not in places}
    near = difflib.get_close_matches(str(_plain(key)).lower(), pool, n=1, cutoff=0.5)
    nearest = f"; nearest: {pool[near[0]]}" if near else ""
    allowed = f"; allowed here: {', '.join(known)}" if known else f"; allowed sections: {', '.join(SECTIONS)}"
    return preset_error(label, name, f"unknown key ({shown_value(value)} given){nearest}{allowed}")


def preset_error(label: str, key: str, message: str) -> UsageError:
    """The error, on one line, for a key (dotted; empty: all) of what `label` names: a file, or --set."""
    parts = [label, key, message] if key else [label, message]
    return UsageError(" ".join(": ".join(parts).splitlines()))


def dotted(prefix: str, key: Any) -> str:
    """A key as messages name it, behind the section that it is in."""
    return f"{prefix}.{_plain(key)}" if prefix else _plain(key)


def _plain(key: Any) -> str:
    return key if isinstance(key, str) and key.isprintable() and key else shown_value(key)


def shown_value(value: Any) -> str:
    """A value as the user may have written it, short and on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=not value.isprintable())
    if isinstance(value, int) and value.bit_length() > 128:  # Python itself refuses to print the longest ones
        return "a huge number"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return "a mapping"
    return f"a {type(value).__name__}"
