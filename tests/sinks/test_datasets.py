"""Data sets read back by others: pycocotools, supervision, and polygon fillers of OpenCV, Pillow and scikit-image."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.draw
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from scipy import ndimage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from densecli.errors import OutputError, UsageError
from densecli.masks import SUMMARY_SCHEMA, Segmentation
from densecli.places import Here
from densecli.sinks import DATASET_KINDS, WriteOptions, labelme, parse_kinds, summary
from densecli.sinks.datasets import Datasets, read_summary, summary_path
from densecli.sinks.polygons import joined, regions_of
from densecli.sources import read_image
from tests.conftest import small_disk
from tests.sinks.conftest import segmentation_of

HEIGHT, WIDTH = 60, 90
ALL = ("json", *DATASET_KINDS)


@pytest.mark.parametrize("size", [[0, 9], [-1, 9], [1, 1 << 40], [1 << 40, 1], [40_000, 40_000], [True, 1.5]])
def test_a_summary_of_an_image_that_cannot_be_is_damaged(tmp_path: Path, size: list[int]) -> None:
    """Its masks could take all memory, of a file of some bytes in an output folder that came from somebody else."""
    image = {"height": size[0], "width": size[1], "sha256": "0" * 64}
    document = {"schema": SUMMARY_SCHEMA, "image": image, "masks": []}
    for possible in (image | {"height": 30_000, "width": 30_000}, image):
        summary_path(tmp_path, "a").write_text(json.dumps(document | {"image": possible}))
        assert (read_summary(tmp_path, "a") is None) == (possible is image)


def blobs(seed: int, count: int = 4) -> list[np.ndarray]:
    """HEIGHT×WIDTH bool masks as segmentation gives them: with holes and several regions, largest first."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        mask = ndimage.gaussian_filter(rng.random((HEIGHT, WIDTH)), 4) > rng.uniform(0.49, 0.53)
        if mask.any():
            found.append(mask)
    return sorted(found, key=lambda mask: -int(mask.sum()))


def image_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def shortest_ties(mask: np.ndarray) -> float:
    """Length of the shortest lines that tie all regions of a mask together, between corners of their outlines."""
    corners = [np.concatenate(region) for region in regions_of(mask)]
    gaps = [[cdist(a, b).min() for b in corners] for a in corners]
    return float(minimum_spanning_tree(np.array(gaps)).sum())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


class Run:
    """A folder with inputs and outputs, and what was segmented in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.masks: dict[str, list[np.ndarray]] = {}
        self.names: dict[str, str] = {}
        self.segmentations: dict[str, Segmentation] = {}

    def image(self, stem: str, name: str, seed: int, count: int = 4) -> None:
        """One input that is done: with its summary, as the pipeline leaves it."""
        pixels, masks = image_of(seed), blobs(seed, count)
        if "#" not in name and "://" not in name:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        segmentation = segmentation_of(pixels, masks)
        segmentation.image["path"] = name
        summary.write(segmentation, summary_path(self.out, stem), WriteOptions())
        self.masks[stem], self.names[stem], self.segmentations[stem] = masks, name, segmentation

    def datasets(self, *, fresh: bool = True, kinds: tuple[str, ...] = ALL, order: int = 0) -> Datasets:
        """All images added, in some order, and finished."""
        datasets = Datasets(kinds, Here(self.out))
        stems = list(self.names)
        random.Random(order).shuffle(stems)
        with ThreadPoolExecutor(3) as pool:
            for done in [
                pool.submit(datasets.add, stem, self.names[stem], self.segmentations[stem] if fresh else None)
                for stem in stems
            ]:
                done.result()
        datasets.finish()
        return datasets

    def contents(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.out)): path.read_bytes() for path in self.out.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Two images, one of them without masks, and in folders."""
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path)
    for number in (1, 2, 10):
        run.image(f"img{number}", f"photos/img{number}.png", number)
    run.image("empty.png", "photos/empty.png", 4, count=0)
    return run


def load_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


# --- COCO ------------------------------------------------------------------------------------------------------------


def test_pycocotools_reads_the_very_masks(run: Run) -> None:
    run.datasets()
    coco = load_coco(run.out / "annotations_coco.json")
    assert [(category["id"], category["name"]) for category in coco.loadCats(coco.getCatIds())] == [(1, "object")]
    images = coco.loadImgs(coco.getImgIds())
    assert [image["input"] for image in images] == [f"photos/{n}.png" for n in ("empty", "img1", "img2", "img10")]
    assert [image["id"] for image in images] == [1, 2, 3, 4]
    for image in images:
        assert image["file_name"] == Path(image["input"]).name
        assert np.asarray(Image.open(run.folder / "photos" / image["file_name"])).shape == (
            image["height"],
            image["width"],
            3,
        )
        stem = next(stem for stem, name in run.names.items() if name == image["input"])
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]], iscrowd=0))
        assert len(annotations) == len(run.masks[stem])
        for annotation, mask in zip(annotations, run.masks[stem], strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["predicted_iou"] == 0.9
    assert len(set(coco.getAnnIds())) == 12


def test_supervision_reads_coco_and_yolo(run: Run) -> None:
    supervision = pytest.importorskip("supervision")
    run.datasets()
    yolo = run.out / "yolo"
    for kind, dataset in (
        (
            "coco",
            supervision.DetectionDataset.from_coco(
                str(run.folder / "photos"), str(run.out / "annotations_coco.json"), force_masks=True
            ),
        ),
        (
            "yolo",
            supervision.DetectionDataset.from_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml")),
        ),
    ):
        assert dataset.classes == ["object"] and len(dataset) == 4
        for path, pixels, detections in dataset:
            name = (
                f"photos/{Path(path).name}"
                if kind == "coco"
                else f"photos/{Path(path).name.replace('.png.png', '.png')}"
            )
            stem = next(stem for stem, given in run.names.items() if given == name)
            np.testing.assert_array_equal(pixels[..., ::-1], run.segmentations[stem].pixels)
            assert len(detections) == len(run.masks[stem])
            for read, mask in zip(detections.mask if len(detections) else [], run.masks[stem], strict=True):
                assert not (mask & ~read.astype(bool)).any()
                assert (read.astype(bool) & ~mask).sum() <= (0 if kind == "coco" else shortest_ties(mask))


def test_coco_is_the_same_in_any_order_and_after_any_interruption(run: Run) -> None:
    run.datasets()
    before = run.contents()
    (run.out / "annotations_coco.json").unlink()
    (run.out / "yolo" / "labels" / "img2.txt").unlink()
    (run.out / "labelme" / "img1.json").write_text("{")
    os.utime(run.out / "labelme" / "img1.json", ns=(0, 0))  # of an older run
    run.datasets(fresh=False, order=3)
    assert run.contents() == before


def test_what_is_up_to_date_is_not_written_again(run: Run) -> None:
    run.datasets()
    inodes = {path: path.stat().st_ino for path in run.out.rglob("*.*") if path.is_file() and path.name != "data.yaml"}
    run.datasets(fresh=False)
    assert {path: path.stat().st_ino for path in inodes} == inodes
    run.image("img2", "photos/img2.png", 77)  # done again, with other masks
    run.datasets(fresh=False)
    coco = load_coco(run.out / "annotations_coco.json")
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    np.testing.assert_array_equal(coco.annToMask(annotations[0]), run.masks["img2"][0])


def test_without_any_image(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    Datasets(ALL, Here(tmp_path / "out")).finish()
    coco = load_coco(tmp_path / "out" / "annotations_coco.json")
    assert coco.getImgIds() == [] and coco.getAnnIds() == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["annotations_coco.json", "labelme", "yolo"]


def test_images_added_twice_are_there_once_and_missing_ones_are_said(run: Run) -> None:
    summary_path(run.out, "img1").unlink()
    datasets = Datasets(ALL, Here(run.out))
    for stem, name in [*run.names.items(), *run.names.items()]:
        datasets.add(stem, name)
    datasets.finish()
    assert datasets.missing == ["photos/img1.png"]
    assert not datasets.can_rebuild("img1", "photos/img1.png") and datasets.can_rebuild("img2", "photos/img2.png")
    assert len(load_coco(run.out / "annotations_coco.json").getImgIds()) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.clear(),
        lambda document: document.pop("image"),
        lambda document: document.update(masks=1),
        lambda document: document.update(masks=[1]),
        lambda document: document["masks"][0].pop("bbox"),
        lambda document: document["masks"][0].update(segmentation=None),
        lambda document: document["masks"][0]["segmentation"].update(size=[1, 2]),
        lambda document: document["masks"][0]["segmentation"].update(counts=3),
        lambda document: document["image"].update(height="12"),
        lambda document: document["image"].update(sha256=None),
        lambda document: document.update(schema="densecli/summary/2"),
        lambda document: document["masks"][0].pop("id"),
        lambda document: document["masks"][0].pop("area"),
        lambda document: document["masks"][0].pop("stability_score"),
    ],
)
def test_a_damaged_summary_costs_its_image_only(run: Run, damage: Callable[[dict], object]) -> None:
    path = summary_path(run.out, "img1")
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    assert run.datasets(fresh=False).missing == ["photos/img1.png"]
    assert len(load_coco(run.out / "annotations_coco.json").getImgIds()) == 3
    assert sorted(path.stem for path in (run.out / "labelme").glob("*.json")) == ["empty.png", "img10", "img2"]


def test_damaged_counts_cost_their_polygons_only(run: Run) -> None:
    path = summary_path(run.out, "img1")
    document = json.loads(path.read_text())
    document["masks"][0]["segmentation"]["counts"] = "~"
    path.write_text(json.dumps(document))
    assert run.datasets(fresh=False, kinds=("yolo", "labelme")).missing == ["photos/img1.png"]


def test_frames_and_urls_bring_their_pictures(run: Run) -> None:
    run.image("clip/frame_000012", "photos/clip.mp4#12", 12)
    run.image("far", "memory://bucket/far.jpg", 13)
    assert not Datasets(ALL, Here(run.out)).can_rebuild("clip/frame_000012", "photos/clip.mp4#12")
    run.datasets()
    assert Datasets(ALL, Here(run.out)).can_rebuild("clip/frame_000012", "photos/clip.mp4#12")
    coco = load_coco(run.out / "annotations_coco.json")
    folder = run.out / coco.dataset["info"]["images_directory"]
    files = {image["input"]: folder / image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    for stem, label in (("clip/frame_000012", "clip/frame_000012"), ("far", "far")):
        for picture in (
            files[run.names[stem]],
            run.out / "yolo" / "images" / f"{label}.png",
            run.out
            / "labelme"
            / Path(label).parent
            / json.loads((run.out / "labelme" / f"{label}.json").read_text())["imagePath"],
        ):
            np.testing.assert_array_equal(np.asarray(Image.open(picture)), run.segmentations[stem].pixels)


def deep_grey(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)


def with_a_film_behind(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes() + b"\0\0\0\x18ftypmp42 as motion photos of phones have it")


WAYS = {
    "a.gif": lambda path, pixels: Image.fromarray(pixels).save(path),
    "a.tga": lambda path, pixels: Image.fromarray(pixels).save(path),
    "a.jfif": lambda path, pixels: Image.fromarray(pixels).save(path, format="JPEG"),
    "a.png": deep_grey,
    "a.jpg": with_a_film_behind,
    "a.jpeg": lambda path, pixels: Image.fromarray(pixels).convert("CMYK").save(path),
    "b.png": lambda path, pixels: Image.fromarray(pixels).save(path, format="GIF"),
}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_what_readers_do_not_open_stands_there_as_png(run: Run, name: str, later: bool) -> None:
    """And a motion photo is not at the end of a link: older Ultralytics write it anew, without its film."""
    stem = Path(name).stem
    run.image(stem, f"photos/{stem}.png", 5)
    (run.folder / "photos" / f"{stem}.png").unlink()
    run.names[stem] = f"photos/{name}"
    photo = run.folder / "photos" / name
    WAYS[name](photo, run.segmentations[stem].pixels)
    run.segmentations[stem].pixels[:] = read_image(photo).pixels
    run.datasets(fresh=not later)
    document = json.loads((run.out / "labelme" / f"{stem}.json").read_text())
    pictures = [run.out / "yolo" / "images" / f"{stem}.png", run.out / "labelme" / document["imagePath"]]
    for picture in pictures:
        assert picture.resolve() == run.out / "dataset_images" / f"{stem}.png"
        with Image.open(picture) as image:
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), run.segmentations[stem].pixels)
    coco = json.loads((run.out / "annotations_coco.json").read_text())
    assert (coco["info"]["images_directory"], coco["images"][0]["file_name"]) == ("../photos", name)
    assert len(list((run.out / "yolo" / "images").iterdir())) == 5 == len(list((run.out / "yolo" / "labels").iterdir()))


def test_what_readers_open_is_linked_to(run: Run) -> None:
    """A TIFF of 16 bits too, a photo of two pictures (its last one may be anything), and suffixes in capitals."""
    grey = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    for stem, name in (("deep", "deep.tif"), ("loud", "LOUD.JPG"), ("pair", "pair.jpg")):
        run.image(stem, f"photos/{stem}.png", 5)
        (run.folder / "photos" / f"{stem}.png").unlink()
        run.names[stem] = f"photos/{name}"
    Image.fromarray(grey).save(run.folder / "photos" / "deep.tif")
    Image.fromarray(image_of(1)).save(run.folder / "photos" / "LOUD.JPG")
    pair = run.folder / "photos" / "pair.jpg"
    Image.fromarray(image_of(1)).save(pair, format="MPO", save_all=True, append_images=[Image.fromarray(image_of(2))])
    with open(pair, "ab") as file:
        file.write(b"film")
    run.datasets()
    for stem, name in (("deep", "deep.tif"), ("loud", "LOUD.JPG"), ("pair", "pair.jpg")):
        link = run.out / "yolo" / "images" / f"{stem}{Path(name).suffix}"
        assert link.resolve() == run.folder / "photos" / name
    assert not (run.out / "dataset_images").exists()


def test_a_picture_of_the_users_beside_ours_stays(run: Run) -> None:
    run.image("a", "photos/a.jpg", 5)
    run.datasets()
    own = run.out / "yolo" / "images" / "a.png"
    Image.fromarray(image_of(9)).save(own)
    mine = own.read_bytes()
    run.datasets()
    datasets = Datasets(ALL, Here(run.out))
    datasets.remove("a", "photos/a.jpg")
    assert own.read_bytes() == mine and not (run.out / "yolo" / "images" / "a.jpg").exists()


def test_the_link_to_a_copy_goes_with_its_input(run: Run) -> None:
    run.image("a", "photos/a.png", 5)
    (run.folder / "photos" / "a.png").rename(run.folder / "photos" / "a.gif")
    run.names["a"] = "photos/a.gif"
    Image.fromarray(image_of(5)).save(run.folder / "photos" / "a.gif")
    datasets = run.datasets()
    link = run.out / "yolo" / "images" / "a.png"
    assert link.resolve() == run.out / "dataset_images" / "a.png"
    datasets.remove("a", "photos/a.gif")
    assert not os.path.lexists(link) and not (run.out / "yolo" / "labels" / "a.txt").exists()


def test_a_picture_stands_there_once_when_it_is_another_kind_than_before(run: Run) -> None:
    """As sets of an older densecli, which linked to every kind, and a photo that was cleaned of its film."""
    run.image("a", "photos/a.jpg", 5)
    photo, images = run.folder / "photos" / "a.jpg", run.out / "yolo" / "images"
    run.datasets()
    assert (images / "a.jpg").resolve() == photo
    plain = photo.read_bytes()
    photo.write_bytes(plain + b"film")
    run.datasets()
    assert [path.name for path in images.glob("a.*")] == ["a.png"]
    photo.write_bytes(plain)
    run.datasets()
    assert [path.name for path in images.glob("a.*")] == ["a.jpg"] and (images / "a.jpg").resolve() == photo


@pytest.mark.parametrize("there", [b"GIF89a cut off", None])
def test_a_photo_that_is_gone_or_damaged_since(run: Run, there: bytes | None) -> None:
    """The set is made all the same, of its summary; it points at where the photo was."""
    run.image("a", "photos/a.png", 5)
    photo = run.folder / "photos" / "a.png"
    photo.unlink()
    if there is not None:
        photo.write_bytes(there)
    run.datasets(fresh=False)
    assert os.readlink(run.out / "yolo" / "images" / "a.png") == "../../../photos/a.png"
    assert len(yolo_polygons(run, "a")) == 4


def test_nothing_is_left_behind_and_nothing_written_where_nothing_was_asked(run: Run) -> None:
    before = run.contents()
    run.datasets(kinds=("overlay", "json"))
    assert run.contents() == before
    run.datasets()
    assert list(run.out.rglob(".*")) == []


def test_a_folder_that_cannot_be_written(run: Run) -> None:
    (run.out / "labelme").write_text("in the way")
    datasets = Datasets(ALL, Here(run.out))
    with pytest.raises(OutputError, match="not a folder"):
        datasets.add("img1", "photos/img1.png", run.segmentations["img1"])


# --- YOLO and labelme, by other polygon fillers ----------------------------------------------------------------------


def yolo_polygons(run: Run, stem: str) -> list[np.ndarray]:
    """n×2 float, in pixels."""
    lines = (run.out / "yolo" / "labels" / f"{stem}.txt").read_text().splitlines()
    assert all(line.startswith("0 ") for line in lines)
    points = [np.array(line.split()[1:], float).reshape(-1, 2) for line in lines]
    assert all(((p >= 0) & (p <= 1)).all() and len(p) >= 3 for p in points)
    return [p * (WIDTH, HEIGHT) for p in points]


def test_yolo_labels_fill_to_the_masks(run: Run) -> None:
    run.datasets()
    data = yaml.safe_load((run.out / "yolo" / "data.yaml").read_text())
    assert (data["nc"], data["names"]) == (1, ["object"])
    for stem, masks in run.masks.items():
        image = next((run.out / "yolo" / "images").glob(f"{stem}.*"))
        assert (run.out / "yolo" / "images").parent / data["train"] == image.parent
        np.testing.assert_array_equal(np.asarray(Image.open(image)), run.segmentations[stem].pixels)
        polygons = yolo_polygons(run, stem)
        assert len(polygons) == len(masks)
        for polygon, mask in zip(polygons, masks, strict=True):
            for rounding in (np.floor, np.round):  # readers do either
                filled = np.zeros((HEIGHT, WIDTH), np.uint8)
                cv2.fillPoly(filled, [rounding(polygon).astype(np.int32)], 1)
                assert not (mask & (filled == 0)).any()
                # One polygon an object is all that the format has: the ties are drawn, and nothing else.
                assert (~mask & (filled > 0)).sum() <= shortest_ties(mask)
            # This one leaves out (part of) the outline: what it fills lies within the mask, the inner part is whole.
            inside = skimage.draw.polygon2mask((HEIGHT, WIDTH), polygon[:, ::-1])
            assert not (inside & ~mask).any()
            assert not (ndimage.binary_erosion(mask, np.ones((3, 3))) & ~inside).any()


def test_labelme_polygons_fill_to_the_masks(run: Run) -> None:
    run.datasets()
    for stem, masks in run.masks.items():
        path = run.out / "labelme" / f"{stem}.json"
        document = json.loads(path.read_text())
        assert (document["imageHeight"], document["imageWidth"], document["imageData"]) == (HEIGHT, WIDTH, None)
        picture = np.asarray(Image.open(path.parent / document["imagePath"]))
        np.testing.assert_array_equal(picture, run.segmentations[stem].pixels)
        filled = [np.zeros((HEIGHT, WIDTH), bool) for _ in masks]
        for shape in document["shapes"]:
            assert (shape["label"], shape["shape_type"]) == ("object", "polygon") and len(shape["points"]) >= 3
            canvas = Image.new("1", (WIDTH, HEIGHT))  # as labelme itself does
            ImageDraw.Draw(canvas).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
            filled[shape["group_id"] - 1] |= np.asarray(canvas)
        for read, mask in zip(filled, masks, strict=True):
            assert iou(read, mask) > 0.97


@pytest.mark.parametrize("kind", ["yolo", "labelme"])
def test_many_noisy_masks_take_the_memory_of_a_few(kind: str, tmp_path: Path) -> None:
    """Just segmented, from the summary, and when it is looked whether somebody worked on the file."""
    rng = np.random.default_rng(3)
    pixels = np.zeros((400, 500, 3), np.uint8)
    path = tmp_path / "noisy.png"
    Image.fromarray(pixels).save(path)
    masks = [np.zeros(pixels.shape[:2], bool) for _ in range(200)]
    for mask in masks:
        y, x = rng.integers(0, 300), rng.integers(0, 400)
        mask[y : y + 100, x : x + 100] = rng.random((100, 100)) < 0.06  # hundreds of regions
        mask[0, 0] = mask[-1, -1] = True  # its box is the whole picture: 40 MB of all masks
    segmentation = segmentation_of(pixels, masks)
    out = tmp_path / "out"
    summary.write(segmentation, summary_path(out, "noisy"), WriteOptions())
    for known in (segmentation, None, None):
        datasets = Datasets([kind], Here(out))
        tracemalloc.start()
        try:
            datasets.add("noisy", str(path), known)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 << 20
        file = out / {"yolo": "yolo/labels/noisy.txt", "labelme": "labelme/noisy.json"}[kind]
        assert file.stat().st_size > 1 << 20
        if known is not None:
            os.utime(file, ns=(0, 0))  # older than the summary: made from it


@given(cut=st.floats(0, 0.999), indent=st.sampled_from([None, 0, 1, 2]), sort=st.booleans(), changed=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_work_by_hand_is_known_however_it_is_laid_out(
    run: Run, cut: float, indent: int | None, sort: bool, changed: bool
) -> None:
    """What was changed stays; what was only saved again, or was cut off, is written anew."""
    path = run.out / "labelme" / "img1.json"
    if not path.exists():
        run.datasets(kinds=("labelme",))
        (run.out / "whole").write_bytes(path.read_bytes())
    whole = (run.out / "whole").read_bytes()
    path.write_bytes(whole)
    assert not labelme.keeps(path)
    path.write_bytes(whole[: int(cut * len(whole))])
    assert not labelme.keeps(path)
    path.write_bytes(whole.replace(b'"label": "object"', b'"label": "cup"', 1))
    assert labelme.keeps(path)
    path.write_bytes(whole.replace(b'"label": "object"', b'"label": "cup"', 1).replace(b"\n ],\n", b"],\n"))
    assert labelme.keeps(path)
    document = json.loads(whole)
    if changed:
        document["shapes"].pop()
    path.write_text(json.dumps(document, indent=indent, sort_keys=sort))
    assert labelme.keeps(path) == changed


@given(seed=st.integers(0, 2**20), holes=st.integers(2, 40))
@settings(max_examples=40)
def test_ties_are_as_short_as_can_be(seed: int, holes: int) -> None:
    """There and back along a tree of the shortest lines between outlines."""
    rng = np.random.default_rng(seed)
    mask = np.ones((60, 90), bool)
    for y, x in zip(rng.integers(2, 57, holes), rng.integers(2, 87, holes), strict=True):
        mask[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = False
    for region in regions_of(mask):
        polygon = joined(region)
        gaps = [[cdist(a, b).min() for b in region] for a in region]
        tied, ties = {0}, 0.0
        while len(tied) < len(region):
            ties += min(gaps[i][j] for i in tied for j in range(len(region)) if j not in tied)
            tied.add(min((gaps[i][j], j) for i in tied for j in range(len(region)) if j not in tied)[1])
        around = sum(np.linalg.norm(np.diff([*outline, outline[0]], axis=0), axis=1).sum() for outline in region)
        whole = np.linalg.norm(np.diff([*polygon, polygon[0]], axis=0), axis=1).sum()
        assert whole == pytest.approx(around + 2 * ties)


MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(mask=MASKS.filter(np.any), x=st.integers(0, 5), y=st.integers(0, 5))
@settings(max_examples=150)
def test_outlines_fill_to_the_very_mask(mask: np.ndarray, x: int, y: int) -> None:
    full = np.zeros((20, 20), bool)
    full[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    regions = regions_of(mask, x, y)
    assert len(regions) == ndimage.label(mask, np.ones((3, 3)))[1]
    outlines = [outline for region in regions for outline in region]
    filled = np.zeros((20, 20), np.uint8)
    cv2.fillPoly(filled, outlines, 1)
    np.testing.assert_array_equal(filled > 0, full)
    for region in regions:  # tied to one polygon, a region and its holes still fill to the same
        apart, tied = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
        cv2.fillPoly(apart, region, 1)
        cv2.fillPoly(tied, [joined(region)], 1)
        assert ((apart == 1) <= (tied == 1)).all()
        assert len(joined(region)) >= 3


def test_a_ring_keeps_its_hole_in_one_polygon() -> None:
    yy, xx = np.mgrid[:80, :80]
    radius = np.hypot(yy - 40, xx - 40)
    ring = (radius < 35) & (radius > 15)
    (region,) = regions_of(ring)
    filled = np.zeros((80, 80), np.uint8)
    cv2.fillPoly(filled, [joined(region)], 1)
    np.testing.assert_array_equal(filled > 0, ring)


def test_a_full_place_for_temporary_files_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on another disk than the outputs, often a small one."""
    with small_disk(tmp_path / "small", "size=16k"):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
        datasets = Datasets(["coco"], Here(tmp_path / "out"))
        with pytest.raises(OutputError, match=rf"^{tmp_path}/small: the disk is full; .* TMPDIR$"):
            for number in range(30):
                datasets.add(f"{number}", "x" * 3000)
        with contextlib.suppress(OSError):  # full still; but open, it would keep the disk
            datasets._noted.close()


def test_kinds_of_save() -> None:
    assert parse_kinds("coco,overlay") == ("overlay", "json", "coco")
    assert parse_kinds("labelme,yolo,coco") == ("json", "coco", "yolo", "labelme")
    with pytest.raises(UsageError, match="yolo"):
        parse_kinds("yulu")
