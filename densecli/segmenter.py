"""The public Python API: a preset, a checkpoint and a device make a Segmenter; an image makes a Segmentation."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from densecli import model, network_config
from densecli.engine import compiled, memory
from densecli.engine.generator import MaskGenerator
from densecli.engine.proposals import Floor
from densecli.engine.second_look import SecondLook
from densecli.errors import InputError, UsageError
from densecli.image_candidates import ImageCandidates, photo_of
from densecli.masks import Segmentation
from densecli.model_names import spelled
from densecli.presets import Preset, ResolvedPreset, preset_of
from densecli.refiltering import refiltered
from densecli.results import result_of
from densecli.sources import LoadedImage, read_image
from densecli.sources.decoding import from_pillow
from densecli.wording import without_password

Progress = Callable[[int, int], None]
ARRAY = "<array>"
"""Name of an image that came as an array."""


class Segmenter:
    """Segments images with one preset and one model, which is loaded once and kept by the process.

    >>> segmenter = Segmenter(preset="dense", model="auto", device="auto")
    >>> result = segmenter("desk.jpg")
    >>> result.masks[0].decode()  # H×W bool

    preset: a shipped preset's name, a YAML file, or a Preset. overrides: `KEY=VALUE` strings as for `--set`.
    model: auto, starter, tiny, small, base-plus, large or a weights file, whose YAML `config` names.
    device: auto, cuda, cuda:N, mps or cpu, or a torch.device. precision: auto, fp32, bf16 or fp16.

    Raises UsageError, CheckpointError or EnvironmentProblem (densecli.errors), with what to do about it.

    Usable from several threads. preset, resolved: the preset, and its values for this model. model: name, network,
    device, precision. notices: what a user should know of the choice of model. densecli.save writes a result's files.
    """

    def __init__(
        self,
        preset: str | os.PathLike[str] | Preset = "dense",
        model: str | os.PathLike[str] = "auto",
        device: str | torch.device = "auto",
        *,
        precision: str = "auto",
        overrides: Sequence[str] = (),
        checkpoint_dir: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
    ) -> None:
        self.preset = preset_of(preset, overrides)
        self._load(
            spelled(_path("model", model)),
            device if isinstance(device, str) else _device_name(device),
            precision,
            None if checkpoint_dir is None else Path(_path("checkpoint_dir", checkpoint_dir)),
            None if config is None else Path(_path("config", config)),
        )

    def _load(self, name: str, device: str, precision: str, checkpoint_dir: Path | None, config: Path | None) -> None:
        place = model.resolve_device(device)
        precision = model.resolve_precision(precision, place)
        choice = model.choose(name, self.preset.model, place, checkpoint_dir, config)
        self.resolved = self.preset.resolve(choice.name)
        self.model = model.load(choice, place, precision)
        self._load_seconds = self.model.load_seconds
        self.notices = [*model.notices_of(choice), *_slower()]
        """What a user should know about the choice of model, and where runs take longer than they should."""

    def __repr__(self) -> str:
        model = self.model
        return f"<Segmenter: preset {self.resolved.name}, model {model.name}, {model.device}, {model.precision}>"

    def with_values(self, values: ResolvedPreset) -> Segmenter:
        """One that runs the same model with other values; nothing is loaded. Raises UsageError for other things."""
        if not isinstance(values, ResolvedPreset):
            kind = type(values).__name__
            raise UsageError(f"values: a {kind}; give those of Preset.resolve(model), or make another Segmenter")
        other = copy.copy(self)
        other.resolved = values
        return other

    @property
    def network(self) -> network_config.SAM2Base:
        """The network in use; shared by all Segmenters of this process with the same model, device and precision."""
        return self.model.network

    @property
    def compiles_first(self) -> bool:
        """Whether the first image waits for loops to be compiled, which are kept on disk from then on."""
        return compiled.will_compile(self.model.device.type)

    def __call__(
        self,
        image: str | os.PathLike[str] | np.ndarray | PIL.Image.Image | LoadedImage,
        progress: Progress | None = None,
        *,
        keep_candidates: bool | Floor = False,
    ) -> Segmentation:
        """All masks of one image.

        image: a path or fsspec URL, a picture of Pillow, or H×W×3 uint8 RGB, which is copied.
        progress: called after each batch with points done and points in all; once, where all points are one batch.
        keep_candidates: keep in `proposals` what the engine proposes above a floor (0.5 and 0.5 for True; thresholds
        of the preset that are lower count), for `refilter` and for saving.
        Raises InputError for an image that cannot be read, EnvironmentProblem when memory runs out.
        """
        loaded = _loaded(image)
        generator = self._generator()
        memory.reset_peak(self.model.device)
        floor = Floor() if keep_candidates is True else keep_candidates or None
        if not (floor is None or isinstance(floor, Floor)):
            raise UsageError(f"keep_candidates {floor!r}: give True, False or a densecli.engine.proposals.Floor")
        generated = generator.generate(loaded.pixels, progress, keep=floor)
        height, width = loaded.pixels.shape[:2]
        result = result_of(
            Segmentation,
            loaded.pixels,
            generated.masks,
            generated.funnel,
            image={"path": without_password(loaded.name), "width": width, "height": height, "sha256": loaded.sha256},
            model={
                "name": self.model.name,
                "sha256": self.model.sha256,
                "device": str(self.model.device),
                "precision": self.model.precision,
            },
            preset=self.resolved,
            seconds={"load": self._load_seconds, **generated.seconds},
            peak_memory_mb=memory.peak_megabytes(self.model.device),
            warnings=[*generated.warnings, *_unkept()],
            notices=loaded.notices,
        )
        self._load_seconds = 0.0  # the model was loaded once, for the first image
        if generated.proposals is not None:
            result.proposals = ImageCandidates(
                generated.proposals,
                dict(result.image),
                dict(result.model),
                dict(result.preset),
                None if loaded.name == ARRAY else photo_of(loaded.name),
                pixels=loaded.pixels,
            )
        return result

    def second_look(self, image: np.ndarray) -> SecondLook:
        """The model at hand for one image, H×W×3 uint8 RGB, to choose again with what only the model can answer.

        That is `ask_for_wholes` and `fill` (refiltering.choose_again). Encodes the image when first asked.
        """
        return SecondLook(self._generator(), image)

    def _generator(self) -> MaskGenerator:
        values = self.resolved
        return MaskGenerator(self.network, values.generator, values.cleanup, values.limits, self.model.dtype)

    @staticmethod
    def refilter(
        candidates: ImageCandidates | str | os.PathLike[str],
        preset: str | os.PathLike[str] | Preset,
        overrides: Sequence[str] = (),
    ) -> Segmentation:
        """What a run with `preset` over the same image gives, from candidates that were kept; no network is loaded.

        candidates: `Segmentation.proposals` of a run with keep_candidates, or a .candidates file.
        Raises UsageError where they cannot tell (another grid, thresholds below what was kept), InputError for a file
        that is damaged.
        """
        return refiltered(candidates, preset, overrides)


def _slower() -> list[str]:
    if (reason := compiled.why_not()) is None:
        return []
    return [f"the compiled loops cannot be used ({reason}), so that runs take longer; densecli doctor says what to do"]


def _unkept() -> list[str]:
    if (reason := compiled.not_kept()) is None:
        return []
    return [f"compiled loops cannot be kept ({reason}), so that every run compiles them anew; set NUMBA_CACHE_DIR"]


def _path(what: str, given: object) -> str:
    if isinstance(given, (str, os.PathLike)):
        return os.fspath(given)
    raise UsageError(f"{what} {given!r}: give a {'name or a ' if what == 'model' else ''}path")


def _device_name(device: object) -> str:
    if isinstance(device, torch.device):
        return str(device)
    raise UsageError(f"device {device!r}: give auto, cuda, cuda:N, mps or cpu, or a torch.device")


def _way_of(array: np.ndarray) -> str:
    """For grey and RGBA: what makes an image of it."""
    taken = array.dtype == np.uint8 and array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 4))
    return ", or PIL.Image.fromarray(array)" if taken else ""


def _loaded(image: str | os.PathLike[str] | np.ndarray | PIL.Image.Image | LoadedImage) -> LoadedImage:
    if isinstance(image, LoadedImage):
        return image
    if isinstance(image, PIL.Image.Image):
        return from_pillow(image, ARRAY)
    if not isinstance(image, np.ndarray):
        # Of bytes only what can be a path: a file's content would be printed whole.
        if not isinstance(image, (str, os.PathLike)):
            raise InputError(
                f"a {type(image).__module__}.{type(image).__qualname__} is no image; give a path, a picture of Pillow, "
                "or H×W×3 uint8 RGB as a numpy array"
            )
        return read_image(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(
            f"an array of shape {'×'.join(map(str, image.shape))} and type {image.dtype} is no image; "
            f"give H×W×3 uint8 RGB{_way_of(image)}"
        )
    # A copy: whoever reads a video into one array would change the results of the frames before.
    pixels = np.array(image, order="C", copy=True, subok=False)
    return LoadedImage(name=ARRAY, pixels=pixels, sha256=hashlib.sha256(pixels.data).hexdigest(), notices=())
