"""Strategies for thresholds and clean-up, within what candidates that were kept above (0.2, 0.3) can tell."""

from __future__ import annotations

from hypothesis import strategies as st

from densecli.engine.parameters import CleanupParameters

wishes = st.fixed_dictionaries(
    {
        "pred_iou_thresh": st.floats(0.2, 0.85),
        "stability_score_thresh": st.floats(0.3, 1.0),
        "box_nms_thresh": st.floats(0.0, 1.0),
        "crop_nms_thresh": st.floats(0.0, 1.0),
    }
)
cleanups = st.builds(
    CleanupParameters,
    min_mask_region_area=st.sampled_from([0, 20, 200, 2000]),
    max_mask_area_fraction=st.sampled_from([None, 0.3, 0.05]),
    parts=st.sampled_from(["keep", "drop", "wholes"]),
    parts_min_siblings=st.integers(1, 4),
)
