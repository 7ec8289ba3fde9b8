"""Row 2: the decoder alone, official tiny and large shapes with random weights, 64 points, reference and ours.

The reference runs its prompt encoder and mask decoder in one batch of 64, its default; ours keeps 0, 30 or 100 % of
the prompts, spread evenly, and makes logits for those.
"""

from __future__ import annotations

import argparse

import torch
from common import in_turn, official, ratio, reference_decode, show, table

from densecli.engine import memory
from densecli.engine.decoder import PromptDecoder
from densecli.engine.encoder import Features

POINTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shapes", nargs="*", default=["tiny", "large"])
    arguments = parser.parse_args()
    rows = []
    for name in arguments.shapes:
        network = official(name)
        torch.manual_seed(0)
        channels, side = network.hidden_dim, network.image_size // 16
        features = Features(
            torch.randn(1, channels, side, side),
            (torch.randn(1, channels // 8, 4 * side, 4 * side), torch.randn(1, channels // 4, 2 * side, 2 * side)),
        )
        points = torch.rand(POINTS, 2) * network.image_size
        decoder = PromptDecoder(network, features, torch.float32)
        tile = memory.choose_batch_size(POINTS, torch.device("cpu"), 1 << 40, decoder.shape(True)).tile

        @torch.inference_mode()
        def reference(network=network, features=features, points=points) -> None:
            reference_decode(network, features, points)

        for survive in (0.0, 0.3, 1.0):
            keep = torch.zeros(POINTS, 3, dtype=torch.bool)
            keep[torch.linspace(0, POINTS - 1, round(survive * POINTS)).long()] = True

            @torch.inference_mode()
            def ours(decoder=decoder, points=points, tile=tile, keep=keep) -> None:
                decoder.decode(points, tile=tile, multimask_output=True, pred_iou_thresh=0.5, keep=keep)

            ours()
            slow, fast = in_turn(arguments.runs, reference, ours)
            rows.append([name, f"{survive:.0%}", show(slow), show(fast), ratio(slow, fast)])
    table(f"Decoder alone, {POINTS} points, float32", ["shape", "prompts kept", "reference s", "ours s", "ratio"], rows)


if __name__ == "__main__":
    main()
