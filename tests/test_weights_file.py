"""Weights files as people have them: renamed, compressed, wrapped by what trained them, or of another network."""

from __future__ import annotations

import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from densecli import model, weights_file
from densecli.errors import CheckpointError
from densecli.weights_file import check_sums, read_weights

CPU = torch.device("cpu")
STATE = {
    "image_encoder.trunk.patch_embed.proj.weight": torch.linspace(0, 1, 2000).reshape(20, 100),
    "sam_mask_decoder.iou_token.weight": torch.full((3,), 2.0),
}


def is_state(read: dict[str, torch.Tensor]) -> bool:
    return set(read) == set(STATE) and all(torch.equal(read[key], STATE[key]) for key in STATE)


def repacked(path: Path, compression: int) -> Path:
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in entries.items():
            new.writestr(name, data)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_repacked_archive(compression: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed bytes must not be taken for numbers; only what is stored is mapped."""
    mapped = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **named: mapped.append(named["mmap"]) or load(*given, **named))
    torch.save(STATE, tmp_path / "mine.pt")
    assert is_state(read_weights(repacked(tmp_path / "mine.pt", compression)))
    assert mapped == [compression == zipfile.ZIP_STORED]


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(STATE, path)
    repacked(path, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")  # so that the directory is written anew
        archive.infolist()[0].file_size = 3_000_000_000
    with pytest.raises(CheckpointError, match=r"mine.pt: unpacks to 3.0 GB, which no weights do"):
        read_weights(path)


@given(
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.floats(0, 1, exclude_max=True), st.integers(1, 255)
)
def test_a_changed_byte_is_told_or_changes_nothing(compression: int, place: float, bits: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mine.pt")
        torch.save(STATE, path)
        content = bytearray(repacked(path, compression).read_bytes())
        check_sums(path)
        content[int(place * len(content))] ^= bits
        path.write_bytes(content)
        try:
            read = read_weights(path)
            check_sums(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert is_state(read)


def test_files_without_sums_are_taken_as_they_are(tmp_path: Path) -> None:
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this PyTorch always writes them")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "mine.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    check_sums(tmp_path / "mine.pt")
    save_file(STATE, tmp_path / "mine.safetensors")
    check_sums(tmp_path / "mine.safetensors")


def wrapped(prefix: str, nest: str | None = None, **beside: Any) -> dict[str, Any]:
    state = {prefix + key: tensor for key, tensor in STATE.items()}
    return {nest: state, **beside} if nest else state


@pytest.mark.parametrize(
    "saved",
    [
        wrapped("module."),
        wrapped("module.", "model"),
        wrapped("_orig_mod."),
        wrapped("module._orig_mod.", "model", epoch=3),
        wrapped("model.", "state_dict", epoch=3, global_step=7),
        wrapped("net.", "state_dict"),
        wrapped("", "model_state_dict", optimizer={"state": {0: torch.zeros(1)}}),
    ],
    ids=["DDP", "DDP nested", "compile", "both", "Lightning", "Lightning, other attribute", "PyTorch's tutorial"],
)
def test_what_training_programs_save(saved: dict[str, Any], tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "mine.pt")
    assert is_state(read_weights(tmp_path / "mine.pt"))


def test_keys_of_several_modules_stay(tmp_path: Path) -> None:
    torch.save({**wrapped("module."), "loss.weight": torch.zeros(1)}, tmp_path / "mine.pt")
    assert "module.sam_mask_decoder.iou_token.weight" in read_weights(tmp_path / "mine.pt")


@pytest.mark.parametrize("name", ["mine.safetensors", "MINE.SAFETENSORS", "mine.pt", "mine"])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "old"])
def test_the_content_says_what_a_file_is(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "safetensors":
        save_file(STATE, tmp_path / name)
    else:
        torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=kind == "zip")
    assert is_state(read_weights(tmp_path / name))


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mine.pt", b"weights")


def saving(saved: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(saved, path)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (saving({0: torch.zeros(2)}), "holds no network weights"),
        (saving({"model": {**STATE, 5: torch.zeros(1)}}), "holds no network weights"),
        (saving({None: torch.zeros(1)}), "holds no network weights"),
        (saving({"model": None}), "holds no network weights"),
        (saving({"a\x1b": torch.eye(2).to_sparse()}), "'a\\x1b' is a sparse tensor"),
        (saving({"a": torch.empty(2, device="meta")}), "'a' is without numbers (a meta tensor)"),
        (torchscript, "a TorchScript program, not weights"),
        (archive, "a zip archive without PyTorch weights; unpack it"),
        (lambda path: path.write_text(json.dumps({"error": "rate limit"})), "a JSON text, not weights"),
        (lambda path: path.write_text('{"id": [{"error": "rate limit"}]}'), "a JSON text, not weights"),
        (lambda path: path.write_bytes(b"\xef\xbb\xbf<!DOCTYPE html><html>"), "a web page, not weights"),
    ],
)
@pytest.mark.parametrize("name", ["wrong.pt", "wrong.safetensors"])
def test_what_holds_no_weights(write: Callable[[Path], Any], told: str, name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / name)
    message = str(caught.value)
    assert f"{name}: {told}" in message and "damaged" not in message and message.isprintable()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["vision_encoder.backbone.patch_embed.projection.weight"], "names of Hugging Face's transformers"),
        (["image_encoder.patch_embed.proj.weight", "image_encoder.pos_embed"], "SAM 1, which is another network"),
        (["vision_encoder.patch_embed.projection.weight"], "SAM 1, which is another network"),
        (["base_model.model.image_encoder.trunk.blocks.0.attn.qkv.lora_A.weight"], "changes to a network (LoRA)"),
    ],
)
@pytest.mark.parametrize("with_config", [False, True])
def test_other_networks_and_forms(keys: list[str], told: str, with_config: bool, tmp_path: Path) -> None:
    torch.save({key: torch.zeros(8, 3) for key in keys}, tmp_path / "other.pt")
    config = model.config_path(model.checkpoints.load_registry().entry("tiny")) if with_config else None
    with pytest.raises(CheckpointError, match=r"other\.pt: ") as caught:
        model.load(model.choose(str(tmp_path / "other.pt"), None, CPU, None, config), CPU, "fp32")
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_no_damage(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    torch.save(STATE, tmp_path / "mine.pt")
    monkeypatch.setattr(weights_file.torch, "load", full)
    with pytest.raises(CheckpointError, match=r"mine\.pt: there is not enough memory to read it"):
        read_weights(tmp_path / "mine.pt")
