"""What the page offers for each parameter, made from the parameter models, so that a new key shows up by itself."""

from __future__ import annotations

import math
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from densecli.engine.proposals import GRID_KEYS, MASK_KEYS, Floor
from densecli.preset_keys import SECTIONS, meanings
from densecli.presets import ResolvedPreset

# Limits never change which masks come out.
SHOWN_SECTIONS = ("generator", "cleanup")
# What candidates are depends on these: another value needs a run of the model.
FIXED_KEYS = (*GRID_KEYS, *MASK_KEYS)
MODEL_KEYS = ("ask_for_wholes", "fill")
"""Without the model these have no effect."""
# Sliders end where moves of them are of use; all that a key allows may still be typed. Without NMS, thousands of masks
# are left, over which a move takes seconds.
_SLIDERS_END = {"box_nms_thresh": 0.95, "crop_nms_thresh": 0.95}
_FLOORS = {"pred_iou_thresh": "predicted_iou", "stability_score_thresh": "stability"}
_LABELS = {
    "pred_iou_thresh": "Predicted IoU above",
    "stability_score_thresh": "Stability at least",
    "box_nms_thresh": "Duplicates: box IoU above",
    "crop_nms_thresh": "Duplicates between crops: box IoU above",
    "min_mask_region_area": "Smallest area",
    "max_mask_area_fraction": "Largest share of the image",
    "parts_min_siblings": "Similar parts that go",
    "ask_for_wholes": "Ask for missing wholes",
    "fill": "Fill what no mask covers",
    "refine_edges": "Refine edges",
}
_UNITS = {"min_mask_region_area": "px"}
# Where the type knows no upper end, or one too far away to be of use on a slider.
_HIGHEST = {"parts_min_siblings": 40}


def controls(preset: ResolvedPreset, floor: Floor, pixels: int, with_model: bool) -> list[dict[str, Any]]:
    """One entry for each key that can be moved, in the order of a preset file.

    key, section, label, meaning, kind (toggle, choice, number), nullable; choices; min, above_min (whether min itself
    is too low), max (None: no end), slider_min, slider_max, step, integer, logarithmic, unit, floor (whether min is
    what was kept, and not what the key allows). pixels: of the image.
    """
    found = []
    for section in SHOWN_SECTIONS:
        for key, info in SECTIONS[section].model_fields.items():
            if key in FIXED_KEYS or (key in MODEL_KEYS and not with_model):
                continue
            if key == "crop_nms_thresh" and preset.generator.crop_n_layers == 0:
                continue
            entry = {
                "key": key,
                "section": section,
                "label": _LABELS.get(key, key.replace("_", " ").capitalize()),
                "meaning": meanings(section).get(key, ""),
                **_kind(info.annotation, info.metadata),
            }
            if entry["kind"] == "number":
                entry |= _range(key, entry, floor, pixels)
            found.append(entry)
    return found


def fixed(preset: ResolvedPreset) -> list[dict[str, Any]]:
    """Key, value and meaning of what only another run could change."""
    told = meanings("generator")
    values = preset.generator.model_dump()
    return [{"key": key, "value": values[key], "meaning": told.get(key, "")} for key in FIXED_KEYS]


def _kind(annotation: Any, metadata: Any = ()) -> dict[str, Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return _kind(inner, [m for e in extra for m in (e.metadata if isinstance(e, FieldInfo) else [e])])
    if origin in (Union, UnionType):
        others = [a for a in get_args(annotation) if a is not NoneType]
        return _kind(others[0], metadata) | {"nullable": len(others) < len(get_args(annotation))}
    if origin is Literal:
        return {"kind": "choice", "choices": list(get_args(annotation)), "nullable": False}
    if annotation is bool:
        return {"kind": "toggle", "nullable": False}
    low = next((m.ge if isinstance(m, Ge) else m.gt for m in metadata if isinstance(m, Ge | Gt)), 0)
    high = next((m.le if isinstance(m, Le) else m.lt for m in metadata if isinstance(m, Le | Lt)), None)
    above = any(isinstance(m, Gt) for m in metadata)
    return {
        "kind": "number",
        "integer": annotation is int,
        "nullable": False,
        "min": low,
        "above_min": above,
        "max": high,
    }


def _range(key: str, entry: dict[str, Any], floor: Floor, pixels: int) -> dict[str, Any]:
    low, high, integer = entry["min"], entry["max"], entry["integer"]
    at_floor = key in _FLOORS
    if at_floor:
        low = max(low, getattr(floor, _FLOORS[key]))
    # Areas and the like: small steps matter where numbers are small.
    logarithmic = integer and high is None and key not in _HIGHEST
    step = 1 if integer else 0.01
    end = _HIGHEST.get(key, max(1, pixels // 4)) if high is None else high
    return {
        "min": low,
        "max": high,
        "slider_min": low + step if entry["above_min"] else low,
        "slider_max": _SLIDERS_END.get(key, end),
        "step": step,
        "decimals": 0 if integer else -round(math.log10(step)),
        "logarithmic": logarithmic,
        "unit": _UNITS.get(key, ""),
        "floor": at_floor and low > entry["min"],
    }
