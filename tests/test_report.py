"""The report of a run: figures, pictures, what is made again, and names that would like to be code."""

from __future__ import annotations

import json
import os
import re
import statistics
import struct
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from densecli.errors import OutputError
from densecli.masks import Segmentation, decode_rle, encode_rle
from densecli.report import write_report
from densecli.report.entries import Entries
from densecli.report.histogram import bars
from densecli.report.shrinking import shrink
from densecli.segmenter import Segmenter
from densecli.sinks import WriteOptions, sink
from densecli.sinks.one_image import outputs_of
from tests.conftest import FIRST_STARTER

# With the first starter: how much JPEG takes from an overlay depends on the masks in it.
OVERRIDES = [
    "points_per_side=6",
    "min_mask_region_area=40",
    "pred_iou_thresh=0.45",
    "stability_score_thresh=0.70",
]

HOSTILE = [
    "<script>alert(1)<|script>",
    "\" onmouseover='alert(2)' x=\"",
    "a#b?c%41&amp;é🖼",
    "{{ 7*7 }}{% raw %}",
    "two\nlines",
    os.fsdecode(b"latin-\xe9"),
]


@pytest.fixture(scope="module")
def segmentation(photo: np.ndarray) -> Segmentation:
    segmenter = Segmenter(preset="dense", model=str(FIRST_STARTER[0]), device="cpu", overrides=OVERRIDES)
    result = segmenter(photo)
    assert len(result.masks) >= 3
    return result


def line_of(stem: str, /, **values: Any) -> dict[str, Any]:
    """A manifest line of an input that is done."""
    return {
        "schema": "densecli/manifest/1",
        "input": f"in/{stem}.png",
        "stem": stem,
        "status": "done",
        "error": None,
        "seconds": 1.0,
        "masks": 5,
        "coverage": 0.5,
        "outputs": [f"{stem}_overlay.png", f"{stem}_masks.json"],
        **values,
    }


def write_outputs(
    segmentation: Segmentation, out: Path, stem: str, kinds: tuple[str, ...] = ("overlay", "json")
) -> None:
    for kind, path in outputs_of(stem, out, kinds).items():
        sink(kind).write(segmentation, path, WriteOptions())


class Page(HTMLParser):
    """What a browser would make of report.html: its tags, its text, and the gallery's rows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.tags, self.text = path, [], ""
        self.rows: list[list[Any]] = []
        self._inside: dict[str, str | None] | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += "" if tag == "wbr" else " "
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs) if tag == "script" else {} if tag == "style" else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.text += data
        elif self._inside.get("class") == "rows":
            self.rows += json.loads(data)

    def pictures(self) -> dict[str, dict[str, Any]]:
        """What the script beside each picture says, by name."""
        found = {}
        for row in self.rows:
            if row[6] is not None:
                text = (self.path.parent / "report" / f"{row[6]}.js").read_text(encoding="utf-8")
                match = re.fullmatch(r"/\*.*\*/\ndensecliPicture\((.*)\)\n", text)
                assert match
                key, found[row[1]] = json.loads(f"[{match[1]}]")
                assert key == row[6]
        return found


# --- masks at the size of a thumbnail -------------------------------------------------------------------------------


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    h, w = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    noise = np.random.default_rng(draw(st.integers(0, 99))).random((h, w))
    return noise < draw(st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))


@given(masks(), st.integers(1, 50), st.integers(1, 50))
def test_a_shrunken_mask_is_the_mask_at_the_pixels_centres(mask: np.ndarray, w: int, h: int) -> None:
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return
    bbox = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    x, y, window = shrink(encode_rle(mask), [float(v) for v in bbox], (w, h))
    small = np.zeros((h, w), dtype=bool)
    small[y : y + window.shape[0], x : x + window.shape[1]] = window
    expected = mask[
        ((np.arange(h) + 0.5) * height / h).astype(int)[:, None], ((np.arange(w) + 0.5) * width / w).astype(int)
    ]
    if expected.any():
        assert np.array_equal(small, expected)
    else:
        assert small.sum() == 1  # still there to be found


# --- figures --------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 5000), st.integers(1, 100), min_size=1))
def test_the_histogram_counts_every_image_once(counts: dict[int, int]) -> None:
    found = bars(sorted(counts.items()))
    assert len(found) <= 30 and len({bar.last - bar.first for bar in found}) == 1
    for bar in found:
        assert bar.images == sum(count for masks, count in counts.items() if bar.first <= masks <= bar.last)
    assert sum(bar.images for bar in found) == sum(counts.values())
    assert max(bar.height for bar in found) == 1


def test_few_numbers_have_a_bar_each() -> None:
    assert [(bar.range, bar.images) for bar in bars([(0, 2), (3, 1)])] == [("0", 2), ("1", 0), ("2", 0), ("3", 1)]
    assert bars([]) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.001, 100)), min_size=1, max_size=30))
def test_totals_are_those_of_the_images_done(images: list[tuple[int, float]]) -> None:
    lines = [line_of(f"{i}", masks=masks, seconds=seconds) for i, (masks, seconds) in enumerate(images)]
    lines.append(line_of("bad", status="failed", error="no", masks=None, seconds=1e6, coverage=None, outputs=[]))
    with Entries(lines) as entries:
        totals = entries.totals()
        assert totals.images == len(images) and totals.masks == sum(masks for masks, _ in images)
        assert totals.median_masks == statistics.median(masks for masks, _ in images)
        assert totals.median_seconds == pytest.approx(statistics.median(seconds for _, seconds in images))
        assert totals.seconds == pytest.approx(sum(seconds for _, seconds in images))
        assert [e.seconds for e in entries.slowest(5)] == sorted((s for _, s in images), reverse=True)[:5]


def test_the_last_line_about_an_output_counts() -> None:
    lines = [
        line_of("b", index=1, status="failed", error="broken", masks=None, outputs=[]),
        line_of("a", index=0),
        line_of("b", index=1, masks=9),
        line_of("a", index=0, status="skipped", masks=None),  # done earlier: still the image that it was
        line_of("a", stem=None, input="in/a.png", status="failed", error="never got an output name", index=2),
        line_of("frames/1", input="clip.mp4#1", status="skipped", masks=None, index=3),
    ]
    with Entries(lines) as entries:
        found = [(e.name, e.status, e.masks) for e in entries.gallery(9)]
        assert len(entries) == 4
        assert entries.by_status() == {"done": 2, "failed": 1, "skipped": 1}
    assert found == [
        ("in/a.png", "done", 5),
        ("in/b.png", "done", 9),
        ("in/a.png", "failed", 5),
        ("clip.mp4#1", "skipped", None),
    ]


def test_figures_that_are_none_are_left_out() -> None:
    lines = [line_of("a", seconds=float("nan"), coverage=None, masks="many"), line_of("b", seconds=2.5)]
    with Entries(lines) as entries:
        assert [e.name for e in entries.slowest(9)] == ["in/b.png"]
        assert [e.name for e in entries.emptiest(9)] == ["in/b.png"]
        assert entries.totals().seconds == 2.5 and entries.masks_per_image() == [(5, 1)]


# --- the page -------------------------------------------------------------------------------------------------------


def test_page_and_pictures_say_what_the_run_made(segmentation: Segmentation, tmp_path: Path) -> None:
    for stem in ("desk", "a/cup"):
        write_outputs(segmentation, tmp_path, stem)
    lines = [
        line_of("desk", seconds=0.25, masks=len(segmentation.masks), coverage=segmentation.coverage),
        line_of("a/cup", seconds=7.5, masks=2, coverage=0.01),
        line_of("torn", status="failed", error="the file is truncated", masks=None, coverage=None, outputs=[]),
    ]
    path = write_report(tmp_path, lines, {"preset": {"name": "dense", "generator": {"points_per_side": 4}}})
    assert path == tmp_path / "report.html"
    page = Page(path)
    text = " ".join(page.text.split())
    for said in ("2 images done", "1 failed", "the file is truncated", "preset.generator.points_per_side 4", "7.50 s"):
        assert said in text
    assert [row[1:6] for row in page.rows] == [
        ["in/desk.png", 0, len(segmentation.masks), pytest.approx(segmentation.coverage, abs=1e-4), 0.25],
        ["in/a/cup.png", 0, 2, 0.01, 7.5],
        ["in/torn.png", 1, None, None, 1.0],
    ]
    assert page.rows[2][6:] == [None, "the file is truncated"]
    details = page.pictures()["in/desk.png"]
    height, width = segmentation.pixels.shape[:2]
    assert details["image"] == details["size"] == [width, height]  # small enough to be its own thumbnail
    # Then the masks are those of the summary, largest first, and so is the picture but for JPEG.
    by_id = {mask.id: mask for mask in segmentation.masks}
    assert [mask[0] for mask in details["masks"]] == [mask.id for mask in segmentation.masks]
    for id_, area, iou, stability, parent, color, counts in details["masks"]:
        mask = by_id[id_]
        assert (area, parent, color) == (mask.area, mask.parent, mask.color)
        # Rounded once, to what the page shows.
        assert (iou, stability) == (round(mask.predicted_iou, 3), round(mask.stability_score, 3))
        assert np.array_equal(decode_rle({"size": [height, width], "counts": counts}), mask.decode())
    with Image.open(tmp_path / "report" / f"{page.rows[0][6]}.jpg") as picture:
        difference = np.abs(np.asarray(picture).astype(int) - segmentation.overlay(0.7))
    assert picture.size == (width, height) and difference.mean() < 6
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".densecli")]


def test_pictures_are_made_again_only_where_something_changed(segmentation: Segmentation, tmp_path: Path) -> None:
    lines = [line_of(stem) for stem in ("one", "two", "three")]
    for line in lines:
        write_outputs(segmentation, tmp_path, line["stem"])
    page = Page(write_report(tmp_path, lines))
    files = sorted((tmp_path / "report").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        os.utime(file, ns=(1, 1))
    # The summary of one has other masks now, and a picture of another is gone.
    summary = json.loads((tmp_path / "two_masks.json").read_text(encoding="utf-8"))
    summary["masks"].pop()
    (tmp_path / "two_masks.json").write_text(json.dumps(summary), encoding="utf-8")
    keys = {row[1]: row[6] for row in page.rows}
    (tmp_path / "report" / f"{keys['in/three.png']}.jpg").unlink()
    again = Page(write_report(tmp_path, lines))
    assert {row[1]: row[6] for row in again.rows} == keys
    old = {str(f.relative_to(tmp_path / "report").with_suffix("")) for f in files if f.stat().st_mtime_ns == 1}
    assert old == {keys["in/one.png"]}
    assert len(again.pictures()["in/two.png"]["masks"]) == len(segmentation.masks) - 1


def test_hostile_names_stay_names(segmentation: Segmentation, tmp_path: Path) -> None:
    lines = []
    for stem in HOSTILE:
        try:
            write_outputs(segmentation, tmp_path, stem)
        except OutputError:  # macOS refuses what is no UTF-8
            continue
        lines.append(line_of(stem))
        lines.append(line_of(f"{stem} bad", status="failed", error=f"{stem}</script><script>alert(3)", outputs=[]))
    page = Page(write_report(tmp_path, lines, {HOSTILE[0]: HOSTILE[1], "nested": {HOSTILE[3]: [HOSTILE[0]]}}))
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert [attrs.get("type") for attrs in scripts] == ["application/json", "application/json", None]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert len(page.rows) == len(lines) and "alert(3)" in page.text
    assert "{{ 7*7 }}" in page.text and page.rows[0][1] == "in/<script>alert(1)<|script>.png"
    pictures = page.pictures()
    assert len(pictures) == len(lines) // 2
    for details in pictures.values():
        for link in (details["overlay"], details["summary"]):
            parts = urllib.parse.urlsplit(link)
            assert not (parts.scheme or parts.netloc or parts.query or parts.fragment)
            assert (tmp_path / os.fsdecode(urllib.parse.unquote_to_bytes(parts.path))).is_file()


def test_nothing_is_asked_of_another_host(segmentation: Segmentation, tmp_path: Path) -> None:
    write_outputs(segmentation, tmp_path, "desk")
    page = Page(write_report(tmp_path, [line_of("desk")]))
    for tag, attrs in page.tags:
        for name in ("src", "href", "data", "srcset", "action"):
            value = attrs.get(name) or ""
            assert not re.match(r"(?:[a-z]+:)?//", value), (tag, value)
    sources = page.path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", sources)


def test_without_an_overlay_the_input_is_painted(segmentation: Segmentation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Image.fromarray(segmentation.pixels).save(tmp_path / "cup.png")
    segmenter = Segmenter(preset="dense", model=str(FIRST_STARTER[0]), device="cpu", overrides=OVERRIDES)
    result = segmenter(tmp_path / "cup.png")
    write_outputs(result, out, "cup", ("json",))
    write_outputs(result, out, "other", ("json",))
    Image.fromarray(segmentation.pixels[::-1]).save(tmp_path / "other.png")
    lines = [
        line_of("cup", outputs=["cup_masks.json"], source=str(tmp_path / "cup.png")),
        line_of("other", outputs=["other_masks.json"], source=str(tmp_path / "other.png")),
    ]
    page = Page(write_report(out, lines))
    pixels = []
    for row in page.rows:
        with Image.open(out / "report" / f"{row[6]}.jpg") as image:
            pixels.append(np.asarray(image).astype(int))
    assert np.abs(pixels[0] - result.overlay(0.7)).mean() < 6
    # It is no longer the picture that was segmented: an even ground where there is no mask.
    bare = pixels[1][result.labels() == 0]
    assert np.median(np.abs(bare - (226, 228, 232))) < 12
    assert page.pictures()["in/cup.png"]["overlay"] is None


def test_without_a_summary_there_are_no_masks_to_show(segmentation: Segmentation, tmp_path: Path) -> None:
    write_outputs(segmentation, tmp_path, "cup", ("overlay",))
    page = Page(write_report(tmp_path, [line_of("cup", outputs=["cup_overlay.png"])]))
    assert page.pictures()["in/cup.png"]["masks"] is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"image": {"width": 1}}', '{"image": null}', "\xff", "[" * 100_000,
     '{"image": {"width": 0, "height": 0}}', '{"image": {"width": 1e999, "height": 1}}'],
)  # fmt: skip
def test_a_damaged_summary_costs_its_picture_only(segmentation: Segmentation, tmp_path: Path, text: str) -> None:
    write_outputs(segmentation, tmp_path, "good")
    write_outputs(segmentation, tmp_path, "bad")
    (tmp_path / "bad_masks.json").write_text(text, encoding="latin-1")
    page = Page(write_report(tmp_path, [line_of("bad"), line_of("good"), line_of("gone")]))
    assert [row[6] is None for row in page.rows] == [True, False, True]


def test_a_picture_that_unpacks_to_gigabytes_costs_itself_only(tmp_path: Path) -> None:
    """In an output folder that came from somebody else; of densecli's own the largest has a gigapixel."""
    side = 40_000
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(side // 8 + 1) * side, 1)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    (tmp_path / "bad_overlay.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    page = Page(write_report(tmp_path, [line_of("bad", outputs=["bad_overlay.png"])]))
    assert page.rows[0][6] is None


@pytest.mark.parametrize("wrong", [10**40, 1e308, -5, 1e999, "x", ["x"], {}])
@pytest.mark.parametrize("key", ["masks", "coverage", "seconds", "index", "outputs", "frame", "error", "source"])
def test_whatever_a_manifest_says_there_is_a_page(tmp_path: Path, key: str, wrong: object) -> None:
    page = Page(write_report(tmp_path, [line_of("bad", **{key: wrong}), line_of("good", outputs=[])]))
    assert sorted(row[1] for row in page.rows) == ["in/bad.png", "in/good.png"]


def test_outputs_elsewhere_are_not_shown(segmentation: Segmentation, tmp_path: Path) -> None:
    write_outputs(segmentation, tmp_path, "secret")
    out = tmp_path / "out"
    out.mkdir()
    page = Page(write_report(out, [line_of("x", outputs=["../secret_overlay.png", "../secret_masks.json"])]))
    assert page.rows[0][6] is None and not (out / "report").exists()


def test_a_run_of_nothing_has_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "new", []))
    assert page.rows == [] and "0 images done" in " ".join(page.text.split())


def test_the_gallery_has_a_limit_but_the_totals_have_none(tmp_path: Path) -> None:
    lines = [line_of(f"{i}", outputs=[], masks=i, index=i) for i in range(30)]
    seen: list[tuple[int, int]] = []
    page = Page(
        write_report(tmp_path, lines, gallery_limit=10, progress=lambda done, total: seen.append((done, total)))
    )
    assert [row[3] for row in page.rows] == list(range(10))
    assert seen == [(done, 10) for done in range(1, 11)]
    text = " ".join(page.text.split())
    assert "30 images done" in text and "first 10 of 30" in text


def test_lines_are_not_held_in_memory(tmp_path: Path) -> None:
    class Line(dict[str, Any]):
        alive = most = 0

        def __init__(self, values: Mapping[str, Any]) -> None:
            super().__init__(values)
            Line.alive += 1
            Line.most = max(Line.most, Line.alive)

        def __del__(self) -> None:
            Line.alive -= 1

    def lines() -> Iterator[Mapping[str, Any]]:
        for i in range(3000):
            yield Line(line_of(f"{i}", outputs=[]))

    page = Page(write_report(tmp_path, lines()))
    assert len(page.rows) == 3000 and Line.most < 10


def test_a_folder_that_cannot_be_written_is_said(segmentation: Segmentation, tmp_path: Path) -> None:
    write_outputs(segmentation, tmp_path, "desk")
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(OutputError, match="report"):
        write_report(tmp_path, [line_of("desk")])
    assert not (tmp_path / "report.html").exists()
