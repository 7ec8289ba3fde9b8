"""The small real run."""

from __future__ import annotations

import numpy as np

from densecli.doctor import smoke


def test_found_again() -> None:
    square = np.zeros((20, 20), bool)
    square[2:12, 2:12] = True
    nearly, other = square.copy(), ~square
    nearly[2, 2] = False
    assert smoke.found_again([square], [other, nearly]) == 1
    assert smoke.found_again([square, other], [nearly]) == 1
    assert smoke.found_again([square], [np.zeros_like(square)]) == 0


def test_the_starter_finds_the_shapes_of_the_test_image() -> None:
    image = smoke._image()
    disc, box, _ = ((image == colour).all(-1) for colour in smoke.SHAPES)
    smoke.run_on("cpu")
    assert smoke.found_again([disc, box], smoke._on_cpu) == 2
