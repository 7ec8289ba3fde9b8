"""The fingerprint by which a run knows what an earlier one did with the same settings."""

from __future__ import annotations

from densecli.batch.workers import fingerprint_of
from densecli.engine.parameters import Limits
from densecli.preset_keys import SECTION_OF
from densecli.presets import load_preset

WEIGHTS = "0" * 64


def fingerprint(*overrides: str, weights: str = WEIGHTS, precision: str = "fp32") -> str:
    return fingerprint_of(load_preset("default", overrides).resolve("tiny").parameters(), weights, precision)


def test_each_value_but_limits_counts() -> None:
    changes = [
        "points_per_side=33 pred_iou_thresh=0.81 stability_score_thresh=0.96 stability_score_offset=1.1",
        "mask_threshold=0.1 box_nms_thresh=0.71 crop_n_layers=1 crop_nms_thresh=0.71 crop_overlap_ratio=0.3",
        "crop_n_points_downscale_factor=2 use_m2m=true multimask_output=false min_mask_region_area=1",
        "max_mask_area_fraction=1 parts=drop parts_min_siblings=3 points_per_batch=64 max_memory_gb=1 compile=true",
        "ask_for_wholes=true fill=true refine_edges=guided",
    ]
    overrides = " ".join(changes).split()
    assert {override.partition("=")[0] for override in overrides} == set(SECTION_OF)
    limits = [override for override in overrides if override.partition("=")[0] in Limits.model_fields]
    assert len(limits) == 3 and {fingerprint(override) for override in limits} == {fingerprint()}
    prints = [fingerprint(override) for override in overrides if override not in limits]
    prints += [fingerprint(), fingerprint(weights="1" * 64), fingerprint(precision="bf16")]
    assert len(set(prints)) == len(prints)


def test_it_is_the_same_everywhere() -> None:
    """Else a run would start over that was begun on another machine, or by an earlier densecli."""
    assert fingerprint() == fingerprint("mask_threshold=0") == fingerprint("mask_threshold=-0.0")
    assert fingerprint() == "e7be8a10e0d425246e89421f2f424e9b3e8ffcec3c62c5e0535b9ec51f74d9c7"
