"""Which errors are the environment's."""

from __future__ import annotations

import sys

import pytest

from densecli.doctor import commands, failures
from densecli.doctor.children import ERROR, Failure, failure_of
from tests.conftest import CHECKOUT
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


def reinstalling(*names: str) -> str:
    return commands.pip_install("--force-reinstall", "--no-cache-dir", *names)


def failure_of_import(name: str) -> Failure:
    with pytest.raises(Exception) as caught:
        __import__(name)
    return failure_of(caught.value)


def test_the_package_to_blame_is_the_one_that_was_being_imported(fake: Package) -> None:
    fake("outer_library/__init__.py", "import broken_library")
    fake("broken_library/__init__.py", "from broken_library.parts import check\ncheck()")
    fake("helping_library.py", "def refuse(): raise SystemError('incompatible')")
    fake("broken_library/parts.py", "import helping_library\ndef check(): helping_library.refuse()")
    failure = failure_of_import("outer_library")
    assert failures.culprit(failure) == "broken_library"
    seen, fix = failures.explain_import("sam2", failure)
    assert "SystemError: incompatible" in seen and "the fault lies in broken_library" in seen
    assert fix == reinstalling("broken_library")


def test_the_package_that_lacks_a_name_is_to_blame(fake: Package) -> None:
    fake("asking_library.py", "from giving_library import nothing_like_it")
    fake("giving_library.py", "")
    assert failures.culprit(failure_of_import("asking_library")) == "giving_library"


@pytest.mark.parametrize("asking", ["from copy import deepcopy", "import copy\ncopy.deepcopy"])
def test_a_file_in_place_of_a_module_of_pythons_own(
    fake: Package, asking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is imported without a word; `pip install copy` would bring somebody's package."""
    fake("asking_library.py", asking)
    stray = fake("copy.py", "x = 1")
    monkeypatch.delitem(sys.modules, "copy")
    monkeypatch.delitem(sys.modules, "asking_library", raising=False)
    failure = failure_of_import("asking_library")
    seen, fix = failures.explain_import("torch", failure)
    assert f"{stray} stands in for a module of Python itself" in seen and fix == commands.rename_away(stray)


def test_a_limit_is_not_blamed_on_the_library() -> None:
    """As login nodes of clusters have it; installing PyTorch anew does not help."""
    failure = Failure(ERROR, "ImportError: libtorch_cpu.so: failed to map segment from shared object")
    seen, fix = failures.explain_import("torch", failure)
    assert "limit of the address space" in seen and fix == "ulimit -v unlimited"


def test_what_no_import_raised_is_blamed_on_no_package(fake: Package) -> None:
    fake("working_library.py", "def work(): raise RuntimeError('out of memory')")
    __import__("working_library")
    with pytest.raises(RuntimeError) as caught:
        sys.modules["working_library"].work()
    assert failures.culprit(failure_of(caught.value)) is None


@pytest.mark.parametrize(("part", "whole"), [("pydantic_core", "pydantic"), ("llvmlite", "numba")])
def test_a_part_is_installed_with_its_whole(part: str, whole: str) -> None:
    """In the newest version it would not fit."""
    missing = Failure(ERROR, f"ModuleNotFoundError: No module named '{part}'", missing=part)
    assert failures.explain_import(part, missing)[1] == reinstalling(whole)


def test_densecli_is_not_sought_on_an_index() -> None:
    missing = Failure(ERROR, "ModuleNotFoundError: No module named 'densecli.masks'", missing="densecli.masks")
    assert failures.explain_import("densecli", missing)[1].endswith(f" --no-deps -e {CHECKOUT}")
