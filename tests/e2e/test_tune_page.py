"""The page of `densecli tune` in headless Chromium, as a user works with it, compared with what the engine gives."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densecli import Segmenter
from densecli.masks import Segmentation
from densecli.presets import load_preset
from tests.conftest import Command
from tests.e2e.chromium import NEEDS_CHROMIUM, Chromium
from tests.e2e.tune_process import TuneProcess
from tests.same_masks import assert_same_masks

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install 'densecli[dev]')")
pytest.importorskip("starlette", reason="starlette is not installed (pip install 'densecli[web]')")
import uvicorn  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

from densecli.engine.reasons import reasons, verdicts_at  # noqa: E402
from densecli.tune.export import Origin  # noqa: E402
from densecli.tune.server import application  # noqa: E402
from densecli.tune.state import FLOOR, Tuning  # noqa: E402
from densecli.tune.wording import in_words  # noqa: E402

pytestmark = NEEDS_CHROMIUM
NAME = "my desk's.png"
# Thresholds of its own: those that a preset has for the starter change with its weights.
GRID = ["points_per_side=8", "min_mask_region_area=20", "pred_iou_thresh=0.80", "stability_score_thresh=0.85"]
OPTIONS = ("-m", "starter", *(word for value in GRID for word in ("-s", value)))


class Page(Chromium):
    """The page of one process; `values`: what the masks that are shown were made with."""

    process: TuneProcess

    def start(self, width: int = 1280, height: int = 800, scheme: str = "light") -> dict[str, Any]:
        """With the values of the preset, whatever the test before left in this tab."""
        if self.driver.current_url == self.process.url:
            self.js("sessionStorage.clear()")
        self.visit(self.process.url, width, height, scheme)
        return self.settled()

    def allows(self, button: str) -> bool:
        return self.one(f"#{button}").get_attribute("aria-disabled") == "false"

    def focused(self) -> str:
        return str(self.js("return document.activeElement.id"))

    @contextmanager
    def slow(self, name: str, milliseconds: int) -> Iterator[None]:
        """Hold back the answers to one question, as a large photo does."""
        self.js(
            "const true_fetch = window.true_fetch ||= window.fetch; const held = arguments[0], time = arguments[1];"
            "window.fetch = async (url, ...rest) => { const answer = await true_fetch(url, ...rest);"
            " if (url === held) await new Promise(resolve => setTimeout(resolve, time)); return answer; }",
            f"api/{name}",
            milliseconds,
        )
        yield
        self.js("window.fetch = window.true_fetch")

    @property
    def values(self) -> dict[str, Any]:
        shown = self.js("return document.body.dataset.shown")
        return json.loads(shown) if shown else {}

    def settled(self, **wanted: Any) -> dict[str, Any]:
        """Wait until masks are shown, made with these values."""

        def there() -> bool:
            values = self.values
            return bool(values) and all(values[key] == value for key, value in wanted.items())

        self.wait(there, f"masks of {wanted}")
        return self.values

    def slider(self, key: str) -> WebElement:
        return self.into_view(f"[type=range][data-key={key}]")

    def number(self, key: str) -> WebElement:
        return self.into_view(f"[type=number][data-key={key}]")

    def into_view(self, selector: str) -> WebElement:
        element = self.one(selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def type(self, key: str, text: str) -> None:
        field = self.number(key)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE, Keys.TAB)

    def at_pixel(self, x: int, y: int) -> tuple[int, int]:
        """Offset from the middle of the stage at which pixel x, y of the photo is shown."""
        box = self.js(
            "const r = document.getElementById('scene').getBoundingClientRect();"
            "const s = document.getElementById('stage').getBoundingClientRect();"
            "return [r.left - s.left - s.width / 2, r.top - s.top - s.height / 2, r.width, r.height]"
        )
        width, height = self.js("const o = document.getElementById('overlay'); return [o.width, o.height]")
        return round(box[0] + (x + 0.5) * box[2] / width), round(box[1] + (y + 0.5) * box[3] / height)

    def point(self, x: int, y: int) -> ActionChains:
        stage = self.one("#stage")
        return ActionChains(self.driver, duration=20).move_to_element_with_offset(stage, *self.at_pixel(x, y))

    def canvas(self, name: str) -> np.ndarray:
        """H×W×4 uint8."""
        drawn = self.js("return document.getElementById(arguments[0]).toDataURL()", name).partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(drawn))) as image:
            return np.asarray(image.convert("RGBA"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("tune page")
    Image.fromarray(photo).save(folder / NAME)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, folder: Path, run_densecli: Command) -> Iterator[Page]:
    downloads = folder / "downloads"
    downloads.mkdir()
    made = Page(tmp_path_factory.mktemp("profile"), downloads)
    made.process = TuneProcess(run_densecli, folder, NAME, *OPTIONS)
    yield made
    made.driver.quit()
    code, out, err = made.process.end()
    assert (code, out) == (0, "") and "Traceback" not in err and "error" not in err


@pytest.fixture(scope="module")
def kept(folder: Path) -> Any:
    """What the model proposed, found out apart from the page."""
    return Segmenter("dense", "starter", "cpu", overrides=GRID)(folder / NAME, keep_candidates=FLOOR).proposals


@pytest.fixture(autouse=True)
def no_complaints(page: Page) -> Iterator[None]:
    """No test may leave an error, a warning or a blocked request in the console, or ask another host."""
    page.complaints()
    yield
    assert page.complaints() == []
    asked = page.js("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith((page.process.url, "data:")) for name in asked)
    assert page.js("return document.getElementById('error').hidden")


def expected(kept: Any, values: dict[str, Any]) -> Segmentation:
    told = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    return Segmenter.refilter(kept, "dense", [*GRID, *told])


def assert_shown(page: Page, kept: Any, values: dict[str, Any]) -> Segmentation:
    """Masks, their colours, count, coverage and funnel on the page are what the engine makes of the values."""
    wanted = expected(kept, values)
    assert page.one("#count").text == str(len(wanted.masks))
    colors = np.zeros((1 + len(wanted.masks), 4), np.uint8)
    for mask in wanted.masks:
        colors[mask.id] = [*bytes.fromhex(mask.color[1:]), 255]
    assert np.array_equal(page.canvas("overlay"), colors[wanted.labels()])
    share = 100 * wanted.coverage
    assert page.one("#coverage").text == f"{share:.0f} %" if share >= 10 else f"{share:.1f} %"
    steps = page.js(
        "return Object.fromEntries([...document.querySelectorAll('#funnel li')].map("
        "e => [e.dataset.step, e.querySelector('b').textContent]))"
    )
    assert steps["points"] == "64"
    for step, text in steps.items():
        if step != "points":
            assert text == f"{wanted.funnel[step]:,}"
    return wanted


def middles(found: Segmentation) -> list[tuple[int, int, Any]]:
    """x, y and mask of pixels well inside what is to be seen of the masks, those with most room first."""
    import cv2

    places = []
    for mask in found.masks:
        room = cv2.distanceTransform(np.pad(found.labels() == mask.id, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(room.argmax()), room.shape)
        places.append((float(room.max()), int(x), int(y), mask))
    return [(x, y, mask) for room, x, y, mask in sorted(places, key=lambda p: -p[0]) if room >= 2]


def test_it_opens_with_the_masks_of_the_preset(page: Page, kept: Any) -> None:
    values = page.start()
    assert page.driver.title == f"{NAME} · densecli tune" and page.one("h1").text == NAME
    assert page.one("#facts").text == "160 × 107 · starter on cpu · preset dense"
    assert_shown(page, kept, values)
    assert page.js("const i = document.getElementById('photo'); return i.complete && i.naturalWidth") == 160
    assert page.one("#overlay").value_of_css_property("opacity") == "0.7"
    assert page.one("#floor").text == "Candidates below 0.3 and 0.5 were not kept: there the sliders begin."


@pytest.mark.parametrize(
    ("key", "keys", "value"),
    [
        ("pred_iou_thresh", [Keys.ARROW_RIGHT] * 3, 0.83),
        ("pred_iou_thresh", [Keys.HOME], 0.3),
        ("stability_score_thresh", [Keys.ARROW_LEFT] * 4, 0.81),
        ("stability_score_thresh", [Keys.HOME], 0.5),
        ("box_nms_thresh", [Keys.END], 0.95),
        ("min_mask_region_area", [Keys.ARROW_RIGHT] * 2, 30),
        ("min_mask_region_area", [Keys.HOME], 0),
        ("max_mask_area_fraction", [Keys.HOME], 0.01),
        ("max_mask_area_fraction", [Keys.ARROW_LEFT] * 2, 0.98),
    ],
)
def test_each_slider_moves_the_masks(page: Page, kept: Any, key: str, keys: list[str], value: float) -> None:
    before = page.start()
    page.slider(key).send_keys(*keys)
    after = page.settled(**{key: value})
    assert after == before | {key: value}
    assert float(page.number(key).get_attribute("value") or "nan") == value
    assert_shown(page, kept, after)


def test_lists_boxes_and_typed_numbers(page: Page, kept: Any) -> None:
    page.start()
    siblings = page.one(".control:has([data-key=parts_min_siblings])")
    assert not siblings.is_displayed()
    page.into_view("#set-parts").send_keys("drop")
    values = page.settled(parts="drop")
    assert siblings.is_displayed()
    assert_shown(page, kept, values)
    page.slider("parts_min_siblings").send_keys(Keys.HOME)
    assert_shown(page, kept, page.settled(parts_min_siblings=1))
    page.type("pred_iou_thresh", "0.523")
    page.type("max_mask_area_fraction", "0.25")
    page.type("min_mask_region_area", "77")
    values = page.settled(pred_iou_thresh=0.523, max_mask_area_fraction=0.25, min_mask_region_area=77)
    assert_shown(page, kept, values)
    page.type("max_mask_area_fraction", "")
    assert_shown(page, kept, page.settled(max_mask_area_fraction=None))


def test_numbers_that_are_not_allowed_go_back(page: Page) -> None:
    values = page.start()
    mistakes = [
        ("pred_iou_thresh", "0.1"),
        ("pred_iou_thresh", "2"),
        ("min_mask_region_area", "1.5"),
        ("min_mask_region_area", "-3"),
        ("stability_score_thresh", ""),
        ("box_nms_thresh", "-"),
    ]
    for key, text in mistakes:
        page.type(key, text)
        assert float(page.number(key).get_attribute("value") or "nan") == values[key], (key, text)
    assert page.settled(**values) == values and not page.allows("undo")


def test_dragging_the_line_of_a_histogram(page: Page, kept: Any) -> None:
    start = page.start()
    for key in ("pred_iou_thresh", "stability_score_thresh"):
        drawing = page.into_view(f".control:has([data-key={key}]) .histogram")
        width = drawing.size["width"]
        low = float(page.number(key).get_attribute("min") or "nan")
        at = round(8 + (width - 16) * (start[key] - low) / (1 - low) - width / 2)
        drag = ActionChains(page.driver, duration=50).move_to_element_with_offset(drawing, at, 0).click_and_hold()
        drag.move_by_offset(30, 0).move_by_offset(10, 0).release().perform()
        value = round(start[key] + 40 / (width - 16) * (1 - low), 2)
        reached = float(page.number(key).get_attribute("value") or "nan")
        assert reached == pytest.approx(value, abs=0.011)
        page.settled(**{key: reached})
    assert_shown(page, kept, page.values)
    # What was dragged through is one step for undo.
    for key in ("stability_score_thresh", "pred_iou_thresh"):
        page.one("#undo").click()
        page.settled(**{key: start[key]})
    assert not page.allows("undo")
    label = page.one(".histogram").get_attribute("aria-label") or ""
    assert "candidates are above the threshold" in label


def test_the_pointer_lights_a_mask_and_says_its_scores(page: Page, kept: Any) -> None:
    found = expected(kept, page.start())
    for x, y, mask in middles(found)[:4]:
        page.point(x, y).perform()
        page.wait(lambda mask=mask: page.one("#light").get_attribute("data-mask") == str(mask.id), f"mask {mask.id}")
        tip = page.one("#tip").text
        said = [f"mask {mask.id} ", f"{mask.area:,} px", f"predicted IoU {mask.predicted_iou:.3f}"]
        for text in [*said, f"stability {mask.stability_score:.3f}"]:
            assert text in tip
        assert (f"part of {mask.parent}" in tip) == (mask.parent is not None)
        light = page.canvas("light")
        assert np.array_equal(mask.decode(), (light[..., 3] == 0) | (light[..., 0] == 255))
    ActionChains(page.driver).move_to_element(page.one("#facts")).perform()
    assert not page.one("#tip").is_displayed() and not page.one("#light").is_displayed()


def below_the_threshold(kept: Any) -> tuple[int, int]:
    """x, y of a pixel where the first candidates listed include one that predicted IoU dropped."""
    resolved = load_preset("dense", [*GRID]).resolve("starter")
    found = reasons(kept.proposals, resolved.generator, resolved.cleanup)
    for y in range(10, 100, 10):
        for x in range(10, 155, 10):
            verdicts = verdicts_at(kept.proposals, found, x, y, 12)
            if any(found.filter(v.candidate) == "predicted_iou" for v in verdicts):
                return x, y
    raise AssertionError("predicted IoU dropped nothing")


def test_a_click_explains_what_was_dropped(page: Page, kept: Any) -> None:
    values = page.start()
    resolved = load_preset("dense", [*GRID]).resolve("starter")
    found = reasons(kept.proposals, resolved.generator, resolved.cleanup)
    seen: set[str | None] = set()
    for x, y in [(80, 50), (12, 10), (150, 20), below_the_threshold(kept)]:
        page.point(x, y).click().perform()
        page.wait(lambda x=x, y=y: page.one("#why-title").text.startswith(f"Pixel {x}, {y}:"), "an explanation")
        rows = page.all("#why-list li")
        wanted = verdicts_at(kept.proposals, found, x, y, 60)
        assert [int(row.get_attribute("data-candidate") or -1) for row in rows] == [v.candidate for v in wanted]
        for row, verdict in zip(rows[:12], wanted, strict=False):
            head = row.find_element("css selector", "b").text
            assert head == (f"mask {verdict.mask_id}" if verdict.loss is None else in_words(verdict.loss, found))
            assert f"predicted IoU {verdict.predicted_iou:.3f}" in row.text
            seen.add(row.get_attribute("data-filter"))
    assert seen >= {None, "predicted_iou"}
    # The shape of a candidate lights up under the pointer.
    dropped = next(i for i, verdict in enumerate(wanted) if verdict.loss is not None)
    page.js("arguments[0].scrollIntoView()", rows[dropped])
    ActionChains(page.driver).move_to_element(rows[dropped]).perform()
    page.wait(lambda: page.one("#light").get_attribute("data-mask") == f"candidate {wanted[dropped].candidate}", "it")
    light, verdict = page.canvas("light"), wanted[dropped]
    assert (((light[..., 3] == 0) | (light[..., 0] == 255)).sum()) == verdict.runs.area
    assert page.values == values
    page.one("#why-close").click()
    assert not page.one("#why").is_displayed()
    ActionChains(page.driver).move_to_element(page.one("#facts")).perform()
    assert not page.one("#light").is_displayed()


def test_let_it_pass_moves_the_threshold(page: Page, kept: Any) -> None:
    page.start()
    page.point(*below_the_threshold(kept)).click().perform()
    row = page.wait(lambda: page.all("#why-list li[data-filter=predicted_iou]"), "a dropped candidate")[0]
    score = float(row.text.split("predicted IoU ")[1].split(" <")[0])
    candidate = row.get_attribute("data-candidate")
    page.js("arguments[0].scrollIntoView()", row)
    row.find_element("css selector", "button").click()
    values = page.settled(
        pred_iou_thresh=page.wait(lambda: float(page.number("pred_iou_thresh").get_attribute("value") or 1), "it")
    )
    assert score - 0.02 < values["pred_iou_thresh"] < score + 0.01 < 0.81
    assert_shown(page, kept, values)
    # The explanation is of the values that hold now.
    again = f"#why-list li[data-candidate='{candidate}']"
    page.wait(lambda: page.one(again).get_attribute("data-filter") != "predicted_iou", "another reason")


def test_undo_redo_and_reset(page: Page, kept: Any) -> None:
    start = page.start()
    page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
    page.slider("box_nms_thresh").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    page.into_view("#set-parts").send_keys("wholes")
    last = page.settled(parts="wholes", box_nms_thresh=0.68, pred_iou_thresh=0.81)
    body = page.one("body")
    body.send_keys(Keys.CONTROL, "z")
    assert_shown(page, kept, page.settled(parts="keep"))
    body.send_keys(Keys.CONTROL, "z")
    body.send_keys(Keys.CONTROL, "z")
    body.send_keys(Keys.CONTROL, "z")
    assert page.settled(pred_iou_thresh=0.80, box_nms_thresh=0.7) == start
    assert not page.allows("undo") and page.number("box_nms_thresh").get_attribute("value") == "0.7"
    for _ in range(4):
        body.send_keys(Keys.CONTROL, Keys.SHIFT, "z")
    assert page.settled(parts="wholes") == last and not page.allows("redo")
    assert_shown(page, kept, last)
    page.one("#reset").click()
    assert page.settled(parts="keep") == start and not page.allows("reset")
    page.one("#undo").click()
    assert page.settled(parts="wholes") == last
    # A new move cuts off what was undone.
    body.send_keys(Keys.CONTROL, "z")
    page.settled(parts="keep")
    page.slider("stability_score_thresh").send_keys(Keys.ARROW_RIGHT)
    page.settled(stability_score_thresh=0.86)
    assert not page.allows("redo")


def test_preset_and_command_give_the_same_masks(page: Page, kept: Any, folder: Path, run_densecli: Command) -> None:
    page.start()
    page.slider("pred_iou_thresh").send_keys(Keys.ARROW_LEFT * 5)
    page.type("min_mask_region_area", "33")
    page.into_view("#set-parts").send_keys("drop")
    values = page.settled(pred_iou_thresh=0.75, min_mask_region_area=33, parts="drop")
    found = assert_shown(page, kept, values)
    page.one("#download").click()
    file = folder / "downloads" / "dense-tuned.yaml"
    page.wait(lambda: file.exists() and file.stat().st_size, "the download")
    checked = run_densecli("presets", "check", str(file), cwd=folder)
    assert (checked.code, checked.stdout, checked.stderr) == (0, f"{file}: ok\n", "")
    page.one("#copy").click()
    text = page.wait(lambda: page.one("#command-text").get_attribute("value"), "the command")
    assert page.one("#command-said").text in ("Copied:", "Copy this (Ctrl+C):")
    argv = shlex.split(text)
    assert argv[:3] == ["densecli", "segment", str(folder / NAME)]
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    wanted = [mask.summary() for mask in found.masks]
    stem = NAME.removesuffix(".png")
    done = run_densecli(*argv[1:], "-o", "out", "--save", "json", cwd=elsewhere)
    assert done.code == 0, done.stderr
    summary = json.loads((elsewhere / "out" / f"{stem}_masks.json").read_text(encoding="utf-8"))
    assert summary["model"]["name"] == "starter"
    assert_same_masks(summary["masks"], wanted)
    assert [mask.summary() for mask in Segmenter.refilter(kept, file).masks] == wanted
    page.one("#command-close").click()
    assert not page.one("#command").is_displayed()


def test_a_second_tab_has_values_of_its_own(page: Page, kept: Any) -> None:
    page.start()
    page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
    one = page.settled(pred_iou_thresh=0.81)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        other = page.start()
        assert other["pred_iou_thresh"] == 0.80
        page.slider("stability_score_thresh").send_keys(Keys.ARROW_LEFT)
        assert_shown(page, kept, page.settled(stability_score_thresh=0.84))
        page.driver.switch_to.window(first)
        assert page.values == one
        page.slider("box_nms_thresh").send_keys(Keys.ARROW_LEFT)
        assert_shown(page, kept, page.settled(box_nms_thresh=0.69))
    finally:
        for handle in page.driver.window_handles:
            if handle != first:
                page.driver.switch_to.window(handle)
                page.driver.close()
        page.driver.switch_to.window(first)


@pytest.mark.slow
def test_a_denser_grid_adds_points_and_all_else_goes_on(page: Page, kept: Any) -> None:
    start = page.start()
    assert [option.text for option in page.all("#denser option")][:2] == ["12 × 12", "16 × 16"]
    page.into_view("#denser").send_keys("12")
    page.into_view("#add").click()
    page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: page.values["points_per_side"] == 12, "the denser grid", 60)
    denser = page.settled(pred_iou_thresh=0.81, points_per_side=12)
    assert not page.one("#job").is_displayed()
    fresh = Segmenter("dense", "starter", "cpu", overrides=[*GRID[1::2], "points_per_side=12", "pred_iou_thresh=0.81"])
    wanted = fresh(Tuning(kept, load_preset("dense"), None).pixels)
    assert page.one("#count").text == str(len(wanted.masks))
    assert page.one("[data-step=points] b").text == "144" and page.one("[data-step=candidates] b").text == "432"
    page.one("#copy").click()
    command = page.wait(lambda: page.one("#command-text").get_attribute("value"), "the command")
    assert "-s points_per_side=12" in command
    page.one("#undo").click()
    assert page.settled(points_per_side=8) == start | {"pred_iou_thresh": 0.81}
    assert [option.text for option in page.all("#set-points_per_side option")] == [
        "8 × 8 = 64 points",
        "12 × 12 = 144 points",
    ]
    page.into_view("#set-points_per_side").send_keys("12")
    assert page.settled(points_per_side=12) == denser


@pytest.mark.slow
def test_fill_is_worked_out_when_asked_for(page: Page) -> None:
    page.start()
    page.slider("pred_iou_thresh").send_keys(Keys.HOME)
    page.type("max_mask_area_fraction", "0.03")
    page.settled(pred_iou_thresh=0.3, max_mask_area_fraction=0.03)
    before = int(page.one("#count").text)
    assert not page.one("#unfinished").is_displayed()
    page.into_view("#set-fill").click()
    page.settled(fill=True)
    page.wait(lambda: page.one("#unfinished").is_displayed(), "what is left to do")
    assert int(page.one("#count").text) == before
    page.into_view("#finish").click()
    page.wait(lambda: not page.one("#unfinished").is_displayed(), "fill", 60)
    assert int(page.one("#count").text) > before


def test_keyboard_alone_does_it_all(page: Page) -> None:
    page.start()
    reached: list[str] = []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        name, outline, hidden = page.js(
            "const e = document.activeElement; const r = e.getBoundingClientRect();"
            "return [e.id || e.dataset.key || e.tagName, getComputedStyle(e).outlineStyle,"
            " r.bottom < 0 || r.top > innerHeight]"
        )
        if name == "BODY" or (reached and name == reached[0]):
            break
        assert outline != "none" and not hidden, name
        reached.append(name)
    in_order = ["download", "copy", "stage", "opacity", "zoom-out", "zoom-in", "zoom-fit", "set-pred_iou_thresh"]
    assert [name for name in reached if name in in_order] == in_order
    assert {"pred_iou_thresh", "box_nms_thresh", "min_mask_region_area", "set-parts", "set-fill", "denser", "add"} <= {
        *reached
    }
    # The photo: a cross, moved by arrow keys, says what it is over; Enter explains.
    stage = page.one("#stage")
    page.js("arguments[0].focus()", stage)
    active = page.driver.switch_to.active_element
    active.send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: page.js("return !document.getElementById('cross').hidden"), "the cross")
    said = [page.js("return document.getElementById('said').textContent")]
    for _ in range(12):
        active.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
        said.append(page.js("return document.getElementById('said').textContent"))
    assert any(text.startswith("mask ") and "predicted IoU" in text for text in said) and len(set(said)) > 1
    active.send_keys(Keys.ENTER)
    page.wait(lambda: page.all("#why-list li"), "an explanation")
    page.one("#why-close").send_keys(Keys.TAB)
    assert page.driver.switch_to.active_element.tag_name in ("li", "ul")
    page.one("#why-list li").send_keys(Keys.ESCAPE)
    assert not page.one("#why").is_displayed()
    assert page.driver.switch_to.active_element.get_attribute("id") == "stage"
    zoom = page.one("#zoom").text
    active.send_keys("+")
    assert page.one("#zoom").text != zoom
    active.send_keys("0")
    assert page.one("#zoom").text == zoom


def test_everything_has_a_name_for_screen_readers(page: Page) -> None:
    page.start()
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    interactive = {"button", "slider", "spinbutton", "combobox", "checkbox", "application", "textbox"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node.get("role", {}).get("value") in interactive
    ]
    assert len(named) > 20 and all(name.strip() for _, name in named), named
    assert {"slider", "spinbutton", "combobox", "checkbox", "application"} <= {role for role, _ in named}


@pytest.mark.parametrize(
    "size", [(1280, 800), (800, 1000), (1920, 1080), (800, 600), (640, 800), (420, 800), (320, 640)]
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out(page: Page, size: tuple[int, int], scheme: str) -> None:
    page.start(*size, scheme)
    page.point(80, 50).click().perform()
    page.wait(lambda: page.all("#why-list li"), "an explanation")
    page.one("#copy").click()
    page.wait(lambda: page.one("#command").is_displayed(), "the command")
    wide, high = page.js("const e = document.documentElement; return [e.scrollWidth, e.scrollHeight]")
    # In small windows there is no room for photo, explanation and values one over another.
    assert wide <= size[0] and (high <= size[1] or size[0] <= 640 or size == (800, 600))
    assert page.js(
        "const [why, values] = ['#why', '.values'].map(s => document.querySelector(s).getBoundingClientRect());"
        "return why.bottom <= values.top || why.right <= values.left"
    )
    assert page.one("#why-list").size["height"] >= 60
    page.point(80, 50).perform()
    sticking = page.js(
        "return [...document.querySelectorAll('header *, .bar *, .values *, #why *, #command *, #tip')].filter(e => {"
        "  const r = e.getBoundingClientRect(), end = document.documentElement.clientWidth;"
        "  return r.width && (r.left < -0.5 || r.right > end + 0.5);"
        "}).map(e => e.id || e.className || e.tagName)"
    )
    assert sticking == []
    assert page.js("const v = document.querySelector('.values'); return v.scrollWidth <= v.clientWidth")
    assert page.one("#stage").size["height"] >= 120
    dark = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(16, 19, 24)") == (scheme == "dark")


@pytest.mark.parametrize(
    "size", [(1280, 800), (1280, 600), (1001, 700), (1000, 720), (800, 900), (800, 600), (420, 900)]
)
def test_an_explanation_leaves_the_photo_its_room(page: Page, size: tuple[int, int]) -> None:
    page.start(*size)
    before = page.js(_BOX, "scene")
    page.point(14, 30).click().perform()
    page.wait(lambda: page.one("#why").is_displayed(), "the explanation")
    page.wait(lambda: page.js("return document.getElementById('why-list').clientHeight") >= 90, "some of its rows")
    assert page.js(_BOX, "scene") == before
    assert page.js("return document.documentElement.scrollWidth") <= size[0]
    # It covers neither the photo nor the values.
    boxes = [page.js(_BOX, name) for name in ("stage", "why", "values")]
    for (left, top, right, bottom), (x, y, end, foot) in itertools.combinations(boxes, 2):
        assert right <= x or end <= left or bottom <= y or foot <= top, boxes
    if size[1] >= 700 and size[0] > 640:
        assert boxes[2][3] - boxes[2][1] >= 150 and boxes[2][3] <= size[1]
    page.one("#why-close").click()
    assert page.js(_BOX, "scene") == before


_BOX = """
const name = arguments[0], found = document.getElementById(name) || document.querySelector("." + name);
const { left, top, right, bottom } = found.getBoundingClientRect();
return [left, top, right, bottom].map(Math.round);
"""


def test_zoom_and_pan(page: Page, kept: Any) -> None:
    found = expected(kept, page.start())
    x, y, mask = middles(found)[0]
    before = page.at_pixel(x, y)
    page.js(
        "const s = document.getElementById('stage'), r = s.getBoundingClientRect();"
        "s.dispatchEvent(new WheelEvent('wheel', {deltaY: -700, cancelable: true,"
        " clientX: r.left + r.width / 2 + arguments[0], clientY: r.top + r.height / 2 + arguments[1]}))",
        *before,
    )
    assert page.at_pixel(x, y) == pytest.approx(before, abs=12)  # what is under the pointer stays there
    page.point(x, y).perform()
    page.wait(lambda: page.one("#light").get_attribute("data-mask") == str(mask.id), "the mask")
    zoomed = page.at_pixel(x, y)
    ActionChains(page.driver, duration=20).click_and_hold().move_by_offset(40, 25).release().perform()
    assert page.at_pixel(x, y) == pytest.approx((zoomed[0] + 40, zoomed[1] + 25), abs=2)
    assert not page.one("#why").is_displayed()  # that was no click
    page.one("#zoom-fit").click()
    assert page.at_pixel(x, y) == pytest.approx(before, abs=1)


def test_only_the_latest_of_many_moves_counts(page: Page, kept: Any) -> None:
    page.start()
    page.js(
        "const s = document.querySelector('[type=range][data-key=pred_iou_thresh]');"
        "for (const v of [0.5, 0.6, 0.7, 0.3, 0.35, 0.52]) {"
        "  s.value = v; s.dispatchEvent(new Event('input', {bubbles: true}));"
        "} s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    values = page.settled(pred_iou_thresh=0.52)
    time.sleep(0.3)
    assert page.values == values
    assert_shown(page, kept, values)
    asked = page.js("return performance.getEntriesByType('resource').filter(e => e.name.endsWith('/choose')).length")
    assert asked <= 4  # at the start, the first of the moves, and the last


@pytest.mark.slow
def test_a_large_photo_is_shown_smaller(page: Page, photo: np.ndarray) -> None:
    """Each pixel of the picture stands for the one of the photo under its middle, in masks, scores and explanations."""
    import cv2

    pixels = cv2.resize(photo, (1999, 1501), interpolation=cv2.INTER_LINEAR)
    segmenter = Segmenter("dense", "starter", "cpu", overrides=["points_per_side=6"])
    tuning = Tuning(segmenter(pixels, keep_candidates=FLOOR).proposals, segmenter.preset, None)
    origin = Origin("large.png", "dense", load_preset("dense"), [])
    listening = socket.create_server(("127.0.0.1", 0))
    app = application(tuning, origin, "token", lambda text, error: None)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    running.start()
    try:
        page.visit(f"http://127.0.0.1:{listening.getsockname()[1]}/token/")
        page.settled()
        drawn = page.canvas("overlay")
        height, width = drawn.shape[:2]
        assert 2_490_000 < width * height <= 2_510_000
        rows = np.floor((np.arange(height) + 0.5) * 1501 / height).astype(int)
        columns = np.floor((np.arange(width) + 0.5) * 1999 / width).astype(int)
        found, _ = tuning.choose(tuning.start)
        colors = np.zeros((1 + len(found.masks), 4), np.uint8)
        for mask in found.masks:
            colors[mask.id] = [*bytes.fromhex(mask.color[1:]), 255]
        assert found.masks and np.array_equal(drawn, colors[found.labels()[np.ix_(rows, columns)]])
        page.point(width // 3, height // 3).click().perform()
        page.wait(lambda: page.one("#why-title").text.startswith("Pixel "), "an explanation")
        shown = [int(n) for n in page.one("#why-title").text.split(":")[0].removeprefix("Pixel ").split(", ")]
        # On the screen a pixel is smaller than one of the pointer's steps.
        assert shown == pytest.approx([columns[width // 3], rows[height // 3]], abs=4)
    finally:
        page.start()  # away from there, so that nothing is asked of a server that is gone
        server.should_exit = True
        running.join(10)


# --- when things go wrong, or slowly ---------------------------------------------------------------------------------


def test_a_link_that_was_down_for_a_moment_leaves_nothing_behind(page: Page, kept: Any) -> None:
    page.start()
    page.driver.execute_cdp_cmd("Network.enable", {})
    down = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    for value in (0.81, 0.82):  # it may be down again
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", down)
        try:
            page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
            page.wait(lambda: page.one("#error").is_displayed(), "what went wrong")
            assert "does not answer" in page.one("#error").text and page.one("body.gone")
        finally:
            page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", down | {"offline": False})
        assert_shown(page, kept, page.settled(pred_iou_thresh=value))  # without another move
        assert not page.all("body.gone") and not page.one("#error").is_displayed()
    assert all("ERR_INTERNET_DISCONNECTED" in text for text in page.complaints())


def test_a_link_that_is_down_at_first(page: Page) -> None:
    page.start()
    script = (
        "const true_fetch = fetch; let n = 1; window.fetch = (...q) => n-- > 0 ? Promise.reject() : true_fetch(...q);"
    )
    made = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        page.driver.refresh()
        page.wait(lambda: page.all("body.gone"), "the link to be down")
        assert page.settled() and not page.all("body.gone") and not page.one("#error").is_displayed()
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", made)


def test_a_job_goes_on_when_the_link_is_back(page: Page) -> None:
    page.start()
    page.js(
        "const running = {number: 0, what: 'it', state: 'running', done: 1, total: 2, error: '', result: null};"
        "const answers = [running, null, {...running, state: 'cancelled'}], true_fetch = window.fetch;"
        "window.fetch = async (url, ...rest) => {"
        "  if (url === 'api/finish') return new Response(JSON.stringify(running));"
        "  if (url !== 'api/job') return true_fetch(url, ...rest);"
        "  const answer = answers.length > 1 ? answers.shift() : answers[0];"
        "  if (answer === null) throw new TypeError('down');"
        "  return new Response(JSON.stringify(answer)); }"
    )
    page.into_view("#set-fill").click()
    page.wait(lambda: page.one("#unfinished").is_displayed(), "what is left to do")
    page.into_view("#finish").click()
    page.wait(lambda: page.all("body.gone"), "the link to be down")
    assert page.one("#job").is_displayed() and not page.allows("finish") and not page.allows("add")
    page.wait(lambda: not page.one("#job").is_displayed(), "the end of the job")
    assert page.one("#job-said").text == "it: stopped" and page.allows("finish") and page.allows("add")
    assert not page.all("body.gone")


def test_a_slow_answer_is_told_from_the_masks_that_are_shown(page: Page) -> None:
    page.start()
    busy = "return document.getElementById('results').getAttribute('aria-busy')"
    assert page.js(busy) != "true"
    with page.slow("choose", 1500):
        page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
        page.wait(lambda: page.js(busy) == "true", "a sign of work", 1.2)
        assert page.one("#time").text == "…" and page.values["pred_iou_thresh"] == 0.80
        page.settled(pred_iou_thresh=0.81)
    page.wait(lambda: page.js(busy) == "false" and page.one("#time").text.endswith(" ms"), "the end of it")


def test_a_late_explanation_does_not_replace_a_newer_one(page: Page) -> None:
    page.start()
    with page.slow("why", 1000):
        page.point(20, 20).click().perform()
        time.sleep(0.2)
    page.point(80, 50).click().perform()
    page.wait(lambda: page.one("#why-title").text.startswith("Pixel 80, 50:"), "the second explanation")
    time.sleep(1.2)
    assert page.one("#why-title").text.startswith("Pixel 80, 50:")
    # And none opens a panel again that was closed.
    with page.slow("why", 500):
        page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
        page.one("#why-close").click()
        time.sleep(0.8)
    assert not page.one("#why").is_displayed()


def test_an_explanation_waits_for_the_masks_that_it_names(page: Page) -> None:
    page.start()
    with page.slow("choose", 1500):
        page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
        page.point(80, 50).click().perform()
        time.sleep(0.6)
        assert page.values["pred_iou_thresh"] == 0.80 and not page.one("#why").is_displayed()
        page.settled(pred_iou_thresh=0.81)
    page.wait(lambda: page.one("#why-title").text.startswith("Pixel 80, 50:"), "the explanation")


def test_an_explanation_that_nobody_waits_for_fails_without_words(page: Page) -> None:
    page.start()
    page.js(
        "const answer = window.fetch; let n = 1; window.fetch = async (url, ...rest) => {"
        "  if (url !== 'api/why' || n-- < 1) return answer(url, ...rest);"
        "  await new Promise(resolve => setTimeout(resolve, 700)); document.body.dataset.failed = 1;"
        '  return new Response(\'{"error": "busy"}\', {status: 400}); }'
    )
    page.point(20, 20).click().perform()
    time.sleep(0.2)
    page.point(80, 50).click().perform()
    page.wait(lambda: page.one("#why-title").text.startswith("Pixel 80, 50:"), "the second explanation")
    page.wait(lambda: page.js("return document.body.dataset.failed"), "the end of the first one")
    time.sleep(0.2)
    assert not page.one("#error").is_displayed()


@pytest.mark.slow
def test_explanations_number_the_masks_that_were_worked_out(page: Page) -> None:
    page.start()
    page.slider("pred_iou_thresh").send_keys(Keys.HOME)
    page.type("max_mask_area_fraction", "0.04")  # not what another test had worked out already
    page.into_view("#set-fill").click()
    page.settled(pred_iou_thresh=0.3, max_mask_area_fraction=0.04, fill=True)
    page.wait(lambda: page.one("#unfinished").is_displayed(), "what is left to do")
    page.point(80, 50).click().perform()
    page.wait(lambda: page.all("#why-list li"), "an explanation")
    page.js("document.querySelector('#why-list li').dataset.old = 1")
    page.into_view("#finish").send_keys(Keys.ENTER)
    page.wait(lambda: not page.one("#unfinished").is_displayed(), "fill", 60)
    assert page.focused() == "results"
    page.wait(lambda: not page.all("#why-list [data-old]"), "a new explanation")


# --- what the page says and keeps ------------------------------------------------------------------------------------


def test_a_command_that_gives_these_masks_no_more_goes(page: Page) -> None:
    page.start()
    for move in ("slider", "undo"):
        page.one("#copy").click()
        page.wait(lambda: page.one("#command").is_displayed(), "the command")
        if move == "slider":
            page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
        else:
            page.one("#command-text").send_keys(Keys.CONTROL, "z")
        assert not page.one("#command").is_displayed()
    assert page.focused() == "copy"


def test_a_command_is_of_the_values_that_are_there_when_it_comes(page: Page) -> None:
    page.start()
    with page.slow("command", 700):
        page.one("#copy").click()
        page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
        page.wait(lambda: page.one("#command").is_displayed(), "the command")
    assert "pred_iou_thresh=0.81" in str(page.one("#command-text").get_attribute("value"))


def test_what_is_to_know_of_a_preset_file_is_told_until_it_is_outdated(page: Page) -> None:
    page.start()
    page.js(
        "const answer = fetch; window.fetch = async (url, ...rest) => url !== 'api/preset' ? answer(url, ...rest)"
        " : new Response(JSON.stringify({name: 'noted.yaml', text: 'a: 1', note: 'use it with -m mine.pt'}));"
    )
    page.one("#download").click()
    page.wait(lambda: page.one("#download-said").text == "use it with -m mine.pt", "the note")
    page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
    assert page.one("#download-said").text == ""


def test_values_of_another_run_are_not_taken_up(page: Page) -> None:
    """The address of each holds another token; the port, and with it the storage, may be the same."""
    start = page.start()
    other = json.dumps({"past": [{**start, "pred_iou_thresh": 0.5}], "at": 0})
    page.js("sessionStorage.clear(); sessionStorage.setItem('/another/', arguments[0])", other)
    page.driver.refresh()
    assert page.settled() == start


def test_a_browser_that_stores_nothing(page: Page) -> None:
    page.start()
    page.js("Storage.prototype.setItem = () => { throw new DOMException('no', 'QuotaExceededError'); }")
    page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
    page.into_view("#set-parts").send_keys("wholes")
    page.settled(pred_iou_thresh=0.81, parts="wholes")
    page.one("#undo").click()
    page.settled(pred_iou_thresh=0.81, parts="keep")


def test_reload_and_back_keep_values_and_undo(page: Page, kept: Any) -> None:
    start = page.start()
    page.slider("pred_iou_thresh").send_keys(Keys.ARROW_RIGHT)
    page.into_view("#set-parts").send_keys("wholes")
    last = page.settled(parts="wholes", pred_iou_thresh=0.81)
    page.driver.refresh()
    assert_shown(page, kept, page.settled(parts="wholes"))
    assert page.values == last and page.one("#set-parts").get_attribute("value") == "wholes"
    page.driver.get("about:blank")
    page.driver.back()
    assert page.settled(parts="wholes") == last
    page.one("#undo").click()
    page.settled(parts="keep")
    page.driver.refresh()
    page.settled(parts="keep", pred_iou_thresh=0.81)
    page.one("#undo").click()
    assert page.settled(pred_iou_thresh=0.80) == start and not page.allows("undo")
    page.one("#redo").click()
    page.one("#redo").click()
    assert page.settled(parts="wholes") == last


def test_whatever_a_key_allows_may_be_typed(page: Page, kept: Any) -> None:
    page.start()
    page.into_view("#set-parts").send_keys("drop")
    for key, text, value in [
        ("max_mask_area_fraction", "0.004", 0.004),
        ("parts_min_siblings", "100", 100),
        ("box_nms_thresh", "1", 1),
        ("min_mask_region_area", "1000000", 1000000),
    ]:
        page.type(key, text)
        page.settled(**{key: value})
        assert page.number(key).get_attribute("value") == text
        assert not page.all("input:invalid"), key
    page.type("max_mask_area_fraction", "0")
    assert page.number("max_mask_area_fraction").get_attribute("value") == "0.004"
    page.type("min_mask_region_area", "20")
    values = page.settled(min_mask_region_area=20)
    assert_shown(page, kept, values)


def test_the_result_is_said_when_the_sliders_rest(page: Page) -> None:
    page.start()
    said = "return document.getElementById('result-said').textContent"
    page.wait(lambda: page.js(said), "the first result")
    page.slider("pred_iou_thresh").send_keys(Keys.HOME)
    page.settled(pred_iou_thresh=0.3)
    page.wait(
        lambda: page.js(said) == f"{page.one('#count').text} masks, {page.one('#coverage').text} covered", "the result"
    )
    assert page.one("#result-said").get_attribute("role") == "status"


def test_the_focus_stays_where_it_was(page: Page, kept: Any) -> None:
    page.start()
    page.point(*below_the_threshold(kept)).click().perform()
    row = page.wait(lambda: page.all("#why-list li[data-filter=predicted_iou]"), "a dropped candidate")[0]
    candidate = row.get_attribute("data-candidate")
    row.find_element("css selector", "button").send_keys(Keys.ENTER)
    again = f"#why-list li[data-candidate='{candidate}']:not([data-filter=predicted_iou])"
    page.wait(lambda: page.all(again), "another reason")
    assert page.js("return document.activeElement.dataset.candidate") == candidate
    for button in ("undo", "redo", "reset"):
        page.one(f"#{button}").send_keys(Keys.ENTER)
        assert page.focused() == button and not page.allows(button)


def test_keys_alone_reach_all_of_a_zoomed_photo(page: Page) -> None:
    page.start()
    stage = page.one("#stage")
    page.js("arguments[0].focus()", stage)
    stage.send_keys(*[Keys.ARROW_RIGHT] * 2, *["+"] * 5)
    box = (
        "const c = document.getElementById('cross').getBoundingClientRect(), s = document.getElementById('stage')"
        ".getBoundingClientRect(); return [c.left - s.left, s.right - c.left, c.top - s.top, s.bottom - c.top]"
    )
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP):
        for _ in range(7):
            stage.send_keys(*[key] * 10)
            assert min(page.js(box)) > 0, key
    page.wait(lambda: page.js("return document.getElementById('cross').style.transform"), "the cross")


def test_points_that_another_tab_added_move_no_values(page: Page) -> None:
    start = page.start()
    page.js(
        "const true_fetch = window.fetch; let left = 2;"
        "window.fetch = async (url, ...rest) => url !== 'api/job' ? true_fetch(url, ...rest)"
        " : new Response(JSON.stringify({number: 7, what: '12 × 12 points', state: left-- > 0 ? 'running' : 'done',"
        "   done: 1, total: 2, error: '', result: {points_per_side: 12}}));"
        "return import('./model.js').then(({ Model }) => { new Model("
        "  {has_model: true, grids: [8], denser: [12]}, null, (n) => { document.body.dataset.moved = n; },"
        "  () => { document.body.dataset.moved = 'no'; }, null); })"
    )
    page.wait(lambda: page.js("return document.body.dataset.moved"), "the end of the job")
    assert page.js("return document.body.dataset.moved") == "no" and page.values == start
