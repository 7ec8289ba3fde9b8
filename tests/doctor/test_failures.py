"""Which errors are the environment's."""

from __future__ import annotations

import sys

import pytest

from densecli.doctor import failures
from tests.doctor.faults import Package


def test_causes_in_the_environment(fake: Package) -> None:
    fake("iopath/__init__.py", "raise OSError('libfoo.so.1: cannot open shared object file')")
    fake("triton/__init__.py", "[][1]")
    sys.modules.pop("iopath", None), sys.modules.pop("triton", None)
    for name in ("iopath", "triton", "nosuchmodule"):
        with pytest.raises(Exception) as caught:
            __import__(name)
        assert failures.is_environment_failure(caught.value)
    assert failures.is_environment_failure(RuntimeError("CUDA error: no kernel image is available"))
    assert not failures.is_environment_failure(ValueError("too many values to unpack"))
    assert not failures.is_environment_failure(ImportError("cannot import name 'x'", name="densecli.masks"))
    with pytest.raises(IndexError) as caught_here:
        [][1]
    assert not failures.is_environment_failure(caught_here.value)
