"""What tests of reading share: pictures as bytes, and the line with which a source is refused."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from densecli.errors import EXIT_ENVIRONMENT, EXIT_NOTHING_SUCCEEDED, DensecliError, InputError
from densecli.sources import LoadedImage, read_image

Image.init()  # so that Image.SAVE lists every format


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read_bytes(data: bytes) -> LoadedImage:
    return read_image("-", stdin=io.BytesIO(data))


def refusal(source: object, kind: type[DensecliError] = InputError, **options: object) -> str:
    """The message with which `source` is refused, after checking its form."""
    with pytest.raises(DensecliError) as caught:
        read_image(source, **options)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert caught.value.exit_code == (EXIT_NOTHING_SUCCEEDED if kind is InputError else EXIT_ENVIRONMENT)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    assert str(source) in message or source == "-" or not str(source).isprintable(), "names the input"
    return message
