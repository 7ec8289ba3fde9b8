"""The re-associated decoder against sam2's own, on random weights and features of every official shape."""

from __future__ import annotations

import pytest
import torch

from densecli import checkpoints, model
from densecli.engine.decoder import PromptDecoder
from densecli.engine.encoder import Features
from densecli.engine.two_way import TwoWayTransformer

NAMES = ["tiny", "small", "base-plus", "large"]
POINTS = torch.tensor([[100.0, 200.0], [512.0, 512.0], [900.0, 30.0], [5.0, 1000.0]])


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    config = model.config_path(checkpoints.load_registry().entry(request.param))
    network = model.build_network(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in [*network.sam_mask_decoder.parameters(), *network.sam_prompt_encoder.parameters()]:
            # Signals keep their size through the layers; biases and norms are random too, to be seen.
            p.add_(0.1 * torch.randn_like(p)) if p.dim() < 2 else p.normal_(0, p[0].numel() ** -0.5)
    return network.requires_grad_(False)


def features(network) -> Features:
    torch.manual_seed(2)
    side = network.image_size // 16
    channels = network.hidden_dim
    return Features(
        torch.randn(1, channels, side, side),
        (torch.randn(1, channels // 8, 4 * side, 4 * side), torch.randn(1, channels // 4, 2 * side, 2 * side)),
    )


def reference(network, of: Features, multimask: bool, prompts: torch.Tensor | None):
    """Low-resolution logits and predicted IoU of sam2's prompt encoder and mask decoder."""
    labels = torch.ones(len(POINTS), 1, dtype=torch.int)
    masks = None if prompts is None else prompts.clamp(-32, 32)[:, None]
    sparse, dense = network.sam_prompt_encoder(points=(POINTS[:, None], labels), boxes=None, masks=masks)
    logits, predicted_iou, _, _ = network.sam_mask_decoder(
        image_embeddings=of.embedding,
        image_pe=network.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        repeat_image=True,
        high_res_features=list(of.high_res),
    )
    return logits, predicted_iou


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("with_prompt", [False, True], ids=["points", "m2m"])
def test_float32(network, multimask: bool, with_prompt: bool) -> None:
    of = features(network)
    prompts = 10 * torch.randn(len(POINTS), 256, 256) if with_prompt else None
    expected, expected_iou = reference(network, of, multimask, prompts)
    decoded = PromptDecoder(network, of, torch.float32).decode(
        POINTS, tile=3, multimask_output=multimask, pred_iou_thresh=0.0, mask_prompts=prompts
    )
    assert decoded.keep.all()
    assert relative_error(decoded.logits.view_as(expected), expected) < 1e-5
    assert torch.allclose(decoded.predicted_iou, expected_iou, atol=1e-5)


def test_image_tokens_stay_factors_where_prompts_share_them(network, monkeypatch) -> None:
    """Points of a grid, boxes with a click; not mask prompts, and not half precision, whose squares it would spoil."""
    written_out: list[int] = []  # prompts at a time
    real = TwoWayTransformer.transform
    monkeypatch.setattr(
        TwoWayTransformer, "transform", lambda self, pe, *rest: written_out.append(len(pe)) or real(self, pe, *rest)
    )
    decoder = PromptDecoder(network, features(network), torch.float32)
    options = {"tile": 4, "multimask_output": True, "pred_iou_thresh": 1.0}
    decoder.decode(POINTS, **options)
    decoder.decode(POINTS[None, :3], labels=torch.tensor([[2, 3, 1]], dtype=torch.int), **options)
    assert written_out == []
    decoder.decode(POINTS, mask_prompts=torch.zeros(len(POINTS), 256, 256), **options)
    # A tile is of all threads. Written out, tokens take some ten times the memory: one share at a time.
    share = max(1, 4 // torch.get_num_threads())
    assert sum(written_out) == len(POINTS) and max(written_out) == share


# A CPU imitates bfloat16, slowly.
@pytest.mark.parametrize(
    "network",
    [n if n == "tiny" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
    indirect=True,
)
def test_bfloat16(network) -> None:
    of = features(network)
    expected, expected_iou = reference(network, of, True, None)
    half = Features(of.embedding.bfloat16(), tuple(m.bfloat16() for m in of.high_res))
    decoded = PromptDecoder(network, half, torch.bfloat16).decode(
        POINTS, tile=4, multimask_output=True, pred_iou_thresh=0.0
    )
    assert decoded.logits.dtype == torch.float32
    assert relative_error(decoded.logits.view_as(expected), expected) < 2e-2
    assert torch.allclose(decoded.predicted_iou, expected_iou, atol=2e-2)


@pytest.mark.parametrize("tile", [1, 2, 4])
def test_only_survivors_have_logits(network, tile: int) -> None:
    of = features(network)
    decoder = PromptDecoder(network, of, torch.float32)
    everything = decoder.decode(POINTS, tile=4, multimask_output=True, pred_iou_thresh=0.0)
    threshold = float(everything.predicted_iou.flatten().sort().values[5:7].mean())  # between two values
    some = decoder.decode(POINTS, tile=tile, multimask_output=True, pred_iou_thresh=threshold)
    assert torch.equal(some.keep, everything.predicted_iou > threshold) and 0 < some.keep.sum() < some.keep.numel()
    assert relative_error(some.logits, everything.logits[some.keep.flatten()]) < 1e-5
    named = decoder.decode(POINTS, tile=tile, multimask_output=True, pred_iou_thresh=1.0, keep=some.keep)
    assert torch.equal(named.keep, some.keep) and relative_error(named.logits, some.logits) < 1e-5


def test_budgets_count_what_prompts_share(network) -> None:
    """All that a decoder holds on to for one crop, beside the network and the encoder's features."""
    of = features(network)
    decoder = PromptDecoder(network, of, torch.float32)
    decoder.decode(POINTS, tile=4, multimask_output=True, pred_iou_thresh=0.0)
    not_its_own = {x.untyped_storage().data_ptr() for x in [*network.parameters(), of.embedding, *of.high_res]}
    held = {}
    for part in (decoder._plain, decoder._factored, decoder._upscaler):
        values = [x for value in vars(part).values() for x in (value if isinstance(value, list | tuple) else [value])]
        storages = [x.untyped_storage() for x in values if isinstance(x, torch.Tensor)]
        held.update({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in not_its_own})
    shared = decoder.shape(True).shared_bytes
    assert 0.75 * shared < sum(held.values()) <= shared
