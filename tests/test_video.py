"""Frames of videos: the right ones, upright and in true colours, by either decoder; damage is said, not hidden."""

from __future__ import annotations

import gc
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from densecli.errors import InputError
from densecli.sources.collecting import Collection, Item, Problem
from densecli.sources.lost_pictures import Loss, Numbers
from densecli.sources.matroska import pictures_in_matroska
from densecli.sources.missing_frames import missing_of
from densecli.sources.video import DECODERS, default_decoder, frames
from densecli.sources.video_frame import Frame

WIDTH, HEIGHT, COUNT = 96, 64, 24
both = pytest.mark.parametrize("decoder", DECODERS)


def picture(number: int) -> np.ndarray:
    """HEIGHT×WIDTH×3 uint8 RGB that tells its number by grey steps in its upper half; red left, blue right below."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(6):
        pixels[: HEIGHT // 2, bit * 16 : bit * 16 + 16] = 220 if number >> bit & 1 else 30
    pixels[HEIGHT // 2 :, : WIDTH // 2] = (200, 30, 40)
    pixels[HEIGHT // 2 :, WIDTH // 2 :] = (30, 50, 190)
    return pixels


def number_of(pixels: np.ndarray) -> int:
    return sum((pixels[8:24, bit * 16 + 4 : bit * 16 + 12].mean() > 125) << bit for bit in range(6))


def make(
    path: Path, count: int = COUNT, codec: str = "libx264", fps: int = 12, options: dict[str, str] | None = None
) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 6
        if codec == "libx264":
            stream.options = {"crf": "10"}
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def numbers(path: Path, **options: object) -> list[tuple[int, int]]:
    """Each frame's number and the number that its pixels show."""
    return [(frame.number, number_of(frame.load("x").pixels)) for frame in frames(str(path), **options)]  # type: ignore[arg-type]


@both
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "libx264"), (".mov", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4"), (".webm", "libvpx-vp9")],
)
def test_every_container_gives_every_frame_in_order(suffix: str, codec: str, decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / f"clip{suffix}", codec=codec)
    assert numbers(path, decoder=decoder) == [(number, number) for number in range(COUNT)]


def test_a_video_of_opencv_itself(tmp_path: Path) -> None:
    path = str(tmp_path / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 10, (WIDTH, HEIGHT))
    for number in range(5):
        writer.write(picture(number)[..., ::-1])
    writer.release()
    for decoder in DECODERS:
        assert numbers(Path(path), decoder=decoder) == [(number, number) for number in range(5)]


@both
def test_every_and_max_frames(decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4")
    assert numbers(path, every=7, decoder=decoder) == [(0, 0), (7, 7), (14, 14), (21, 21)]
    assert numbers(path, every=7, max_frames=2, decoder=decoder) == [(0, 0), (7, 7)]
    assert numbers(path, every=100, decoder=decoder) == [(0, 0)]


@both
def test_colours_are_true(decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", count=2)
    pixels = next(iter(frames(str(path), decoder=decoder))).load("x").pixels
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    assert np.abs(pixels[40:60, 8:40].reshape(-1, 3).mean(0) - (200, 30, 40)).max() < 8
    assert np.abs(pixels[40:60, 56:88].reshape(-1, 3).mean(0) - (30, 50, 190)).max() < 8


@pytest.mark.parametrize(
    ("name", "red", "blue"), [("bt709", 0.2126, 0.0722), ("fcc", 0.30, 0.11), ("bt2020nc", 0.2627, 0.0593)]
)
def test_colours_by_the_matrix_that_the_file_names(name: str, red: float, blue: float, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    wanted = np.array([200, 30, 40])
    luma = float(wanted @ (red, 1 - red - blue, blue))
    planes = (
        16 + 219 / 255 * luma,
        128 + 224 / 255 * (wanted[2] - luma) / (2 - 2 * blue),
        128 + 224 / 255 * (wanted[0] - luma) / (2 - 2 * red),
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10), options={"x264-params": f"colormatrix={name}"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        frame = av.VideoFrame(1280, 720, "yuv420p")
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(bytes([round(value)]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pixels = next(iter(frames(str(path), decoder="pyav"))).load("x").pixels
    assert np.abs(pixels[360, 640].astype(int) - wanted).max() <= 3


def test_interlaced_pictures_without_pyav_are_told(tmp_path: Path) -> None:
    """OpenCV 5 gives the same garbage for each; others read them."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"x264-params": "interlaced=1:tff=1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
    loaded = [frame.load("x") for frame in frames(str(path), decoder="opencv")]
    assert loaded[0].notices == ()
    if number_of(loaded[2].pixels) != 2:
        assert "interlaced" in loaded[1].notices[0] and "densecli[video]" in loaded[2].notices[0]
    assert [number_of(frame.load("x").pixels) for frame in frames(str(path), decoder="pyav")] == [0, 1, 2]
    good = [frame.load("x") for frame in frames(str(make(tmp_path / "good.mp4")), decoder="opencv")]
    assert not any(image.notices for image in good)


# What the track header of an mp4 says (16.16 fixed point, 2×2 part), and quarter turns clockwise to show it.
MATRICES = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}


def displayed(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Make an MP4 say that it is to be shown by this matrix."""
    data = bytearray(path.read_bytes())
    place = data.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@both
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotation_of_phones(quarters: int, decoder: str, tmp_path: Path) -> None:
    path = displayed(make(tmp_path / "clip.mp4", count=4), MATRICES[quarters])
    for frame in frames(str(path), decoder=decoder):
        pixels = frame.load("x").pixels
        assert pixels.shape == ((WIDTH, HEIGHT, 3) if quarters % 2 else (HEIGHT, WIDTH, 3))
        assert number_of(np.rot90(pixels, quarters)) == frame.number  # turned back, counter-clockwise


@pytest.mark.parametrize(
    ("matrix", "back"),
    [
        ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
        ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
        ((0, 1, 1, 0), lambda pixels: pixels.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_pictures_that_are_to_be_shown_mirrored(
    matrix: tuple[int, int, int, int], back: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """As front cameras write them. (OpenCV turns, and does not mirror.)"""
    path = displayed(make(tmp_path / "clip.mp4", count=4), matrix)
    for frame in frames(str(path), decoder="pyav"):
        pixels = back(frame.load("x").pixels)
        assert number_of(pixels) == frame.number
        assert pixels[50, 20, 0] > 150 > pixels[50, 70, 0]  # red left


# --- damage ----------------------------------------------------------------------------------------------------------


def good_and_error(path: Path, decoder: str) -> tuple[list[int], str]:
    good = []
    with pytest.raises(InputError) as caught:
        for frame in frames(str(path), decoder=decoder):
            assert number_of(frame.load("x").pixels) == frame.number
            good.append(frame.number)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.isprintable()
    return good, message


@both
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4")])
def test_a_video_that_is_cut_off_gives_what_is_there(suffix: str, codec: str, decoder: str, tmp_path: Path) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = make(tmp_path / f"clip{suffix}", codec=codec, options=options)
    data = path.read_bytes()
    start = data.index(b"mdat") if suffix == ".mp4" else data.index(b"movi")
    path.write_bytes(data[: start + (len(data) - start) * 6 // 10])
    good, message = good_and_error(path, decoder)
    assert good == list(range(len(good))) and 3 <= len(good) < COUNT
    assert "cut off" in message or "damaged" in message
    assert f"{len(good)}" in message


def make_at(
    path: Path, seconds: list[float], codec: str, sound: float = 0, options: dict[str, str] | None = None
) -> Path:
    """A video with frames at these times; and so many seconds of silence."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.time_base = 2, Fraction(1, 1000)
        silence = container.add_stream("libopus", rate=48000) if sound else None
        for number, second in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if silence is not None:
            for number in range(round(sound * 50)):
                piece = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
                piece.sample_rate, piece.pts = 48000, number * 960
                container.mux(silence.encode(piece))
            container.mux(silence.encode(None))
    return path


STEADY = [number / 25 for number in range(COUNT)]
UNSTEADY = [0, 0.1, 0.2, 3, 6, 9, 9.5, 9.6]


@both
@pytest.mark.parametrize(
    ("suffix", "codec", "seconds", "sound"),
    [
        (".webm", "libvpx-vp9", UNSTEADY, 0),
        (".mkv", "libx264", UNSTEADY, 0),
        (".mp4", "libx264", UNSTEADY, 0),
        (".webm", "libvpx-vp9", STEADY, 3),  # the sound goes on
    ],
)
def test_good_videos_whose_frames_are_fewer_than_their_length_says(
    suffix: str, codec: str, seconds: list[float], sound: float, decoder: str, tmp_path: Path
) -> None:
    path = make_at(tmp_path / f"clip{suffix}", seconds, codec, sound)
    assert [frame.number for frame in frames(str(path), decoder=decoder)] == list(range(len(seconds)))


@both
@pytest.mark.parametrize(("suffix", "codec"), [(".webm", "libvpx-vp9"), (".mkv", "libx264")])
@pytest.mark.parametrize("seconds", [STEADY, UNSTEADY])
def test_matroska_that_is_cut_off(suffix: str, codec: str, seconds: list[float], decoder: str, tmp_path: Path) -> None:
    path = make_at(tmp_path / f"clip{suffix}", seconds, codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 8 // 10])
    good, message = good_and_error(path, decoder)
    assert good == list(range(len(good))) and len(good) < len(seconds)
    assert "cut off" in message


def damage(path: Path, packet: int, *, half: bool = False) -> Path:
    """Make a packet's bytes zeros, but for the first eight, or the first half."""
    with av.open(str(path)) as container:
        places = [(found.pos, found.size) for found in container.demux(video=0) if found.size]
    begin, size = places[packet]
    assert begin is not None
    data = bytearray(path.read_bytes())
    kept = size // 2 if half else 8
    data[begin + kept : begin + size] = bytes(size - kept)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", "libx264"), (".mp4", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mjpeg")],
)
def test_a_damaged_picture_costs_those_that_are_made_of_it(suffix: str, codec: str, tmp_path: Path) -> None:
    path = damage(make(tmp_path / f"clip{suffix}", codec=codec), 8)
    good, message = good_and_error(path, "pyav")  # each under its own number
    assert set(range(12, COUNT)) < set(good) and set(range(6)) < set(good) and len(good) < COUNT
    assert "is damaged" in message and f"the {len(good)} frames around that are good" in message


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mkv", "libx264"), (".mp4", "libx264"), (".ts", "mpeg2video"), (".avi", "mpeg4")]
)
def test_a_picture_of_which_half_is_there_is_not_given(suffix: str, codec: str, tmp_path: Path) -> None:
    """Decoders make the rest of it up; nor is one that is made of it."""
    path = damage(make(tmp_path / f"clip{suffix}", codec=codec, fps=25), 6, half=True)
    given = []
    with pytest.raises(InputError, match="is damaged"):
        for frame in frames(str(path), decoder="pyav"):
            given.append(frame.number)
            pixels = frame.load("x").pixels
            assert number_of(pixels) == frame.number
            assert np.abs(pixels[40:60, 8:40].reshape(-1, 3).mean(0) - (200, 30, 40)).max() < 16
    assert 6 not in given and {*range(6), *range(12, COUNT)} <= set(given)


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mjpeg")])
def test_without_pyav_a_damaged_picture_is_told(suffix: str, codec: str, tmp_path: Path) -> None:
    """The file is as long as it should be, and what OpenCV counts need not be frames."""
    path = damage(make(tmp_path / f"clip{suffix}", codec=codec), 14)
    good, message = good_and_error(path, "opencv")
    assert 5 < len(good) < COUNT and "damaged" in message


def test_numbers_of_frames_after_a_loss() -> None:
    even, uneven, untold = Numbers(10.0), Numbers(10.0), Numbers(None)
    assert [even.take(3 + number / 10, False) for number in range(3)] == [0, 1, 2]
    even.skip()
    assert even.take(3.5, False) == 5, "two more were lost with it"
    assert even.take(3.7, True) == 7
    assert even.take(3.2, True) == 8, "no number comes twice, whatever the times"
    assert [uneven.take(second, False) for second in (0, 0.1, 0.4)] == [0, 1, 2]
    uneven.skip()
    assert uneven.take(0.9, True) == 4
    assert untold.take(None, False) == 0
    untold.skip()
    assert untold.take(0.9, True) == 2


def test_pictures_that_were_decoded_before_a_loss_are_good() -> None:
    """Some come late: what is shown between two others is decoded after them."""

    def packet(pts: int, key: bool = False) -> SimpleNamespace:
        return SimpleNamespace(pts=pts, is_keyframe=key, key_frame=key)

    loss = Loss()
    for decoded in (packet(0, True), packet(3), packet(1)):
        loss.decoded(decoded)
        assert not loss.spoils(decoded)
    loss.begins()
    assert not loss.spoils(packet(1)) and not loss.spoils(packet(3)) and loss.spoils(packet(2))
    loss.decoded(packet(9, True))
    assert loss.spoils(packet(5)) and loss.is_open
    assert not loss.spoils(packet(9, True)) and not loss.is_open
    loss.begins()
    assert loss.spoils(packet(3)), "of the loss before"


def test_pictures_in_matroska(tmp_path: Path) -> None:
    """Those of the first video: neither sound, nor what is only there for others to be made of."""

    def element(kind: str, *parts: bytes, sized: bool = True) -> bytes:
        data = b"".join(parts)
        return bytes.fromhex(kind) + b"\x01" + (len(data).to_bytes(7, "big") if sized else b"\xff" * 7) + data

    def block(kind: str, track: int, flags: int = 0) -> bytes:
        return element(kind, bytes([0x80 | track, 0, 0, flags, 9, 9]))

    tracks = [element("ae", element("d7", bytes([n])), element("83", bytes([k]))) for n, k in ((1, 2), (2, 1), (3, 1))]
    blocks = [block("a3", 2), block("a3", 1), block("a3", 3), block("a3", 2, 0x08), block("a3", 2, 0x80)]
    group = element("a0", block("a1", 2), element("9b", b"\x01"))
    path = tmp_path / "clip.mkv"
    for sized in (True, False):
        clusters = [element("1f43b675", *blocks, sized=sized), element("1f43b675", group, sized=sized)]
        segment = element("18538067", element("1654ae6b", *tracks), *clusters, sized=sized)
        path.write_bytes(element("1a45dfa3") + segment)
        assert pictures_in_matroska(str(path)) == 3
    path.write_bytes(element("1a45dfa3") + element("18538067", element("1654ae6b", tracks[0]), clusters[0]))
    assert pictures_in_matroska(str(path)) is None


def test_a_long_gap_before_the_end_is_no_loss() -> None:
    """Of a video by URL no more is known than how many frames OpenCV expects."""
    assert missing_of("http://host/clip.mp4", 50, 100, 3.0, 2.0, 25.0) == ""
    assert missing_of("http://host/clip.mp4", 50, 100, 3.0, 0.04, 25.0) == " (3.0 s of 4.0 s)"


@both
@pytest.mark.parametrize(
    ("suffix", "codec", "sound"), [(".ts", "mpeg2video", "aac"), (".mpg", "mpeg2video", "mp2"), (".flv", "flv", "aac")]
)
def test_sound_that_is_longer_than_the_pictures(
    suffix: str, codec: str, sound: str, decoder: str, tmp_path: Path
) -> None:
    """Of such files the length is known, that of the sound, and not how many frames there are."""
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream, silence = container.add_stream(codec, rate=25), container.add_stream(sound, rate=44100)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
        form, kind = ("s16", np.int16) if sound == "mp2" else ("fltp", np.float32)
        for number in range(120):
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 1152), kind), format=form, layout="mono")
            piece.sample_rate, piece.pts = 44100, number * 1152
            container.mux(silence.encode(piece))
        container.mux(silence.encode(None))
    assert [frame.number for frame in frames(str(path), decoder=decoder)] == list(range(COUNT))


@both
def test_frames_that_an_edit_list_hides_are_not_missing(decoder: str, tmp_path: Path) -> None:
    """As phones and `ffmpeg -ss … -c copy` trim."""
    path = make_at(
        tmp_path / "clip.mp4", [number / 25 for number in range(50)], "libx264", options={"movflags": "faststart"}
    )
    data = bytearray(path.read_bytes())
    edit = data.index(b"elst") + 12
    _, begin, _ = struct.unpack(">Iii", data[edit : edit + 12])
    data[edit : edit + 12] = struct.pack(">Iii", 1000, begin + 16000, 1 << 16)  # from 1 s on, for 1 s
    path.write_bytes(data)
    shown = [number_of(frame.load("x").pixels) for frame in frames(str(path), decoder=decoder)]
    assert shown == list(range(25, 50))
    path.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(InputError, match=r"cut off|damaged"):
        list(frames(str(path), decoder=decoder))


@both
def test_what_is_no_video(decoder: str, tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.mp4").read_bytes()
    for name, data in (
        ("empty", b""),
        ("text", b"hello\n" * 100),
        ("zeros", bytes(5000)),
        ("no end", whole[: len(whole) // 2]),
    ):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(data)
        good, message = good_and_error(path, decoder)
        assert good == []
        assert ("0 bytes" in message) == (name == "empty")
    with pytest.raises(InputError, match="does not exist"):
        next(frames(str(tmp_path / "gone.mp4"), decoder=decoder))


def test_a_sound_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="no pictures"):
        next(frames(str(path), decoder="pyav"))


def test_the_decoders_say_nothing_themselves(tmp_path: Path) -> None:
    """In a process of its own: OpenCV's FFmpeg reads once, at its first video, whether it may talk."""
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(4000))
    script = f"""
from densecli.errors import InputError
from densecli.sources.video import frames
for decoder in {list(DECODERS)!r}:
    try:
        next(frames({str(path)!r}, decoder=decoder))
    except InputError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("refused\n" * len(DECODERS), "")


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
def test_seconds_count_from_the_first_frame(suffix: str, tmp_path: Path) -> None:
    """Of such files the clock does not begin at zero."""
    path = make(tmp_path / f"clip{suffix}", codec="mpeg2video", fps=25)
    with av.open(str(path)) as container:
        assert (container.start_time or 0) > 0
    seconds = [frame.seconds for frame in frames(str(path), decoder="pyav")]
    assert seconds == pytest.approx([number / 25 for number in range(COUNT)], abs=0.001)


@both
def test_frames_may_be_loaded_later_and_by_others(decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4")
    found = list(frames(str(path), decoder=decoder, max_frames=9))
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda frame: frame.load(f"clip#{frame.number}"), found))
    assert [number_of(image.pixels) for image in loaded] == list(range(9))
    assert [image.name for image in loaded] == [f"clip#{number}" for number in range(9)]
    assert len({image.sha256 for image in loaded}) == 9
    np.testing.assert_array_equal(found[3].load("x").pixels, loaded[3].pixels)


@both
def test_a_frame_that_is_passed_over_costs_no_pixels(decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4")
    for frame in frames(str(path), decoder=decoder):
        if frame.number != 20:
            frame.discard()
            with pytest.raises(InputError, match="passed over"):
                frame.load("x")
        else:
            assert number_of(frame.load("x").pixels) == 20


@both
def test_frames_are_let_go(decoder: str, tmp_path: Path) -> None:
    """However long the video, no more than the newest frames are alive."""
    path = make(tmp_path / "clip.mp4", count=60)
    alive: list[weakref.ref[Frame]] = []
    for frame in frames(str(path), decoder=decoder):
        alive.append(weakref.ref(frame))
        frame.load("x")
        del frame
        gc.collect(0)
        assert sum(reference() is not None for reference in alive) <= 2
    assert len(alive) == 60


@both
def test_loading_while_the_video_goes_on(decoder: str, tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4")
    wrong: list[int] = []

    def check(frame: Frame) -> None:
        if number_of(frame.load("x").pixels) != frame.number:
            wrong.append(frame.number)

    threads = []
    for frame in frames(str(path), decoder=decoder):
        threads.append(threading.Thread(target=check, args=(frame,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- as items of a collection ----------------------------------------------------------------------------------------


@both
def test_items_of_a_video(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "clip.mp4")
    Image.fromarray(picture(63)).save("b.png")
    (tmp_path / "a").mkdir()
    found = list(Collection(["."], output_dir="out", every=10, decoder=decoder))
    items = [item for item in found if isinstance(item, Item)]
    assert [item.name for item in items] == ["b.png", "clip.mp4#0", "clip.mp4#10", "clip.mp4#20"]
    assert [item.stem for item in items] == ["b", "clip/frame_000000", "clip/frame_000010", "clip/frame_000020"]
    assert [item.frame for item in items] == [None, 0, 10, 20]
    assert [item.video_stem for item in items] == [None, "clip", "clip", "clip"]
    assert items[1].fps == pytest.approx(1.2) and items[1].size == Path("clip.mp4").stat().st_size
    assert [item.index for item in items] == [0, 1, 2, 3]
    assert items[2].load().name == "clip.mp4#10" and number_of(items[2].load().pixels) == 10


def test_a_damaged_video_is_a_problem_after_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    (tmp_path / "dud.avi").write_bytes(b"x" * 100)
    Path("gone.mkv").symlink_to("nowhere")
    found = list(Collection(["."], output_dir="out"))
    failed = [item for item in found if isinstance(item, Problem)]
    assert [problem.name for problem in failed] == ["clip.mp4", "dud.avi", "gone.mkv"]
    assert all(str(problem.error).startswith(problem.name) for problem in failed)
    assert found.index(failed[0]) >= 3
    assert "nowhere" in str(failed[2].error)


def test_shards_part_the_frames(tmp_path: Path) -> None:
    path = str(make(tmp_path / "clip.mp4"))
    parts = [list(Collection([path], output_dir="out", shard=(part, 2))) for part in (1, 2)]
    whole = list(Collection([path], output_dir="out"))
    assert sorted((item for part in parts for item in part), key=lambda item: item.index) == whole
    assert all(len(part) >= 4 for part in parts)
    assert all(number_of(item.load().pixels) == item.frame for part in parts for item in part if isinstance(item, Item))


def test_a_video_by_url(tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/bucket/clip.mp4", make(tmp_path / "clip.mp4").read_bytes())
    try:
        found = list(Collection(["memory://bucket/clip.mp4"], output_dir="out", every=8, decoder="pyav"))
        assert [item.name for item in found] == [f"memory://bucket/clip.mp4#{number}" for number in (0, 8, 16)]
        assert number_of(found[1].load().pixels) == 8  # type: ignore[union-attr]
        (problem,) = Collection(["memory://bucket/clip.mp4"], output_dir="out", decoder="opencv")
        assert isinstance(problem, Problem) and "densecli[video]" in str(problem.error)
    finally:
        filesystem.rm("/bucket", recursive=True)


@both
def test_a_video_that_its_suffix_does_not_tell(decoder: str, tmp_path: Path) -> None:
    """Where it is named, it is read; in folders such files are not looked for."""
    for suffix, codec in ((".mpg", "mpeg2video"), (".3gp", "mpeg4"), (".wmv", "wmv2"), (".ts", "mpeg2video"), ("", "")):
        if suffix:
            path = make(tmp_path / f"clip{suffix}", codec=codec, fps=25)
        else:  # as some cameras and downloads have it
            path = (tmp_path / "clip.3gp").rename(tmp_path / "download")
        found = list(Collection([str(path)], output_dir="out", every=10, decoder=decoder))
        assert [item.name for item in found] == [f"{path}#{number}" for number in (0, 10, 20)]
        assert [found[1].stem, number_of(found[1].load().pixels)] == [f"{path.stem}/frame_000010", 10]  # type: ignore[union-attr]
    (tmp_path / "list.txt").write_text("clip.mpg\n")
    assert len(list(Collection([str(tmp_path / "list.txt")], output_dir="out", decoder=decoder))) == COUNT
    assert list(Collection([str(tmp_path)], output_dir="out")) == []


def test_a_video_with_the_name_of_a_picture(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", count=2).rename(tmp_path / "clip.png")
    (item,) = Collection([str(path)], output_dir="out")
    assert isinstance(item, Item)
    with pytest.raises(InputError, match=r"clip.png: is a video, which its name hides; save it .* in .mp4 or .mkv$"):
        item.load()


@both
def test_a_video_by_http_with_a_query(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    make(tmp_path / "clip.mp4", options={"movflags": "faststart"})

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/clip.mp4?token=a.b/c"
        found = list(Collection([url], output_dir="out", every=10, decoder=decoder))
        assert [item.name for item in found] == [f"{url}#{number}" for number in (0, 10, 20)]
        assert number_of(found[2].load().pixels) == 20  # type: ignore[union-attr]
        assert found[2].stem == "clip/frame_000020"  # type: ignore[union-attr]
        server.shutdown()


def test_pyav_is_preferred() -> None:
    assert default_decoder() == "pyav"
