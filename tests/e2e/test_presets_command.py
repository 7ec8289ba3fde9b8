"""`densecli presets` as a user runs it: output, exit codes, files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

NAMES = ["default", "dense", "keyboard-fix", "low-vram"]


def presets(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "densecli", "presets", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


def ok(*arguments: str | Path, cwd: Path) -> str:
    done = presets(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: str | Path, cwd: Path) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    done = presets(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("densecli: error: "), done.stderr
    return lines[0]


def test_list_is_an_aligned_table(tmp_path: Path) -> None:
    lines = ok("list", cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["PRESET", *NAMES]
    column = lines[0].index("DESCRIPTION")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)


def test_list_json(tmp_path: Path) -> None:
    listed = json.loads(ok("list", "--json", cwd=tmp_path))
    assert [preset["name"] for preset in listed] == NAMES
    assert all(preset["description"] and Path(preset["path"]).is_file() for preset in listed)


def test_show_is_yaml_that_check_accepts_and_that_means_the_same(tmp_path: Path) -> None:
    text = ok("show", "keyboard-fix", cwd=tmp_path)
    assert yaml.safe_load(text)["generator"]["points_per_side"] == 64
    (tmp_path / "saved.yaml").write_text(text)
    assert ok("check", "saved.yaml", cwd=tmp_path) == "saved.yaml: ok\n"
    assert yaml.safe_load(ok("show", "saved.yaml", cwd=tmp_path)) == yaml.safe_load(text)


def test_show_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: dense\nfor_model: {starter: {generator: {pred_iou_thresh: 0.35}}}\n")
    shown = yaml.safe_load(ok("show", "mine.yaml", "--model", "starter", cwd=tmp_path))
    assert shown["generator"]["pred_iou_thresh"] == 0.35
    assert "for_model" not in shown
    as_json = json.loads(ok("show", "mine.yaml", "--model", "starter", "--json", cwd=tmp_path))
    assert {key: as_json[key] for key in shown} == shown
    assert (as_json["name"], as_json["for"]) == ("mine", "starter")


def test_check_names_the_mistake(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("generator: {pred_iou_tresh: 0.9}\n")
    message = refused("check", "my.yaml", cwd=tmp_path)
    assert "my.yaml: generator.pred_iou_tresh: unknown key (0.9 given)" in message
    assert "nearest: generator.pred_iou_thresh" in message

    done = presets("check", "my.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert (report["file"], report["ok"]) == ("my.yaml", False)
    assert report["error"] in message


def test_the_name_of_a_file_steers_no_terminal(tmp_path: Path) -> None:
    name = "my\x1b[31m\n.yaml"
    (tmp_path / name).write_text("generator: {pred_iou_tresh: 0.9}\n")
    assert refused("check", name, cwd=tmp_path).strip().isprintable()


def test_check_tells_what_is_valid_and_yet_suspicious(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("for_model: {stater: {generator: {use_m2m: true}}}\n")
    done = presets("check", "my.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "my.yaml: ok\n")
    assert "stater is none of densecli's models" in done.stderr and "is starter meant?" in done.stderr
    report = json.loads(ok("check", "my.yaml", "--json", cwd=tmp_path))
    assert report["ok"] is True and len(report["notes"]) == 1


def test_a_preset_with_a_model_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("extends: dense\nmodel: larg\n")
    told = (
        'my.yaml: model: "larg" given; no such model; nearest: large; allowed: auto, starter, tiny, small, base-plus, '
    )
    for done in (presets("check", "my.yaml", cwd=tmp_path), presets("show", "my.yaml", cwd=tmp_path)):
        assert (done.returncode, done.stdout) == (2, "") and told in done.stderr


def test_short_names_of_models_are_no_matter_for_a_note(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model: b+\nfor_model: {Base_Plus: {generator: {points_per_side: 9}}}\n")
    done = presets("check", "my.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "my.yaml: ok\n", "")
    shown = json.loads(ok("show", "my.yaml", "--model", "b+", "--json", cwd=tmp_path))
    assert (shown["model"], shown["generator"]["points_per_side"]) == ("base-plus", 9)


def test_new_writes_a_commented_file_that_changes_nothing_yet(tmp_path: Path) -> None:
    assert ok("new", "deep/mine.yaml", "--from", "low-vram", cwd=tmp_path) == str(Path("deep/mine.yaml")) + "\n"
    text = (tmp_path / "deep/mine.yaml").read_text(encoding="utf-8")
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep/mine.yaml"]
    assert {key: value for key, value in yaml.safe_load(text).items() if value is not None} == {"extends": "low-vram"}
    assert "  # points_per_side: 32\n" in text and "  # max_memory_gb: 4.0\n" in text
    assert re.search(r"# Points along one side .*\n(  # .*\n)*?  # .*Allowed: a whole number from 1 to 1024", text)
    ours = json.loads(ok("show", "deep/mine.yaml", "--json", cwd=tmp_path))
    theirs = json.loads(ok("show", "low-vram", "--json", cwd=tmp_path))
    for section in ("model", "generator", "cleanup", "limits"):
        assert ours[section] == theirs[section]
    assert "  # starter: {generator: {points_per_side: 32}}\n" in text and "for_model" not in ours


def test_new_overwrites_only_when_told(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("precious")
    assert "mine.yaml: exists already" in refused("new", "mine.yaml", cwd=tmp_path)
    assert mine.read_text() == "precious"
    ok("new", "mine.yaml", "--overwrite", cwd=tmp_path)
    assert yaml.safe_load(mine.read_text(encoding="utf-8"))["extends"] == "dense"


def test_new_from_a_users_own_preset(tmp_path: Path) -> None:
    (tmp_path / "dense.yaml").write_text("extends: dense\ngenerator: {points_per_side: 9}\n")
    ok("new", "sub/a.yaml", "--from", "./dense.yaml", cwd=tmp_path)
    ok("new", "b.yaml", "--from", "dense.yaml", cwd=tmp_path)
    for name in ("sub/a.yaml", "b.yaml"):
        shown = json.loads(ok("show", name, "--json", cwd=tmp_path))
        assert (shown["generator"]["points_per_side"], shown["cleanup"]["min_mask_region_area"]) == (9, 500)
    own_base = refused("new", "dense.yaml", "--from", "b.yaml", "--overwrite", cwd=tmp_path)
    assert "is part of the preset it should extend" in own_base


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["show", "dens"], "nearest: dense"),
        (["check", "none.yaml"], "none.yaml: no such preset file"),
        (["new", "mine.yaml", "--from", "dens"], "nearest: dense"),
        (["new", "mine"], "ends in .yaml"),
        (["show"], "NAME"),
        (["sho"], "sho"),
    ],
)
def test_usage_errors(tmp_path: Path, arguments: list[str], part: str) -> None:
    assert part in refused(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_new_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = presets("new", "file/mine.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("file/mine.yaml: a part of this path is a file, not a folder; choose another place\n")


def test_the_module_of_the_command_imports_nothing_heavy() -> None:
    code = "import sys, densecli.cli.presets; print({'torch', 'cv2', 'pydantic', 'yaml', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
