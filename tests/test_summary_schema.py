"""The JSON Schema of the summary: valid itself, as strict as it says, and in step with presets and code."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest

from densecli.masks import SUMMARY_SCHEMA, summary_schema
from densecli.preset_keys import SECTION_OF
from densecli.presets import list_presets

SHA = "0" * 64
SUMMARY: dict[str, Any] = {
    "schema": "densecli/summary/1",
    "densecli": "0.1.0",
    "image": {"path": "desk.jpg", "width": 4, "height": 3, "sha256": SHA},
    "model": {"name": "large", "sha256": SHA, "device": "cuda:0", "precision": "bf16"},
    "preset": {"name": "dense", "parameters": {}},
    "funnel": {
        "candidates": 9, "after_pred_iou": 5, "after_stability": 4, "after_nms": 3, "after_area": 2,
        "after_parts": 1, "masks": 1,
    },
    "coverage": 0.5,
    "seconds": {"load": 1.9, "encode": 0.2, "decode": 1.1, "postprocess": 0.3, "write": 0.1, "total": 3.6},
    "peak_memory_mb": 2200,
    "masks": [
        {
            "id": 1, "area": 6, "bbox": [0, 1, 3, 2], "predicted_iou": 0.97, "stability_score": 0.98,
            "point_coords": [[1.5, 2.0]], "crop_box": [0, 0, 4, 3], "parent": None, "color": "#3fa7d6",
            "segmentation": {"size": [3, 4], "counts": "01"},
        }
    ],
    "warnings": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    document = summary_schema()
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


@pytest.fixture
def summary() -> dict[str, Any]:
    """A valid summary, as in the contract, with the parameters of a shipped preset."""
    valid = copy.deepcopy(SUMMARY)
    valid["preset"]["parameters"] = list_presets()[0].resolve("large").parameters()
    return valid


def test_the_contract_s_example_is_valid(schema: jsonschema.Draft202012Validator, summary: dict[str, Any]) -> None:
    schema.validate(summary)
    summary["funnel"]["after_crop_edge"] = 4  # optional: written where there are crops
    summary["funnel"] |= {"asked": 2, "answered": 1}  # ... where ask_for_wholes is on
    summary["fill"] = {"rounds": 2, "points": 9, "masks_added": 1, "coverage_before": 0.25, "coverage_after": 0.5}
    schema.validate(summary)
    summary["masks"][0] |= {"point_coords": [], "prompt_box": [0.0, 1.0, 2.0, 1.0]}
    schema.validate(summary)


def test_every_shipped_preset_is_valid_for_every_model(
    schema: jsonschema.Draft202012Validator, summary: dict[str, Any]
) -> None:
    for preset in list_presets():
        for model in ("starter", "large"):
            summary["preset"]["parameters"] = preset.resolve(model).parameters()
            schema.validate(summary)


def test_parameters_are_those_of_presets() -> None:
    parameters = summary_schema()["properties"]["preset"]["properties"]["parameters"]
    assert set(parameters["properties"]) == set(parameters["required"]) == set(SECTION_OF)
    assert summary_schema()["properties"]["schema"] == {"const": SUMMARY_SCHEMA}


MISTAKES = [
    (("schema",), "densecli/summary/2"),
    (("image", "sha256"), "abc"),
    (("image", "width"), 0),
    (("model", "precision"), "int8"),
    (("funnel", "masks"), -1),
    (("coverage",), 1.2),
    (("seconds", "total"), None),
    (("peak_memory_mb",), 1.5),
    (("preset", "parameters", "parts"), "maybe"),
    (("masks", 0, "id"), 0),
    (("masks", 0, "bbox"), [0, 1, 3]),
    (("masks", 0, "bbox"), [0, 1, 3, 0]),
    (("masks", 0, "point_coords"), []),
    (("masks", 0, "prompt_box"), [0, 1, 2]),
    (("fill",), {"rounds": 1}),
    (("fill",), None),
    (("funnel", "asked"), -1),
    (("masks", 0, "color"), "red"),
    (("masks", 0, "parent"), 0),
    (("masks", 0, "segmentation", "counts"), [1, 2]),
    (("image", "exif"), {}),
    (("masks", 0, "name"), "cup"),
    (("extra",), 1),
]


@pytest.mark.parametrize(("path", "value"), MISTAKES)
def test_mistakes_are_found(
    path: tuple[str | int, ...], value: object, schema: jsonschema.Draft202012Validator, summary: dict[str, Any]
) -> None:
    place: Any = summary
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not schema.is_valid(summary)


def test_every_field_of_the_contract_is_required(
    schema: jsonschema.Draft202012Validator, summary: dict[str, Any]
) -> None:
    holders = [summary, *(summary[key] for key in ("image", "model", "preset", "funnel", "seconds")), *summary["masks"]]
    for holder in holders:
        for key in list(holder):
            value = holder.pop(key)
            assert not schema.is_valid(summary), f"{key} may be left out"
            holder[key] = value
    schema.validate(summary)
