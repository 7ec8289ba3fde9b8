"""The Python API."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest

from densecli import Segmenter
from densecli.errors import InputError
from densecli.masks import summary_schema


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("dense", "starter", "cpu", overrides=["points_per_side=6"])


def test_summary_of_an_array_is_whole(segmenter, photo) -> None:
    result = segmenter(photo)
    summary = result.summary()
    jsonschema.validate(summary, summary_schema())
    stages = {k: v for k, v in summary["seconds"].items() if k != "total"}
    assert summary["seconds"]["total"] == pytest.approx(sum(stages.values()), abs=1e-3)
    assert result.masks[0].decode().shape == photo.shape[:2] and result.overlay().shape == photo.shape
    result.written_in(1.5)
    assert result.seconds["total"] == pytest.approx(summary["seconds"]["total"] + 1.5)


def test_load_time_is_told_once(segmenter, photo) -> None:
    segmenter(photo)
    assert segmenter(photo).seconds["load"] == 0.0


def test_network_is_shared(segmenter) -> None:
    other = Segmenter("default", "starter", "cpu")
    assert other.network is segmenter.network


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(segmenter, array) -> None:
    with pytest.raises(InputError, match="H×W×3 uint8"):
        segmenter(array)


def test_read_only_and_strided_arrays(segmenter, photo) -> None:
    frozen = photo[::2, ::-1]
    frozen.flags.writeable = False
    assert segmenter(frozen).masks
