"""Which files `--model` names, and that one that is missing is told before PyTorch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from densecli import checkpoints
from densecli.errors import CheckpointError, UsageError
from densecli.model_names import check_named, named, names_file
from tests.conftest import FIRST_STARTER, Command, obeying_permissions


@pytest.mark.parametrize(
    "name", ["large.pt", "a/b", "a\\b", "x.safetensors", "x.pth", "X.PT", "X.SafeTensors", "last.ckpt"]
)
def test_files(name: str) -> None:
    assert names_file(name)


@pytest.mark.parametrize("name", ["large", "auto", "starter", "sam2.1_hiera_large", "b+"])
def test_names(name: str) -> None:
    assert not names_file(name)


def test_an_existing_file_may_be_called_anything_but_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "mine.bin", "large", "Base_Plus", "auto", "STARTER"):
        Path(name).touch()
        assert names_file(name) == (name in ("weights", "mine.bin")), name
    Path("folder").mkdir()
    assert not names_file("folder")


def test_the_starter() -> None:
    choice = named("starter", None, None)
    assert choice is not None and (choice.weights, choice.config) == checkpoints.starter_files()


def test_auto_depends_on_the_device() -> None:
    assert named("auto", None, None) is None


def test_own_weights_with_their_config(tmp_path: Path) -> None:
    weights, config = FIRST_STARTER
    choice = named(str(weights), None, None)
    assert choice is not None and (choice.name, choice.weights, choice.config) == ("first_starter", weights, config)
    alone = tmp_path / "alone.safetensors"
    alone.symlink_to(weights)
    assert named(str(alone), None, None) is None, "its config shows only when it is read"
    assert named(str(alone), None, config) is not None


@pytest.mark.parametrize(
    ("model", "config", "error", "told"),
    [
        ("large", None, CheckpointError, "not on disk; fetch it with: densecli download-checkpoints large"),
        ("nowhere.pt", None, CheckpointError, r"nowhere\.pt: no such weights file"),
        ("larg", None, UsageError, "Did you mean 'large'"),
        ("starter", Path("a.yaml"), UsageError, "--config goes with --model FILE"),
        (str(FIRST_STARTER[0]), Path("nowhere.yaml"), UsageError, "--config nowhere.yaml: no such file"),
    ],
)
def test_what_is_missing(model: str, config: Path | None, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        check_named({"model": model, "config": config})


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("segment", "photo.png", "-m", "large"), 4, "fetch it with: densecli download-checkpoints large"),
        (("segment", "photo.png", "-m", "nowhere.pt"), 4, "no such weights file"),
        (("batch", "photo.png", "-m", "large"), 4, "fetch it with: densecli download-checkpoints large"),
        (("batch", "photo.png", "-m", "large", "--engine", "ray"), 4, "fetch it with"),
        (("compare", "photo.png", "-m", "large"), 4, "fetch it with: densecli download-checkpoints large"),
        (("tune", "photo.png", "-m", "large", "--no-browser"), 4, "fetch it with: densecli download-checkpoints large"),
        (("segment", "phot.png"), 1, "phot.png: does not exist; did you mean photo.png?"),
        (("compare", "phot.png"), 1, "phot.png: does not exist; did you mean photo.png?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_slip_is_told_before_pytorch_is_imported(
    arguments: tuple[str, ...], code: int, told: str, tmp_path: Path, run_densecli: Command
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    done = run_densecli(*arguments, cwd=tmp_path, python=("-X", "importtime"))
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert done.code == code and "densecli.model_names" in imported
    assert len(done.errors) == 1 and told in done.errors[0]
    assert not imported & {"torch", "ray", "sam2"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (
            ("segment", "a.png", "-m", "locked/starter.safetensors"),
            4,
            "locked/starter.safetensors: cannot be read (Perm",
        ),
        (("batch", "a.png", "-m", "locked/starter.safetensors"), 4, "locked/starter.safetensors: cannot be read (Perm"),
        (("segment", "a.png", "-m", "w.safetensors", "--config", "locked/a.yaml"), 4, "locked/a.yaml: cannot be read"),
        (("segment", "a.png", "-m", "n" * 300 + ".pt"), 4, "nnn.pt: cannot be read (File name too long)"),
        (("segment", "a.png", "-m", "~/x.pt"), 4, "{home}/x.pt: no such weights file"),
        (("segment", "a.png", "-m", "w.safetensors", "--config", "~/x.yaml"), 2, "{home}/x.yaml: no such file"),
        (("segment", "a.png", "-m", "~nobodyx/x.pt"), 4, "~nobodyx/x.pt: no such weights file"),
        (("segment", "a.png", "-m", "tiny", "--checkpoint-dir", "~nobodyx"), 2, "--checkpoint-dir: '~nobodyx' names a"),
        (("segment", "a.png", "-m", "a\nb\x1b[31m.pt"), 4, "a\\nb\\x1b[31m.pt: no such weights file"),
        (("segment", "a.png", "-m", "a\nb\x1b[31m"), 2, "There is no checkpoint called 'a\\nb\\x1b[31m'"),
        (("segment", "a.png", "-m", "w.safetensors", "--config", "a\nb"), 2, "--config a\\nb: no such file"),
        (("download-checkpoints", "a\nb"), 2, "There is no checkpoint called 'a\\nb'"),
        (("download-checkpoints", "--list", "--dir", "~nobodyx"), 2, "--checkpoint-dir: '~nobodyx' names a user"),
        (("download-checkpoints", "tiny", "--dir", "~nobodyx"), 2, "--checkpoint-dir: '~nobodyx' names a user"),
        (
            ("download-checkpoints", "tiny", "--source", "locked/c"),
            2,
            "--source: 'locked/c' cannot be read (Permission",
        ),
        (("download-checkpoints", "tiny", "--source", "n" * 300), 2, "cannot be read (File name too long)"),
        (("download-checkpoints", "tiny", "--source", "~nobodyx"), 2, "--source: '~nobodyx' is neither a URL, nor a"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_paths_that_cannot_be_looked_at(
    arguments: tuple[str, ...], code: int, told: str, tmp_path: Path, run_densecli: Command
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "w.safetensors").symlink_to(FIRST_STARTER[0])
    (tmp_path / "locked" / "c").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    try:
        done = run_densecli(*arguments, cwd=tmp_path, preexec_fn=obeying_permissions)
    finally:
        (tmp_path / "locked").chmod(0o700)
    if done.code == 99:
        pytest.skip("permissions do not hold here")
    assert done.code == code, done.stderr
    assert len(done.errors) == 1 and told.format(home=run_densecli.environment["HOME"]) in done.errors[0], done.stderr
    assert not list(tmp_path.glob("~*"))


def test_a_checkpoint_that_may_not_be_read_is_not_said_to_be_missing(tmp_path: Path, run_densecli: Command) -> None:
    """A folder that a group shares, to somebody who is not in it yet."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    folder = tmp_path / "shared"
    folder.mkdir()
    tiny = folder / "sam2.1_hiera_tiny.pt"
    tiny.touch()
    os.truncate(tiny, 156008466)
    for locked, told in (
        (tiny, f"Checkpoint {tiny} cannot be read (Permission denied); check who may read it."),
        (folder, f"checkpoint tiny is not on disk ({tiny} cannot be read (Permission denied)); fetch it with: "),
    ):
        locked.chmod(0)
        try:
            done = run_densecli(
                *("segment", "a.png", "-m", "tiny"),
                cwd=tmp_path,
                environment={"DENSECLI_CHECKPOINTS": str(folder)},
                preexec_fn=obeying_permissions,
            )
        finally:
            locked.chmod(0o700)
        if done.code == 99:
            pytest.skip("permissions do not hold here")
        assert done.code == 4 and len(done.errors) == 1 and done.errors[0].startswith(told), done.stderr


@pytest.mark.parametrize("variable", ["DENSECLI_CHECKPOINTS", "DENSECLI_REGISTRY"])
def test_variables_that_name_the_home_of_nobody(variable: str, tmp_path: Path, run_densecli: Command) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    environment = {variable: "~nobodyx/c"}
    told = f"${variable}: '~nobodyx/c' names a user that this machine does not have; give a full path."
    for arguments in (("segment", "a.png", "-m", "tiny"), ("download-checkpoints", "tiny")):
        done = run_densecli(*arguments, cwd=tmp_path, environment=environment)
        assert (done.code, done.errors) == (2, [told])


def test_a_model_that_cannot_be_used_ends_a_run_of_segment(tmp_path: Path, run_densecli: Command) -> None:
    """It is loaded after the first image that can be read, and is no fault of that image."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / "broken.safetensors").write_bytes(FIRST_STARTER[0].read_bytes()[:50_000])
    options = ("-m", "broken.safetensors", "--config", str(FIRST_STARTER[1]))
    done = run_densecli("segment", "nowhere.png", "a.png", "b.png", *options, cwd=tmp_path)
    assert done.code == 4
    assert [line.split(":")[0] for line in done.errors] == ["nowhere.png", "broken.safetensors"]


def test_a_config_beside_the_weights_runs_no_code(tmp_path: Path, run_densecli: Command) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "w.safetensors").symlink_to(FIRST_STARTER[0])
    (tmp_path / "w.yaml").write_text("model: {_target_: torch.nn.modules.module.warnings.sys.exit}")
    done = run_densecli("segment", "a.png", "-m", "w.safetensors", cwd=tmp_path)
    assert done.code == 4 and len(done.errors) == 1
    assert "w.yaml: there is no torch.nn.modules.module.warnings.sys.exit" in done.errors[0]


def test_importing_it_imports_no_torch(clean_environment: dict[str, str]) -> None:
    code = "import sys, densecli.model_names; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment, capture_output=True, text=True)
    assert done.stdout == "False\n"
