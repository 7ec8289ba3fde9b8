"""The page's server: who may ask, and that its answers are what the engine gives."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import densecli.tune
from densecli import Segmenter
from densecli.engine.parameters import CleanupParameters, GeneratorParameters
from densecli.engine.reasons import reasons, verdicts_at
from densecli.masks import decode_rle
from densecli.presets import load_preset
from densecli.tune.controls import FIXED_KEYS
from densecli.tune.export import Origin
from densecli.tune.server import _picture, application
from densecli.tune.state import FLOOR, Tuning
from tests.tune.conftest import OVERRIDES, TOKEN, Client

PAGE = Path(densecli.tune.__file__).parent / "page"
QUESTIONS = ("start", "scores", "choose", "why", "preset", "command", "add-points", "finish", "job", "stop")
JSON = {"content-type": "application/json"}

wishes = st.fixed_dictionaries(
    {},
    optional={
        "pred_iou_thresh": st.integers(30, 100).map(lambda n: n / 100),
        "stability_score_thresh": st.integers(50, 100).map(lambda n: n / 100),
        "box_nms_thresh": st.integers(0, 100).map(lambda n: n / 100),
        "min_mask_region_area": st.integers(0, 5000),
        "max_mask_area_fraction": st.sampled_from([None, 0.5, 0.1, 1]),
        "parts": st.sampled_from(["keep", "drop", "wholes"]),
        "parts_min_siblings": st.integers(1, 6),
    },
)


def as_overrides(values: dict[str, Any]) -> list[str]:
    return [*OVERRIDES, *(f"{key}={'null' if value is None else value}" for key, value in values.items())]


# --- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é", "%74he-token"])
def test_wrong_token_is_forbidden(client: Client, token: str) -> None:
    for path in ("", "tune.js", "photo.jpg", "nothing", *(f"api/{name}" for name in QUESTIONS)):
        for method in ("GET", "POST", "HEAD", "PUT"):
            answer = client.send(method, f"/{token}/{path}", b"{}", JSON)
            assert answer.status == 403, (method, path)
            assert TOKEN.encode() not in answer.body


def test_missing_token_is_forbidden(client: Client) -> None:
    for path in ("/", "", "/index.html", "/tune.js", "/api/start", "//" + TOKEN + "/", "*", "/favicon.ico"):
        assert client.get(path).status == client.send("POST", path, b"{}", JSON).status == 403, path


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "0.0.0.0"])
def test_another_name_for_this_machine_is_forbidden(client: Client, host: str) -> None:
    """DNS rebinding: the page of another site whose name was made to resolve to 127.0.0.1."""
    assert client.get(f"/{TOKEN}/", host=host).status == 403
    assert client.send("POST", f"/{TOKEN}/api/start", b"{}", JSON, host=host).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"])
def test_another_origin_is_forbidden(client: Client, origin: str) -> None:
    assert client.send("POST", f"/{TOKEN}/api/start", b"{}", JSON | {"origin": origin}).status == 403


def test_this_machine_by_any_of_its_names_is_let_in(client: Client) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]"):
        headers = JSON | {"origin": f"http://{host}:1234"}
        assert client.send("POST", f"/{TOKEN}/api/start", b"{}", headers, host=host).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "..%2f..%2fetc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..\\..\\secret",
        "/etc/passwd",
        "page/../server.py",
        "server.py",
        "index.html/..",
        "tune.js/",
        "tune.js%00",
        ".",
        "..",
        "api",
        "api/",
        "api/../tune.js",
        "api/unknown",
        "photo.jpg/../../x",
        "\x00",
    ],
)
def test_path_tricks_find_nothing(client: Client, path: str) -> None:
    assert client.get(f"/{TOKEN}/{path}").status in (404, 307)  # 307: back to the same path without the slash
    assert client.send("POST", f"/{TOKEN}/{path}", b"{}", JSON).status in (404, 307)


def test_questions_are_posts_of_json(client: Client) -> None:
    for name in QUESTIONS:
        assert client.get(f"/{TOKEN}/api/{name}").status == 405
    ask = f"/{TOKEN}/api/choose"
    assert client.send("POST", ask, b"{}", {"content-type": "text/plain"}).status == 415
    assert client.send("POST", ask, b"{}").status == 415
    assert client.send("POST", ask, b" " * 70_000, JSON).status == 413
    for body in (b"{", b"[]", b"1", b"\xff", b"[" * 60_000):
        assert client.send("POST", ask, body, JSON).status == 400


def test_page_asks_nothing_of_other_hosts(client: Client) -> None:
    answer = client.get(f"/{TOKEN}/")
    assert answer.status == 200 and b"densecli tune" in answer.body
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "*" not in policy and "http" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] == "no-store"
    for file in PAGE.iterdir():
        name = "" if file.name == "index.html" else file.name
        sent = client.get(f"/{TOKEN}/{name}")
        assert sent.status == 200 and sent.body == file.read_bytes()
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}, file.name
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|javascript:", text) or file.suffix != ".html"


def test_photo_is_a_picture_of_its_size(client: Client, photo: np.ndarray) -> None:
    with Image.open(io.BytesIO(client.get(f"/{TOKEN}/photo.jpg").body)) as picture:
        shown = np.asarray(picture)
    assert shown.shape == photo.shape and np.abs(shown.astype(int) - photo).mean() < 4
    start = client.ask("start")
    assert start["photo"]["shown"] == [start["photo"]["width"], start["photo"]["height"]] == [160, 107]


# --- what it answers -------------------------------------------------------------------------------------------------


def test_every_key_is_on_the_page(client: Client, tuning: Tuning) -> None:
    start = client.ask("start")
    controls = {control["key"]: control for control in start["controls"]}
    fixed = {entry["key"] for entry in start["fixed"]}
    keys = {*GeneratorParameters.model_fields, *CleanupParameters.model_fields}
    assert {*controls, *fixed, "crop_nms_thresh"} == keys and fixed == set(FIXED_KEYS)
    assert set(start["values"]) == {*controls, "points_per_side"}
    for key, control in controls.items():
        assert control["meaning"] and control["label"], key
        client.ask("choose", **{key: start["values"][key]})
        if control["kind"] == "number":
            assert control["slider_min"] <= (start["values"][key] or 0.5) <= control["slider_max"]
            client.ask("choose", **{key: control["min"]}, status=400 if control["above_min"] else 200)
            client.ask("choose", **{key: 10**6 if control["max"] is None else control["max"]})
            for end in ("slider_min", "slider_max"):
                client.ask("choose", **{key: control[end]})
        for choice in control.get("choices", ()):
            client.ask("choose", **{key: choice})
    floor = tuning.first.proposals.floor
    assert controls["pred_iou_thresh"]["min"] == floor.predicted_iou and controls["pred_iou_thresh"]["floor"]
    assert controls["stability_score_thresh"]["min"] == floor.stability


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=wishes)
def test_masks_and_funnel_are_those_of_the_engine(client: Client, tuning: Tuning, values: dict[str, Any]) -> None:
    answer = client.ask("choose", **values)
    expected = Segmenter.refilter(tuning.first, "dense", as_overrides(values))
    assert not answer["unfinished"]
    assert answer["funnel"] == {"points": 64, **expected.funnel}
    assert answer["advice"] == expected.advice and len(answer["masks"]) == len(expected.masks)
    for sent, mask in zip(answer["masks"], expected.masks, strict=True):
        assert [sent[k] for k in ("id", "area", "parent", "color")] == [mask.id, mask.area, mask.parent, mask.color]
        x, y, w, h = sent["bbox"]
        assert np.array_equal(decode_rle({"size": [h, w], "counts": sent["counts"]}), mask.decode_window()[2])
        assert (x, y) == mask.bbox[:2]


@pytest.mark.parametrize("shape", [(2, 70_000, 3), (70_000, 1, 3), (100, 20_000, 3)])
def test_a_long_photo_is_shown_at_a_length_that_jpeg_and_browsers_have(shape: tuple[int, int, int]) -> None:
    picture, (width, height) = _picture(np.full(shape, 90, np.uint8))
    with Image.open(io.BytesIO(picture)) as shown:
        assert shown.size == (width, height)
        assert shown.getpixel((width - 1, height - 1)) == pytest.approx((90, 90, 90), abs=3)
    assert max(width, height) == 16_384 and min(width, height) == max(1, round(min(shape[:2]) * 16_384 / max(shape)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pred_iou_thresh": 1.5}, "generator.pred_iou_thresh: 1.5 given; allowed: a number from 0 to 1"),
        ({"pred_iou_thresh": "0.5"}, "allowed: a number from 0 to 1"),
        ({"pred_iou_thresh": 0.1}, "from pred_iou_thresh 0.3 up only"),
        ({"min_mask_region_area": -1}, "allowed: a whole number of at least 0"),
        (
            {"min_mask_region_area": 1 << 63},
            "min_mask_region_area: 9223372036854775808 given; allowed: smaller numbers",
        ),
        ({"min_mask_region_area": 10**4000}, "a huge number given; allowed: smaller numbers"),
        ({"min_mask_region_area": 1.5}, "allowed: a whole number"),
        ({"parts": "some"}, "allowed: keep or drop or wholes"),
        ({"pred_iou_tresh": 0.5}, "nearest"),
        ({"max_memory_gb": 1}, "max_memory_gb"),
        ({"points_per_side": 9}, "not asked for 9 points a side"),
        ({"crop_n_layers": 1}, "crop_n_layers 0, not of 1"),
        ({"mask_threshold": [1]}, "a list given"),
    ],
)
def test_bad_values_are_one_line(client: Client, values: dict[str, Any], said: str) -> None:
    for name in ("choose", "why"):
        error = client.ask(name, {"values": values, "x": 1, "y": 1}, status=400)["error"]
        assert said in error and "\n" not in error
    assert client.failures == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.sampled_from([*GeneratorParameters.model_fields, *CleanupParameters.model_fields, "x"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers()),
        max_size=3,
    )
)
def test_any_values_are_answered_or_refused(client: Client, values: dict[str, Any]) -> None:
    content = json.dumps({"values": values}).encode()  # NaN and Infinity too
    answer = client.send("POST", f"/{TOKEN}/api/choose", content, JSON)
    assert answer.status in (200, 400) and client.failures == []
    assert answer.status == 200 or "\n" not in answer.json["error"]


def test_a_grid_with_crops(photo: np.ndarray) -> None:
    overrides = ["points_per_side=6", "crop_n_layers=1", "crop_n_points_downscale_factor=2"]
    segmenter = Segmenter("dense", "starter", "cpu", overrides=overrides)
    kept = segmenter(photo, keep_candidates=FLOOR).proposals
    assert kept is not None
    origin = Origin("desk.png", "dense", load_preset("dense"), [])
    client = Client(application(Tuning(kept, segmenter.preset, None), origin, TOKEN, lambda text, error: None))
    assert "crop_nms_thresh" in {control["key"] for control in client.ask("start")["controls"]}
    for value in (0.1, 0.9):
        values = {"crop_nms_thresh": value, "min_mask_region_area": 0}
        wanted = Segmenter.refilter(
            kept, "dense", [*overrides, f"crop_nms_thresh={value}", "min_mask_region_area=0", "ask_for_wholes=false"]
        )
        answer = client.ask("choose", **values)
        assert [m["area"] for m in answer["masks"]] == [m.area for m in wanted.masks]
        assert "after_crop_edge" in answer["funnel"]
        assert client.ask("why", {"values": values, "x": 80, "y": 50})["candidates"]
    assert "-s crop_n_layers=1" in client.ask("command")["text"]


def test_scores_never_seem_to_pass_a_threshold_that_they_fail(client: Client, tuning: Tuning) -> None:
    sent = client.ask("scores")
    candidates = tuning.first.proposals.candidates
    for name, true in (("predicted_iou", candidates.predicted_iou), ("stability", candidates.stability)):
        exact = np.nan_to_num(true.numpy(), nan=-0.001)
        assert len(sent[name]) == len(exact)
        assert (np.array(sent[name]) / 1000 <= exact + 1e-9).all() and (np.abs(sent[name] - exact * 1000) <= 1).all()


def test_why_names_the_candidates_at_a_pixel(client: Client, tuning: Tuning) -> None:
    values = {"pred_iou_thresh": 0.5, "min_mask_region_area": 400, "parts": "drop", "parts_min_siblings": 1}
    masks = {m["id"]: m for m in client.ask("choose", **values)["masks"]}
    wish, proposals = tuning.resolved(values), tuning.first.proposals
    found = reasons(proposals, wish.generator, wish.cleanup)
    named = set()
    for at_x, at_y in [(x, y) for x in range(10, 160, 20) for y in range(10, 107, 20)]:
        answer = client.ask("why", {"values": values, "x": at_x, "y": at_y})
        expected = verdicts_at(proposals, found, at_x, at_y)
        assert [c["candidate"] for c in answer["candidates"]] == [v.candidate for v in expected][:60]
        assert answer["more"] == (len(expected) > 60)
        kept = [c for c in answer["candidates"] if c["mask"] is not None]
        assert answer["candidates"][: len(kept)] == kept
        named |= {c["mask"] for c in kept}
        for candidate in answer["candidates"]:
            x, y, w, h = candidate["bbox"]
            window = decode_rle({"size": [h, w], "counts": candidate["counts"]})
            assert window[at_y - y, at_x - x] and window.sum() == candidate["area"]
            if candidate["mask"] is None:
                assert candidate["why"] and candidate["filter"]
            else:
                assert candidate["why"] is None
                assert masks[candidate["mask"]]["predicted_iou"] == candidate["predicted_iou"]
    assert named == set(masks)  # each of these masks is larger than the gaps between the places


def test_let_in_lets_it_past_that_filter(client: Client) -> None:
    """What the page offers as a way in does take the candidate past the filter that took it."""
    values: dict[str, Any] = {"pred_iou_thresh": 0.9, "stability_score_thresh": 0.85, "box_nms_thresh": 0.3}
    tried: set[str] = set()
    for x, y in [(80, 50), (20, 20), (140, 90), (60, 100), (110, 30)]:
        for candidate in client.ask("why", {"values": values, "x": x, "y": y})["candidates"]:
            way = candidate["let_in"]
            if way is None or candidate["filter"] in tried:
                continue
            tried.add(candidate["filter"])
            now = client.ask("why", {"values": values | {way["key"]: way["value"]}, "x": x, "y": y})["candidates"]
            again = next((c for c in now if c["candidate"] == candidate["candidate"]), None)
            assert again is None or again["why"] != candidate["why"], candidate
    assert tried >= {"predicted_iou", "stability", "nms"}


@pytest.mark.parametrize("place", [(-1, 0), (160, 0), (0, 107), ("1", 1), (True, 1), (None, 1), (1.5, 1)])
def test_pixels_outside_are_refused(client: Client, place: tuple[Any, Any]) -> None:
    client.ask("why", {"x": place[0], "y": place[1]}, status=400)


def test_what_should_not_happen_is_said_on_the_terminal(client: Client, tuning: Tuning) -> None:
    del tuning.start
    assert "AttributeError" in client.ask("choose", status=500)["error"]
    assert len(client.failures) == 1 and "unexpected AttributeError: " in client.failures[0]
