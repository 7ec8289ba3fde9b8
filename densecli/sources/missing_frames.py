"""Whether a video that was read to its end has lost frames, by what its file says of itself."""

from __future__ import annotations

from densecli.sources.matroska import is_whole_matroska, pictures_in_matroska
from densecli.sources.tree_names import file_name
from densecli.sources.urls import local_path
from densecli.sources.video_length import counts_frames, mp4_seconds

# How much of a video may be missing at its end before it is called cut off: containers round their lengths.
FRAMES_OF_GRACE, SHARE_OF_GRACE = 3, 0.02
_COUNTING = (".mp4", ".m4v", ".mov", ".avi")
"""What names of files end in that count their frames."""


def missing_of(source: str, number: int, promised: float, last: float, gap: float, fps: float | None) -> str:
    """What is missing of a video of which all frames were read, in brackets after a blank; empty if nothing is.

    last: time of the last frame. gap: the longest time between two. promised: OpenCV's count of frames, which counts
    the hidden ones of an MP4; of most other containers it is made of a time, the sound's too, and a rate that need not
    be constant.
    """
    local = local_path(source)
    whole = is_whole_matroska(local) if local is not None else None
    if whole and local is not None and (pictures := pictures_in_matroska(local)) is not None:
        promised = pictures
    few = promised - number > max(FRAMES_OF_GRACE, SHARE_OF_GRACE * promised)
    counted = f" ({number} of {promised:.0f} frames)"
    if not few or whole or not fps or number == 0:
        return counted if few else ""
    counts = counts_frames(local) if local is not None else file_name(source).lower().endswith(_COUNTING)
    if whole is None and not counts:
        return ""
    mp4 = mp4_seconds(local) if local is not None else None
    expected = promised / fps if mp4 is None else mp4[0]
    grace = max(FRAMES_OF_GRACE / fps, SHARE_OF_GRACE * expected)
    if mp4 is not None and mp4[1] - mp4[0] <= grace:
        return counted  # it hides nothing
    if whole is None:
        grace = max(grace, gap)
    end = last + 1 / fps
    return f" ({end:.1f} s of {expected:.1f} s)" if expected - end > grace else ""
