"""`densecli tune`: from a move of a slider to the masks, for a dense 2-megapixel photo and the starter.

Server: what a move costs until the answer is JSON. Page: from the slider's event in headless Chromium to the frame
that shows the masks, the server's part included.

    python benchmarks/tune.py [--photo FILE | --candidates FILE] [--points 64] [--no-browser]
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from common import photo, table

sys.path.insert(0, str(Path(__file__).parents[1]))

from densecli import Segmenter
from densecli.image_candidates import ImageCandidates
from densecli.presets import load_preset
from densecli.tune import answers
from densecli.tune.export import Origin
from densecli.tune.server import application
from densecli.tune.state import FLOOR, Tuning
from tests.e2e.chromium import CHROMEDRIVER, CHROMIUM, Chromium

# Each slider, there and back, so that every answer is a new one.
MOVES: dict[str, list[float]] = {
    "pred_iou_thresh": [0.46, 0.5, 0.4, 0.35, 0.3, 0.6],
    "stability_score_thresh": [0.72, 0.8, 0.65, 0.6, 0.5, 0.9],
    "box_nms_thresh": [0.72, 0.8, 0.65, 0.5, 0.85, 0.9],
    "min_mask_region_area": [600, 1000, 5000, 250, 100, 0],
    "max_mask_area_fraction": [0.95, 0.5, 0.25, 0.1, 0.05, 0.9],
}
REPEATS = 3
# Fires the slider's event, and answers once the frame with its masks is drawn.
_MOVE = """
const [key, value, done] = arguments;
const slider = document.querySelector(`[type=range][data-key=${key}]`), number = document.getElementById(`set-${key}`);
const begin = performance.now();
number.value = value;
number.dispatchEvent(new Event("input", {bubbles: true}));
(function look() {
  if (JSON.parse(document.body.dataset.shown)[key] !== value) return setTimeout(look, 1);
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
})();
"""


def server_times(tuning: Tuning) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {}
    for (key, values), _ in itertools.product(MOVES.items(), range(REPEATS)):
        for value in values:
            begin = time.perf_counter()
            wish = tuning.resolved({key: value})
            json.dumps(answers.choice(tuning, *tuning.choose(wish)))
            taken.setdefault(key, []).append(1000 * (time.perf_counter() - begin))
    return taken


def page_times(tuning: Tuning) -> dict[str, list[float]]:
    listening = socket.create_server(("127.0.0.1", 0))
    origin = Origin("photo.jpg", "dense", load_preset("dense"), [])
    app = application(tuning, origin, "token", lambda text, error: print(text, file=sys.stderr))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as profile:
        browser = Chromium(Path(profile))
        browser.visit(f"http://127.0.0.1:{listening.getsockname()[1]}/token/")
        browser.wait(lambda: browser.js("return document.body.dataset.shown"), "the page")
        browser.driver.set_script_timeout(60)
        for (key, values), _ in itertools.product(MOVES.items(), range(REPEATS)):
            for value in values:
                taken.setdefault(key, []).append(browser.driver.execute_async_script(_MOVE, key, value))
            browser.one("#reset").click()
            time.sleep(0.5)
        browser.driver.quit()
    server.should_exit = True
    return taken


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--photo", help="default: a photo of scikit-image, scaled to 2.16 megapixels")
    arguments.add_argument("--candidates", help="a .candidates file, instead of a run of the model")
    arguments.add_argument("--points", type=int, default=64)
    arguments.add_argument("--no-browser", action="store_true")
    asked = arguments.parse_args()
    kept: Any
    if asked.candidates:
        kept = ImageCandidates.load(asked.candidates)
    else:
        segmenter = Segmenter("dense", "starter", "cpu", overrides=[f"points_per_side={asked.points}"])
        kept = segmenter(photo(None if asked.photo else 2.16, asked.photo), keep_candidates=FLOOR).proposals
    tuning = Tuning(kept, load_preset("dense"), None)
    columns = {"server": server_times(tuning)}
    if CHROMIUM is None or CHROMEDRIVER is None:
        print("Chromium or chromedriver is not installed: without the page")
    elif not asked.no_browser:
        columns["page"] = page_times(tuning)
    rows = []
    for key in MOVES:
        row = [key]
        for taken in columns.values():
            row += [f"{statistics.median(taken[key]):.0f}", f"{max(taken[key]):.0f}"]
        rows.append(row)
    height, width = kept.proposals.size
    title = f"A move of a slider, {width}×{height}, {len(kept.proposals):,} candidates kept"
    table(title, ["slider", *(f"{name}, ms, {what}" for name in columns for what in ("median", "worst"))], rows)


if __name__ == "__main__":
    main()
