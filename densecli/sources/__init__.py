"""Reading images: a path, stdin or a URL in, upright 8-bit RGB pixels out; and how an input's outputs are named."""

from densecli.sources.decoding import LoadedImage
from densecli.sources.names import IMAGE_SUFFIXES, natural_key, output_names, output_stem
from densecli.sources.reading import read_image
from densecli.sources.urls import local_path

__all__ = [
    "IMAGE_SUFFIXES",
    "LoadedImage",
    "local_path",
    "natural_key",
    "output_names",
    "output_stem",
    "read_image",
]
