"""A network from its config: a YAML that names classes and their arguments, and may not do anything else.

Weights from elsewhere bring their YAML along, which is found beside them; so it is held to being data. Its form is
Hydra's, but Hydra does not read it here: that follows dots out of a module into what the module has imported
(`torch.nn.modules.module.torch.hub.load`), calls functions as well as classes, and resolves text a second time.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from densecli.errors import CheckpointError, EnvironmentProblem
from densecli.wording import short_reason_of

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base as SAM2Base  # for annotations in other files
else:

    def __getattr__(name: str) -> object:
        """SAM2Base, for whoever resolves type hints: sam2 is imported late, where a failure can be told in words."""
        if name == "SAM2Base":
            return import_module("sam2.modeling.sam2_base").SAM2Base
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Where the classes must be defined: SAM 2's parts, the trunks of densecli, PyTorch's layers.
_MODULES = ("sam2.modeling.", "densecli.tiny_vit.", "densecli.convolutional_trunk.", "torch.nn.")
_TARGET = "_target_"
# Argument of sam2's trunk: a pickle that it would load, with the code in it where PyTorch is older than 2.6.
_WEIGHTS = "weights_path"
_WITHOUT_EFFECT = "_convert_"  # lists are Python's own here anyway


def module_of(config: Path) -> nn.Module:
    """The module that `model:` of this YAML describes, with the weights that its classes begin with.

    Raises CheckpointError, naming file and class, for a class that is none of the allowed ones, and for a YAML that is
    no such config; EnvironmentProblem where sam2 or a package of its cannot be imported.
    """
    try:
        import sam2  # noqa: F401  # what is broken in it is no fault of the config
        from omegaconf import OmegaConf
    except ImportError as error:
        raise _not_installed(error) from error
    try:
        tree = OmegaConf.to_container(OmegaConf.load(config).model, resolve=True)
        # All are looked at before the first is called.
        classes = {target: _class_of(config, target) for target in dict.fromkeys(_targets(config, tree))}
        module = _built(tree, classes)
    except (CheckpointError, EnvironmentProblem):
        raise
    except (Exception, SystemExit) as error:
        raise CheckpointError(f"{config}: not a config of a SAM 2 network ({short_reason_of(error)})") from error
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"{config}: does not describe a SAM 2 network (model._target_ should be a SAM2Base)")
    return module


def _targets(config: Path, node: Any) -> Iterable[str]:
    """Names of the classes in `node`. Raises CheckpointError for keys that would do more than build them."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == _TARGET:
                yield str(value)
            elif key == _WEIGHTS and value is not None:
                raise CheckpointError(f"{config}: {_WEIGHTS} names another file to load ({value}); take that line out")
            elif isinstance(key, str) and key.startswith("_") and key != _WITHOUT_EFFECT and _TARGET in node:
                raise CheckpointError(f"{config}: {key} beside {_TARGET} is not supported; take that line out")
            else:
                yield from _targets(config, value)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(config, child)


def _class_of(config: Path, target: str) -> type[nn.Module]:
    """The class of that name.

    Raises CheckpointError unless it is a network module defined in one of `_MODULES`, EnvironmentProblem where a
    package that these need is missing.
    """
    module, _, name = target.rpartition(".")
    found = None
    if f"{module}.".startswith(_MODULES):
        try:
            found = getattr(import_module(module), name, None)
        except ImportError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise _not_installed(error) from error
            raise CheckpointError(
                f"{config}: there is no {target} ({short_reason_of(error)}); check its spelling"
            ) from error
    # By what it is and where it was defined: a name may lead to anything that its module has imported.
    if not (isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(_MODULES)):
        raise CheckpointError(
            f"{config}: may not build {target}; only network modules of {', '.join(_MODULES)[:-1]} are allowed"
        )
    return found


def _built(node: Any, classes: dict[str, type[nn.Module]]) -> Any:
    if isinstance(node, list):
        return [_built(child, classes) for child in node]
    if not isinstance(node, dict):
        return node
    values = {key: _built(value, classes) for key, value in node.items() if key not in (_TARGET, _WITHOUT_EFFECT)}
    if _TARGET not in node:
        return values
    target = str(node[_TARGET])
    try:
        return classes[target](**values)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{target}: {type(error).__name__}: {short_reason_of(error)}") from error


def _not_installed(error: ImportError) -> EnvironmentProblem:
    # An ImportError has a name only where Python itself raised it.
    what = f"{error.name}, which comes with sam2" if error.name else "sam2, or a package that it needs"
    return EnvironmentProblem(f"cannot import {what}: {short_reason_of(error)}")
