"""What `--model auto` takes and advises, with checkpoints that only seem to be on disk and to be verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from densecli import automatic_choice, checkpoints
from densecli.automatic_choice import WORKING_BYTES, chosen_automatically
from densecli.model import choose, notices_of
from tests.conftest import Command

CPU = torch.device("cpu")
PLENTY = 10**12


@pytest.fixture
def have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`have("tiny", room=10**9)`: a folder with checkpoints, as far as size and stamp tell; bytes that are free."""
    for name in ("DENSECLI_CHECKPOINTS", "DENSECLI_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def make(*names: str, room: int = PLENTY) -> Path:
        monkeypatch.setattr(automatic_choice, "free_bytes", lambda device: room)
        return put(tmp_path / "weights", *names)

    return make


def put(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        entry = checkpoints.load_registry().entry(name)
        with (folder / entry.file).open("wb") as file:
            file.truncate(entry.size)  # a hole takes no room
        checkpoints.write_stamp(entry, folder / entry.file, (folder / entry.file).stat())
    return folder


def room_for(name: str) -> int:
    return checkpoints.load_registry().entry(name).size + WORKING_BYTES


@pytest.mark.parametrize(
    ("here", "preferred", "room", "reason"),
    [
        (["large"], "large", PLENTY, "model: large, the preset's choice, from {folder}/sam2.1_hiera_large.pt"),
        (["large"], None, PLENTY, "model: large, the largest on disk that fits cpu"),
        (["large"], "small", PLENTY, "model: large, the largest on disk that fits cpu"),
        (["tiny"], "small", PLENTY, "model: tiny, the largest on disk that fits cpu; {fetch} small gets small"),
        (["tiny", "small"], None, PLENTY, "model: small, the largest on disk that fits cpu; {fetch} large gets large"),
        (
            ["tiny", "large"],
            None,
            room_for("small"),
            "model: tiny, the largest on disk that fits cpu; {fetch} small gets small",
        ),
        (["tiny"], "large", room_for("tiny"), "model: tiny, the largest on disk that fits cpu"),
        (
            ["large"],
            None,
            room_for("small"),
            "model: starter, a small stand-in, as none of the checkpoints on disk (large) fits the 1184.4 MB of free "
            "memory on cpu; {fetch} small gets small, which does",
        ),
        (
            ["large", "base-plus"],
            "small",
            10**8,
            "model: starter, a small stand-in, as none of the checkpoints on disk (large, base-plus) fits the 100.0 MB "
            "of free memory on cpu; free some, or insist with --model base-plus",
        ),
        (
            [],
            "large",
            PLENTY,
            "model: starter, a small stand-in, as there is no SAM 2.1 checkpoint on disk; {fetch} large gets large",
        ),
        (
            [],
            "large",
            room_for("small"),
            "model: starter, a small stand-in, as there is no SAM 2.1 checkpoint on disk; {fetch} small gets small",
        ),
        (
            [],
            None,
            10**8,
            "model: starter, a small stand-in, as there is no SAM 2.1 checkpoint on disk; none would fit the 100.0 MB "
            "of free memory on cpu: free some",
        ),
    ],
)
def test_what_is_taken_and_advised(
    have: Callable[..., Path], here: list[str], preferred: str | None, room: int, reason: str
) -> None:
    """Fetching is advised for what is not on disk, would be better and fits; for nothing else."""
    folder = have(*here, room=room)
    choice = chosen_automatically(preferred, CPU, folder)
    assert choice.reason == reason.format(folder=folder, fetch="densecli download-checkpoints")
    assert choice.name == reason.split()[1].rstrip(",")
    assert "".join(notices_of(choice)).count("densecli download-checkpoints") == reason.count("{fetch}")


def test_what_is_in_memory_fits(have: Callable[..., Path]) -> None:
    """Else the second Segmenter of a program has a smaller model than the first one, which took the room."""
    folder = have("tiny", "large", room=room_for("tiny"))
    loaded = {folder / checkpoints.load_registry().entry("large").file}
    assert chosen_automatically(None, CPU, folder).name == "tiny"
    assert chosen_automatically(None, CPU, folder, loaded).name == "large"


@pytest.mark.parametrize(
    ("here", "advice"),
    [([], "run: densecli download-checkpoints large"), (["tiny", "small"], "use --model auto")],
)
def test_the_starter_that_was_asked_for(have: Callable[..., Path], here: list[str], advice: str) -> None:
    folder = have(*here)
    told = f"the starter is a small stand-in, coarser than SAM 2.1; for real work {advice}"
    assert notices_of(choose("starter", None, CPU, folder, None)) == [told]
    asked = notices_of(choose("auto", "starter", CPU, folder, None))
    assert asked == ["model: starter, as the preset asks", told]


def test_the_command_says_it(tmp_path: Path, run_densecli: Command) -> None:
    put(tmp_path / "weights", "large")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    options = ("--dry-run", "-p", "default", "-d", "cpu", "--checkpoint-dir", "weights")
    done = run_densecli("batch", "a.png", *options, cwd=tmp_path)
    told = [line for line in done.stderr.splitlines() if line.startswith("model: ")]
    assert done.code == 0, done.stderr
    assert len(told) == 1 and "download-checkpoints large" not in told[0]


def test_a_checkpoint_that_cannot_be_used_is_not_called_absent(have: Callable[..., Path]) -> None:
    folder = have("tiny", "large")
    for name in ("tiny", "large"):
        with (folder / checkpoints.load_registry().entry(name).file).open("wb") as file:
            file.truncate(3)  # a copy that broke off
    choice = chosen_automatically(None, CPU, folder)
    assert choice.reason == (
        "model: starter, a small stand-in, as no SAM 2.1 checkpoint on disk can be used "
        f"({folder}/sam2.1_hiera_large.pt has 3 bytes instead of 898083611); "
        "densecli download-checkpoints large gets large"
    )
