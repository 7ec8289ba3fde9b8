"""Presets: what the shipped ones say, how layers win over each other, and that every mistake is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.errors import UsageError
from densecli.preset_keys import SECTION_OF, SECTIONS, allowed_values, meanings
from densecli.preset_wording import template, to_yaml
from densecli.presets import Preset, list_presets, load_preset

LOW_FOR_STARTER = {"starter": {"generator": {"pred_iou_thresh": 0.35, "stability_score_thresh": 0.50}}}

fractions = st.floats(0, 1)
GENERATOR = {
    "points_per_side": st.integers(1, 1024),
    "pred_iou_thresh": fractions,
    "stability_score_thresh": fractions,
    "stability_score_offset": st.floats(0, 100),
    "mask_threshold": st.floats(-100, 100),
    "box_nms_thresh": fractions,
    "crop_n_layers": st.integers(0, 4),
    "crop_nms_thresh": fractions,
    "crop_overlap_ratio": st.floats(0, 1, exclude_max=True),
    "crop_n_points_downscale_factor": st.integers(1, 4),
    "use_m2m": st.booleans(),
    "multimask_output": st.booleans(),
    "ask_for_wholes": st.booleans(),
    "fill": st.booleans(),
}
CLEANUP = {
    "min_mask_region_area": st.integers(0, 10**12),
    "max_mask_area_fraction": st.none() | st.floats(0, 1, exclude_min=True),
    "parts": st.sampled_from(["keep", "drop", "wholes"]),
    "parts_min_siblings": st.integers(1, 99),
    "refine_edges": st.sampled_from(["off", "guided"]),
}
LIMITS = {
    "points_per_batch": st.just("auto") | st.integers(1, 10**6),
    "max_memory_gb": st.none() | st.floats(0, 1e300, exclude_min=True),
    "compile": st.booleans(),
}


def _grid_has_points(generator: dict[str, Any]) -> bool:
    full = {"points_per_side": 32, "crop_n_layers": 0, "crop_n_points_downscale_factor": 1} | generator
    return int(full["points_per_side"] / full["crop_n_points_downscale_factor"] ** full["crop_n_layers"]) >= 1


# Any choice of keys, each with any valid value.
documents = st.fixed_dictionaries(
    {
        "generator": st.fixed_dictionaries({}, optional=GENERATOR).filter(_grid_has_points),
        "cleanup": st.fixed_dictionaries({}, optional=CLEANUP),
        "limits": st.fixed_dictionaries({}, optional=LIMITS),
    }
)


def flat(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for section in SECTIONS for key, value in document.get(section, {}).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("presets")


def load(folder: Path, document: dict[Any, Any] | str | bytes, *overrides: str, name: str = "mine.yaml") -> Preset:
    """Write the document as `name` and load it with the overrides."""
    if isinstance(document, dict):
        document = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    (folder / name).write_bytes(document if isinstance(document, bytes) else document.encode())
    return load_preset(folder / name, overrides)


def error(folder: Path, document: dict[Any, Any] | str | bytes, *overrides: str) -> str:
    """The message that the document gives; checks what holds for all of them."""
    with pytest.raises(UsageError) as caught:
        load(folder, document, *overrides)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.startswith((f"{folder / 'mine.yaml'}: ", "--set: ")), message
    assert caught.value.exit_code == 2
    return message


# The shipped presets -------------------------------------------------------------------------------------------------


def test_shipped_presets_are_those_of_the_contract() -> None:
    presets = {preset.name: preset for preset in list_presets()}
    assert list(presets) == ["default", "dense", "keyboard-fix", "low-vram"]
    assert {name: preset.model for name, preset in presets.items()} == {
        "default": None,
        "dense": "large",
        "keyboard-fix": "large",
        "low-vram": "small",
    }
    for preset in presets.values():
        assert preset.description and preset.source.is_file()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "default",
            {
                "points_per_side": 32,
                "pred_iou_thresh": 0.8,
                "stability_score_thresh": 0.95,
                "stability_score_offset": 1.0,
                "mask_threshold": 0.0,
                "box_nms_thresh": 0.7,
                "crop_n_layers": 0,
                "crop_nms_thresh": 0.7,
                "crop_overlap_ratio": 512 / 1500,
                "crop_n_points_downscale_factor": 1,
                "use_m2m": False,
                "multimask_output": True,
                "ask_for_wholes": False,
                "fill": False,
                "min_mask_region_area": 0,
                "max_mask_area_fraction": None,
                "parts": "keep",
                "parts_min_siblings": 4,
                "refine_edges": "off",
                "points_per_batch": "auto",
                "max_memory_gb": None,
                "compile": False,
            },
        ),
        (
            "dense",
            {
                "points_per_side": 64,
                "crop_n_layers": 0,
                "pred_iou_thresh": 0.85,
                "stability_score_thresh": 0.9,
                "min_mask_region_area": 500,
                "box_nms_thresh": 0.7,
            },
        ),
        ("low-vram", {"points_per_side": 32, "pred_iou_thresh": 0.8, "max_memory_gb": 4.0}),
        ("keyboard-fix", {"points_per_side": 64, "pred_iou_thresh": 0.85, "ask_for_wholes": True, "parts": "drop"}),
    ],
)
def test_shipped_values(name: str, values: dict[str, Any]) -> None:
    used = load_preset(name).resolve("large").parameters()
    assert used | values == used
    assert load_preset(name).resolve("starter").parameters() == used, "a preset means the same with every model"


def test_keys_are_unique_across_sections_so_that_the_flat_summary_loses_none() -> None:
    assert len(SECTION_OF) == sum(len(model.model_fields) for model in SECTIONS.values())
    assert set(load_preset("dense").resolve("large").parameters()) == set(SECTION_OF)


def test_every_key_has_a_meaning_and_its_allowed_values_in_words() -> None:
    for key, section in SECTION_OF.items():
        assert meanings(section)[key].endswith((".", ")"))
        assert allowed_values(section, key)
    assert allowed_values("generator", "points_per_side") == "a whole number from 1 to 1024"
    assert allowed_values("generator", "crop_overlap_ratio") == "a number of at least 0 and below 1"
    assert allowed_values("generator", "use_m2m") == "true or false"
    assert allowed_values("cleanup", "max_mask_area_fraction") == "a number above 0 and at most 1, or null"
    assert allowed_values("cleanup", "parts") == "keep or drop or wholes"
    assert allowed_values("limits", "points_per_batch") == "a whole number of at least 1, or auto"


# Layers --------------------------------------------------------------------------------------------------------------


def test_a_plain_value_of_the_users_file_beats_an_inherited_for_model_value(tmp_path: Path) -> None:
    load(tmp_path, {"extends": "dense", "for_model": LOW_FOR_STARTER}, name="base.yaml")
    preset = load(tmp_path, {"extends": "base.yaml", "generator": {"pred_iou_thresh": 0.9}})
    starter = preset.resolve("starter").generator
    assert (starter.pred_iou_thresh, starter.stability_score_thresh) == (0.9, 0.50)
    assert preset.resolve("large").generator.pred_iou_thresh == 0.9


def test_for_model_beats_the_plain_value_of_the_same_file(tmp_path: Path) -> None:
    for_model = {"starter": {"generator": {"pred_iou_thresh": 0.3}}, "tiny": {"limits": {"points_per_batch": 8}}}
    preset = load(tmp_path, {"extends": "dense", "generator": {"pred_iou_thresh": 0.9}, "for_model": for_model})
    assert preset.resolve("starter").generator.pred_iou_thresh == 0.3
    assert preset.resolve("tiny").generator.pred_iou_thresh == 0.9
    assert preset.resolve("tiny").limits.points_per_batch == 8
    assert preset.resolve("large").limits.points_per_batch == "auto"


def test_set_beats_every_for_model_value(tmp_path: Path) -> None:
    document = {"extends": "dense", "for_model": {"starter": {"generator": {"pred_iou_thresh": 0.3}}}}
    preset = load(tmp_path, document, "pred_iou_thresh=0.77")
    assert {preset.resolve(model).generator.pred_iou_thresh for model in ("starter", "large", "x")} == {0.77}
    assert preset.resolve("starter").generator.stability_score_thresh == 0.90


def test_layers_of_a_chain_win_in_turn(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    load(
        tmp_path,
        {"extends": "dense", "model": "tiny", "cleanup": {"min_mask_region_area": 7}, "for_model": LOW_FOR_STARTER},
        name="a.yaml",
    )
    # The path counts from the folder of the file that holds it.
    load(tmp_path, {"extends": "../a.yaml", "description": "b", "generator": {"use_m2m": True}}, name="sub/b.yaml")
    preset = load(tmp_path, {"extends": "sub/b.yaml", "generator": {"points_per_side": 8}}, "crop_n_layers=1")
    used = preset.resolve("starter").parameters()
    expected = {
        "min_mask_region_area": 7,
        "use_m2m": True,
        "points_per_side": 8,
        "crop_n_layers": 1,
    } | LOW_FOR_STARTER["starter"]["generator"]
    assert used == load_preset("dense").resolve("starter").parameters() | expected
    assert (preset.name, preset.model, preset.description) == ("mine", "tiny", "")
    assert [path.stem for path in preset.bases] == ["b", "a", "dense"]


def test_a_file_may_carry_the_name_of_the_shipped_preset_that_it_extends(tmp_path: Path) -> None:
    preset = load(tmp_path, {"extends": "dense", "generator": {"points_per_side": 9}}, name="dense.yaml")
    assert preset.resolve("large").parameters()["min_mask_region_area"] == 500


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ("null", None),
        ("auto", None),
        ("My_tuned", "my-tuned"),
        ("b+", "base-plus"),
        ("Starter", "starter"),
        ("sam2.1_hiera_large.pt", "large"),
    ],
)
def test_model_can_be_replaced_and_taken_back(
    tmp_path: Path, own_registry: None, given: str, model: str | None
) -> None:
    assert load(tmp_path, f"extends: dense\nmodel: {given}\n").model == model


@pytest.fixture
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"file": "t.pt", "size": 1, "sha256": "0" * 64, "config": "t.yaml"}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"checkpoints": {"my-tuned": entry}}))
    monkeypatch.setenv("DENSECLI_REGISTRY", str(tmp_path / "registry.yaml"))


@pytest.mark.parametrize(
    ("written", "runs"),
    [
        ("b+", "base-plus"),
        ("Starter", "starter"),
        ("base_plus", "b+"),
        ("large", "sam2.1_hiera_large"),  # the official file, named by its path
        ("mine", "mine"),  # other weights named by their path
    ],
)
def test_for_model_knows_models_by_all_their_names(tmp_path: Path, written: str, runs: str) -> None:
    preset = load(tmp_path, {"for_model": {written: {"generator": {"points_per_side": 9}}}})
    assert preset.resolve(runs).parameters()["points_per_side"] == 9
    assert preset.resolve("tiny").parameters()["points_per_side"] == 32


def test_one_model_under_two_names_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine\.yaml: for_model\.base-plus: is the same model as b\+; keep one"):
        load(tmp_path, "for_model: {b+: {generator: {}}, base-plus: {cleanup: {}}}")


def test_a_broken_registry_is_no_matter_to_presets_of_sam2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_REGISTRY", str(tmp_path / "nowhere.yaml"))
    assert load_preset("dense").resolve("mine").parameters()["points_per_side"] == 64
    with pytest.raises(UsageError, match=r"Registry .*nowhere\.yaml cannot be read"):
        load(tmp_path, "model: mine")


def test_headings_without_values_are_fine(tmp_path: Path) -> None:
    preset = load(tmp_path, "extends: dense\ngenerator:\ncleanup:\nfor_model:\n  starter:\n    generator:\n")
    assert preset.resolve("starter").parameters() == load_preset("dense").resolve("starter").parameters()


@pytest.mark.parametrize("names", [["mine.yaml"], ["b.yaml", "mine.yaml"], ["b.yaml", "c.yaml", "b.yaml"]])
def test_a_circle_is_an_error(tmp_path: Path, names: list[str]) -> None:
    for name, extends in zip(names, names[1:], strict=False):
        (tmp_path / name).write_text(f"extends: {extends}\n")
    message = error_of_circle(tmp_path, names[0])
    assert "extends: goes in a circle" in message
    assert " -> " in message


def error_of_circle(folder: Path, first: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, {"extends": first})
    return str(caught.value)


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("generator: {pred_iou_tresh: 0.9}", ["generator.pred_iou_tresh", "0.9", "nearest: generator.pred_iou_thresh"]),
        ("genertor: {}", ["genertor", "nearest: generator", "cleanup"]),
        ("generator: {points_per_batch: 64}", ["generator.points_per_batch", "64", "limits.points_per_batch"]),
        ("generator: {min_mask_region_area: 9}", ["cleanup.min_mask_region_area"]),
        ("cleanup: {pred_iou_thresh: 0.9}", ["cleanup.pred_iou_thresh", "generator.pred_iou_thresh"]),
        ("points_per_side: 48", ["generator.points_per_side"]),
        ("for_model: {tiny: {use_m2m: true}}", ["for_model.tiny.use_m2m", "for_model.tiny.generator.use_m2m"]),
        (
            "for_model: {tiny: {cleanup: {parts: dorp}}}",
            ["for_model.tiny.cleanup.parts", '"dorp"', "keep or drop or wholes"],
        ),
        ("for_model: {1: {}}", ["for_model.1", "text"]),
        ('generator: {points_per_side: "64"}', ["generator.points_per_side", '"64" given', "from 1 to 1024"]),
        ("generator: {points_per_side: true}", ["generator.points_per_side", "true given"]),
        ("generator: {points_per_side: 64.5}", ["64.5 given", "a whole number"]),
        ("generator: {pred_iou_thresh: 1.5}", ["generator.pred_iou_thresh", "1.5 given", "a number from 0 to 1"]),
        ("generator: {pred_iou_thresh: .nan}", ["nan given"]),
        ("generator: {pred_iou_thresh: false}", ["false given", "a number"]),
        ("generator: {pred_iou_thresh: null}", ["null given"]),
        ("generator: {use_m2m: 1}", ["generator.use_m2m", "1 given", "true or false"]),
        ("generator: {crop_overlap_ratio: 1.0}", ["1.0 given", "below 1"]),
        ("limits: {points_per_batch: many}", ["limits.points_per_batch", '"many" given', "or auto"]),
        ("limits: {max_memory_gb: .inf}", ["limits.max_memory_gb", "inf given"]),
        ("generator: {pred_iou_thresh: [0.5]}", ["a list given"]),
        ("generator: 3", ["generator: 3 given", "a mapping"]),
        ("for_model: [starter]", ["for_model: a list given"]),
        ("model: 3", ["model: 3 given", "text"]),
        (
            "model: larg",
            ['model: "larg" given', "no such model", "nearest: large", "allowed: auto, starter, tiny, small"],
        ),
        ("generator:\n  use_m2m: true\n  use_m2m: true", ["generator.use_m2m: given twice", "line 2", "line 3"]),
        ("generator: {}\ncleanup: {}\ngenerator: {}", ["generator: given twice"]),
        ("- a", ["a list given", "a mapping"]),
        ("", ["is empty"]),
        ("a: [", ["not valid YAML in line 1"]),
        ("a: b: c", ["not valid YAML in line 1"]),
        ("[" * 5000, ["nested too deeply"]),
        ("a: " + "9" * 5000, ["not valid YAML"]),
        ("a: 0x" + "f" * 9000, ["a huge number"]),
        ("generator: {pred_iou_thresh: 0x" + "f" * 9000 + "}", ["a huge number"]),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", ["UTF-8"]),
        (b"#" * (1 << 21), ["larger than 1 MiB"]),
        ("extends: dens", ["extends", '"dens" given', "nearest: dense", "keyboard-fix", "path"]),
        ('extends: "a\\0b.yaml"', ["extends", "no such preset"]),
        ("&a x: *a", ["unknown key"]),
        ("generator: &a {use_m2m: *a}", ["generator.use_m2m", "a mapping given"]),
        ('"a\\nb\\u2028c": 1', ["unknown key"]),
        (
            "generator: {points_per_side: 4, crop_n_layers: 3, crop_n_points_downscale_factor: 2}",
            ["generator", "points_per_side 4", "crop_n_layers 3", "crop_n_points_downscale_factor 2", "int(4 / 2^3)"],
        ),
        (
            "for_model: {tiny: {generator: {crop_n_layers: 1, crop_n_points_downscale_factor: 33}}}",
            ["for_model.tiny.generator", "points_per_side 32"],
        ),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str | bytes, parts: list[str]) -> None:
    message = error(tmp_path, text)
    for part in parts:
        assert part in message


def test_a_mistake_is_blamed_on_the_layer_that_made_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("generator: {use_m2m: 3}\n")
    with pytest.raises(UsageError, match=r"base\.yaml: generator\.use_m2m: 3 given"):
        load(tmp_path, {"extends": "base.yaml"})
    (tmp_path / "base.yaml").write_text("generator: {crop_n_layers: 1, crop_n_points_downscale_factor: 8}\n")
    assert error(tmp_path, {"extends": "base.yaml"}, "points_per_side=4").startswith("--set: generator: points_per")
    assert load(tmp_path, {"extends": "base.yaml"}, "points_per_side=8").generator.points_per_side == 8


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("points_per_side", ["KEY=VALUE"]),
        ("=3", ["KEY=VALUE"]),
        ("pred_iou_tresh=0.9", ["pred_iou_tresh", "nearest: generator.pred_iou_thresh"]),
        ("generator.points_per_batch=64", ["generator.points_per_batch", "limits.points_per_batch"]),
        ("foo.bar=1", ["foo.bar", "allowed sections: generator, cleanup, limits"]),
        ("generator={}", ["generator", "is a section", "generator.points_per_side"]),
        ("pred_iou_thresh=1.5", ["generator.pred_iou_thresh: 1.5 given; allowed: a number from 0 to 1"]),
        ('points_per_side="64"', ['generator.points_per_side: "64" given']),
        ("points_per_side=", ["generator.points_per_side: null given"]),
        ("points_per_side=[1", ["points_per_side: not valid YAML"]),
        ("points_per_side=8=8", ['"8=8" given']),
        ("model=large", ["model", "--model"]),
        ("extends=default", ["extends", "--preset"]),
        ("for_model.starter.generator.use_m2m=true", ["for_model", "whichever model runs"]),
        ("\udcff=1", ["unknown key"]),
        ("use_m2m=\udcff", ["use_m2m"]),
    ],
)
def test_mistakes_in_set(tmp_path: Path, override: str, parts: list[str]) -> None:
    message = error(tmp_path, "extends: dense", override)
    assert message.startswith("--set: ")
    for part in parts:
        assert part in message


def test_unknown_presets_and_files(tmp_path: Path) -> None:
    for name, parts in {
        "dens": ['"dens"', "nearest: dense", "keyboard-fix", "path to a YAML file"],
        "": ["default, dense"],
        "~nobody-of-this-name": ["no such preset"],
        "x" * 5000: ["no such preset"],
        str(tmp_path / "none.yaml"): ["none.yaml", "no such preset file"],
        str(tmp_path / "dense.yaml"): ["no such preset file", "is named dense"],
        str(tmp_path): [str(tmp_path), "cannot be read"],
    }.items():
        with pytest.raises(UsageError) as caught:
            load_preset(name)
        for part in parts:
            assert part in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch(mode=0o000)
    with pytest.raises(UsageError, match=r"mine\.yaml: cannot be read \(Permission denied\)"):
        load_preset(tmp_path / "mine.yaml")


# What YAML may look like ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 0.001), ("1E-1", 0.1), (".5e0", 0.5), ("5.e-1", 0.5), ("1", 1.0), ("0", 0.0), ("+1e-2", 0.01)],
)
def test_numbers_as_people_write_them(tmp_path: Path, text: str, number: float) -> None:
    in_file = load(tmp_path, f"generator: {{pred_iou_thresh: {text}}}").generator.pred_iou_thresh
    in_set = load_preset("default", [f"pred_iou_thresh={text}"]).generator.pred_iou_thresh
    assert (in_file, type(in_file)) == (in_set, type(in_set)) == (number, float)


def test_a_bare_off_is_the_word_and_not_false(tmp_path: Path) -> None:
    """YAML 1.1, which PyYAML reads, takes off for false."""
    for line in ("cleanup: {refine_edges: off}", "for_model: {tiny: {cleanup: {refine_edges: off}}}"):
        assert load(tmp_path, line).resolve("tiny").cleanup.refine_edges == "off"
    guided = "cleanup: {refine_edges: guided}"
    for override in ("refine_edges=off", "cleanup.refine_edges=off"):
        assert load(tmp_path, guided, override).cleanup.refine_edges == "off"
    # What is true or false stays so.
    assert load(tmp_path, guided, "use_m2m=off").generator.use_m2m is False
    assert "true given; allowed: off or guided" in error(tmp_path, guided, "refine_edges=on")


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbfextends: dense\r\nmodel: tiny\r\n").model == "tiny"


def test_merge_keys_of_yaml_are_not_duplicates(tmp_path: Path) -> None:
    text = "generator: &g {points_per_side: 8}\nfor_model:\n  tiny: {generator: {<<: *g, points_per_side: 9}}\n"
    preset = load(tmp_path, text)
    assert preset.resolve("tiny").generator.points_per_side == 9
    assert preset.resolve("large").generator.points_per_side == 8


# Properties ----------------------------------------------------------------------------------------------------------


def test_whole_numbers_may_be_written_as_metas_notebook_does() -> None:
    """Its example for fine masks has 25.0 for an area in pixels."""
    wish = ("points_per_side=64", "crop_n_layers=1.0", "min_mask_region_area=25.0", "points_per_batch=128.0")
    values = load_preset("default", wish).resolve("tiny").parameters()
    assert [values[key.partition("=")[0]] for key in wish] == [64, 1, 25, 128]
    assert all(type(values[key.partition("=")[0]]) is int for key in wish)


@settings(max_examples=40)
@given(document=documents, starter=documents)
def test_valid_values_survive_the_round_trips(folder: Path, document: dict[str, Any], starter: dict[str, Any]) -> None:
    if not _grid_has_points(document["generator"] | starter["generator"]):
        starter = {}
    preset = load(folder, document | {"description": "x: #y", "for_model": {"starter": starter}})
    plain, for_starter = preset.resolve("large").parameters(), preset.resolve("starter").parameters()
    assert plain == load_preset("default").resolve("large").parameters() | flat(document)
    assert for_starter == plain | flat(starter)

    shown = load(folder, to_yaml(preset.as_document()), name="shown.yaml")
    assert shown.resolve("large").parameters() == plain
    assert shown.resolve("starter").parameters() == for_starter
    assert (shown.description, shown.model) == (preset.description, preset.model)
    shown = load(folder, to_yaml(preset.as_document("starter")), name="shown.yaml")
    assert shown.resolve("large").parameters() == shown.resolve("starter").parameters() == for_starter

    # As it is, a new preset changes nothing; nor does it when every value in it is set.
    fresh = template(preset, "mine.yaml")
    assert load(folder, fresh, name="new.yaml").resolve("starter").parameters() == for_starter
    keys = [f"# {key}:" for key in (*SECTION_OF, *preset.for_model)]
    lines = [line.replace("# ", "", 1) if line.strip().startswith(tuple(keys)) else line for line in fresh.splitlines()]
    loaded = load(folder, "\n".join(lines), name="new.yaml")
    assert set(flat(yaml.safe_load("\n".join(lines)))) == set(SECTION_OF)
    assert loaded.resolve("large").parameters() == plain
    if preset.for_model:
        assert loaded.resolve("starter").parameters() == for_starter


@settings(max_examples=100)
@given(
    # max_size: YAML wants the colon after a key within 1024 characters, and each is 10 characters long here.
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=90).filter(
        lambda key: key not in SECTION_OF
    ),
    place=st.sampled_from(["", "generator", "cleanup", "limits", "for_model.tiny", "for_model.tiny.generator"]),
)
def test_any_unknown_key_is_reported_with_its_name(folder: Path, key: str, place: str) -> None:
    if key in {"description", "extends", "model", "for_model", *SECTIONS}:
        key += "_"
    text = '{"' + "".join(f"\\U{ord(character):08x}" for character in key) + '": 1}'
    for outer in reversed(place.split(".") if place else []):
        text = f"{{{outer}: {text}}}"
    message = error(folder, text)
    name = key if key.isprintable() else json.dumps(key if len(key) <= 60 else key[:57] + "...")
    assert f": {place}.{name}: unknown key" in message if place else f": {name}: unknown key" in message


@settings(max_examples=40)
@given(document=documents, dotted=st.booleans())
def test_overrides_equal_the_same_values_in_a_file(folder: Path, document: dict[str, Any], dotted: bool) -> None:
    overrides = [
        f"{section}.{to_yaml({key: value})}".replace(": ", "=", 1)[0 if dotted else len(section) + 1 :]
        for section in SECTIONS
        for key, value in document[section].items()
    ]
    by_set, by_file = load_preset("dense", overrides), load(folder, document | {"extends": "dense"})
    for model in ("large", "starter"):
        assert by_set.resolve(model).parameters() == by_file.resolve(model).parameters()


def test_no_torch_and_no_cv2() -> None:
    code = (
        "import sys, densecli.presets as p; p.load_preset('dense'); print({'torch', 'cv2', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
