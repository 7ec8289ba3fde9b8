"""The preset file and the command line: both lead back to the very values."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densecli.presets import load_preset
from densecli.tune.export import Origin, command_line, preset_yaml, weights_note
from densecli.tune.state import Tuning
from tests.tune.conftest import Client

any_values = st.fixed_dictionaries(
    {},
    optional={
        "pred_iou_thresh": st.floats(0.3, 1),
        "stability_score_thresh": st.floats(0.5, 1),
        "box_nms_thresh": st.floats(0, 1),
        "min_mask_region_area": st.integers(0, 10**9),
        "max_mask_area_fraction": st.none() | st.floats(1e-9, 1),
        "parts": st.sampled_from(["keep", "drop", "wholes"]),
        "parts_min_siblings": st.integers(1, 100),
        "fill": st.booleans(),
        "ask_for_wholes": st.booleans(),
    },
)
names = st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1) | st.binary(
    min_size=1
).map(os.fsdecode).filter(lambda name: "\0" not in name and "/" not in name)


def read_back(text: str, model: str) -> dict[str, Any]:
    argv = shlex.split(text)
    assert argv[:2] == ["densecli", "segment"] and argv[3] == "-p"
    return load_preset(argv[4], [argv[i + 1] for i, a in enumerate(argv) if a == "-s"]).resolve(model).parameters()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=any_values, base=st.sampled_from(["dense", "default", "keyboard-fix"]))
def test_both_lead_back_to_the_values(tuning: Tuning, tmp_path: Path, values: dict[str, Any], base: str) -> None:
    wish = tuning.resolved(values)
    origin = Origin("/photos/desk.png", base, load_preset(base), ["-m", "starter"])
    text = command_line(wish, origin)
    assert "\n" not in text and read_back(text, "starter") == wish.parameters()
    file = tmp_path / "tuned.yaml"
    file.write_text(preset_yaml(wish, tuning.preset, origin), encoding="utf-8")
    preset = load_preset(file)
    assert preset.model == "starter" and preset.bases == ()
    for model in ("starter", "large"):
        assert preset.resolve(model).parameters() == wish.parameters()


def test_only_what_differs_is_named(tuning: Tuning) -> None:
    origin = Origin("desk.png", "dense", load_preset("dense"), ["-m", "starter"])
    assert command_line(tuning.resolved({"parts": "drop", "max_mask_area_fraction": 0.5}), origin) == (
        "densecli segment desk.png -p dense -s points_per_side=8 -s min_mask_region_area=20 "
        "-s max_mask_area_fraction=0.5 -s parts=drop -m starter"
    )


@pytest.mark.parametrize("config", [[], ["--config", "/w/it's mine.yaml"]])
def test_weights_of_ones_own_are_told_where_a_preset_cannot_name_them(
    tuning: Tuning, tmp_path: Path, config: list[str]
) -> None:
    # Whatever the file is called: what it holds is not the checkpoint of that name.
    wish = tuning.start.model_copy(update={"model_name": "large"})
    options = ["-m", "/w/large.pt", "--device", "cpu", *config]
    preferring = tuning.preset.model_copy(update={"model": "large"})
    origin = Origin("/photos/desk.png", "dense", load_preset("dense"), options)
    told = shlex.join(["-m", "/w/large.pt", *config])
    assert weights_note(wish, origin) == f"A preset names no weights of your own; use it with {told}"
    text = preset_yaml(wish, preferring, origin)
    assert text.splitlines()[1] == f"# {weights_note(wish, origin)}"
    file = tmp_path / "tuned.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_preset(file).model is None and load_preset(file).resolve("large").parameters() == wish.parameters()
    assert told in command_line(wish, origin).replace("--device cpu ", "")


def test_candidates_of_such_weights_name_no_other_model(tuning: Tuning) -> None:
    wish = tuning.start.model_copy(update={"model_name": "mine\nmodel: x"})
    origin = Origin("/photos/desk.candidates", "dense", load_preset("dense"), [])
    text = preset_yaml(wish, tuning.preset, origin)
    assert "\nmodel:" not in text and "use it with -m FILE, the weights that made the candidates (mine" in text
    assert "\n" not in weights_note(wish, origin) and weights_note(tuning.start, origin) == ""


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names)
def test_any_name_comes_through_a_shell_as_it_is(tuning: Tuning, name: str) -> None:
    origin = Origin(f"/a/{name}", "dense", load_preset("dense"), [])
    text = command_line(tuning.start, origin)
    assert text.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"densecli() {{ printf '%s' \"$2\"; }}; {text}"], capture_output=True, timeout=20
    )
    assert done.stdout == os.fsencode(f"/a/{name}") and done.stderr == b""
    preset = preset_yaml(tuning.start, tuning.preset, origin)
    assert preset.encode("utf-8")


@pytest.mark.parametrize("name", ["it's a desk.png", "a b.png", "$(touch x).png", "-p.png", "é.png", "a\nb.png"])
def test_names_on_the_page_and_in_the_command(client: Client, tuning: Tuning, name: str) -> None:
    origin = Origin(f"/photos/{name}", "dense", load_preset("dense"), [])
    assert command_line(tuning.start, origin).encode("utf-8")
    assert "\n" not in command_line(tuning.start, origin)
    assert client.ask("command")["text"].startswith("densecli segment ")
    assert client.ask("preset")["name"] == "dense-tuned.yaml"
