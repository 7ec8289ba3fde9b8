"""TinyViT as MobileSAM publishes it, written down again, against the starter's encoder with converted weights."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densecli.tiny_vit import SamNeck, TinyViTTrunk, WindowAttention

CHANNELS, DEPTHS, HEADS, WINDOWS, D_MODEL = (16, 32, 48, 64), (1, 1, 2, 1), (2, 3, 4), (3, 6, 3), 32


def _with_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(c=convolution, bn=nn.BatchNorm2d(outputs)))


def _names(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


class Published(nn.Module):
    """The names and the arithmetic of MobileSAM's image encoder, pixel by pixel where it has windows."""

    def __init__(self) -> None:
        super().__init__()
        c = CHANNELS
        self.patch_embed = _names(
            seq=nn.Sequential(_with_norm(3, c[0] // 2, 3, 2), nn.GELU(), _with_norm(c[0] // 2, c[0], 3, 2))
        )
        self.layers = nn.ModuleList()
        for stage, width in enumerate(c):
            make = self._residual if stage == 0 else self._block
            layer = _names(blocks=nn.ModuleList(make(stage, width) for _ in range(DEPTHS[stage])))
            if stage < 3:
                after, stride = c[stage + 1], 1 if stage == 2 else 2
                layer["downsample"] = _names(
                    conv1=_with_norm(width, after),
                    conv2=_with_norm(after, after, 3, stride, after),
                    conv3=_with_norm(after, after),
                )
            self.layers.append(layer)
        self.norm_head, self.head = nn.LayerNorm(c[3]), nn.Linear(c[3], 10)
        norms = [nn.GroupNorm(1, D_MODEL) for _ in range(2)]  # weight and bias alone are used
        self.neck = nn.Sequential(
            nn.Conv2d(c[3], D_MODEL, 1, bias=False),
            norms[0],
            nn.Conv2d(D_MODEL, D_MODEL, 3, padding=1, bias=False),
            norms[1],
        )
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.3) if p.dim() < 2 else p.normal_(0, p[0].numel() ** -0.5)
            for m in self.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.running_mean.normal_(0, 0.3)
                    m.running_var.uniform_(0.5, 2)

    def _residual(self, stage: int, width: int) -> nn.ModuleDict:
        wide = 4 * width
        return _names(
            conv1=_with_norm(width, wide), conv2=_with_norm(wide, wide, 3, 1, wide), conv3=_with_norm(wide, width)
        )

    def _block(self, stage: int, width: int) -> nn.ModuleDict:
        attn = _names(norm=nn.LayerNorm(width), qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        attn.register_parameter(
            "attention_biases", nn.Parameter(torch.zeros(HEADS[stage - 1], WINDOWS[stage - 1] ** 2))
        )
        mlp = _names(norm=nn.LayerNorm(width), fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width))
        return _names(attn=attn, mlp=mlp, local_conv=_with_norm(width, width, 3, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed["seq"](x)
        for stage, layer in enumerate(self.layers):
            for block in layer["blocks"]:
                x = self._narrowed(block, x) if stage == 0 else self._looked_around(block, x, stage)
            if stage < 3:
                merging = layer["downsample"]
                x = merging["conv3"](F.gelu(merging["conv2"](F.gelu(merging["conv1"](x)))))
        first, norm1, second, norm2 = self.neck
        return _over_channels(second(_over_channels(first(x), norm1)), norm2)

    def _narrowed(self, block: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        inner = F.gelu(block["conv2"](F.gelu(block["conv1"](x))))
        return F.gelu(x + block["conv3"](inner))

    def _looked_around(self, block: nn.ModuleDict, x: torch.Tensor, stage: int) -> torch.Tensor:
        side, heads = WINDOWS[stage - 1], HEADS[stage - 1]
        _, channels, height, width = x.shape
        padded = F.pad(x, (0, -width % side, 0, -height % side))
        seen = torch.zeros_like(padded)
        for top in range(0, padded.shape[2], side):
            for left in range(0, padded.shape[3], side):
                window = padded[:, :, top : top + side, left : left + side].flatten(2).mT
                found = self._attended(block["attn"], window, heads, side)
                seen[:, :, top : top + side, left : left + side] = found.mT.unflatten(2, (side, side))
        x = block["local_conv"](x + seen[:, :, :height, :width])
        mlp, tokens = block["mlp"], x.flatten(2).mT
        tokens = tokens + mlp["fc2"](F.gelu(mlp["fc1"](mlp["norm"](tokens))))
        return tokens.mT.unflatten(2, (height, width))

    def _attended(self, attn: nn.ModuleDict, x: torch.Tensor, heads: int, side: int) -> torch.Tensor:
        qkv = attn["qkv"](attn["norm"](x)).unflatten(2, (heads, -1))
        out = []
        for head in range(heads):
            query, key, value = qkv[:, :, head].chunk(3, -1)
            scores = query @ key.mT / query.shape[-1] ** 0.5
            for i in range(side * side):
                for j in range(side * side):
                    away = abs(i // side - j // side) * side + abs(i % side - j % side)
                    scores[:, i, j] += attn.attention_biases[head, away]
            out.append(scores.softmax(-1) @ value)
        return attn["proj"](torch.cat(out, -1))


def _over_channels(x: torch.Tensor, norm: nn.GroupNorm) -> torch.Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), (D_MODEL,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)


class Starter(nn.Module):
    """Named as in `checkpoints/starter.yaml`."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = TinyViTTrunk(CHANNELS, DEPTHS, HEADS, WINDOWS)
        self.neck = SamNeck(D_MODEL, self.trunk.channel_list)


@torch.no_grad()
@pytest.mark.parametrize("side", [48, 64, 80], ids=["windows fit", "a margin", "another margin"])
def test_is_mobile_sams_encoder(side: int) -> None:
    from training.mobile_sam import converted

    torch.manual_seed(side)
    published = Published().eval()
    given = {f"image_encoder.{name}": value for name, value in published.state_dict().items()}
    weights = {k: v for k, v in converted(given).items() if k.startswith("image_encoder.")}
    starter = Starter()
    starter.load_state_dict({name.removeprefix("image_encoder."): value for name, value in weights.items()})
    image = torch.randn(2, 3, side, side)
    expected = published(image)
    (found,), (position,) = starter.neck(starter.trunk(image))
    assert found.shape == position.shape == (2, D_MODEL, side // 16, side // 16)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_prompt_encoder_and_decoder_keep_their_names() -> None:
    from training.mobile_sam import converted

    value = torch.ones(2)
    found = converted(
        {"mask_decoder.transformer.layers.1.mlp.lin2.bias": value, "prompt_encoder.no_mask_embed.weight": value}
    )
    assert found["sam_mask_decoder.transformer.layers.1.mlp.layers.1.bias"] is value
    assert found["sam_prompt_encoder.no_mask_embed.weight"] is value


@pytest.mark.parametrize(
    "name", ["image_encoder.layers.1.blocks.0.other.weight", "image_encoder.x.y", "decoder.weight"]
)
def test_a_tensor_without_a_place_is_refused(name: str) -> None:
    from training.mobile_sam import converted

    with pytest.raises(ValueError, match=name):
        converted({name: torch.ones(1)})


def test_other_weights_are_not_taken_for_mobile_sams(tmp_path, capsys) -> None:
    from training.mobile_sam import main

    torch.save({"x": torch.ones(1)}, tmp_path / "mobile_sam.pt")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "mobile_sam.pt"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "is not that of MobileSAM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_windows_do_not_see_each_other() -> None:
    attention = WindowAttention(8, 2, 4)
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, :4, :4] += 1
    differs = (attention(x) != attention(changed)).any(-1)[0]
    assert differs[:4, :4].all() and not differs[4:].any() and not differs[:, 4:].any()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_beyond_float16(dtype: torch.dtype) -> None:
    """MobileSAM's own reach 270,000 before its last norm."""
    neck = SamNeck(D_MODEL, [8])
    neck.layers[2].weight.mul_(2000)
    image = torch.randn(1, 8, 4, 4)
    expected = neck([image])[0][0]
    with torch.autocast("cpu", dtype=dtype):
        found = neck([image])[0][0]
    assert float((found.float() - expected).norm() / expected.norm()) < 0.05
