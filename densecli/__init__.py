"""densecli: segment everything in photos, folders and videos with SAM 2.1, from the command line or Python."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["ImageCandidates", "Mask", "Segmentation", "Segmenter", "__version__", "save"]

TYPE_CHECKING = False  # as typing has it; a file of that name in the current folder would be taken for typing here
if TYPE_CHECKING:
    from densecli.image_candidates import ImageCandidates
    from densecli.masks import Mask, Segmentation
    from densecli.saving import save
    from densecli.segmenter import Segmenter

# `import densecli` must stay instant (--help, --version): torch is only imported once one of these is used.
_LAZY = {
    "Segmenter": "densecli.segmenter",
    "Segmentation": "densecli.masks",
    "Mask": "densecli.masks",
    "ImageCandidates": "densecli.image_candidates",
    "save": "densecli.saving",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'densecli' has no attribute {name!r}")
