"""MobileSAM's weights as those of the starter: `python -m training.mobile_sam mobile_sam.pt`.

SAM 2 kept SAM's prompt encoder and mask decoder; what it added to them (features of stride 4 and 8, a score for hidden
objects) its configs can leave away. So SAM's weights do in SAM 2's network what they do in SAM's, behind whatever image
encoder they were trained for. One thing differs: SAM 2 stretches a photo to a square, SAM fills it up with grey.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from densecli.files import sha256_of
from training.export import export

CONFIG = Path(__file__).parents[1] / "checkpoints" / "starter.yaml"
SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
"""Of `weights/mobile_sam.pt` in MobileSAM's own repository (github.com/ChaoningZhang/MobileSAM, Apache-2.0)."""

_BN_EPS = 1e-5
_UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")  # TinyViT's ImageNet classes
_RESIDUAL = {"conv1": "widen", "conv2": "filter", "conv3": "narrow"}
_MERGING = {"conv1": "widen", "conv2": "filter", "conv3": "mix"}
_BLOCK = {
    "attn.norm": "attention.norm",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "attn.attention_biases": "attention.biases",
    "local_conv": "filter",
    "mlp.norm": "norm",
    "mlp.fc1": "widen",
    "mlp.fc2": "narrow",
}


def converted(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by the names of `checkpoints/starter.yaml`, norms over batches folded into the convolutions before them.

    Raises ValueError for a tensor that has no place.
    """
    weights = {name: torch.zeros(1, 1, 256) for name in ("no_mem_embed", "no_mem_pos_enc")}
    weights["maskmem_tpos_enc"] = torch.zeros(1, 1, 1, 256)
    for name, value in _folded(source).items():
        if not name.startswith(_UNUSED):
            weights[_renamed(name)] = value
    return weights


def _folded(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for name, value in source.items():
        layer, _, last = name.rpartition(".c.")
        if layer:
            norm = {key: source[f"{layer}.bn.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
            factor = norm["weight"] / (norm["running_var"] + _BN_EPS).sqrt()
            out[f"{layer}.{last}"] = value * factor.view(-1, 1, 1, 1)
            out[f"{layer}.bias"] = norm["bias"] - norm["running_mean"] * factor
        elif ".bn." not in name:
            out[name] = value
    return out


def _renamed(name: str) -> str:
    part, _, rest = name.partition(".")
    if part in ("prompt_encoder", "mask_decoder"):
        return f"sam_{part}.{rest.replace('mlp.lin1.', 'mlp.layers.0.').replace('mlp.lin2.', 'mlp.layers.1.')}"
    if rest.startswith("neck."):
        return f"image_encoder.neck.layers.{rest.removeprefix('neck.')}"
    if rest.startswith("patch_embed.seq."):
        return f"image_encoder.trunk.stem.{rest.removeprefix('patch_embed.seq.')}"
    if rest.startswith("layers."):
        _, stage, kind, rest = rest.split(".", 3)
        if kind == "downsample":
            return f"image_encoder.trunk.merging.{stage}.{_in_words(rest, _MERGING, name)}"
        block, _, rest = rest.partition(".")
        words = _in_words(rest, _RESIDUAL if stage == "0" else _BLOCK, name)
        return f"image_encoder.trunk.stages.{stage}.{block}.{words}"
    raise ValueError(f"{name}: no tensor of MobileSAM")


def _in_words(rest: str, words: dict[str, str], name: str) -> str:
    for theirs, ours in words.items():
        if rest == theirs or rest.startswith(f"{theirs}."):
            return ours + rest.removeprefix(theirs)
    raise ValueError(f"{name}: no tensor of MobileSAM")


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m training.mobile_sam", description=__doc__.splitlines()[0])
    p.add_argument("weights", type=Path, help="mobile_sam.pt")
    p.add_argument("--config", type=Path, default=CONFIG, help="the network (default: %(default)s)")
    p.add_argument("--out", type=Path, default=Path("OUT"), help="folder for starter.safetensors and starter.yaml")
    a = p.parse_args(arguments)
    if (found := sha256_of(a.weights)) != SHA256:
        p.error(f"{a.weights}: SHA-256 {found} is not that of MobileSAM's mobile_sam.pt; get it again")
    source = torch.load(a.weights, map_location="cpu", weights_only=True)
    print(export(converted(source), a.config, a.out))


if __name__ == "__main__":
    main()
