"""Which classes a config may build, and what is said where a network's packages cannot be imported."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from densecli import network_config, tiny_vit
from densecli.errors import CheckpointError, EnvironmentProblem


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


def test_a_network_module_from_elsewhere_is_refused_by_whatever_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module has other modules' classes in it, which it imported."""

    class Foreign(nn.Module):
        pass

    monkeypatch.setattr(tiny_vit, "Foreign", Foreign, raising=False)
    config = tmp_path / "own.yaml"
    config.write_text("model: {_target_: densecli.tiny_vit.Foreign}\n")
    with pytest.raises(
        CheckpointError, match=r"own.yaml: may not build densecli.tiny_vit.Foreign; only network modules"
    ):
        network_config.module_of(config)
    monkeypatch.setattr(Foreign, "__module__", "densecli.tiny_vit")
    assert isinstance(network_config.module_of(config), Foreign)
