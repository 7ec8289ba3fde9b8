"""Names of models in presets, by the registry: `b+` and `Base_Plus` are base-plus there as they are to --model."""

from __future__ import annotations

from contextlib import suppress

from densecli.checkpoints import REGISTRY_VARIABLE, STARTER, load_registry
from densecli.errors import UsageError
from densecli.preset_wording import preset_error, shown_value

_AUTO = "auto"
OFFICIAL = (STARTER, "tiny", "small", "base-plus", "large")


def known_name(given: str) -> str | None:
    """What a model that is called so somewhere is called in results; None for one that the registry does not have.

    Raises UsageError for a registry that cannot be read.
    """
    if given in OFFICIAL:
        return given  # without reading the registry, for most presets name no others
    if given.strip().lower() == STARTER:
        return STARTER
    entry = load_registry().find(given)
    return None if entry is None else entry.name


def preferred_name(label: str, key: str, given: str) -> str | None:
    """The value of a preset's key `model`; None for auto, no preference.

    Raises UsageError, naming file (`label`), key, nearest and allowed names, for a model that is in no registry.
    """
    if given.strip().lower() == _AUTO:
        return None
    name = known_name(given)
    if name is None:
        registry = load_registry()
        near = registry.nearest(given, beside=(_AUTO, STARTER))
        nearest = f"; nearest: {near}" if near else ""
        names = ", ".join((_AUTO, STARTER, *registry.entries))
        raise preset_error(
            label,
            key,
            f"{shown_value(given)} given; no such model{nearest}; allowed: {names}, or what ${REGISTRY_VARIABLE} adds",
        )
    return name


def running_name(given: str) -> str:
    """The name under which `for_model` holds the values for a model: weights of one's own are called as their file."""
    with suppress(UsageError):  # a broken registry: what is not in it goes by the name that it has
        return known_name(given) or given
    return given
