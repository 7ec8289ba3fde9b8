"""`NAME.candidates`: what the engine proposed for one image, with all that is needed to choose again from it.

A zip that numpy.load opens too: `densecli.json` (the header), one .npy an array, and `masks.bin`, the deflated COCO
counts of the masks' boxes one after the other. Nothing in it can run code.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from densecli import __version__
from densecli.engine import grid
from densecli.engine.candidates import Candidates
from densecli.engine.parameters import GeneratorParameters
from densecli.engine.proposals import Floor, PackedMasks, Proposals
from densecli.errors import CheckpointError, InputError, UsageError
from densecli.files import complete_file, sha256_of
from densecli.model_names import is_file, names_file, path_of
from densecli.preset_models import running_name
from densecli.sources import local_path, read_image
from densecli.wording import lacks_password, reason_of, shown_name, without_password

SCHEMA = "densecli/candidates/1"
_HEADER, _MASKS = "densecli.json", "masks.bin"
# Name, dtype, columns: arrays of one row a candidate.
_ARRAYS: tuple[tuple[str, str, int], ...] = (
    ("point", "<u4", 0),
    ("output", "<u1", 0),
    ("predicted_iou", "<f4", 0),
    ("stability", "<f4", 0),
    ("boxes", "<i4", 4),
    ("frames", "<i4", 4),
    ("sizes", "<u4", 0),
)
_OF_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, RuntimeError, zlib.error)
"""What numpy, zipfile and json raise on bad data."""
_MAX_HEADER = 1 << 20
# Bounds for what a file may claim: 4 crop layers of 341 crops with the finest grid are far below.
_MAX_CANDIDATES = 50_000_000


@dataclass(frozen=True, eq=False)
class ImageCandidates:
    """Kept candidates of one image. image, model, preset: as in the summary of the run that made them.

    photo: absolute path, or URL, where the image was; None for an array or stdin. pixels: H×W×3 uint8 RGB where the
    image is in memory. path: the file this was read from.
    """

    proposals: Proposals = field(repr=False)
    image: dict[str, Any]
    model: dict[str, Any]
    preset: dict[str, Any]
    photo: str | None
    pixels: np.ndarray | None = field(default=None, repr=False)
    path: Path | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, complete or not at all. Raises OutputError."""
        kept = self.proposals
        header = {
            "schema": SCHEMA,
            "densecli": __version__,
            "image": self.image,
            "photo": self.photo,
            "model": self.model,
            "preset": self.preset,
            "generator": kept.parameters.model_dump(),
            "outputs": kept.outputs,
            "logits_size": list(kept.logits_size),
            "floor": {"predicted_iou": kept.floor.predicted_iou, "stability": kept.floor.stability},
            "crop_sizes": list(kept.crop_sizes),
            "best_predicted_iou": list(kept.best_predicted_iou),
        }
        columns = {
            **{name: getattr(kept.candidates, name).numpy() for name, _, _ in _ARRAYS[:5]},
            "frames": kept.masks.frames,
            "sizes": kept.masks.sizes,
        }
        with complete_file(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as file:
            file.writestr(_entry(_HEADER), json.dumps(header, indent=1))
            for name, dtype, _ in _ARRAYS:
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, columns[name].astype(dtype), allow_pickle=False)
                file.writestr(_entry(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)
            file.writestr(_entry(_MASKS), kept.masks.data)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> ImageCandidates:
        """Read such a file. Raises InputError, in one line, for one that is missing, damaged or something else."""
        shown = shown_name(os.fspath(path))
        try:
            with zipfile.ZipFile(path) as file:
                return _read(file, Path(path), shown)
        except InputError:
            raise
        except FileNotFoundError:
            raise InputError(f"{shown}: does not exist; check the path") from None
        except OSError as error:
            raise InputError(f"{shown}: cannot be read: {reason_of(error)}; check the path") from error
        except MemoryError:
            raise InputError(f"{shown}: needs more memory than is free; close other programs") from None
        except zipfile.BadZipFile as error:
            what = "is cut off or damaged" if _begins_as_zip(path) else "is no candidates file"
            raise InputError(f"{shown}: {what}; make it again with `densecli segment --save candidates`") from error
        except _OF_DAMAGE as error:
            raise InputError(
                f"{shown}: is damaged ({reason_of(error)}); make it again with `densecli segment --save candidates`"
            ) from error

    def check_model(self, asked: str, shown: str, instead: str) -> None:
        """Raises UsageError where `--model` asks for another one than proposed these; a file is known by its bytes.

        Raises CheckpointError for one that cannot be read.
        shown: the input, as messages name it. instead: what to do for another model.
        """
        name = self.model["name"]
        if asked == "auto" or running_name(asked) == name:
            return
        if names_file(asked) and is_file(path_of(asked)):
            try:
                if sha256_of(path_of(asked)) == self.model["sha256"]:
                    return
            except OSError as error:
                raise CheckpointError(f"{asked}: cannot be read ({reason_of(error)}); check who may read it") from error
        raise UsageError(
            f"{shown}: holds the candidates of model {name}, and --model {asked} asks for another; "
            f"leave --model out, or {instead}"
        )

    def read_pixels(self, otherwise: str = "write --save json,labels,masks only") -> np.ndarray:
        """The image, H×W×3 uint8 RGB: in memory, at its old place, or beside the file.

        otherwise: what can be done without it, for the message. Raises InputError where it is not found or has changed.
        """
        if self.pixels is not None:
            return self.pixels
        shown = shown_name(str(self.path)) if self.path else shown_name(str(self.image["path"]))
        help_ = f"put the photo beside it, or {otherwise}"
        if self.photo is None:
            raise InputError(f"{shown}: its picture came from no file, so it cannot be read again; {help_}")
        places = [] if lacks_password(self.photo) else [self.photo]
        if self.path is not None and (not places or local_path(self.photo) is not None):
            places.append(str(self.path.with_name(os.path.basename(self.photo))))
        changed = False
        for place in places:
            if (local := local_path(place)) is not None and not os.path.isfile(local):
                continue
            loaded = read_image(place)
            if loaded.sha256 == self.image["sha256"]:
                return loaded.pixels
            changed = True
        state = "is another picture by now" if changed else "is not there any more"
        raise InputError(f"{shown}: its photo {shown_name(self.photo)} {state}; {help_}")


def photo_of(name: str) -> str | None:
    """Where an image can be found later: absolute path, or URL without password; None for stdin and arrays."""
    local = local_path(name)
    if local is None:
        return None if name == "-" else without_password(name)
    return os.path.abspath(local) if os.path.exists(local) else None


def _entry(name: str) -> zipfile.ZipInfo:
    """Without the time: what is the same inside is the same file."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    return entry


def _begins_as_zip(path: str | os.PathLike[str]) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _read(file: zipfile.ZipFile, path: Path, shown: str) -> ImageCandidates:
    names = file.namelist()
    if _HEADER not in names:
        raise InputError(f"{shown}: is no candidates file; give one that `densecli segment --save candidates` wrote")
    header = json.loads(_member(file, _HEADER, _MAX_HEADER))
    schema = header.get("schema")
    if schema != SCHEMA:
        raise InputError(
            f"{shown}: has the format {shown_name(str(schema))[:60]}, and this densecli {__version__} reads {SCHEMA}; "
            "update densecli, or segment the photo again"
        )
    try:
        parameters = GeneratorParameters.model_validate(header["generator"])
    except ValidationError:
        raise InputError(
            f"{shown}: was made with values that this densecli {__version__} does not know "
            f"(it is from {shown_name(str(header.get('densecli')))[:40]}); update densecli, or segment the photo again"
        ) from None
    image = header["image"]
    lowest = float(header["floor"]["predicted_iou"]), float(header["floor"]["stability"])
    _check(all(0 <= value <= 1 for value in lowest), "scores")
    floor = Floor(*lowest)
    size = int(image["height"]), int(image["width"])
    crop_list = grid.crops(*size, parameters)
    crop_sizes = tuple(int(n) for n in header["crop_sizes"])
    best = tuple(float(b) for b in header["best_predicted_iou"])
    outputs = int(header["outputs"])
    rows, columns = (int(n) for n in header["logits_size"])
    n = sum(crop_sizes)
    _check(min(size) > 0 and size[0] * size[1] <= 1 << 31 and 0 <= n <= _MAX_CANDIDATES, "sizes")
    _check(len(crop_sizes) == len(best) == len(crop_list) and min(crop_sizes) >= 0, "crops")
    _check(1 <= outputs <= 16, "outputs")
    most = (grid.layer_points_per_side(parameters, crop.layer) ** 2 * outputs for crop in crop_list)
    _check(all(count <= limit for count, limit in zip(crop_sizes, most, strict=True)), "points")
    _check(1 <= rows <= 1 << 16 and 1 <= columns <= 1 << 16, "sizes")
    _check(bool(np.isfinite(best).all()), "scores")
    arrays = {name: _array(file, name, dtype, (n, columns) if columns else (n,)) for name, dtype, columns in _ARRAYS}
    data = _member(file, _MASKS, file.getinfo(_MASKS).compress_size)
    _check(int(arrays["sizes"].sum(dtype=np.int64)) == len(data), "masks")
    begin = 0
    for crop, count in zip(crop_list, crop_sizes, strict=True):
        part = slice(begin, begin + count)
        points = grid.layer_points_per_side(parameters, crop.layer) ** 2
        _check(bool((arrays["point"][part] < points).all()), "points")
        frames, boxes = arrays["frames"][part].astype(np.int64), arrays["boxes"][part]
        within = (frames >= 0).all(1) & (frames[:, 0] + frames[:, 2] <= crop.width)
        _check(bool((within & (frames[:, 1] + frames[:, 3] <= crop.height)).all()), "boxes")
        _check(bool(((boxes >= 0) & (boxes < max(crop.width, crop.height))).all()), "boxes")
        begin += count
    candidates = Candidates(
        torch.from_numpy(arrays["point"].astype(np.int64)),
        torch.from_numpy(arrays["output"].astype(np.int64)),
        torch.from_numpy(arrays["predicted_iou"]),
        torch.from_numpy(arrays["stability"]),
        torch.from_numpy(arrays["boxes"].astype(np.int64)),
    )
    masks = PackedMasks(arrays["frames"], arrays["sizes"], data)
    proposals = Proposals(size, parameters, outputs, floor, crop_sizes, best, candidates, masks, (rows, columns))
    for key, wanted in (("path", str), ("sha256", str), ("width", int), ("height", int)):
        _check(isinstance(image[key], wanted), "image")
    model, preset, photo = header["model"], header["preset"], header["photo"]
    _check(all(isinstance(model[key], str) for key in ("name", "sha256", "device", "precision")), "model")
    _check(isinstance(preset["name"], str), "preset")
    _check(photo is None or isinstance(photo, str), "photo")
    return ImageCandidates(proposals, image, model, preset, photo, path=path)


def _check(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"its {what} do not fit together")


def _member(file: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Bytes of a member, at most `most` of them, whatever a crafted file says; the checksum is verified on the way."""
    with file.open(name) as member:
        data = member.read(most + 1)
        _check(len(data) <= most, name)
        return data


def _array(file: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    wanted = np.dtype(dtype)
    expected = int(np.prod(shape)) * wanted.itemsize
    buffer = io.BytesIO(_member(file, f"{name}.npy", expected + 4096))
    array = np.lib.format.read_array(buffer, allow_pickle=False)
    _check(array.shape == shape and array.dtype == wanted, name)
    return array.astype(wanted.newbyteorder("="))
