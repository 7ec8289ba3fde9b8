"""The .candidates file: there and back, and every way in which one can be bad."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densecli import Segmenter
from densecli.checkpoints import starter_files
from densecli.errors import CheckpointError, InputError, UsageError
from densecli.image_candidates import ImageCandidates
from densecli.masks import Segmentation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def fresh(folder: Path, photo: np.ndarray) -> Segmentation:
    Image.fromarray(photo).save(folder / "desk.png")
    segmenter = Segmenter("dense", "starter", "cpu", overrides=["points_per_side=8", "min_mask_region_area=20"])
    result = segmenter(folder / "desk.png", keep_candidates=True)
    assert result.proposals is not None and len(result.masks) > 2
    result.proposals.save(folder / "desk.candidates")
    return result


def content(result: Segmentation) -> dict:
    summary = result.summary()
    return {key: summary[key] for key in ("image", "model", "preset", "funnel", "coverage", "masks")}


OWN = ["points_per_side=8", "min_mask_region_area=20"]


def test_file_gives_what_the_run_gave(folder: Path, fresh: Segmentation) -> None:
    again = Segmenter.refilter(folder / "desk.candidates", "dense", OWN)
    assert content(again) == content(fresh)
    assert np.array_equal(again.labels(), fresh.labels()) and np.array_equal(again.overlay(), fresh.overlay())
    in_memory = Segmenter.refilter(fresh.proposals, "dense", OWN)
    assert content(in_memory) == content(fresh)
    assert again.seconds["encode"] == again.seconds["decode"] == 0.0 and again.seconds["load"] > 0


def test_saved_again_it_is_the_same(folder: Path, fresh: Segmentation, tmp_path: Path) -> None:
    ImageCandidates.load(folder / "desk.candidates").save(tmp_path / "copy.candidates")
    with zipfile.ZipFile(folder / "desk.candidates") as one, zipfile.ZipFile(tmp_path / "copy.candidates") as other:
        assert one.namelist() == other.namelist()
        assert all(one.read(name) == other.read(name) for name in one.namelist())


def test_numpy_and_pycocotools_can_read_it(folder: Path, fresh: Segmentation) -> None:
    import zlib

    from pycocotools import mask as coco

    arrays = np.load(folder / "desk.candidates")
    sizes = arrays["sizes"].astype(int)
    with zipfile.ZipFile(folder / "desk.candidates") as file:
        data = file.read("masks.bin")
    for i in np.flatnonzero(sizes)[:5]:
        x, y, w, h = arrays["frames"][i]
        end = sizes[: i + 1].sum()
        decoded = coco.decode({"size": [int(h), int(w)], "counts": zlib.decompress(data[end - sizes[i] : end])})
        assert decoded.any(0)[[0, -1]].all() and decoded.any(1)[[0, -1]].all()  # the frame is the mask's box


def test_an_array_has_no_photo_to_come_back_to(photo: np.ndarray, tmp_path: Path) -> None:
    result = Segmenter("dense", "starter", "cpu", overrides=OWN)(photo, keep_candidates=True)
    assert result.proposals is not None
    assert Segmenter.refilter(result.proposals, "dense", OWN).overlay().shape == photo.shape  # still in memory
    result.proposals.save(tmp_path / "array.candidates")
    again = Segmenter.refilter(tmp_path / "array.candidates", "dense", OWN)
    assert again.labels().shape == photo.shape[:2]
    with pytest.raises(InputError, match="came from no file"):
        again.overlay()


def test_photo_that_moved_or_changed(folder: Path, fresh: Segmentation, photo: np.ndarray, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(photo).save(elsewhere / "desk.png")
    kept = Segmenter("dense", "starter", "cpu", overrides=OWN)(elsewhere / "desk.png", keep_candidates=True).proposals
    assert kept is not None
    kept.save(tmp_path / "desk.candidates")

    def read() -> np.ndarray:
        return Segmenter.refilter(tmp_path / "desk.candidates", "dense", OWN).overlay()

    wanted = read()
    os.replace(elsewhere / "desk.png", tmp_path / "desk.png")
    assert np.array_equal(read(), wanted)  # found beside the file
    Image.fromarray(photo[::-1]).save(tmp_path / "desk.png")
    with pytest.raises(InputError, match="is another picture by now; put the photo beside it"):
        read()
    (tmp_path / "desk.png").unlink()
    with pytest.raises(InputError, match="is not there any more"):
        read()


def test_weights_in_the_home_are_known_by_their_bytes(
    folder: Path, fresh: Segmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.safetensors").symlink_to(starter_files()[0])
    (tmp_path / "other.safetensors").write_bytes(b"other")
    kept = ImageCandidates.load(folder / "desk.candidates")
    kept.check_model("~/own.safetensors", "desk", "wait")
    kept.check_model("Starter", "desk", "wait")  # as --model takes it
    with pytest.raises(UsageError, match="~/other.safetensors asks for another"):
        kept.check_model("~/other.safetensors", "desk", "wait")
    with pytest.raises(CheckpointError, match="cannot be read"):
        kept.check_model("n" * 300 + ".pt", "desk", "wait")


def test_wishes_that_it_cannot_tell(folder: Path, fresh: Segmentation) -> None:
    for override, said in (
        ("pred_iou_thresh=0.3", "pred_iou_thresh 0.5 up only"),
        ("points_per_side=9", "points_per_side 8, not of 9"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            Segmenter.refilter(folder / "desk.candidates", "dense", [*OWN, override])
        assert "segment the photo again" in str(raised.value) and "\n" not in str(raised.value)


# --- bad files -------------------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[InputError], path: Path) -> str:
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


@settings(max_examples=40)
@given(share=st.floats(0.0, 0.999))
def test_cut_off_anywhere(folder: Path, fresh: Segmentation, share: float) -> None:
    data = (folder / "desk.candidates").read_bytes()
    path = folder / "cut.candidates"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError) as raised:
        ImageCandidates.load(path)
    one_line(raised, path)


@settings(max_examples=100)
@given(place=st.floats(0.0, 0.9999), flip=st.integers(1, 255))
def test_one_bad_byte_is_noticed_or_harmless(folder: Path, fresh: Segmentation, place: float, flip: int) -> None:
    data = bytearray((folder / "desk.candidates").read_bytes())
    data[int(place * len(data))] ^= flip
    path = folder / "bad.candidates"
    path.write_bytes(data)
    try:
        again = Segmenter.refilter(path, "dense", OWN)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert content(again) == content(fresh)


def rewritten(source: Path, path: Path, changes: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = changes.get(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return path


def header(source: Path, **changes: object) -> dict[str, bytes | None]:
    with zipfile.ZipFile(source) as file:
        return {"densecli.json": json.dumps({**json.loads(file.read("densecli.json")), **changes}).encode()}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Runs:
    """What a pickle could do."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("ran",))


def test_crafted_files(folder: Path, fresh: Segmentation, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = folder / "desk.candidates"
    arrays = dict(np.load(good))
    n = len(arrays["point"])
    frames = arrays["frames"].copy()
    frames[:, 2] += 10_000
    image = {**fresh.image, "width": 10}
    many = 8 * 8 * 3 + 1  # than that many points can have: a megabyte of zeros could unpack to gigabytes
    columns = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    more = {f"{name}.npy": npy(np.resize(array, (many, *array.shape[1:]))) for name, array in columns.items()}
    more["sizes.npy"] = npy(np.zeros(many, np.uint32))
    for changes, said in [
        ({"predicted_iou.npy": npy(np.array([Runs()] * n, dtype=object))}, "damaged"),
        ({"frames.npy": npy(frames)}, "damaged"),
        ({"point.npy": npy(arrays["point"] + np.uint32(64))}, "points"),
        ({"point.npy": npy(arrays["point"][:-1])}, "damaged"),
        ({"stability.npy": None}, "damaged"),
        ({"masks.bin": b""}, "masks"),
        ({"densecli.json": b"[]"}, "damaged"),
        ({"densecli.json": b"{"}, "damaged"),
        ({"densecli.json": b"[" * 100_000}, "damaged"),
        ({"densecli.json": next(iter(header(good).values())).replace(b'"outputs": 3', b'"outputs": 1e999')}, "damaged"),
        ({"densecli.json": None}, "no candidates file"),
        (header(good, schema="densecli/candidates/9"), "densecli/candidates/9"),
        (header(good, generator={"points_per_side": 8, "new": 1}), "does not know"),
        (header(good, crop_sizes=[-1]), "damaged"),
        (header(good, crop_sizes=[10**9]), "damaged"),
        ({**header(good, crop_sizes=[many]), **more, "masks.bin": b""}, "points"),
        (header(good, floor={}), "damaged"),
        (header(good, floor={"predicted_iou": float("nan"), "stability": 0.5}), "scores"),
        (header(good, model={"name": "starter"}), "damaged"),
        (header(good, image=image), "damaged"),
        (header(good, image=None), "damaged"),
        (header(good, photo=5), "damaged"),
    ]:
        path = rewritten(good, tmp_path / "crafted.candidates", changes)
        with pytest.raises(InputError) as raised:
            ImageCandidates.load(path)
        assert said in one_line(raised, path), changes
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("data", "said"), [(b"", "no candidates file"), (b"\xff\xd8\xff", "no candidates file")])
def test_other_files(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "x.candidates"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as raised:
        ImageCandidates.load(path)
    one_line(raised, path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ImageCandidates.load(tmp_path / "none.candidates")
    with pytest.raises(InputError, match="cannot be read"):
        ImageCandidates.load(tmp_path)
