"""report.html in headless Chromium, opened from disk: what the pointer finds, filters, sorting, keys, 5,000 images."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from densecli.report import write_report
from tests.conftest import Command
from tests.e2e.chromium import NEEDS_CHROMIUM, Chromium

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install 'densecli[dev]')")
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

pytestmark = NEEDS_CHROMIUM
HOSTILE = "<img src=x onerror=alert(1)>&\"'#%41.png"


class Browser(Chromium):
    """A Chromium that has a page of disk open."""

    def open(self, page: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        self.visit(page.as_uri(), width, height, scheme)

    def names(self) -> list[str]:
        """Names on the cards that are there."""
        return list(self.js("return [...document.querySelectorAll('.card .name')].map(e => e.textContent)"))

    def card(self, name: str) -> WebElement:
        """The picture of a card, in view."""
        find = (
            "return [...document.querySelectorAll('.card')].filter(c => c.querySelector('.name').textContent ==="
            " arguments[0]).map(c => c.querySelector('button'))[0]"
        )
        button: WebElement = self.wait(lambda: self.js(find, name), name)
        self.js("arguments[0].scrollIntoView({block: 'center'})", button)
        return button

    def point_at(self, area: WebElement, x: float, y: float, size: tuple[int, int]) -> None:
        """Move the pointer to pixel x, y of an image of `size` shown in `area`."""
        box = self.js("const r = arguments[0].getBoundingClientRect(); return [r.width, r.height]", area)
        scale = min(box[0] / size[0], box[1] / size[1])
        ActionChains(self.driver, duration=20).move_to_element_with_offset(
            area, round((x + 0.5 - size[0] / 2) * scale), round((y + 0.5 - size[1] / 2) * scale)
        ).perform()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.driver.quit()


class Run:
    """A folder that `segment` filled, its manifest lines, and the report about them."""

    def __init__(self, folder: Path, photo: np.ndarray, run: Command) -> None:
        self.out = folder / "out"
        images = {"cup.png": photo, "puc.png": photo[::-1, ::-1], HOSTILE: photo.transpose(1, 0, 2)}
        for name, pixels in images.items():
            Image.fromarray(pixels).save(folder / name)
        arguments = ("-o", "out", "-m", "starter", "-s", "points_per_side=8", "-s", "min_mask_region_area=40")
        done = run("segment", *images, *arguments, "--json", cwd=folder)
        assert done.code == 0
        self.summaries: list[dict[str, Any]] = json.loads(done.stdout)
        self.lines: list[dict[str, Any]] = []
        for index, (name, summary) in enumerate(zip(images, self.summaries, strict=True)):
            stem = name.removesuffix(".png")
            assert (self.out / f"{stem}_masks.json").is_file()
            self.lines.append(
                {
                    "input": name,
                    "stem": stem,
                    "status": "done",
                    "seconds": summary["seconds"]["total"],
                    "masks": len(summary["masks"]),
                    "coverage": summary["coverage"],
                    "outputs": [f"{stem}_overlay.png", f"{stem}_masks.json"],
                    "index": index,
                }
            )
        failed = {"status": "failed", "outputs": []}
        self.lines += [
            {"input": "torn.png", "error": "the file is truncated", "index": 3, **failed},
            {"input": "<b>text</b>.png", "error": "is <script>text</script>", "index": 4, **failed},
        ]
        self.page = write_report(self.out, self.lines, {"preset": {"name": "dense"}})

    def labels(self, number: int) -> np.ndarray:
        """H×W: the id of the smallest mask at each pixel, 0 where there is none; drawn by another library."""
        summary = self.summaries[number]
        labels = np.zeros((summary["image"]["height"], summary["image"]["width"]), dtype=int)
        for mask in sorted(summary["masks"], key=lambda m: -m["area"]):
            labels[coco.decode(mask["segmentation"]) > 0] = mask["id"]
        return labels

    def places(self, number: int, count: int) -> list[tuple[int, int, dict[str, Any]]]:
        """x, y and mask of pixels well inside what is to be seen of the masks, those with most room first."""
        import cv2

        labels = self.labels(number)
        found = []
        for mask in self.summaries[number]["masks"]:
            room = cv2.distanceTransform(np.pad(labels == mask["id"], 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(room.argmax()), room.shape)
            found.append((float(room.max()), int(x), int(y), mask))
        found.sort(key=lambda place: -place[0])
        assert len(found) >= count and found[count - 1][0] >= 2
        return [(x, y, mask) for _, x, y, mask in found[:count]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray, run_densecli: Command) -> Run:
    return Run(tmp_path_factory.mktemp("run"), photo, run_densecli)


@pytest.fixture(autouse=True)
def no_complaints(browser: Browser) -> Iterator[None]:
    """No test may leave an error, a warning or a blocked request in the console, or ask another host."""
    browser.complaints()
    yield
    assert browser.complaints() == []
    asked = browser.js("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("file:", "data:")) for name in asked)


def size_of(summary: dict[str, Any]) -> tuple[int, int]:
    return summary["image"]["width"], summary["image"]["height"]


def shown_mask(mask: dict[str, Any]) -> list[str]:
    return [
        f"mask {mask['id']} ",
        f" {mask['area']:,} px",
        f"IoU {mask['predicted_iou']:.3f}",
        f"stability {mask['stability_score']:.3f}",
    ]


@pytest.mark.parametrize("number", [0, 2])
def test_the_pointer_finds_the_mask_that_is_to_be_seen(browser: Browser, run: Run, number: int) -> None:
    browser.open(run.page)
    area = browser.card(run.lines[number]["input"])
    canvas = area.find_element(By.TAG_NAME, "canvas")
    for x, y, mask in run.places(number, 3):
        browser.point_at(area, x, y, size_of(run.summaries[number]))
        browser.wait(lambda mask=mask: canvas.get_attribute("data-mask") == str(mask["id"]), f"mask {mask['id']}")
        tip = browser.one("#tip")
        assert tip.is_displayed()
        for said in shown_mask(mask):
            assert said in tip.text
        # The canvas is clear over the mask (its edge white), and dim beside it.
        drawn = browser.js("return arguments[0].toDataURL()", canvas).partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(drawn))) as image:
            pixels = np.asarray(image)
        inside = coco.decode(mask["segmentation"]) > 0
        assert np.array_equal(inside, (pixels[..., 3] == 0) | (pixels[..., 0] == 255))
    ActionChains(browser.driver).move_to_element(browser.one("#controls")).perform()
    assert not browser.one("#tip").is_displayed() and canvas.get_attribute("data-mask") == ""


def test_where_there_is_no_mask_nothing_is_shown(browser: Browser, run: Run) -> None:
    import cv2

    browser.open(run.page)
    room = cv2.distanceTransform((run.labels(0) == 0).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(room.argmax()), room.shape)
    assert room.max() >= 2
    area = browser.card("cup.png")
    inside = run.places(0, 1)[0]
    browser.point_at(area, inside[0], inside[1], size_of(run.summaries[0]))
    browser.wait(lambda: browser.one("#tip").is_displayed(), "the tip")
    browser.point_at(area, int(x), int(y), size_of(run.summaries[0]))
    assert not browser.one("#tip").is_displayed()


def test_names_and_reasons_are_text(browser: Browser, run: Run) -> None:
    browser.open(run.page)
    assert browser.wait(browser.names, "cards") == [line["input"] for line in run.lines]
    assert browser.js("return document.querySelectorAll('b, img[src=x], [onerror]').length") == 0
    failures = [row.text for row in browser.all("#failures tbody tr")]
    assert failures == ["torn.png the file is truncated", "<b>text</b>.png is <script>text</script>"]
    assert browser.card("torn.png").text == "the file is truncated"
    # The overlay of the hostile name is found in the folder, byte for byte.
    browser.card(HOSTILE).click()
    size = browser.wait(
        lambda: browser.js(
            "const i = document.querySelector('.stage img');"
            "return i.complete && i.src.endsWith('_overlay.png') && [i.naturalWidth, i.naturalHeight]"
        ),
        "the overlay",
    )
    assert tuple(size) == size_of(run.summaries[2])
    assert browser.one("#viewer-name").text == HOSTILE


def test_filters_and_sorting(browser: Browser, run: Run) -> None:
    browser.open(run.page)
    assert browser.one("#shown").text == "5 inputs"
    name = browser.one("#filter-name")
    name.send_keys("CUP")
    assert browser.wait(lambda: browser.names() == ["cup.png"], "one card")
    assert browser.one("#shown").text == "1 of 5 inputs"
    name.send_keys("board")
    assert browser.wait(lambda: browser.one("#none").is_displayed(), "the word that nothing matches")
    browser.one("#controls [type=reset]").click()
    browser.wait(lambda: len(browser.names()) == 5, "all cards")
    status = browser.one("#filter-status")
    assert [option.text for option in status.find_elements(By.TAG_NAME, "option")] == [
        "all",
        "done (3)",
        "failed (2)",
        "skipped (0)",
    ]
    browser.js("arguments[0].value = 1; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", status)
    browser.wait(lambda: browser.names() == ["torn.png", "<b>text</b>.png"], "the failures")
    browser.one("#controls [type=reset]").click()
    browser.wait(lambda: len(browser.names()) == 5, "all cards")
    counts = {line["input"]: line["masks"] for line in run.lines[:3]}
    most = max(counts.values())
    browser.one("#filter-from").send_keys(str(most))
    browser.wait(lambda: sorted(browser.names()) == sorted(n for n, c in counts.items() if c >= most), "the fullest")
    browser.one("#controls [type=reset]").click()
    for order, column, sign in (("slowest", "seconds", -1), ("emptiest", "coverage", 1), ("most", "masks", -1)):
        browser.js(
            "const s = document.getElementById('sort'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input', {bubbles: true}))",
            order,
        )
        expected = sorted(run.lines[:3], key=lambda line: sign * line[column])
        expected_names = [line["input"] for line in expected] + ["torn.png", "<b>text</b>.png"]
        browser.wait(lambda names=expected_names: browser.names() == names, order)


def test_a_bar_of_the_histogram_shows_its_images(browser: Browser, run: Run) -> None:
    browser.open(run.page)
    bars = browser.all(".bar[tabindex]")
    assert bars
    first, last = (int(bars[-1].get_attribute(f"data-{end}") or "") for end in ("first", "last"))
    expected = [line["input"] for line in run.lines[:3] if first <= line["masks"] <= last]
    assert len(expected) > 0
    bars[-1].click()
    browser.wait(lambda: browser.names() == expected, "the bar's images")
    browser.one("#controls [type=reset]").click()
    browser.wait(lambda: len(browser.names()) == 5, "all cards")
    browser.js("document.querySelectorAll('.bar[tabindex]').item(0).focus()")
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.wait(lambda: 0 < len(browser.names()) < 5, "the first bar's images")


def test_all_of_it_by_keys(browser: Browser, run: Run) -> None:
    browser.open(run.page)
    browser.card("cup.png")
    browser.js("document.querySelector('.card .picture').focus()")

    def press(*keys: str) -> None:
        ActionChains(browser.driver).send_keys(*keys).perform()

    def focused() -> str:
        return str(browser.js("return document.activeElement.getAttribute('aria-label') || ''"))

    press(Keys.ARROW_RIGHT)
    assert focused().startswith("puc.png, ")
    press(Keys.END)
    assert focused().startswith("<b>text</b>.png, failed, is <script>")
    press(Keys.HOME)
    press(Keys.ENTER)
    rows = browser.wait(lambda: browser.all("#viewer-masks tbody tr"), "the table of masks")
    assert browser.one("#viewer-name").text == "cup.png"
    expected = sorted(run.summaries[0]["masks"], key=lambda mask: (-mask["area"], mask["id"]))
    parents = [str(mask["parent"]) if mask["parent"] is not None else "" for mask in expected]
    assert [row.text.split() for row in rows] == [
        [
            str(mask["id"]),
            f"{mask['area']:,}",
            f"{mask['predicted_iou']:.3f}",
            f"{mask['stability_score']:.3f}",
            *filter(None, [parent]),
        ]
        for mask, parent in zip(expected, parents, strict=True)
    ]
    press(Keys.ARROW_DOWN)
    press(Keys.ARROW_DOWN)
    canvas = browser.one(".stage canvas")
    assert canvas.get_attribute("data-mask") == str(expected[1]["id"])
    assert rows[1].get_attribute("class") == "lit"
    press(Keys.ARROW_RIGHT)
    browser.wait(lambda: browser.one("#viewer-name").text == "puc.png", "the next image")
    press(Keys.ARROW_RIGHT)
    browser.wait(lambda: browser.one("#viewer-name").text == HOSTILE, "the one after it")
    press(Keys.ARROW_LEFT)
    browser.wait(lambda: browser.one("#viewer-name").text == "puc.png", "the one before")
    press(Keys.ESCAPE)
    browser.wait(lambda: not browser.one("#viewer").is_displayed(), "the viewer to close")
    assert focused().startswith("puc.png, ")


def test_the_large_view_follows_the_pointer_too(browser: Browser, run: Run) -> None:
    browser.open(run.page, 800, 1000)
    browser.one(".list .open[data-id='1']").click()
    browser.wait(lambda: browser.all("#viewer-masks tbody tr"), "the table of masks")
    stage = browser.one(".stage")
    for x, y, mask in run.places(0, 3):
        browser.point_at(stage, x, y, size_of(run.summaries[0]))
        lit = browser.wait(lambda mask=mask: browser.all(f".lit[data-mask='{mask['id']}']"), f"mask {mask['id']}")
        assert len(lit) == 1
        # Above the dialog, not behind it.
        tip = browser.one("#tip")
        assert tip.is_displayed() and browser.js("return arguments[0].closest('dialog[open]') !== null", tip)
        assert shown_mask(mask)[1] in tip.text


def test_the_small_picture_stands_in_for_a_lost_overlay(browser: Browser, run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "moved to elsewhere")
    (tmp_path / "moved to elsewhere" / "cup_overlay.png").unlink()
    browser.open(tmp_path / "moved to elsewhere" / "report.html")
    browser.card("cup.png").click()
    browser.wait(lambda: browser.all("#viewer-masks tbody tr"), "the table of masks")
    browser.wait(
        lambda: browser.js(
            "const i = document.querySelector('.stage img');"
            "return i.src.endsWith('.jpg') && i.complete && i.naturalWidth > 0"
        ),
        "the small picture",
    )
    lost = browser.complaints()
    assert len(lost) == 1 and "cup_overlay.png" in lost[0]  # the browser's own line; nothing else went wrong


@pytest.mark.parametrize("width", [800, 1280, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_and_can_be_read(browser: Browser, run: Run, width: int, scheme: str) -> None:
    browser.open(run.page, width, 900, scheme)
    browser.wait(browser.names, "cards")
    assert browser.js("return document.scrollingElement.scrollWidth") <= width
    for selector in ("header p", ".tile dt", ".tile dd", ".card .line", ".card .reason", "#shown", ".figure"):
        assert browser.js(_CONTRAST, selector) >= 4.5, selector
    browser.card("cup.png").click()
    browser.wait(lambda: browser.all("#viewer-masks tbody tr"), "the table of masks")
    box = browser.js("const r = document.getElementById('viewer').getBoundingClientRect(); return [r.left, r.right]")
    assert box[0] >= 0 and box[1] <= width
    stage = browser.js("const r = document.querySelector('.stage').getBoundingClientRect(); return [r.width, r.height]")
    assert min(stage) > 250


NAMES = [
    "DCIM/2024-05-04/IMG_00462.jpg",
    "a/b.png",
    "warehouse/line-3/camera_front_left_2024-05-01T12-33-59_exposure_4000_gain_2_000001.jpg",
    "صور/مجلد/صورة_قطة_في_الحديقة_على_الجدار_القديم_رقم_٧.jpg",
]


@pytest.mark.parametrize("width", [420, 800, 1280])
def test_long_names_and_large_numbers_have_room(browser: Browser, tmp_path: Path, width: int) -> None:
    """The end of a long name is there, which tells it from the others; numbers stay in their places."""
    lines = [
        {"input": name, "stem": f"s{i}", "status": "done", "seconds": 90.5 + i, "masks": masks, "coverage": 0.0004}
        for i, (name, masks) in enumerate(zip(NAMES, (3, 20, 113, 2173), strict=True))
    ]
    lines += [{"input": NAMES[0], "stem": "bad", "status": "failed", "error": f"{NAMES[1]}: the file is truncated"}]
    settings = {"parameters": {"crop_n_points_downscale_factor": 1}}
    browser.open(write_report(tmp_path, [{"outputs": [], **line} for line in lines], settings), width, 900)
    browser.wait(browser.names, "cards")
    assert browser.js("return document.scrollingElement.scrollWidth") <= width
    for list_ in ".list .path", ".card .path":
        shown = browser.js(_CUT, list_)
        assert {name for name, _, _ in shown} == set(NAMES)
        for name, before, after in shown:  # to the left and to the right of what is seen
            assert (before if name == NAMES[3] else after) <= 0.5, shown
            if width == 420 and list_ == ".list .path" and len(name) > 50:
                assert (after if name == NAMES[3] else before) > 0, shown
    # Words and numbers lie within their tile; those of the axis within the panel, beside one another.
    assert browser.js(
        "return [...document.querySelectorAll('.tile dd, .tile dt')].every(e => e.scrollWidth <= e.clientWidth)"
    )
    assert all(
        box[1] - box[0] < 40 for box in browser.js(_BOXES.replace("left", "top").replace("right", "bottom"), ".tile dd")
    )
    left, right = browser.js(_BOXES, ".panel.wide")[0]
    ticks = [box for box in browser.js(_BOXES, ".histogram .tick") if box[1] > box[0]]
    assert len(ticks) >= 3 and left <= ticks[0][0] and ticks[-1][1] <= right
    assert all(one[1] + 4 <= other[0] for one, other in itertools.pairwise(ticks))
    assert browser.js("return document.querySelector('.tick').getBoundingClientRect().height") >= 11
    # A name in the table of failures is broken between folders, not within a word.
    if width > 420:
        assert browser.js(_LINES, "#failures td.name") in ([NAMES[0]], ["DCIM/2024-05-04/", "IMG_00462.jpg"])
    browser.one(".settings summary").click()
    setting = browser.js(_LINES, ".settings dt")
    assert all(line.endswith("_") for line in setting[:-1]), setting
    browser.js("[...document.querySelectorAll('.list .open')].find(e => e.textContent.includes('camera')).click()")
    assert browser.one("#viewer-name").text == NAMES[2]
    assert browser.js(_CUT, "#viewer-name")[0][2] <= 0.5


_BOXES = """
return [...document.querySelectorAll(arguments[0])].map((e) => e.getBoundingClientRect()).map((r) => [r.left, r.right]);
"""
# Of each path its text, and how far that sticks out of what is seen, on the left and on the right.
_CUT = """
return [...document.querySelectorAll(arguments[0])].map((path) => {
  const text = path.firstElementChild.getBoundingClientRect(), room = path.getBoundingClientRect();
  return [path.textContent, room.left - text.left, text.right - room.right];
});
"""
# The lines into which the text of an element is broken.
_LINES = """
const lines = [], walker = document.createTreeWalker(document.querySelector(arguments[0]), NodeFilter.SHOW_TEXT);
let top = null;
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  for (let i = 0; i < node.length; i++) {
    const range = document.createRange();
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    const at = range.getBoundingClientRect().top;
    if (at !== top) lines.push("");
    top = at;
    lines[lines.length - 1] += node.data[i];
  }
}
return lines;
"""


# The ratio of WCAG between the colour of an element's text and that of what it stands on.
_CONTRAST = """
const element = document.querySelector(arguments[0]);
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
let ground = element;
while (numbers(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
const values = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor]
  .map((text) => luminance(numbers(text).slice(0, 3)));
return (Math.max(...values) + 0.05) / (Math.min(...values) + 0.05);
"""


def test_five_thousand_images_open_at_once(browser: Browser, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    numbers = itertools.cycle(range(3))
    lines = [
        {**run.lines[next(numbers)], "input": f"frames/day {i // 500}/clip_{i}.png", "stem": f"c{i}", "index": i}
        | {"masks": i % 97, "seconds": 1 + i}
        for i in range(5000)
    ]
    page = write_report(out, lines)
    begin = time.monotonic()
    browser.open(page)  # until the page has loaded, its script has run, and its pictures in view are there
    browser.wait(browser.names, "cards")
    assert time.monotonic() - begin < 3
    assert browser.one("#shown").text == "5,000 inputs"
    assert browser.js("return document.querySelectorAll('.card').length") < 150
    # Nothing is loaded of images that nobody looks at, and no masks before a pointer asks for them.
    assert browser.js("return performance.getEntriesByType('resource').length") < 50
    browser.js("scrollTo(0, document.scrollingElement.scrollHeight)")
    browser.wait(lambda: browser.names()[-1:] == ["frames/day 9/clip_4999.png"], "the last card")
    browser.wait(lambda: browser.js("return document.querySelectorAll('.card').length") < 150, "far cards to go")
    begin = time.monotonic()
    browser.js(
        "const s = document.getElementById('sort'); s.value = 'slowest';"
        "s.dispatchEvent(new Event('input', {bubbles: true})); scrollTo(0, 0)"
    )
    browser.wait(lambda: browser.names()[:1] == ["frames/day 9/clip_4999.png"], "the slowest")
    browser.one("#filter-name").send_keys("clip_123")
    # clip_123 and clip_1230 to clip_1239
    browser.wait(lambda: browser.one("#shown").text == "11 of 5,000 inputs", "the filter")
    assert time.monotonic() - begin < 3
    last = browser.card("frames/day 0/clip_123.png")
    x, y, mask = run.places(0, 1)[0]
    browser.point_at(last, x, y, size_of(run.summaries[0]))
    browser.wait(lambda: browser.one("#tip").is_displayed(), "the tip")
    assert shown_mask(mask)[1] in browser.one("#tip").text
