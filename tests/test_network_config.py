"""What is said where a network's packages cannot be imported."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from densecli import network_config
from densecli.errors import EnvironmentProblem


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("half of hydra"), "cannot import sam2, or a package that it needs: half of hydra"),
        (
            ModuleNotFoundError("No module named 'hydra'", name="hydra"),
            "cannot import hydra, which comes with sam2: No module named 'hydra'",
        ),
    ],
)
def test_sam2_that_cannot_be_imported(error: ImportError, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def broken(name: str, *arguments: Any) -> Any:
        if name == "sam2":
            raise error
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(EnvironmentProblem) as caught:
        network_config.module_of(Path("starter.yaml"))
    assert str(caught.value) == said
