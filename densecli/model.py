"""The SAM 2 network: config YAML and weights to a loaded model on a device, kept while it is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch.overrides import TorchFunctionMode

from densecli import checkpoints, network_config
from densecli.automatic_choice import chosen_automatically
from densecli.checkpoints import STARTER
from densecli.device_names import PRECISIONS, check_precision, parse_device
from densecli.engine.current_device import current
from densecli.engine.encoder import cast_products
from densecli.engine.host_settings import own_defaults
from densecli.errors import CheckpointError, EnvironmentProblem
from densecli.files import sha256_of
from densecli.model_names import Choice, config_path, is_file, named, names_file, path_of, verified
from densecli.network_config import module_of
from densecli.weights_file import OFFICIAL, check_sums, foreign_form, read_weights, unreadable, wrong
from densecli.wording import short_reason_of, shown_name

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))


class _Key(NamedTuple):
    """What makes a loaded network the same."""

    weights: Path
    mtime_ns: int
    size: int
    config: Path
    device: torch.device
    precision: str


@dataclass(frozen=True)
class LoadedModel:
    """A network in memory. `precision` is fp32, bf16 or fp16; arithmetic is in `dtype`.

    Weights are float32, but for those of the image encoder's products on CUDA, which are in `dtype`. load_seconds: 0
    where it was in memory already.
    """

    name: str
    network: network_config.SAM2Base
    sha256: str
    device: torch.device
    precision: str
    load_seconds: float

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


def resolve_device(name: str = "auto") -> torch.device:
    """The device of `auto`, `cuda`, `cuda:N`, `mps` or `cpu`.

    Raises UsageError for another word, EnvironmentProblem for a device that is not there.
    """
    kind, index = parse_device(name)
    if kind == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if kind == "cuda":
        if not torch.cuda.is_available():
            build = (
                "this PyTorch is a CPU-only build" if torch.version.cuda is None else "no usable NVIDIA GPU or driver"
            )
            raise EnvironmentProblem(f"--device {name}: CUDA is not available ({build}); use --device cpu")
        number = torch.cuda.current_device() if index is None else index
        if number >= torch.cuda.device_count():
            raise EnvironmentProblem(
                f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0"
            )
        return torch.device("cuda", number)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentProblem("--device mps: Apple's MPS is not available here; use --device cpu")
    return torch.device(kind)


def resolve_precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for `auto` or one of them: half precision on CUDA (bf16 where it has it), else fp32."""
    check_precision(name)
    if name != "auto":
        return name
    if device.type == "cuda":
        with current(device):  # of which alone it can be asked
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "fp32"


def choose(
    model: str, preferred: str | None, device: torch.device, checkpoint_dir: Path | None, config: Path | None
) -> Choice:
    """The checkpoint for `--model`: `auto`, a name, or a path.

    Raises CheckpointError where a named one is missing, UsageError for an unknown name.
    """
    choice = named(model, checkpoint_dir, config)
    if choice is None and names_file(model):
        return _with_guessed_config(path_of(model))
    if choice is None:
        return chosen_automatically(preferred, device, checkpoint_dir, _loaded(device))
    if names_file(model) or model == STARTER:
        return choice
    return verified(checkpoints.load_registry().entry(choice.name), choice.weights)


def _with_guessed_config(weights: Path) -> Choice:
    """These weights with the official config whose trunk has their width and depth."""
    state = read_weights(weights)
    prefix = "image_encoder.trunk.blocks."
    depth = len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
    patch = state.get("image_encoder.trunk.patch_embed.proj.weight")
    width = patch.shape[0] if patch is not None and patch.dim() else 0
    names = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
    name = names.get((width, depth))
    if name is None and (form := foreign_form(state)):
        raise wrong(weights, form)
    if name is None:
        raise wrong(
            weights,
            f"not the shape of any SAM 2.1 network (trunk width {width}, {depth} blocks); name its YAML with --config",
        )
    return Choice(weights.stem, weights, config_path(checkpoints.load_registry().entry(name)))


class _WithoutRandomWeights(TorchFunctionMode):
    """Leaves out the random initialisation of modules: weights that are about to be loaded need none (large: 1.3 s)."""

    _RANDOM = (torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._RANDOM or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def build_network(config: Path, *, random_weights: bool = True) -> SAM2Base:
    """An untrained network in eval mode from a YAML in the form of sam2's own; no Hydra search path is involved.

    random_weights: False leaves the weights as they are in memory, for one who loads all of them.
    Raises CheckpointError for a file that is no such config, EnvironmentProblem where sam2 cannot be imported.
    """
    if not is_file(config):
        raise CheckpointError(f"{config}: no such config file")
    with nullcontext() if random_weights else _WithoutRandomWeights():
        network = module_of(config)
    if not hasattr(network, "sam_mask_decoder"):
        raise CheckpointError(f"{config}: does not describe a SAM 2 network (model._target_ should be a SAM2Base)")
    return network.eval()


def _check_finite(network: SAM2Base, weights: Path) -> None:
    """Raises CheckpointError for numbers with which every mask would be lost, and nothing would say why."""
    for key, tensor in network.state_dict().items():
        # The sum takes one pass over the memory and no more of it, but may overflow where all numbers are finite.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise wrong(weights, f"{shown_name(key)} holds NaN or infinite numbers; use weights of an earlier step")


def _fill(network: SAM2Base, state: dict[str, torch.Tensor], weights: Path, config: Path) -> None:
    """Strict load, with what differs in words."""
    expected = network.state_dict()
    missing = [k for k in expected if k not in state]
    unexpected = [k for k in state if k not in expected]
    shapes = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if not (missing or unexpected or shapes):
        for key, tensor in state.items():
            if expected[key].is_floating_point() and not tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise wrong(
                    weights, f"{shown_name(key)} is {kind}, not floating point; use weights that are not quantised"
                )
        try:
            network.load_state_dict(state, strict=True)
        except RuntimeError as error:  # numbers of a kind that cannot be turned into the network's
            raise wrong(weights, f"cannot be loaded ({short_reason_of(error)}); save it as float32") from error
        return
    if form := foreign_form(state):
        raise wrong(weights, form)
    if (
        not unexpected
        and missing
        and set(missing)
        <= {
            "no_obj_embed_spatial",
            "obj_ptr_tpos_proj.weight",
            "obj_ptr_tpos_proj.bias",
        }
    ):
        raise wrong(
            weights,
            f"a SAM 2.0 checkpoint under a SAM 2.1 config ({config.name}): it lacks {', '.join(missing)}; "
            f"{OFFICIAL}, or name a SAM 2.0 YAML with --config",
        )
    differences = [
        f"{len(keys)} {what} (e.g. {shown_name(keys[0])})"
        for what, keys in (("keys missing", missing), ("keys too many", unexpected), ("of another shape", shapes))
        if keys
    ]
    raise wrong(weights, f"does not fit the config {config.name}: {', '.join(differences)}; --config names another")


# What is in memory: networks that somebody uses, and the one that was asked for last.
_networks: WeakValueDictionary[_Key, SAM2Base] = WeakValueDictionary()
_sha256: dict[_Key, str] = {}
_latest: list[SAM2Base] = []
_lock = threading.Lock()
_adding = threading.Lock()
"""Held for no longer than that: loading takes seconds."""


def load(choice: Choice, device: torch.device, precision: str) -> LoadedModel:
    """The chosen network on `device`: the one that is in memory already, in no time, where there is one.

    It is shared and must not be changed. It goes when nobody uses it any more, but for the last one that was asked for.
    Raises CheckpointError or EnvironmentProblem.
    """
    try:
        stat = choice.weights.stat()
    except OSError as error:
        raise unreadable(choice.weights, error) from error
    key = _Key(choice.weights, stat.st_mtime_ns, stat.st_size, choice.config, device, precision)
    with _lock:
        seconds = 0.0
        network = _networks.get(key)
        if network is None:
            begin = time.perf_counter()
            # Building draws random numbers, of which the host program may count its own.
            with _hashing(choice) as sha256, own_defaults(), torch.random.fork_rng([]):
                network = build_network(choice.config, random_weights=False)
                state = read_weights(choice.weights)
                if choice.verified is None:  # else they are the published ones
                    check_sums(choice.weights)
                _fill(network, state, choice.weights, choice.config)
                network = network.float().requires_grad_(False)
                if choice.verified is None:
                    _check_finite(network, choice.weights)
                if device.type == "cuda" and precision != "fp32":
                    cast_products(network.image_encoder, DTYPES[precision])
                network = _moved(network, device)
            found = sha256()
            with _adding:
                _networks[key], _sha256[key] = network, found
            seconds = time.perf_counter() - begin
        _latest[:] = [network]
        return LoadedModel(choice.name, network, _sha256[key], device, precision, seconds)


def _loaded(device: torch.device) -> set[Path]:
    """Weights of the networks that are in memory of a device."""
    with _adding:
        return {key.weights for key in list(_networks) if key.device == device}


def _moved(network: SAM2Base, device: torch.device) -> SAM2Base:
    try:
        return network.to(device)
    except RuntimeError as error:
        raise EnvironmentProblem(
            f"cannot put the model on {device} ({short_reason_of(error)}); use a smaller --model, or --device cpu"
        ) from error


@contextmanager
def _hashing(choice: Choice) -> Iterator[Callable[[], str]]:
    """SHA-256 of the weights beside the block; the GIL is free while they are read and hashed.

    In a thread of its own: an executor takes no work once the main thread has ended, which may not be the last one.
    """
    found: list[str | BaseException] = []

    def work() -> None:
        try:
            found.append(weights_sha256(choice))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work, name="densecli-sha256")
    thread.start()

    def result() -> str:
        thread.join()
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    try:
        yield result
    finally:
        thread.join()


def notices_of(choice: Choice) -> list[str]:
    """What a user should know about the choice of model."""
    notices = [choice.reason] if choice.reason else []
    if choice.name == STARTER and choice.better:  # else the reason says it all
        notices.append(f"the starter is a small stand-in, coarser than SAM 2.1; {choice.better}")
    return notices


def weights_sha256(choice: Choice) -> str:
    """SHA-256 of the weights file, 64 hex digits; the file is read unless that was done when it was chosen.

    Raises CheckpointError for a file that cannot be read.
    """
    if choice.verified is not None:
        return choice.verified.sha256
    try:
        return sha256_of(choice.weights)
    except OSError as error:
        raise unreadable(choice.weights, error) from error
