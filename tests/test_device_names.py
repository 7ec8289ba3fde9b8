"""Names of devices and precisions: what they mean, and that a slip is told before PyTorch is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecli.device_names import check_precision, parse_device, parse_devices
from densecli.errors import UsageError
from tests.conftest import Command


@pytest.mark.parametrize(
    ("name", "meant"),
    [("auto", ("auto", None)), ("cpu", ("cpu", None)), ("cuda", ("cuda", None)), ("cuda:10", ("cuda", 10))],
)
def test_devices(name: str, meant: tuple[str, int | None]) -> None:
    assert parse_device(name) == meant


@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1.5", "cpu:0", "mps:0", "auto:1"]
)
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device; use auto, cuda, cuda:N, mps or cpu"):
        parse_device(name)


@given(
    st.lists(st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:7"]), min_size=1),
    st.sampled_from([",", " , "]),
)
def test_a_list_of_devices(names: list[str], comma: str) -> None:
    assert parse_devices(comma.join(names)) == tuple(names)


@pytest.mark.parametrize("text", [" , ", "", "cuda:0,gpu"])
def test_what_is_no_list_of_devices(text: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        parse_devices(text)


def test_precisions() -> None:
    for name in ("auto", "fp32", "bf16", "fp16"):
        check_precision(name)
    with pytest.raises(UsageError, match="--precision fp8: unknown precision; use auto, fp32, bf16 or fp16"):
        check_precision("fp8")


@pytest.mark.parametrize(
    "arguments",
    [("segment", "-d", "gpu"), ("segment", "--precision", "half"), ("batch", "-d", "cpu,gpu"), ("tune", "-d", "gpu")],
    ids=" ".join,
)
def test_a_slip_is_told_before_pytorch_is_imported(
    arguments: tuple[str, ...], tmp_path: Path, run_densecli: Command
) -> None:
    (tmp_path / "photo.png").touch()
    done = run_densecli(arguments[0], "photo.png", *arguments[1:], cwd=tmp_path, python=("-X", "importtime"))
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.code == 2 and len(done.errors) == 1 and "unknown" in done.errors[0]
    assert "typer" in imported and "torch" not in imported
