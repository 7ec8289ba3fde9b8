"""Overlay videos: frames in order at their times, colours, sizes and shapes of pixels, and when they are made again."""

from __future__ import annotations

import importlib.util
import os
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from densecli.places import Here
from densecli.remote.place import RemotePlace
from densecli.remote.store import Store
from densecli.sinks.shown_frames import ShownFrame, ShownFrames, Timing
from densecli.sinks.video import OverlayVideos
from densecli.sinks.video_writing import write as write_video
from densecli.sources.video import frames
from tests.test_video import HEIGHT, MATRICES, UNSTEADY, WIDTH, both, displayed, make_at, number_of, picture


@both
@pytest.mark.parametrize("scale", [1, 12])
def test_colours_of_overlay_videos_are_true(scale: int, decoder: str, tmp_path: Path) -> None:
    """HD without a word about it is taken for BT.709 by players, and for BT.601 by OpenCV."""
    pixels = picture(0).repeat(scale, axis=0).repeat(scale, axis=1)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    path = tmp_path / "clip.mp4"
    write_video([tmp_path / "0.png"] * 2, path, Timing(12.5), Here(tmp_path))
    pixels = next(iter(frames(str(path), decoder=decoder))).load("x").pixels
    assert (
        np.abs(pixels[40 * scale : 60 * scale, 8 * scale : 40 * scale].reshape(-1, 3).mean(0) - (200, 30, 40)).max() < 5
    )
    assert (
        np.abs(pixels[40 * scale : 60 * scale, 56 * scale : 88 * scale].reshape(-1, 3).mean(0) - (30, 50, 190)).max()
        < 5
    )


def overlays(folder: Path, wanted: list[int], size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in wanted:
        Image.fromarray(picture(number)).resize(size).save(folder / f"frame_{number:06d}_overlay.png")


def test_overlay_video_plays_back_in_order_at_its_rate(tmp_path: Path) -> None:
    overlays(tmp_path / "a" / "clip", [0, 10, 20, 30])
    overlays(tmp_path / "a" / "clip", [5])  # of an earlier run with other frames
    videos = OverlayVideos(Here(tmp_path))
    for number in (20, 0, 30, 10, 40):  # 40 failed: it has no overlay
        videos.add("a/clip", ShownFrame(number, 6.0))
    (path,) = videos.finish()
    assert path == tmp_path / "a" / "clip_overlay.mp4"
    shown = list(frames(str(path)))
    assert [number_of(frame.load("x").pixels) for frame in shown] == [0, 10, 20, 30]
    assert shown[0].fps == pytest.approx(6.0)
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_overlay_video_is_made_again_only_where_something_changed(tmp_path: Path) -> None:
    import os

    overlays(tmp_path / "clip", [0, 1, 2])

    def run() -> int:
        videos = OverlayVideos(Here(tmp_path))
        for number in range(3):
            videos.add("clip", ShownFrame(number))
        (path,) = videos.finish()
        return path.stat().st_ino

    first = run()
    assert run() == first
    newer = (tmp_path / "clip_overlay.mp4").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "clip" / "frame_000001_overlay.png", ns=(newer, newer))
    assert run() != first


@pytest.mark.parametrize("with_pyav", [True, False])
@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 7.5, None])
def test_overlay_video_of_other_frames_than_the_last_run_took(
    with_pyav: bool, fps: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_pyav:
        without_pyav(monkeypatch)
    overlays(tmp_path / "clip", list(range(6)))

    def run(every: int, most: int = 6) -> tuple[list[int], float, int]:
        videos = OverlayVideos(Here(tmp_path))
        for number in list(range(0, 6, every))[:most]:
            videos.add("clip", ShownFrame(number, fps and fps / every))
        (path,) = videos.finish()
        shown = list(frames(str(path), decoder="opencv"))
        numbers = [number_of(frame.load("x").pixels) for frame in shown]
        return numbers, shown[0].fps or 0, path.stat().st_ino

    whole = run(1)
    assert whole[0] == [0, 1, 2, 3, 4, 5] and run(1) == whole
    third = run(3)
    assert third[0] == [0, 3] and third[1] == pytest.approx((fps or 75) / 3, rel=0.01)
    assert run(3) == third
    first = run(1, 1)
    assert first[0] == [0] and run(1, 1) == first
    assert run(1)[0] == whole[0]


def without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "av" else found(name, *rest))


@pytest.mark.parametrize("with_pyav", [True, False])
def test_overlay_video_of_odd_and_changing_size(
    with_pyav: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_pyav:
        without_pyav(monkeypatch)
    overlays(tmp_path, [0, 1], (WIDTH + 1, HEIGHT + 1))
    overlays(tmp_path, [2], (WIDTH // 2, HEIGHT // 2))
    write_video(sorted(tmp_path.glob("*.png")), tmp_path / "v.mp4", Timing(12.5), Here(tmp_path))
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    shapes = []
    while (read := capture.read())[0]:
        shapes.append(read[1].shape)
        last, before = read[1][:, -1].astype(int), read[1][:, -2]  # what makes it even is not black
        assert np.abs(last - before).mean() < 20
    assert shapes == [(HEIGHT + 2, WIDTH + 2, 3)] * 3
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)


@pytest.mark.parametrize("with_pyav", [True, False])
def test_overlay_video_of_a_video_of_variable_rate(
    with_pyav: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_at(tmp_path / "clip.mp4", UNSTEADY, "libx264")
    shown = list(frames(str(path), decoder="pyav" if with_pyav else "opencv"))
    assert [frame.seconds for frame in shown] == pytest.approx(UNSTEADY, abs=0.001)
    if not with_pyav:
        without_pyav(monkeypatch)
    overlays(tmp_path / "clip", list(range(len(shown))))

    def run() -> float:
        videos = OverlayVideos(Here(tmp_path))
        for frame in shown:
            videos.add("clip", ShownFrame(frame.number, frame.fps, frame.seconds))
        (path,) = videos.finish()
        return path.stat().st_mtime_ns

    first = run()
    assert run() == first
    again = list(frames(str(tmp_path / "clip_overlay.mp4"), decoder="pyav"))
    assert [number_of(frame.load("x").pixels) for frame in again] == list(range(len(UNSTEADY)))
    seconds = [frame.seconds for frame in again]
    if with_pyav:
        assert seconds == pytest.approx(UNSTEADY, abs=0.001)
        with av.open(str(tmp_path / "clip_overlay.mp4")) as container:
            assert (container.duration or 0) / 1e6 > UNSTEADY[-1]
    else:  # OpenCV writes at one rate
        assert seconds[-1] == pytest.approx(UNSTEADY[-1], abs=0.1)


def test_of_a_frame_that_was_told_of_twice_the_last_time_counts() -> None:
    shown = ShownFrames(None, (0, 0.0))
    for number, seconds in ((2, 0.2), (0, 0.0), (2, 0.3), (1, 0.1)):
        shown.add(ShownFrame(number, 10.0, seconds), (0, 0.0))
    assert list(shown.in_order()) == [(0, 0.0), (1, 0.1), (2, 0.3)]


def test_a_frame_that_is_missing_leaves_a_gap_in_the_overlay_video(tmp_path: Path) -> None:
    overlays(tmp_path / "clip", [0, 1, 2, 6, 7])
    videos = OverlayVideos(Here(tmp_path))
    for number in range(8):
        videos.add("clip", ShownFrame(number, 10.0, number / 10 + 3))
    (path,) = videos.finish()
    assert [frame.seconds for frame in frames(str(path))] == pytest.approx([0, 0.1, 0.2, 0.6, 0.7])


@pytest.mark.parametrize(
    ("fps", "seconds", "expected"),
    [
        (25.0, [0, 0.04, 0.080011, 0.080012, 0.12], [0, 0.04, 0.08, 0.08, 0.12]),
        (25.0, [0, 0.1, 50_000, 50_000.1, 900_000], [0, 0.1, 60.1, 60.2, 120.2]),
        (1 / 90, [0, 90, 360], [0, 90, 360]),
        (10.0, [*(number / 10 for number in range(20)), 9], [*(number / 10 for number in range(20)), 9]),
    ],
    ids=["a tick apart", "joined recordings", "time lapse", "late end"],
)
def test_odd_times_make_an_overlay_video_all_the_same(
    fps: float, seconds: list[float], expected: list[float], tmp_path: Path
) -> None:
    """FFmpeg leaves steps of a tick where it repairs times; MP4 has no room for a picture of ten hours."""
    overlays(tmp_path / "clip", list(range(len(seconds))))
    videos = OverlayVideos(Here(tmp_path))
    for number, second in enumerate(seconds):
        videos.add("clip", ShownFrame(number, fps, second))
    (path,) = videos.finish()
    assert [frame.seconds for frame in frames(str(path))] == pytest.approx(expected, abs=0.002)
    with av.open(str(path)) as container:
        assert (container.duration or 0) / 1e6 > expected[-1]


def test_pictures_that_cannot_be_encoded_cost_their_video_only(tmp_path: Path) -> None:
    overlays(tmp_path / "good", [0, 1])
    (tmp_path / "wide").mkdir()
    Image.fromarray(np.zeros((16, 20_000, 3), np.uint8)).save(tmp_path / "wide" / "frame_000000_overlay.png")
    videos = OverlayVideos(Here(tmp_path))
    for stem, count in (("wide", 1), ("good", 2)):
        for number in range(count):
            videos.add(stem, ShownFrame(number, 10.0, number / 10))
    assert videos.finish() == [tmp_path / "good_overlay.mp4"]
    (error,) = videos.failed
    assert "wide_overlay.mp4: cannot be written as a video" in str(error)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["good_overlay.mp4"]


@pytest.mark.parametrize("quarters", [0, 1])
def test_pixels_that_are_not_square_stay_so(quarters: int, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(stream.encode(None))
    (frame,) = frames(str(displayed(path, MATRICES[quarters])), decoder="pyav")
    assert frame.pixel_aspect == (Fraction(45, 64) if quarters else Fraction(64, 45))
    overlays(tmp_path / "clip", [0])
    videos = OverlayVideos(Here(tmp_path))
    videos.add("clip", ShownFrame(0, 10.0, 0.0, frame.pixel_aspect))
    (made,) = videos.finish()
    assert next(frames(str(made), decoder="pyav")).pixel_aspect == frame.pixel_aspect


def test_an_overlay_video_whose_pixels_have_another_shape_now_is_made_again(tmp_path: Path) -> None:
    overlays(tmp_path / "clip", [0, 1])
    for aspect in (Fraction(1), Fraction(64, 45)):
        videos = OverlayVideos(Here(tmp_path))
        for number in range(2):
            videos.add("clip", ShownFrame(number, 10.0, number / 10, aspect))
        (made,) = videos.finish()
        assert next(frames(str(made), decoder="pyav")).pixel_aspect == aspect


def test_pictures_that_are_brought_for_an_overlay_video_go_again(tmp_path: Path) -> None:
    """They may be more than the disk here holds."""
    place = RemotePlace(Store(f"local://{tmp_path}/bucket"), tmp_path / "made", alone=True)
    overlays(place.folder / "clip", [0, 1, 2])
    place.send(sorted((place.folder / "clip").iterdir()))
    place.refresh()
    videos = OverlayVideos(place)
    for number in range(3):
        videos.add("clip", ShownFrame(number))
    videos.finish()
    assert len(list(frames(f"{tmp_path}/bucket/clip_overlay.mp4"))) == 3
    assert not list(place.folder.rglob("*.png"))


def test_a_long_video_takes_little_memory_to_finish(tmp_path: Path) -> None:
    """A day has two million frames."""
    count = 2_000
    (tmp_path / "clip").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "clip" / "frame_000000_overlay.png")
    for number in range(1, count):
        os.link(tmp_path / "clip" / "frame_000000_overlay.png", tmp_path / "clip" / f"frame_{number:06d}_overlay.png")
    peaks = []
    for _ in range(4):  # after the first it is up to date
        videos = OverlayVideos(Here(tmp_path))
        for number in range(count):
            videos.add("clip", ShownFrame(number, 6.0, number / 6))
        tracemalloc.start()
        (path,) = videos.finish()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Python's own table of names may grow in one of them, by megabytes.
    assert min(peaks[1:]) / count < 250, peaks
