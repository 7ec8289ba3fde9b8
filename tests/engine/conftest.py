"""Networks and photos that the engine's tests share."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch

from densecli import checkpoints, model


@pytest.fixture(scope="session")
def starter():
    weights, config = checkpoints.starter_files()
    return model.load(model.Choice("starter", weights, config), torch.device("cpu"), "fp32").network


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Three photos of package scikit-image (CC0), made small enough for the reference generator to be bearable."""
    return {
        "coffee": np.ascontiguousarray(skimage.data.coffee()[::2, ::2]),
        "astronaut": np.ascontiguousarray(skimage.data.astronaut()[:240, 100:420]),
        "chelsea": np.ascontiguousarray(skimage.data.chelsea()[::2, ::2]),
    }
