"""`densecli segment` as users and scripts see it: files, streams, exit codes. Runs are shared between tests."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image, ImageColor
from pycocotools import mask as coco

from densecli.masks import summary_schema
from densecli.sinks.images import save_png
from tests.conftest import CHECKOUT, FIRST_STARTER, Command, Finished, obeying_permissions, screen_of, small_disk

# The small starter, which is done three times as soon, and thresholds at which it finds something.
SMALL = (
    "-m", str(FIRST_STARTER[0]), "-s", "points_per_side=6", "-s", "min_mask_region_area=40",
    "-s", "pred_iou_thresh=0.35", "-s", "stability_score_thresh=0.55",
)  # fmt: skip
KINDS = "overlay,json,labels,masks,cutouts"
QUOTES = 'it\'s "quoted" & ünïcode 🖼.png'
NEWLINE = "two\nlines.png"
NOT_UTF8 = os.fsdecode(b"latin-\xe9.png")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".densecli")]


def timeless(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in ("seconds", "peak_memory_mb")}


def validate(summaries: list[dict[str, Any]]) -> None:
    for summary in summaries:
        jsonschema.Draft202012Validator(summary_schema()).validate(summary)


def plain(done: Finished) -> None:
    """What a log file may hold: no bars, no colour, no traceback."""
    for stream in (done.stdout, done.stderr):
        assert "\r" not in stream and "\x1b" not in stream and "Traceback" not in stream


# --- one run over images of every kind, with --json and all kinds of output -----------------------------------------


class Everything:
    """The folder of the run, its outcome, and for each input the base name of its outputs."""

    def __init__(self, folder: Path, photo: np.ndarray, run: Command) -> None:
        self.folder, self.out = folder, folder / "out"
        image = Image.fromarray(photo)
        sixteen_bit = np.asarray(image.convert("L")).astype(np.uint16) * 257
        ramp = np.linspace(0, 255, 4000).astype(np.uint8)
        alpha = image.copy()
        alpha.putalpha(Image.fromarray(np.where(np.arange(160) < 80, 255, 0).astype(np.uint8)[None].repeat(107, 0)))
        exif = Image.Exif()
        exif[0x0112] = 6
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        image.save(folder / "desk.png")
        image.save(folder / "a" / "same.png")
        image.rotate(180).save(folder / "b" / "same.png")
        image.save(folder / QUOTES)
        image.save(folder / NEWLINE)
        image.convert("L").save(folder / "grey.png")
        alpha.save(folder / "rgba.png")
        image.convert("CMYK").save(folder / "cmyk.jpg")
        image.quantize(32).save(folder / "palette.png")
        Image.fromarray(sixteen_bit).save(folder / "deep.png")
        image.save(folder / "lying.png", exif=exif)  # to be turned a quarter clockwise
        image.transpose(Image.Transpose.ROTATE_270).save(folder / "standing.png")
        Image.new("RGB", (1, 1), (200, 30, 90)).save(folder / "dot.png")
        Image.fromarray(ramp[None]).save(folder / "wide.png")
        Image.fromarray(ramp[:, None]).save(folder / "tall.png")
        image.save(folder / "by url.png")
        self.inputs = {
            "desk.png": "desk",
            "a/same.png": "a_same.png",
            "b/same.png": "b_same.png",
            QUOTES: QUOTES.removesuffix(".png"),
            NEWLINE: NEWLINE.removesuffix(".png"),
            **{f"{name}.png": name for name in ("grey", "rgba", "palette", "deep", "lying", "standing")},
            "cmyk.jpg": "cmyk",
            **{f"{name}.png": name for name in ("dot", "wide", "tall")},
            f"file://{folder}/by%20url.png": "by%20url",
        }
        if self._can_be_named(NOT_UTF8):
            image.save(folder / NOT_UTF8)
            self.inputs[NOT_UTF8] = NOT_UTF8.removesuffix(".png")
        arguments = [os.fsencode(given) for given in self.inputs]
        # The first input twice: it is the same, so it is done once.
        self.done = run("segment", *arguments, "desk.png", "-o", "out", *SMALL, "--save", KINDS, "--json", cwd=folder)

    def _can_be_named(self, name: str) -> bool:
        try:
            (self.folder / name).touch()
        except OSError:  # macOS
            return False
        return True

    def summary(self, given: str) -> dict[str, Any]:
        return load(self.out / f"{self.inputs[given]}_masks.json")

    def picture(self, given: str, kind: str) -> np.ndarray:
        return pixels(self.out / f"{self.inputs[given]}_{kind}.png")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray, run_densecli: Command) -> Everything:
    ran = Everything(tmp_path_factory.mktemp("everything"), photo, run_densecli)
    assert ran.done.code == 0, ran.done.stderr
    plain(ran.done)
    return ran


def test_json_is_one_array_that_validates(everything: Everything) -> None:
    summaries = json.loads(everything.done.stdout)
    assert [summary["image"]["path"] for summary in summaries] == list(everything.inputs)
    validate(summaries)


def test_files_hold_what_json_printed(everything: Everything) -> None:
    for given in everything.inputs:
        text = (everything.out / f"{everything.inputs[given]}_masks.json").read_text(encoding="utf-8")
        assert text.rstrip("\n") in everything.done.stdout


def test_every_input_has_all_its_outputs_and_nothing_else(everything: Everything) -> None:
    names = {
        f"{base}_{kind}"
        for base in everything.inputs.values()
        for kind in ("overlay.png", "masks.json", "labels.png", "masks", "cutouts")
    }
    assert {path.name for path in everything.out.iterdir()} == names


def test_notices_are_on_stderr_and_name_their_input(everything: Everything) -> None:
    lines = everything.done.stderr.splitlines()
    assert sum(" candidates → " in line for line in lines) == len(everything.inputs)
    assert any(line.startswith("rgba.png: has transparent pixels") for line in lines)
    assert any(line.startswith(r"two\nlines.png: ") for line in lines)
    assert not any(line.startswith("lines.png") for line in lines)


def test_masks_are_what_the_summary_says(everything: Everything) -> None:
    found = 0
    for given in everything.inputs:
        summary = everything.summary(given)
        height, width = summary["image"]["height"], summary["image"]["width"]
        masks = summary["masks"]
        found += len(masks)
        assert summary["funnel"]["masks"] == len(masks)
        assert [mask["id"] for mask in masks] == list(range(1, len(masks) + 1))
        areas = [mask["area"] for mask in masks]
        assert areas == sorted(areas, reverse=True) and all(area >= 40 for area in areas)
        labels = np.zeros((height, width), int)
        for mask in masks:
            rle = mask["segmentation"]
            assert rle["size"] == [height, width]
            decoded = coco.decode(rle).astype(bool)
            assert decoded.sum() == mask["area"]
            assert coco.toBbox(rle).tolist() == mask["bbox"]
            labels[decoded] = mask["id"]  # by falling area: the smallest comes last, on top
        np.testing.assert_array_equal(everything.picture(given, "labels"), labels)
        assert summary["coverage"] == pytest.approx((labels > 0).mean())
        folders = [everything.out / f"{everything.inputs[given]}_{kind}" for kind in ("masks", "cutouts")]
        for folder in folders:
            assert sorted(path.name for path in folder.iterdir()) == [f"{mask['id']:04d}.png" for mask in masks]
        for mask in masks:
            decoded = coco.decode(mask["segmentation"]).astype(bool)
            np.testing.assert_array_equal(pixels(folders[0] / f"{mask['id']:04d}.png"), np.where(decoded, 255, 0))
    assert found >= 2 * (len(everything.inputs) - 3)  # all but the dot and the two lines show a cup


def test_overlay_and_cutouts_have_the_right_pixels(everything: Everything, photo: np.ndarray) -> None:
    labels, overlay = everything.picture("desk.png", "labels"), everything.picture("desk.png", "overlay")
    masks = everything.summary("desk.png")["masks"]
    assert len(masks) >= 2
    np.testing.assert_array_equal(overlay[labels == 0], photo[labels == 0])
    for mask in masks:
        top = labels == mask["id"]
        expected = photo[top] * 0.3 + np.array(ImageColor.getrgb(mask["color"])) * 0.7
        assert np.abs(overlay[top] - expected).max(initial=0) <= 0.51
        x, y, w, h = mask["bbox"]
        window = coco.decode(mask["segmentation"])[y : y + h, x : x + w].astype(bool)
        cutout = pixels(everything.out / "desk_cutouts" / f"{mask['id']:04d}.png")
        np.testing.assert_array_equal(cutout[..., 3], np.where(window, 255, 0))
        np.testing.assert_array_equal(cutout[window, :3], photo[y : y + h, x : x + w][window])


def test_the_same_photo_in_other_forms_gives_the_same_masks(everything: Everything) -> None:
    desk = everything.summary("desk.png")
    for given in ("a/same.png", QUOTES, NEWLINE):
        assert everything.summary(given)["masks"] == desk["masks"]
    # 8-bit grey and the same saved with 16 bits
    assert everything.summary("deep.png")["masks"] == everything.summary("grey.png")["masks"]
    assert everything.summary("b/same.png")["masks"] != desk["masks"]


def test_exif_rotation_is_applied_everywhere(everything: Everything) -> None:
    lying, standing = everything.summary("lying.png"), everything.summary("standing.png")
    assert (lying["image"]["width"], lying["image"]["height"]) == (107, 160)
    assert lying["masks"] == standing["masks"] and lying["masks"]
    for kind in ("overlay", "labels"):
        ours = everything.picture("lying.png", kind)
        assert ours.shape[:2] == (160, 107)
        np.testing.assert_array_equal(ours, everything.picture("standing.png", kind))


def test_extreme_sizes(everything: Everything) -> None:
    for given, size in (("dot.png", (1, 1)), ("wide.png", (1, 4000)), ("tall.png", (4000, 1))):
        assert everything.picture(given, "overlay").shape == (*size, 3)
        assert everything.picture(given, "labels").shape == size


# --- plain text, a second run over the same photo --------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_run(everything: Everything, run_densecli: Command) -> Finished:
    """The photo again, from a file and from stdin, into a folder that holds the outputs of an earlier run."""
    (everything.folder / "again" / "desk_masks").mkdir(parents=True)
    save_png(np.zeros((2, 3), np.uint8), everything.folder / "again" / "desk_masks" / "0009.png")
    stdin = (everything.folder / "desk.png").read_bytes()
    options = ("-o", "again", *SMALL, "--save", KINDS, "--overwrite", "--device", "cpu", "--precision", "fp32")
    return run_densecli("segment", "desk.png", "-", *options, cwd=everything.folder, stdin=stdin)


def test_stdout_has_one_line_an_image(everything: Everything, text_run: Finished) -> None:
    assert text_run.code == 0, text_run.stderr
    plain(text_run)
    count = len(everything.summary("desk.png")["masks"])
    assert [line.partition(". ")[0] for line in text_run.lines] == [
        f"desk.png: Found {count} masks",
        f"stdin: Found {count} masks",
    ]
    written = text_run.lines[0].partition(". ")[2].split(", ")
    assert written == [f"again/desk_{w}" for w in ("overlay.png", "labels.png", "masks", "cutouts", "masks.json")]
    assert all((everything.folder / path).exists() for path in written)


def test_stdin_is_read_as_the_image_that_it_is(everything: Everything, text_run: Finished) -> None:
    summary = load(everything.folder / "again" / "stdin_masks.json")
    assert summary["image"]["path"] == "-"
    assert summary["image"]["sha256"] == everything.summary("desk.png")["image"]["sha256"]
    assert summary["masks"] == everything.summary("desk.png")["masks"]


def test_a_second_run_gives_the_same_bytes(everything: Everything, text_run: Finished) -> None:
    for name in ("desk_overlay.png", "desk_labels.png"):
        assert (everything.folder / "again" / name).read_bytes() == (everything.out / name).read_bytes()
    again = load(everything.folder / "again" / "desk_masks.json")
    assert timeless(again) == timeless(everything.summary("desk.png"))


def test_overwrite_leaves_no_stale_mask(everything: Everything, text_run: Finished) -> None:
    there = {path.name for path in (everything.folder / "again" / "desk_masks").iterdir()}
    assert there == {path.name for path in (everything.out / "desk_masks").iterdir()}


def test_skip_existing_does_nothing_where_all_is_there(
    everything: Everything, text_run: Finished, run_densecli: Command
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (everything.folder / "again").rglob("*")}
    options = ("-o", "again", *SMALL, "--skip-existing", "--json")
    done = run_densecli("segment", "desk.png", *options, cwd=everything.folder)
    there = json.loads((everything.folder / "again" / "desk_masks.json").read_text())
    assert (done.code, json.loads(done.stdout)) == (0, [there])
    assert done.stderr == "desk.png: skipped, its outputs are there\n"
    assert {path: path.stat().st_mtime_ns for path in (everything.folder / "again").rglob("*")} == before


def test_skipped_ones_are_printed_where_they_were_given(everything: Everything, run_densecli: Command) -> None:
    folder = everything.folder / "order"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes((everything.folder / "desk.png").read_bytes())
    options = (*SMALL, "--save", "json", "--json", "--skip-existing")
    assert run_densecli("segment", "b.png", "c.png", *options, cwd=folder).code == 0
    (folder / "densecli-out" / "c_masks.json").write_text("[1, 2]")
    done = run_densecli("segment", "a.png", "b.png", "c.png", *options, cwd=folder)
    assert done.code == 0, done.stderr
    assert [found["image"]["path"] for found in json.loads(done.stdout)] == ["a.png", "b.png"]


# --- inputs that fail ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """A folder with one good photo and inputs that are none."""
    folder = tmp_path_factory.mktemp("bad")
    Image.fromarray(photo).save(folder / "good.png")
    (folder / "text.png").write_text("I am no picture\n")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:9000])
    (folder / "zero.png").touch()
    (folder / "folder").mkdir()
    return folder


BAD = {
    "text.png": "is a text file",
    "cut.png": "is cut off",
    "zero.png": "is empty",
    "folder": "use `densecli batch folder`",
    "missing.png": "does not exist",
    "missing\nline.png": "does not exist",
}


def test_some_inputs_failed(bad: Path, run_densecli: Command) -> None:
    done = run_densecli("segment", *BAD, "good.png", "-o", "o", *SMALL, "--alpha", "0", "-q", cwd=bad)
    assert done.code == 3
    plain(done)
    assert len(done.lines) == 1 and done.lines[0].startswith("good.png: Found ")
    assert len(done.errors) == len(done.stderr.splitlines()) == len(BAD)  # quiet: nothing else is said
    for line, (name, said) in zip(done.errors, BAD.items(), strict=True):
        shown = name.replace("\n", r"\n")
        assert line.startswith(f"{shown}: ") and said in line and line.count(f"{shown}: ") == 1
    assert sorted(path.name for path in (bad / "o").iterdir()) == ["good_masks.json", "good_overlay.png"]
    np.testing.assert_array_equal(pixels(bad / "o" / "good_overlay.png"), pixels(bad / "good.png"))  # alpha 0
    assert load(bad / "o" / "good_masks.json")["masks"]


def test_all_inputs_failed(bad: Path, run_densecli: Command) -> None:
    done = run_densecli("segment", "zero.png", "text.png", "-o", "none", "--json", "-v", "-m", "starter", cwd=bad)
    assert (done.code, json.loads(done.stdout)) == (1, [])
    assert len(done.errors) == 2
    assert done.stderr.count("Traceback (most recent call last)") == 2  # -v
    assert not (bad / "none").exists()


# --- empty results ---------------------------------------------------------------------------------------------------


def test_an_empty_result_is_good_and_comes_with_advice_that_works(bad: Path, run_densecli: Command) -> None:
    common = (
        "segment",
        "good.png",
        "-m",
        str(FIRST_STARTER[0]),
        "-s",
        "points_per_side=6",
        "-s",
        "pred_iou_thresh=1.0",
    )
    common += ("-s", "stability_score_thresh=0.5")
    done = run_densecli(*common, "-o", "empty", cwd=bad)
    assert done.code == 0
    assert done.stdout == "good.png: Found 0 masks. empty/good_overlay.png, empty/good_masks.json\n"
    np.testing.assert_array_equal(pixels(bad / "empty" / "good_overlay.png"), pixels(bad / "good.png"))
    validate([load(bad / "empty" / "good_masks.json")])
    (advice,) = [line for line in done.stderr.splitlines() if line.startswith("good.png: no mask is left")]
    change = re.search(r"try --set (pred_iou_thresh=\S+)", advice)
    assert change is not None
    again = run_densecli(*common, "-s", change[1], "-s", "crop_n_layers=1", "-o", "full", "--alpha", "1", cwd=bad)
    assert again.code == 0
    summary = load(bad / "full" / "good_masks.json")
    validate([summary])
    assert summary["funnel"]["after_crop_edge"] <= summary["funnel"]["after_stability"]  # there because of the crops
    assert len(summary["masks"]) >= 1
    overlay = pixels(bad / "full" / "good_overlay.png")
    smallest = summary["masks"][-1]
    where = coco.decode(smallest["segmentation"]).astype(bool)
    assert (overlay[where] == ImageColor.getrgb(smallest["color"])).all()  # alpha 1


# --- usage and environment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "INPUT"),
        (["good.png", "--lpha", "1"], "--lpha"),
        (["good.png", "--alpha", "1.5"], "--alpha"),
        (["good.png", "--alpha", "nan"], "--alpha"),
        (["good.png", "--save", "overlay,jsn"], "unknown kind 'jsn'"),
        (["good.png", "-p", "dens"], "nearest: dense"),
        (["good.png", "-p", "missing.yaml"], "missing.yaml"),
        (["good.png", "-s", "pred_iou_tresh=0.9"], "nearest: generator.pred_iou_thresh"),
        (["good.png", "-s", "pred_iou_thresh=9"], "a number from 0 to 1"),
        (["good.png", "-s", "pred_iou_thresh"], "KEY=VALUE"),
        (["good.png", "-d", "gpu"], "auto, cuda, cuda:N, mps or cpu"),
        (["good.png", "--precision", "int8"], "auto, fp32, bf16 or fp16"),
    ],
)
def test_usage_errors(arguments: list[str], said: str, bad: Path, run_densecli: Command) -> None:
    done = run_densecli("segment", *arguments, "-o", "usage", cwd=bad)
    assert (done.code, done.stdout) == (2, "")
    plain(done)
    (message,) = done.errors
    assert said in message and done.stderr.count("\n") == 1
    assert not (bad / "usage").exists()


def test_an_output_never_takes_the_place_of_an_input(bad: Path, run_densecli: Command, tmp_path: Path) -> None:
    (tmp_path / "x_masks").mkdir()
    for name in ("x.png", "x_overlay.png", "x_masks/0001.png"):
        shutil.copy(bad / "good.png", tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    for given, kinds in (
        (["x.png", "x_overlay.png"], "overlay"),
        (["x.png", (tmp_path / "x_overlay.png").as_uri()], "overlay"),
        (["x.png", "x_masks/0001.png"], "masks"),  # which would go with its folder
    ):
        done = run_densecli("segment", *given, "-o", ".", "--save", kinds, cwd=tmp_path)
        assert (done.code, done.stdout) == (2, "")
        assert "would overwrite the input" in done.errors[0] and "--output-dir" in done.errors[0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "large"], "densecli download-checkpoints large"),
        (["-m", "./damaged.pt"], "damaged"),
        (["-d", "cuda"], "CUDA is not available"),
    ],
)
def test_environment_problems(arguments: list[str], said: str, bad: Path, run_densecli: Command) -> None:
    (bad / "damaged.pt").write_bytes(b"PK\x03\x04" + bytes(1000))
    (bad / "damaged.yaml").write_text((CHECKOUT / "checkpoints" / "starter.yaml").read_text())
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    done = run_densecli("segment", "good.png", *arguments, "-o", "env", "--json", cwd=bad, environment=hidden)
    assert (done.code, json.loads(done.stdout)) == (4, [])
    plain(done)
    message, *where_to_look = done.errors
    assert said in message and where_to_look in ([], ["run densecli doctor"])
    assert not (bad / "env").exists()


# --- folders that cannot be written ----------------------------------------------------------------------------------


def test_an_output_folder_that_is_a_file(bad: Path, run_densecli: Command) -> None:
    (bad / "file").write_text("precious")
    done = run_densecli("segment", "good.png", "-o", "file", cwd=bad)
    assert (done.code, done.stdout) == (1, "")
    assert done.errors == ["file: a part of this path is a file, not a folder; choose another --output-dir"]
    assert (bad / "file").read_text() == "precious"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs POSIX permissions, and Linux to lower root's")
def test_an_output_folder_that_is_read_only(bad: Path, run_densecli: Command) -> None:
    (bad / "locked").mkdir(mode=0o500)
    for folder in ("locked", "locked/deeper"):
        done = run_densecli("segment", "good.png", "-o", folder, cwd=bad, preexec_fn=obeying_permissions)
        if done.code == 99:
            pytest.skip("root's permissions cannot be lowered here")
        assert (done.code, done.stdout) == (1, "")
        assert done.errors == [f"{folder}: no permission to write there; choose another --output-dir"]
    assert list((bad / "locked").iterdir()) == []


def test_disk_full(run_densecli: Command, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with small_disk(tmp_path / "disk", "size=64k"):
        done = run_densecli("segment", "noise.png", "-o", "disk", *SMALL, "--save", "overlay,masks,json", cwd=tmp_path)
        assert (done.code, done.stdout) == (1, "")
        plain(done)
        (message,) = done.errors
        assert message.startswith("noise.png: ") and "disk/noise_overlay.png: the disk is full" in message
        assert list((tmp_path / "disk").iterdir()) == []


# --- terminals and interruption --------------------------------------------------------------------------------------


def test_bar_on_a_terminal(bad: Path, run_densecli: Command) -> None:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        run_densecli.argv("segment", "good.png", "-o", "pty", "-m", "starter", "-s", "points_per_side=16"),
        cwd=bad,
        env={**run_densecli.environment, "TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    os.close(slave)
    screen = screen_of(master)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0, screen
    assert re.fullmatch(rb"good\.png: Found \d+ masks?\. pty/good_overlay\.png, pty/good_masks\.json\n", stdout)
    assert re.search(rb"good\.png: +\d+%\|", screen)
    assert b"the starter is a small stand-in" in screen


def test_interruption_leaves_whole_files_and_whole_json(bad: Path, run_densecli: Command) -> None:
    out = bad / "interrupted"
    inputs = ["good.png"]
    for number in range(60):
        shutil.copy(bad / "good.png", bad / f"more{number}.png")
        inputs.append(f"more{number}.png")
    process = subprocess.Popen(
        run_densecli.argv("segment", *inputs, "-o", str(out), *SMALL, "--save", KINDS, "--json"),
        cwd=bad,
        env=run_densecli.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that started the tests in the background may have made SIGINT ignored, for all its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (out / "more0_overlay.png").exists():  # the first image is done, the second is being written
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr.decode()
    assert b"Traceback" not in stderr and stderr.endswith(b"densecli: error: interrupted\n")
    summaries = json.loads(stdout)
    validate(summaries)
    assert 1 <= len(summaries) < len(inputs)
    assert leftovers(out) == []
    for path in out.glob("*_masks.json"):
        validate([load(path)])
    for path in out.glob("*.png"):
        pixels(path)


# --- start-up and packaging ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["presets"]])
def test_a_command_alone_shows_its_help_and_no_error(
    arguments: list[str], run_densecli: Command, tmp_path: Path
) -> None:
    done = run_densecli(*arguments, cwd=tmp_path)
    assert (done.code, done.stderr) == (2, "")
    assert "Usage: " + " ".join(["densecli", *arguments]) in done.stdout


# Not pydantic for a subcommand: newer versions of typer import it themselves.
@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["segment", "--help"], ["presets", "-h"]])
def test_help_imports_nothing_heavy(arguments: list[str], run_densecli: Command, tmp_path: Path) -> None:
    done = run_densecli(*arguments, cwd=tmp_path, python=["-X", "importtime"])
    assert done.code == (0 if arguments else 2) and "densecli" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "densecli" in imported
    heavy = {"torch", "torchvision", "cv2", "sam2", "numpy", "pydantic", "hydra", "PIL", "yaml"}
    heavy |= {"markdown_it", "pygments"}  # what typer's formatter imports and does not need here
    assert not imported & (heavy - {"pydantic"} if len(arguments) > 1 else heavy)


def test_help_names_every_option_of_the_contract(run_densecli: Command, tmp_path: Path) -> None:
    text = run_densecli("segment", "--help", cwd=tmp_path, environment={"COLUMNS": "120"}).stdout
    for option in (
        "--preset", "--set", "--model", "--config", "--checkpoint-dir", "--device", "--precision", "--output-dir",
        "--save", "--overwrite", "--skip-existing", "--alpha", "--quiet", "--verbose", "--json",
    ):  # fmt: skip
        assert option in text
    assert "densecli-out" in text and "overlay,json" in text  # defaults are shown


def test_import_densecli_imports_no_torch(clean_environment: dict[str, str]) -> None:
    code = "import sys, densecli; print({'torch', 'cv2', 'numpy', 'pydantic'} & set(sys.modules), densecli.__version__)"
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment, capture_output=True, text=True)
    assert done.stdout.startswith("set() 0.")


def test_the_console_script_is_this_command(bad: Path, clean_environment: dict[str, str]) -> None:
    script = shutil.which("densecli", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("densecli is not installed here")
    done = subprocess.run(
        [script, "segment", "good.png", "-p", "dens"], cwd=bad, env=clean_environment, capture_output=True
    )
    assert done.returncode == 2 and b"nearest: dense" in done.stderr


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(bad: Path, run_densecli: Command, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    if importlib.util.find_spec("build"):
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    else:  # the same backend, called directly
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("densecli-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    resources = "densecli/_resources"
    assert {
        "densecli/schemas/summary-1.json",
        *(f"{resources}/presets/{path.name}" for path in (CHECKOUT / "presets").glob("*.yaml")),
        *(f"{resources}/checkpoints/{name}" for name in ("registry.yaml", "starter.yaml", "starter.safetensors")),
    } <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "training")) or name.endswith(".pt")]
    unpacked = {"PYTHONPATH": str(tmp_path / "unpacked")}
    done = run_densecli(
        "segment", bad / "good.png", "-o", "o", "-s", "points_per_side=4", "--json", cwd=tmp_path, environment=unpacked
    )
    assert done.code == 0, done.stderr
    validate(json.loads(done.stdout))
    code = "import densecli.masks as m, densecli; print(densecli.__file__, m.summary_schema()['title'])"
    environment = {**run_densecli.environment, **unpacked}
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.stdout.split() == [str(tmp_path / "unpacked" / "densecli" / "__init__.py"), "densecli/summary/1"]
