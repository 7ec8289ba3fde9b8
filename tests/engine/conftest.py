"""Networks and photos that the engine's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import skimage.data
import torch

from densecli import checkpoints, model
from tests.conftest import FIRST_STARTER


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """torch, and what asks it, uses n threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def starter(first_starter):
    """What most tests run: smaller than the one that ships, at a third of the time for the same questions."""
    return first_starter


@pytest.fixture(scope="session")
def starter_that_ships():
    weights, config = checkpoints.starter_files()
    return model.load(model.Choice("starter", weights, config), torch.device("cpu"), "fp32").network


@pytest.fixture(scope="session")
def first_starter():
    """The starter of the first releases, for tests of pictures in which it is known what a network finds."""
    return model.load(model.Choice("first", *FIRST_STARTER), torch.device("cpu"), "fp32").network


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Three photos of package scikit-image (CC0), made small enough for the reference generator to be bearable."""
    return {
        "coffee": np.ascontiguousarray(skimage.data.coffee()[::2, ::2]),
        "astronaut": np.ascontiguousarray(skimage.data.astronaut()[:240, 100:420]),
        "chelsea": np.ascontiguousarray(skimage.data.chelsea()[::2, ::2]),
    }
