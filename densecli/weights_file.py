"""Weights files: tensors by key, whatever wrapped them when they were saved; in one line what is wrong with others."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from densecli.checkpoints import fetch_command
from densecli.errors import CheckpointError
from densecli.wording import reason_of, short_reason_of, shown_name

OFFICIAL = f"`{fetch_command('large')}` gets SAM 2.1"
# Under which key a training program keeps the network, beside its optimiser and so on.
_NESTS = ("model", "state_dict", "model_state_dict")
_READ_AT_ONCE = 1 << 20
# Numbers hardly become smaller: a file that grows more than this many times, and beyond so many bytes, was made to.
_MOST_GROWTH, _GROWS_FREELY = 50, 1_000_000_000
_ENCODER = "image_encoder."  # every SAM 2 network has one


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by key of a weights file of PyTorch or safetensors; never runs code that a pickle may carry.

    Its content says which it is: people rename files. What wrappers put before all keys (`module.` of DDP, `_orig_mod.`
    of torch.compile, the attribute of a Lightning module) is left out. Raises CheckpointError, in one line, for a file
    that is something else, damaged or unsafe.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise wrong(path, "the file is empty; fetch it again")
    if text[:1] == b"<":
        raise wrong(path, "a web page, not weights (an error page of the download?); delete it, fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise wrong(path, "a Git LFS pointer, not weights; run `git lfs pull`, or fetch it again")
    if _is_safetensors(head, size):
        return _unwrapped(_read_safetensors(path))
    if text[:1] in (b"{", b"["):
        raise wrong(path, "a JSON text, not weights; give the file of the weights themselves")
    if head.startswith(b"PK\x03\x04"):
        return _read_torch(path, mmap=_can_be_mapped(path))
    if path.suffix.lower() == ".safetensors" and head[:1] != b"\x80":
        return _unwrapped(_read_safetensors(path))  # which says what is wrong
    return _read_torch(path, mmap=False)


def check_sums(path: Path) -> None:
    """Raises CheckpointError where a part of a PyTorch file is not what was written: of mapped files nobody else asks.

    A file with a hole in it (from a download in parts, or a disk) would give wrong masks. `large` takes 0.2 s.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC:  # PyTorch can be told to write none
                    with archive.open(entry) as part:
                        while part.read(_READ_AT_ONCE):
                            pass
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # zipfile knows seven kinds
        raise wrong(path, "damaged; fetch it again") from error


def foreign_form(state: dict[str, torch.Tensor]) -> str | None:
    """What weights are that cannot fit a SAM 2 network, and what to do; None for what is not known."""
    if any("lora_" in key for key in state):
        return (
            "holds changes to a network (LoRA), which must first be merged into its weights; save these, give that file"
        )
    if any("vision_encoder.backbone." in key for key in state):
        return f"SAM 2 with the key names of Hugging Face's transformers; use the .pt of the same model: {OFFICIAL}"
    if any("image_encoder.patch_embed." in key or "vision_encoder.patch_embed." in key for key in state):
        return f"SAM 1, which is another network; {OFFICIAL}"
    return None


def wrong(weights: Path, what: str) -> CheckpointError:
    """The error of one line that says this of a weights file."""
    return CheckpointError(f"{shown_name(str(weights))}: {what}")


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that is not there, or that may not be read."""
    return wrong(path, f"cannot be read ({reason_of(error)}); check that it is there, and who may read it")


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether it begins as the format does: the length of its JSON header in 8 bytes, then the header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type of number that is not known
        raise wrong(path, f"damaged or no safetensors file ({short_reason_of(error)}); fetch it again") from error


def _can_be_mapped(path: Path) -> bool:
    """Whether the tensors stand in the file as they are in memory: compressed ones would be taken for numbers.

    Only the directory at the end of the file is read. Raises CheckpointError for what holds no weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise unreadable(path, error) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise wrong(path, "damaged or truncated; fetch it again") from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise wrong(path, "a TorchScript program, not weights; save the state_dict() of its network")
    if "data.pkl" not in names:
        raise wrong(path, "a zip archive without PyTorch weights; unpack it, or give another file")
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    unpacked = sum(entry.file_size for entry in packed)
    if unpacked > max(_GROWS_FREELY, _MOST_GROWTH * path.stat().st_size):
        raise wrong(path, f"unpacks to {unpacked / 1e9:.1f} GB, which no weights do; get them from who made them")
    return not packed


def _read_torch(path: Path, *, mmap: bool) -> dict[str, torch.Tensor]:
    # Newer PyTorch goes by the name of a file; an open one has none, but cannot be mapped.
    mmap = mmap and path.suffix.lower() != ".safetensors"
    try:
        with warnings.catch_warnings(), nullcontext(path) if mmap else path.open("rb") as file:
            warnings.simplefilter("ignore")  # what it warns of becomes an error below, in our words
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower() or "call reduce" in str(error):
            raise wrong(
                path, "refused, because it carries more than weights and could run code; use a file of plain tensors"
            ) from error
        raise wrong(path, "damaged or no PyTorch weights; fetch it again") from error
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise wrong(path, "there is not enough memory to read it; free some") from error
        raise wrong(path, "damaged, truncated or no PyTorch weights; fetch it again") from error
    nested = [loaded[name] for name in _NESTS if isinstance(loaded.get(name), dict)] if isinstance(loaded, dict) else []
    state = nested[0] if nested else loaded
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items())
    ):
        raise wrong(path, "holds no network weights (expected tensors by key, or those under 'model')")
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise wrong(path, f"{key!r} is {_odd_kind(tensor)}; save plain tensors")
    return _unwrapped(state)


def _odd_kind(tensor: torch.Tensor) -> str:
    return "without numbers (a meta tensor)" if tensor.is_meta else "a sparse tensor"


def _unwrapped(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The same tensors without what stands before `image_encoder.` in all of the keys."""
    prefix = next((key[: key.index(_ENCODER)] for key in state if _ENCODER in key), "")
    if not prefix or not all(key.startswith(prefix) for key in state):
        return state
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}
