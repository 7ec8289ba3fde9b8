"""200 inputs as people have them: exactly the good ones are done, and each of the others has its reason."""

from __future__ import annotations

import json
import os
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.batch.conftest import batch_job, entries, leftovers, run

REASONS = {
    "cut": "is cut off",
    "zero": "is empty",
    "text": "is a text file",
    "html": "is an HTML page",
}


def untidy(root: Path, photo: np.ndarray) -> tuple[set[str], dict[str, str]]:
    """Fill `root`. Returns the good inputs' names, and the bad ones' with the word that their reason must hold."""
    image = Image.fromarray(photo[:40, :60])
    good: set[str] = set()
    bad: dict[str, str] = {}

    def save(name: str, picture: Image.Image = image, **options: object) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name, **options)
        good.add(name)

    for number in range(30):
        save(f"plain/img{number}.png", Image.fromarray(np.roll(photo[:40, :60], number, axis=1)))
    for number in range(8):
        save(f"cmyk/{number}.jpg", image.convert("CMYK"))
        save(f"stems/same{number}.png")
        save(f"stems/same{number}.jpg")
        save(f"grey/{number}.tif", image.convert("L"))
    for name in (
        'it\'s "odd" & ünïcode 🖼.png',
        "two\nlines.png",
        " space .png",
        "-dash.png",
        "a#b?c%41.png",
        "CON.PNG",
    ):
        save(f"odd/{name}")
    save("/".join(f"deep{level}" for level in range(20)) + "/bottom.png")
    save("one/dot.png", Image.new("RGB", (1, 1), (200, 30, 90)))
    save("one/wide.png", Image.new("RGB", (3000, 1), (1, 2, 3)))
    save("big/huge.jpg", image.resize((2400, 1800)))
    whole = (root / "plain/img0.png").read_bytes()
    (root / "bad").mkdir()
    for number in range(25):
        for kind, content in (
            ("cut", whole[: 200 + 40 * number]),
            ("zero", b""),
            ("text", b"I am no picture\n" * (number + 1)),
            ("html", b"<!DOCTYPE html><html><body>404</body></html>"),
        ):
            (root / "bad" / f"{kind}{number}.png").write_bytes(content)
            bad[f"bad/{kind}{number}.png"] = REASONS[kind]
    vast = bytearray(whole)
    vast[16:24] = (100_000).to_bytes(4, "big") * 2
    vast[29:33] = zlib.crc32(vast[12:29]).to_bytes(4, "big")
    (root / "bad" / "vast.png").write_bytes(vast)
    bad["bad/vast.png"] = "the limit is 1000 megapixels"
    (root / "bad" / "dangling.png").symlink_to("nowhere.png")
    (root / "bad" / "loop.png").symlink_to("loop.png")
    bad |= {"bad/dangling.png": "which does not exist", "bad/loop.png": "leads back to itself"}
    # Not of os.urandom: one in two hundred of such files looks like a sound file to FFmpeg.
    (root / "bad" / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    bad["bad/noise.mp4"] = "is not a video"
    # Neither inputs nor failures:
    for number in range(20):
        (root / "plain" / f".hidden{number}.png").write_bytes(whole)
        (root / "plain" / f"notes{number}.md").write_text("# notes")
    (root / "plain" / "around").symlink_to("..")
    os.mkfifo(root / "plain" / "pipe.png")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(root / "plain")
    listening.bind("socket.png")
    os.chdir(here)
    listening.close()
    return good, bad


@pytest.mark.skipif(os.name != "posix", reason="makes pipes, sockets and names that only POSIX has")
def test_exactly_the_good_ones_are_done(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    good, bad = untidy(tmp_path / "in", photo)
    assert len(good) + len(bad) + 40 >= 200
    overrides = ("points_per_side=2", "min_mask_region_area=40")
    outcome = run(batch_job("in", recursive=True, overrides=overrides, report=True))
    found = entries(Path("out"))
    status = {name.removeprefix("in/"): entry["status"] for name, entry in found.items()}
    assert {name for name, what in status.items() if what == "done"} == good
    failed = {name for name, what in status.items() if what == "failed"}
    assert set(bad) <= failed
    assert failed - set(bad) <= {"plain/pipe.png", "plain/socket.png"}
    assert (outcome.exit_code, outcome.done, outcome.failed) == (3, len(good), len(failed))
    for name, said in bad.items():
        error = found[f"in/{name}"]["error"]
        assert said in error and len(error) > 8, (name, error)
        assert not any(text in error for text in ("\n", "unexpected", "Errno")), (name, error)
    assert sum(outcome.skipped.values()) >= 41
    assert any("hidden" in reason for reason in outcome.skipped)
    # No two share an output, and every output is whole.
    outputs = [output for entry in found.values() for output in entry["outputs"]]
    assert len(outputs) == len({output.casefold() for output in outputs}) == 2 * len(good)
    for output in outputs:
        if output.endswith(".json"):
            json.loads((Path("out") / output).read_text(encoding="utf-8"))
        else:
            with Image.open(Path("out") / output) as picture:
                picture.load()
    assert Path("out/report.html").stat().st_size > 10_000
    assert leftovers(Path("out")) == []
    again = run(batch_job("in", recursive=True, overrides=overrides))
    assert (again.done, again.complete, again.failed) == (0, len(good), len(failed))


def test_what_is_not_used_of_a_picture_is_said_once_a_kind_and_to_verbose_each_time(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = Image.fromarray(photo[:40, :60])
    for name in ("a.tif", "b.tif", "c.gif"):
        image.save(name, save_all=True, append_images=[image.rotate(90, expand=True), image])
    pages, frames = "has several pages; only the first page is used", "is animated; only the first frame is used"
    for verbose in (False, True):
        job = batch_job("a.tif", "b.tif", "c.gif", out=f"out{verbose}", overrides=("points_per_side=2",))
        assert run(job, quiet=False, verbose=verbose).done == 3
        said = capsys.readouterr().err.splitlines()
        notices = [line for line in said if pages in line or frames in line]
        if verbose:
            assert notices == [f"a.tif: {pages}", f"b.tif: {pages}", f"c.gif: {frames}"]
        else:
            once = " (said once; -v says it of each)"
            assert notices == [f"a.tif: {pages}{once}", f"c.gif: {frames}{once}"]
