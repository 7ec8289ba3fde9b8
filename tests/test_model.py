"""Checkpoints to networks: what loads, and the one line for each way in which a file can be wrong."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from densecli import checkpoints, model
from densecli.errors import CheckpointError, EnvironmentProblem, UsageError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_other_checkpoints(tmp_path, monkeypatch):
    """Checkpoints of the developer must not decide these tests."""
    for name in ("DENSECLI_CHECKPOINTS", "DENSECLI_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tiny_state():
    network = model.build_network(official("tiny"))
    return {k: v.clone() for k, v in network.state_dict().items()}


def official(name: str) -> Path:
    return model.config_path(checkpoints.load_registry().entry(name))


def save(state, path: Path, key: str | None = "model") -> Path:
    torch.save({key: state} if key else state, path)
    return path


@pytest.mark.parametrize("name", ["tiny", "small", "base-plus", "large"])
def test_official_configs_build(name: str) -> None:
    network = model.build_network(official(name))
    assert network.image_size == 1024 and not network.training


@pytest.mark.parametrize("key", ["model", None])
def test_own_pt_without_config_is_recognised(tiny_state, tmp_path, key) -> None:
    choice = model.choose(str(save(tiny_state, tmp_path / "mine.pt", key)), None, CPU, None, None)
    assert choice.config == official("tiny") and choice.name == "mine"
    loaded = model.load(choice, CPU, "fp32")
    assert all(torch.equal(v, tiny_state[k]) for k, v in loaded.network.state_dict().items())
    assert loaded.sha256 == hashlib.sha256(choice.weights.read_bytes()).hexdigest()


def test_half_precision_safetensors_load_as_float32(tiny_state, tmp_path) -> None:
    save_file({k: v.bfloat16() for k, v in tiny_state.items()}, tmp_path / "mine.safetensors")
    choice = model.choose(str(tmp_path / "mine.safetensors"), None, CPU, None, official("tiny"))
    network = model.load(choice, CPU, "fp32").network
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["tiny", pytest.param("large", marks=pytest.mark.slow)])
def test_weights_that_are_loaded_are_not_initialised_first(name: str, tmp_path) -> None:
    """All that a forward pass uses must come from the file or be computed: nothing may stay uninitialised."""
    torch.manual_seed(7)
    usual = model.build_network(official(name))
    path = save(usual.state_dict(), tmp_path / "mine.pt")
    loaded = model.load(model.choose(str(path), None, CPU, None, official(name)), CPU, "fp32").network
    for (key, expected), (_, actual) in zip(usual.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(expected, actual), key
    for (key, expected), (_, actual) in zip(usual.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(expected, actual), key
    for module, other in zip(usual.modules(), loaded.modules(), strict=True):
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, vars(other)[key]), key


def test_loaded_once() -> None:
    choice = model.choose("starter", None, CPU, None, None)
    first, second = model.load(choice, CPU, "fp32"), model.load(choice, CPU, "fp32")
    assert first.network is second.network and second.load_seconds == 0
    assert model.load(choice, CPU, "bf16").network is not first.network
    assert choice.weights in model._loaded(CPU) and not model._loaded(torch.device("cuda", 0))


def test_changed_file_is_loaded_anew(tiny_state, tmp_path) -> None:
    path = save(tiny_state, tmp_path / "mine.pt")
    first = model.load(model.choose(str(path), None, CPU, None, None), CPU, "fp32")
    save({**tiny_state, "no_mem_embed": tiny_state["no_mem_embed"] + 1}, path)
    os.utime(path, ns=(1, 1))
    second = model.load(model.choose(str(path), None, CPU, None, None), CPU, "fp32")
    assert torch.equal(second.network.no_mem_embed, first.network.no_mem_embed + 1)
    assert first.load_seconds > 0 and second.load_seconds > 0


def test_the_same_weights_with_another_config(tiny_state, tmp_path) -> None:
    path = save(tiny_state, tmp_path / "mine.pt")
    for size in (512, 1024):
        config = tmp_path / f"{size}.yaml"
        config.write_text(official("tiny").read_text().replace("image_size: 1024", f"image_size: {size}"))
        loaded = model.load(model.choose(str(path), None, CPU, None, config), CPU, "fp32")
        assert loaded.network.image_size == size


def test_weights_that_went_after_they_were_chosen(tiny_state, tmp_path) -> None:
    path = save(tiny_state, tmp_path / "mine.pt")
    choice = model.choose(str(path), None, CPU, None, None)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"mine\.pt: cannot be read \(No such file"):
        model.load(choice, CPU, "fp32")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def damage(kind: str, state, path: Path) -> Path:
    if kind == "truncated":
        save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "html":
        path.write_bytes(b"\n <!DOCTYPE html><html><body>404</body></html>")
    elif kind == "lfs pointer":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    elif kind == "code":
        save(Malicious(), path)
    elif kind == "old pickle with code":
        path.write_bytes(pickle.dumps(Malicious(), protocol=2))
    elif kind == "noise":
        path.write_bytes(random.Random(0).randbytes(1000))
    elif kind == "list":
        torch.save([1, 2, 3], path)
    elif kind == "SAM 2.0":
        gone = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}
        assert gone <= set(state)
        save({k: v for k, v in state.items() if k not in gone}, path)
    elif kind == "one key too many":
        save({**state, "extra": torch.zeros(1)}, path)
    elif kind == "another shape":
        save({**state, "no_mem_embed": torch.zeros(1, 1, 8)}, path)
    elif kind == "no shape":
        save({key: torch.tensor(1.0) for key in state}, path)
    elif kind in ("int8", "complex64", "bool"):
        save({**state, "no_mem_embed": state["no_mem_embed"].to(getattr(torch, kind))}, path)
    elif kind in ("nan", "inf"):
        odd = state["no_mem_embed"].clone()
        odd[..., -1] = float(kind)
        save({**state, "no_mem_embed": odd}, path)
    elif kind == "zeros inside":  # as downloads in parts leave them, and disks
        save(state, path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 50_000] = bytes(50_000)
        path.write_bytes(content)
    return path


WRONG = {
    "truncated": "truncated",
    "empty": "empty",
    "html": "web page",
    "lfs pointer": "Git LFS pointer",
    "code": "could run code",
    "old pickle with code": "could run code",
    "noise": "damaged",
    "list": "no network weights",
    "SAM 2.0": "SAM 2.0 checkpoint under a SAM 2.1 config",
    "one key too many": "1 keys too many (e.g. extra)",
    "another shape": "1 of another shape (e.g. no_mem_embed)",
    "no shape": "of another shape (e.g. ",
    "int8": "no_mem_embed is int8, not floating point",
    "complex64": "no_mem_embed is complex64, not floating point",
    "bool": "no_mem_embed is bool, not floating point",
    "nan": "no_mem_embed holds NaN or infinite numbers",
    "inf": "no_mem_embed holds NaN or infinite numbers",
    "zeros inside": "damaged; fetch it again",
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_give_one_line(kind: str, tiny_state, tmp_path) -> None:
    path = damage(kind, tiny_state, tmp_path / "wrong.pt")
    with pytest.raises(CheckpointError) as caught:
        model.load(model.choose(str(path), None, CPU, None, official("tiny")), CPU, "fp32")
    message = str(caught.value)
    assert WRONG[kind] in message and str(path) in message and "\n" not in message
    assert caught.value.exit_code == 4
    assert not (tmp_path / "hacked").exists()


def test_a_patch_embedding_without_shape(tmp_path) -> None:
    path = save({"image_encoder.trunk.patch_embed.proj.weight": torch.tensor(1.0)}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: not the shape of any SAM 2\.1 network"):
        model.choose(str(path), None, CPU, None, None)


def test_very_large_numbers_are_finite(tiny_state, tmp_path) -> None:
    """The sum of a tensor, by which it is checked, may be infinite where its numbers are not."""
    path = save({**tiny_state, "no_mem_embed": torch.full_like(tiny_state["no_mem_embed"], 3e38)}, tmp_path / "big.pt")
    network = model.load(model.choose(str(path), None, CPU, None, None), CPU, "fp32").network
    assert (network.no_mem_embed == torch.tensor(3e38)).all()


def test_wrong_safetensors(tmp_path) -> None:
    starter, config = checkpoints.starter_files()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(starter.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: damaged"):
        model.load(model.choose(str(path), None, CPU, None, config), CPU, "fp32")


@pytest.mark.parametrize(("given", "meant"), [("startr", "starter"), ("lareg", "large"), ("auot", "auto")])
def test_a_misspelt_model(given: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"'{given}'. Did you mean '{meant}'. Known: auto, starter, tiny,"):
        model.choose(given, None, CPU, None, None)


def test_unknown_shape_without_config(tmp_path) -> None:
    path = save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="--config"):
        model.choose(str(path), None, CPU, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "model: {_target_: os.system, command: touch hacked}",
        "model: [1]",
        "nothing: 1",
        "a: [",
        "model: {_target_: sam2.modeling.nope}",
    ],
)
def test_bad_configs(text: str, tmp_path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"bad\.yaml") as caught:
        model.build_network(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value) and not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.modules.module.torch.hub.load",
        "densecli.files.shutil.copyfile",
        "torch.nn.modules.module.warnings.sys.exit",
        "densecli.tiny_vit.torch.load",
        "sam2.modeling.sam2_utils.torch.nn.Linear",  # harmless, but reached through what a module has imported
        "sam2.modeling.sam2_utils.get_activation_fn",
        "torch.nn.Module.register_module",
        "densecli.batch.child.main",
        "torch.nn.Parameter",
        "torch.nn.nowhere.Linear",
        "torch.nn.",
        "",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_config_builds_network_modules_and_nothing_else(target: str, nested: bool, tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    call = {"_target_": target, "src": str(config), "dst": "hacked"}
    tree = {"_target_": "torch.nn.Sequential", "args": [{"deeper": call}]} if nested else call
    config.write_text(yaml.safe_dump({"model": tree}))
    with pytest.raises(CheckpointError, match=r"bad\.yaml: ") as caught:
        model.build_network(config)
    assert target in str(caught.value) and "\n" not in str(caught.value) and not Path("hacked").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # Text that becomes a call only where it is resolved once more than it was checked.
        (
            r"model: {_target_: torch.nn.ReLU, inplace: '\${oc.create:{_target_: os.mkdir, path: hacked}}'}",
            "describe",
        ),
        (r"model: {_target_: torch.nn.ReLU, inplace: '${oc.create:{_target_: os.mkdir, path: hacked}}'}", r"os\.mkdir"),
        ("model: {_target_: sam2.modeling.backbones.hieradet.Hiera, weights_path: a.pt}", "weights_path names another"),
        ("model: {_target_: torch.nn.Identity, _partial_: true}", "_partial_ beside _target_"),
        ("model: {_target_: torch.nn.Identity, _convert_: all}", "does not describe a SAM 2 network"),
        ("model: {_target_: torch.nn.Linear, in_features: many}", r"torch\.nn\.Linear: TypeError"),
    ],
)
def test_other_ways_for_a_config_to_do_more(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=rf"bad\.yaml: .*({told})"):
        model.build_network(tmp_path / "bad.yaml")
    assert not Path("hacked").exists()


def test_a_module_that_ends_the_program_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaves(torch.nn.Module):
        def __init__(self) -> None:
            raise SystemExit(0)

    Leaves.__module__ = "torch.nn.modules"
    monkeypatch.setattr(torch.nn, "Leaves", Leaves, raising=False)
    (tmp_path / "bad.yaml").write_text("model: {_target_: torch.nn.Leaves}")
    with pytest.raises(CheckpointError, match=r"bad\.yaml: .*torch\.nn\.Leaves: SystemExit"):
        model.build_network(tmp_path / "bad.yaml")


@pytest.mark.parametrize("edition", ["sam2", "sam2.1"])
@pytest.mark.parametrize("size", ["t", "s", "b+", "l"])
def test_all_configs_of_sam2_build(edition: str, size: str) -> None:
    config = official("tiny").parents[1] / edition / f"{edition}_hiera_{size}.yaml"
    network = model.build_network(config, random_weights=False)
    assert len(network.image_encoder.trunk.blocks) == {"t": 12, "s": 16, "b+": 24, "l": 48}[size]


def test_missing_checkpoint_names_the_command() -> None:
    with pytest.raises(CheckpointError, match="densecli download-checkpoints large"):
        model.choose("large", None, CPU, None, None)
    with pytest.raises(CheckpointError, match="no such weights file"):
        model.choose("nowhere.pt", None, CPU, None, None)
    with pytest.raises(UsageError, match="large"):
        model.choose("larg", None, CPU, None, None)
    with pytest.raises(UsageError, match="--config"):
        model.choose("starter", None, CPU, None, official("tiny"))


@pytest.fixture
def own_registry(tiny_state, tmp_path, monkeypatch) -> Path:
    """A registry with two made-up checkpoints, of which the smaller is on disk."""
    folder = tmp_path / "weights"
    folder.mkdir()
    path = save(tiny_state, folder / "mine.pt")
    entry = {"file": "mine.pt", "size": path.stat().st_size, "config": "configs/sam2.1/sam2.1_hiera_t.yaml"}
    entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    absent = {**entry, "file": "absent.pt", "size": 10**9, "sha256": "0" * 64}
    registry = tmp_path / "registry.yaml"
    registry.write_text(yaml.safe_dump({"checkpoints": {"mine": entry, "absent": absent}, "sources": ["file:///x/"]}))
    monkeypatch.setenv("DENSECLI_REGISTRY", str(registry))
    return folder


@pytest.mark.parametrize("beside", [True, False], ids=["with its config", "without"])
def test_weights_named_by_path_have_the_sha256_of_their_file(own_registry, beside, tiny_state, tmp_path) -> None:
    """Also where they are called as a checkpoint of the registry is, as fine-tuned ones are."""
    (tmp_path / "tuned").mkdir()
    path = save({**tiny_state, "no_mem_embed": tiny_state["no_mem_embed"] + 1}, tmp_path / "tuned" / "mine.pt")
    if beside:
        path.with_suffix(".yaml").write_bytes(official("tiny").read_bytes())
    choice = model.choose(str(path), None, CPU, own_registry, None)
    assert choice.name == "mine"
    assert model.weights_sha256(choice) == hashlib.sha256(path.read_bytes()).hexdigest()
    for name in ("mine", "auto"):
        registered = model.weights_sha256(model.choose(name, None, CPU, own_registry, None))
        assert registered == hashlib.sha256((own_registry / "mine.pt").read_bytes()).hexdigest()


def test_auto_takes_the_preferred_one(own_registry) -> None:
    choice = model.choose("auto", "mine", CPU, own_registry, None)
    assert choice.name == "mine" and "the preset's choice" in (choice.reason or "")


def test_auto_takes_the_largest_that_is_there(own_registry) -> None:
    choice = model.choose("auto", "absent", CPU, own_registry, None)
    assert choice.name == "mine"
    assert "largest on disk that fits" in (choice.reason or "") and "download-checkpoints absent" in (
        choice.reason or ""
    )


def test_auto_falls_back_to_the_starter() -> None:
    choice = model.choose("auto", "large", CPU, None, None)
    assert choice.name == "starter"
    assert "download-checkpoints large" in (choice.reason or "") and "no SAM 2.1 checkpoint on disk" in choice.reason


def test_auto_leaves_out_what_does_not_fit(own_registry, monkeypatch) -> None:
    import resource

    page = resource.getpagesize()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * page
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + (500 << 20), before[1]))
        choice = model.choose("auto", "absent", CPU, own_registry, None)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert choice.name == "starter" and "fits" in (choice.reason or "")


def test_registry_checkpoint_is_verified_before_it_is_loaded(own_registry) -> None:
    path = own_registry / "mine.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256"):
        model.choose("mine", None, CPU, own_registry, None)


def test_devices() -> None:
    assert model.resolve_device("cpu") == CPU
    assert model.resolve_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:x", "cpu:1", "cuda:-1", ""):
        with pytest.raises(UsageError):
            model.resolve_device(wrong)
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentProblem, match="--device cpu"):
            model.resolve_device("cuda:0")


def test_precisions() -> None:
    assert model.resolve_precision("auto", CPU) == "fp32"
    assert model.resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(UsageError, match="fp8"):
        model.resolve_precision("fp8", CPU)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_masks(precision: str) -> None:
    import skimage.data

    from densecli import Segmenter

    pixels = skimage.data.coffee()[::2, ::2].copy()
    overrides = ["points_per_side=4", "min_mask_region_area=0", "pred_iou_thresh=0.3"]
    full, half = (
        Segmenter("dense", "starter", "cpu", precision=p, overrides=overrides)(pixels) for p in ("fp32", precision)
    )
    assert half.model["precision"] == precision
    best = [
        max((a.decode() & b.decode()).sum() / (a.decode() | b.decode()).sum() for b in half.masks) for a in full.masks
    ]
    assert len(best) >= 4 and sum(best) / len(best) > 0.9
