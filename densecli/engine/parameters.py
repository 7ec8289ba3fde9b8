"""The values that steer the mask generator, with Meta's names, meaning, defaults and valid ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Meta's example notebook gives 25.0 for an area in pixels.
Whole = Annotated[int, BeforeValidator(_whole)]
PositiveInt = Annotated[Whole, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class _Values(BaseModel):
    # strict: YAML already carries types; "64" or true for a number is a mistake to report, not to guess at.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class GeneratorParameters(_Values):
    """Parameters of `SAM2AutomaticMaskGenerator` (sam2 1.1.0), same names, same meaning, same defaults.

    `ask_for_wholes` and `fill` are densecli's own.
    """

    points_per_side: Annotated[Whole, Field(ge=1, le=1024)] = 32
    """Points along one side of the grid; the grid has points_per_side² points per crop."""
    pred_iou_thresh: Fraction = 0.8
    """A candidate stays if its predicted IoU is greater than this (0 switches the filter off)."""
    stability_score_thresh: Fraction = 0.95
    """A candidate stays if its stability score is at least this (0 switches the filter off)."""
    stability_score_offset: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """Stability is area(logits > mask_threshold + offset) / area(logits > mask_threshold - offset)."""
    mask_threshold: Annotated[float, Field(ge=-100.0, le=100.0)] = 0.0
    """Logits above this are mask."""
    box_nms_thresh: Fraction = 0.7
    """Box IoU above which the candidate with the lower predicted IoU goes."""
    crop_n_layers: Annotated[Whole, Field(ge=0, le=4)] = 0
    """Layer i runs the generator again on (2^i)² overlapping crops."""
    crop_nms_thresh: Fraction = 0.7
    """Box IoU for duplicates between crops; masks of smaller crops win."""
    crop_overlap_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 512 / 1500
    """Overlap of the crops of layer 1, as a fraction of the image's short side."""
    crop_n_points_downscale_factor: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """The grid of layer i has points_per_side / factor^i points a side."""
    use_m2m: bool = False
    """Feed every candidate back once as a mask prompt."""
    multimask_output: bool = True
    """Three candidates a point (true) or the single-mask output (false)."""
    ask_for_wholes: bool = False
    """Where rows or grids of similar masks (keys) have no whole among the masks, ask the model again for it."""
    fill: bool = False
    """Ask again with up to 3 denser grids over what no mask covers; the masks that are there stay as they are."""


class CleanupParameters(_Values):
    """What happens to masks after the generator, in pixels of the original image."""

    min_mask_region_area: Annotated[Whole, Field(ge=0)] = 0
    """Holes smaller than this (pixels) are filled, islands smaller than this removed, smaller masks dropped."""
    max_mask_area_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Masks that cover more than this fraction of the image are dropped."""
    parts: Literal["keep", "drop", "wholes"] = "keep"
    """Parts of a bigger mask: keep all, drop those that are one of many similar ones, or keep wholes only."""
    parts_min_siblings: Annotated[Whole, Field(ge=1)] = 4
    """With parts: drop, so many similar parts of one whole make them go."""
    refine_edges: Literal["off", "guided"] = "off"
    """Edges as the model drew them on its coarse grid, or moved to those that the photo has beside them."""


class Limits(_Values):
    """Bounds on resources; they never change which masks come out."""

    points_per_batch: PositiveInt | Literal["auto"] = "auto"
    """Points that go through the decoder together; auto chooses from the free memory."""
    max_memory_gb: Annotated[float, Field(gt=0.0)] | None = None
    """Ceiling for the memory of the device (CPU: of the whole process) in GB of 10^9 bytes; a warning where what is
    in use before the first point is above it."""
    compile: bool = False
    """On CUDA, compile the network's steps: minutes for the first image, and less time for each of many that follow."""
