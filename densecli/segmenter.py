"""The public Python API: a preset, a checkpoint and a device make a Segmenter; an image makes a Segmentation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densecli import checkpoints, explain, model
from densecli.engine import memory
from densecli.engine.generator import Funnel, MaskGenerator
from densecli.errors import InputError
from densecli.masks import Segmentation
from densecli.presets import Preset, load_preset
from densecli.sources import LoadedImage, read_image

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

Progress = Callable[[int, int], None]


class Segmenter:
    """Segments images with one preset and one model, which is loaded once and kept by the process.

    >>> segmenter = Segmenter(preset="dense", model="auto", device="auto")
    >>> result = segmenter("desk.jpg")
    >>> result.masks[0].decode()  # H×W bool

    preset: a shipped preset's name, a YAML file, or a Preset. overrides: `KEY=VALUE` strings as for `--set`.
    model: auto, starter, tiny, small, base-plus, large or a weights file, whose YAML `config` names.
    device: auto, cuda, cuda:N, mps or cpu. precision: auto, fp32, bf16 or fp16.

    Raises UsageError, CheckpointError or EnvironmentProblem (densecli.errors), with what to do about it.
    """

    def __init__(
        self,
        preset: str | os.PathLike[str] | Preset = "dense",
        model: str | os.PathLike[str] = "auto",
        device: str = "auto",
        *,
        precision: str = "auto",
        overrides: Sequence[str] = (),
        checkpoint_dir: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
    ) -> None:
        self.preset = preset if isinstance(preset, Preset) else load_preset(os.fspath(preset), overrides)
        self._load(
            os.fspath(model),
            device,
            precision,
            None if checkpoint_dir is None else Path(checkpoint_dir),
            None if config is None else Path(config),
        )

    def _load(self, name: str, device: str, precision: str, checkpoint_dir: Path | None, config: Path | None) -> None:
        place = model.resolve_device(device)
        precision = model.resolve_precision(precision, place)
        choice = model.choose(name, self.preset.model, place, checkpoint_dir, config)
        self.resolved = self.preset.resolve(choice.name)
        self.model = model.load(choice, place, precision)
        self._load_seconds = self.model.load_seconds
        self.notices: list[str] = [choice.reason] if choice.reason else []
        """What a user should know about the choice of model."""
        if choice.name == model.STARTER:
            self.notices.append(
                "the starter is a small stand-in, far below SAM 2.1; "
                f"for real work run: {checkpoints.fetch_command('large')}"
            )

    @property
    def network(self) -> SAM2Base:
        """The network in use; shared by all Segmenters of this process with the same model, device and precision."""
        return self.model.network

    def __call__(
        self, image: str | os.PathLike[str] | np.ndarray | LoadedImage, progress: Progress | None = None
    ) -> Segmentation:
        """All masks of one image.

        image: a path or fsspec URL, or H×W×3 uint8 RGB. progress: called with points done and points in all.
        Raises InputError for an image that cannot be read, EnvironmentProblem when memory runs out.
        """
        loaded = _loaded(image)
        generator = MaskGenerator(
            self.network,
            self.resolved.generator,
            self.resolved.cleanup,
            self.resolved.limits,
            self.model.dtype,
        )
        memory.reset_peak(self.model.device)
        generated = generator.generate(loaded.pixels, progress)
        seconds = {"load": round(self._load_seconds, 4), **{k: round(v, 4) for k, v in generated.seconds.items()}}
        self._load_seconds = 0.0  # the model was loaded once, for the first image
        height, width = loaded.pixels.shape[:2]
        parameters = self.resolved.parameters()
        segmentation = Segmentation(
            pixels=loaded.pixels,
            masks=generated.masks,
            image={"path": loaded.name, "width": width, "height": height, "sha256": loaded.sha256},
            model={
                "name": self.model.name,
                "sha256": self.model.sha256,
                "device": str(self.model.device),
                "precision": self.model.precision,
            },
            preset={"name": self.resolved.name, "parameters": parameters},
            funnel=_funnel(generated.funnel, len(generated.masks), parameters["crop_n_layers"] > 0),
            points=generated.funnel.points,
            seconds=seconds,
            peak_memory_mb=memory.peak_megabytes(self.model.device),
            warnings=generated.warnings,
            notices=list(loaded.notices),
            advice=explain.advice(generated.funnel, generated.masks, parameters),
        )
        segmentation.written_in(0.0)
        return segmentation


def _funnel(funnel: Funnel, masks: int, crops: bool) -> dict[str, int]:
    counts = {
        "candidates": funnel.candidates,
        "after_pred_iou": funnel.after_pred_iou,
        "after_stability": funnel.after_stability,
    }
    if crops:  # only then can a mask be cut off by a crop's edge
        counts["after_crop_edge"] = funnel.after_crop_edge
    counts |= {
        "after_nms": funnel.after_nms,
        "after_area": funnel.after_area,
        "after_parts": funnel.after_parts,
        "masks": masks,
    }
    return counts


def _loaded(image: str | os.PathLike[str] | np.ndarray | LoadedImage) -> LoadedImage:
    if isinstance(image, LoadedImage):
        return image
    if not isinstance(image, np.ndarray):
        return read_image(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(
            f"an array of shape {'×'.join(map(str, image.shape))} and type {image.dtype} is no image; "
            "give H×W×3 uint8 RGB"
        )
    pixels = np.ascontiguousarray(image)
    return LoadedImage(name="<array>", pixels=pixels, sha256=hashlib.sha256(pixels.data).hexdigest(), notices=())
