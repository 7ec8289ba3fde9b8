"""What lies in an output folder and is not densecli's stays, whatever is asked for; and what was corrected by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densecli.batch.manifest import SCHEMA, Record, key_of, to_line
from densecli.batch.rehearsal import rehearse
from densecli.console import Console
from densecli.errors import OutputError
from densecli.one_by_one import Job, segment_all
from densecli.remote.staging import staging_folder
from densecli.sinks import WriteOptions, parse_kinds
from densecli.sources.collecting import Collection
from densecli.sources.own_outputs import YOLO_MARK
from tests.batch.conftest import MODEL, SETTINGS, batch_job, entries, make_photos, run


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos, given as `photos`; the current folder is the one above."""
    monkeypatch.chdir(tmp_path)
    make_photos(Path("photos"), photo, 2)
    return Path("photos")


def own(path: Path, text: str = "mine") -> bytes:
    """A file of the user."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.read_bytes()


def picture(path: Path) -> bytes:
    """A picture of the user."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(path)
    return path.read_bytes()


def segment(*inputs: str | Path, out: str = "out", save: str = "json", **changes: Any) -> int:
    job = Job([str(given) for given in inputs], Path(out), parse_kinds(save), WriteOptions(), **changes)
    with Console(quiet=True) as console:
        return segment_all(
            job, console, preset="dense", overrides=SETTINGS, model=MODEL, device="cpu", precision="auto",
            checkpoint_dir=None, config=None,
        )  # fmt: skip


# --- outputs of one image --------------------------------------------------------------------------------------------


def test_a_folder_of_masks_drawn_by_hand_stays(photos: Path) -> None:
    drawn = Path("out/img0_masks/hand_0001.png")
    before = picture(drawn)
    outcome = run(batch_job(photos, kinds=("json",)))
    assert outcome.failed == 0  # and now a summary lies beside it
    outcome = run(batch_job(photos, kinds=("masks", "json")))
    assert (outcome.done, outcome.failed) == (1, 1)
    assert (
        "out/img0_masks: is there and was not written by densecli" in entries(Path("out"))["photos/img0.png"]["error"]
    )
    assert drawn.read_bytes() == before and len(list(drawn.parent.iterdir())) == 1


def test_a_drawing_among_densecli_s_masks_stays(photos: Path) -> None:
    assert run(batch_job(photos, kinds=("masks", "json"))).done == 2
    drawn = Path("out/img0_masks/hand.png")
    before = picture(drawn)
    Path("out/img1_masks/.DS_Store").touch()  # nobody's work
    outcome = run(batch_job(photos, kinds=("masks", "json"), overwrite=True))
    assert (outcome.done, outcome.failed) == (1, 1)
    assert drawn.read_bytes() == before


def test_a_label_map_of_the_user_stays_and_is_an_input(photos: Path) -> None:
    mine = photos / "img0_labels.png"
    before = picture(mine)
    assert run(batch_job(photos, out=photos, kinds=("json",))).done == 3
    outcome = run(batch_job(photos, out=photos, kinds=("labels", "json")))
    # Beside a summary it could be densecli's, made smaller by another program: no input any more, and not replaced.
    assert (outcome.done, outcome.failed, outcome.skipped["densecli output"]) == (1, 1, 4)
    assert mine.read_bytes() == before


@pytest.mark.parametrize("name", ["img0_overlay.png", "img0_masks/0001.png", "img0_masks.json"])
def test_segment_leaves_it_too(photos: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    mine = Path("out") / name
    before = own(mine)
    save = "overlay,json" if name == "img0_overlay.png" else "masks,json"
    assert segment(photos / "img0.png", photos / "img1.png", save=save) == 3
    assert mine.read_bytes() == before
    shown = f"out/{name.removesuffix('/0001.png')}"
    assert f"img0.png: {shown}: is there and was not written by densecli; move it away" in capsys.readouterr().err
    assert Path("out/img1_masks.json").exists()
    assert segment(photos / "img1.png", save=save) == 0  # its own are written again


# --- what spans a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("report.html", {"report": True}),
        ("annotations_coco.json", {"kinds": ("json", "coco")}),
        ("manifest.jsonl", {}),
        ("yolo/labels/img0.txt", {"kinds": ("json", "yolo")}),
    ],
)
def test_files_of_a_run_are_refused_before_any_work(photos: Path, name: str, changes: dict[str, Any]) -> None:
    mine = Path("out") / name
    before = own(mine, '{"line": 1}\n{"line": 2}')  # without a line end, as what a killed run leaves
    told = f"out/{name.partition('/')[0]}: is there and was not written by densecli; move it away"
    with pytest.raises(OutputError, match=told):
        run(batch_job(photos, **changes))
    assert mine.read_bytes() == before
    assert not Path("out/img0_masks.json").exists()
    if name != "manifest.jsonl":
        with Console(quiet=True) as console, pytest.raises(OutputError, match=told):
            rehearse(batch_job(photos, **changes), console)
    assert run(batch_job(photos, out="elsewhere", **changes)).done == 2
    assert run(batch_job(photos, out="elsewhere", overwrite=True, **changes)).done == 2  # its own


def test_pictures_of_a_yolo_data_set_are_not_made_links_to_themselves(photos: Path) -> None:
    """Somebody with pictures in YOLO's layout wants labels."""
    shutil.move(photos, "ds/yolo/images")
    before = Path("ds/yolo/images/img0.png").read_bytes()
    with pytest.raises(OutputError, match="ds/yolo: is there and was not written by densecli"):
        run(batch_job("ds/yolo/images", out="ds", kinds=("json", "yolo")))
    assert Path("ds/yolo/images/img0.png").read_bytes() == before


def test_the_links_of_a_yolo_data_set_as_input(photos: Path) -> None:
    run(batch_job(photos, kinds=("json", "yolo")))
    assert segment("out/yolo/images/img0.png", save="yolo") == 0
    assert np.array_equal(
        np.asarray(Image.open("out/yolo/images/img0.png")), np.asarray(Image.open(photos / "img0.png"))
    )


def test_what_somebody_made_of_the_yolo_data_set_stays(photos: Path) -> None:
    run(batch_job(photos, kinds=("json", "yolo")))
    data = Path("out/yolo/data.yaml")
    split = data.read_text().replace("train: images", "train: images/train")
    data.write_text(split)
    run(batch_job(photos, kinds=("json", "yolo"), overwrite=True))
    assert data.read_text() == split


def test_polygons_corrected_by_hand_stay(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("json", "labelme")
    run(batch_job(photos, kinds=kinds))
    corrected, other = Path("out/labelme/img0.json"), Path("out/labelme/img1.json")
    document = json.loads(corrected.read_text())
    assert document["shapes"]
    # As labelme saves: keys that it does not know are kept, the picture's bytes come in.
    document |= {"version": "5.8.1", "imageData": "aGVsbG8="}
    document["shapes"][0]["label"] = "cup"
    corrected.write_text(json.dumps(document))
    untouched = json.loads(other.read_text()) | {"version": "5.8.1"}  # opened, looked at, saved
    other.write_text(json.dumps(untouched))
    before = corrected.read_bytes()
    run(batch_job(photos, kinds=kinds, overwrite=True), quiet=False)
    assert corrected.read_bytes() == before
    assert json.loads(other.read_text())["version"] == "5.5.0"
    told = "out/labelme/img0.json: somebody worked on it, it stays as it is; remove it to have it written anew"
    assert told in capsys.readouterr().err
    corrected.unlink()
    run(batch_job(photos, kinds=kinds, overwrite=True))
    assert json.loads(corrected.read_text())["shapes"][0]["label"] == "object"


def test_polygons_drawn_by_hand_beside_the_pictures_stay(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(photos, "work/labelme")
    before = own(Path("work/labelme/img0.json"), '{"hand": "made"}')
    outcome = run(batch_job("work/labelme", out="work", kinds=("json", "labelme")), quiet=False)
    assert outcome.done == 2 and "work/labelme/img0.json: somebody worked on it" in capsys.readouterr().err
    assert Path("work/labelme/img0.json").read_bytes() == before
    assert Path("work/labelme/img1.json").exists()
    again = run(batch_job("work/labelme", out="work", kinds=("json", "labelme")))
    assert (again.done, again.complete) == (0, 2)  # the pictures are inputs still


def test_segment_does_not_replace_the_data_set_of_a_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(batch_job(photos, kinds=("json", "coco")))
    before = Path("out/annotations_coco.json").read_bytes()
    assert segment(photos / "img0.png", save="yolo") == 0
    with pytest.raises(OutputError, match=r"out/annotations_coco.json: is of a run of batch; .*densecli batch"):
        segment(photos / "img0.png", save="coco")
    assert Path("out/annotations_coco.json").read_bytes() == before


# --- as inputs -------------------------------------------------------------------------------------------------------


def test_folders_with_the_names_of_densecli_s_are_read_where_they_are_the_users(photos: Path) -> None:
    run(batch_job(photos, kinds=("json", "yolo", "labelme"), report=True))
    for name in ("report", "labelme"):
        picture(Path(f"out/{name}/mine.png"))
    found = [item.name for item in Collection(["out"], output_dir="out", recursive=True)]
    assert found == ["out/labelme/mine.png", "out/report/mine.png"]


def test_segment_passes_over_what_densecli_drew(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment(photos / "img0.png", out="photos", save="overlay,labels,json") == 0
    capsys.readouterr()
    given = sorted(photos.glob("*.png"))
    assert len(given) == 4
    with Console() as console:
        job = Job([str(path) for path in given], photos, ("overlay", "json"), WriteOptions())
        assert segment_all(job, console, preset="dense", overrides=SETTINGS, model=MODEL, device="cpu") == 0
    said = capsys.readouterr()
    assert "photos/img0_labels.png and 1 more: skipped, densecli made it itself" in said.err
    assert len(said.out.splitlines()) == 2 and not list(photos.glob("*_overlay_overlay.png"))


# --- names that change -----------------------------------------------------------------------------------------------


def test_an_input_whose_name_changed_is_in_the_data_sets_once(photos: Path) -> None:
    """A second folder came, so the outputs of the first go into a folder of their own."""
    kinds = ("json", "coco", "yolo", "labelme")
    run(batch_job(photos, kinds=kinds))
    Path("more").mkdir()
    shutil.copy(photos / "img1.png", "more/other.png")
    run(batch_job(photos, "more", kinds=kinds, report=True))
    coco = json.loads(Path("out/annotations_coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["more/other.png", "photos/img0.png", "photos/img1.png"]
    for folder in ("yolo/images", "yolo/labels", "labelme"):
        names = {
            path.relative_to(f"out/{folder}").with_suffix("").as_posix() for path in files_in(Path("out") / folder)
        }
        assert names == {"more/other", "photos/img0", "photos/img1"}
    with Record(Path("out")) as record:
        renamed = record.renamed({key_of(stem) for stem in ("more/other", "photos/img0", "photos/img1")})
        assert sorted(entry["stem"] for entry in record.of_keys(renamed)) == ["img0", "img1"]


def test_a_manifest_of_somebody_else_deletes_nothing_outside_of_its_folder(photos: Path, tmp_path: Path) -> None:
    """It says that an input's outputs are called otherwise since, and were called like files elsewhere."""
    mine = [tmp_path / "mine" / name for name in ("thesis.docx", "thesis.txt")]
    for path in mine:
        own(path)
    entry = {"schema": SCHEMA, "input": "a", "source": "/a.docx", "frame": None, "status": "done", "outputs": []}
    stems = (str(mine[0].with_suffix("")), "../../../mine/thesis", "b")
    lines = [entry | {"stem": stem, "finished": number} for number, stem in enumerate(stems, 1)]
    lines += [{"schema": SCHEMA, "status": "done"}, {"schema": SCHEMA, "status": "done", "stem": "c"}]
    own(Path("out/manifest.jsonl"), "".join(f"{to_line(line)}\n" for line in lines))
    assert run(batch_job(photos, kinds=("json", "yolo"))).done == 2
    assert all(path.exists() for path in mine)


def test_data_sets_replace_nothing_behind_a_link(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = own(Path("mine/img0.txt"))
    own(Path("out/yolo/data.yaml"), YOLO_MARK)
    Path("out/yolo/labels").symlink_to("../../mine")
    assert run(batch_job(photos, kinds=("json", "yolo"))).failed == 2
    assert "out/yolo/labels: is a link" in capsys.readouterr().err
    assert Path("mine/img0.txt").read_bytes() == mine and len(files_in(Path("mine"))) == 1
    Path("out/yolo/labels").unlink()
    Path("elsewhere").mkdir()
    shutil.move("out/yolo", "elsewhere/yolo")
    Path("out/yolo").symlink_to("../elsewhere/yolo")  # to a larger disk, say
    assert run(batch_job(photos, kinds=("json", "yolo"))).failed == 0
    assert len(files_in(Path("elsewhere/yolo/labels"))) == 2


def test_an_input_that_two_lists_name_has_two_names(photos: Path) -> None:
    make = {"first": "photos/img0.png\nphotos/img1.png\n", "second": "photos/img1.png\n"}
    for name, text in make.items():
        Path(f"{name}.txt").write_text(text)
    job = batch_job("first.txt", "second.txt", kinds=("json", "coco", "labelme", "yolo"), report=True)
    for done in (3, 0):
        assert run(job).done == done
        for folder in ("labelme", "yolo/labels"):
            names = {
                path.relative_to(f"out/{folder}").with_suffix("").as_posix() for path in files_in(Path("out") / folder)
            }
            assert names == {"first/photos/img0", "first/photos/img1", "second/photos/img1"}
        assert len(json.loads(Path("out/annotations_coco.json").read_text())["images"]) == 3


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_folder_of_images_in_a_yolo_data_set(photos: Path) -> None:
    """Ultralytics finds the labels of a picture by the last folder `images` in its path."""
    shutil.move(photos, "tree/images/train")
    run(batch_job("tree", recursive=True, kinds=("json", "yolo")))
    pictures = files_in(Path("out/yolo/images"))
    assert len(pictures) == 2
    for path in pictures:
        before, _, after = path.as_posix().rpartition("/images/")
        assert Path(f"{before}/labels/{after}").with_suffix(".txt").is_file()


# --- what another program left --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, "train: train.txt\nval: val.txt\n"])
def test_a_yolo_data_set_without_densecli_s_data_yaml_goes_on(photos: Path, data: str | None) -> None:
    """People write one of their own, or throw it away."""
    run(batch_job(photos, kinds=("json", "yolo")))
    path = Path("out/yolo/data.yaml")
    path.unlink()
    if data is not None:
        path.write_text(data)
    run(batch_job(photos, kinds=("json", "yolo"), overwrite=True))
    assert (path.read_text() == data) if data is not None else path.exists()


def test_a_manifest_that_another_program_laid_out_goes_on(photos: Path) -> None:
    run(batch_job(photos))
    path = Path("out/manifest.jsonl")
    lines = [json.dumps(json.loads(line), separators=(",", ":")) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{line}\n" for line in lines))
    assert run(batch_job(photos)).complete == 2


def test_pictures_that_another_program_made_smaller_are_no_inputs(photos: Path) -> None:
    job = batch_job(photos, out=photos, kinds=("overlay", "masks", "json"), recursive=True)
    run(job)
    for path in (photos / "img0_overlay.png", photos / "img0_masks" / "0001.png"):
        Image.fromarray(np.asarray(Image.open(path))).save(path)
    outcome = run(job)
    assert (outcome.done, outcome.complete) == (0, 2)


def test_a_folder_without_masks_that_a_file_manager_opened(photos: Path) -> None:
    Image.new("RGB", (40, 30)).save(photos / "img0.png")
    job = batch_job(photos, kinds=("masks", "json"), overwrite=True, overrides=(*SETTINGS, "min_mask_region_area=1199"))
    assert run(job).failed == 0
    for path in Path("out").glob("*_masks"):
        (path / ".DS_Store").touch()
    assert run(job).failed == 0


# --- other settings --------------------------------------------------------------------------------------------------


def test_other_kinds_are_no_other_settings(photos: Path) -> None:
    assert run(batch_job(photos)).done == 2
    for kinds in (("json",), ("overlay", "json"), ("json", "coco"), ("json", "labelme"), ("overlay", "json", "yolo")):
        outcome = run(batch_job(photos, kinds=kinds))
        assert (outcome.done, outcome.complete) == (0, 2), kinds
    assert run(batch_job(photos, write_options=WriteOptions(0.4))).done == 2  # overlays of another opacity
    assert run(batch_job(photos, write_options=WriteOptions(0.4))).complete == 2


def test_what_was_saved_before_counts_with_what_is_saved_now(photos: Path) -> None:
    run(batch_job(photos, kinds=("overlay", "json")))
    assert run(batch_job(photos, kinds=("labels", "json"))).done == 2  # needs the model
    for kinds in (("overlay", "json"), ("overlay", "labels", "json")):
        assert run(batch_job(photos, kinds=kinds)).complete == 2
    with_labels = entries(Path("out"))["photos/img0.png"]
    assert with_labels["alpha"] == 0.7 and "img0_overlay.png" in with_labels["outputs"]
    assert run(batch_job(photos, kinds=("labels", "json"), overrides=(*SETTINGS, "pred_iou_thresh=0.5"))).done == 2
    assert run(batch_job(photos, overrides=(*SETTINGS, "pred_iou_thresh=0.5"))).done == 2  # of other masks


@pytest.mark.parametrize(
    "damaged", [lambda data: b'{"schema', lambda data: b"x" * len(data), lambda data: bytes(99) + data[99:]]
)
def test_a_damaged_summary_is_made_anew(photos: Path, damaged: Callable[[bytes], bytes]) -> None:
    run(batch_job(photos))
    path = Path("out/img0_masks.json")
    before = json.loads(path.read_text())["masks"]
    path.write_bytes(damaged(path.read_bytes()))
    outcome = run(batch_job(photos, kinds=("json", "coco")))
    assert (outcome.done, outcome.complete) == (1, 1)
    assert json.loads(path.read_text())["masks"] == before
    assert len(json.loads(Path("out/annotations_coco.json").read_text())["images"]) == 2


def test_a_manifest_of_another_tool_in_a_bucket_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mine = own(Path("bucket/manifest.jsonl"), '{"a": 1}\n')
    url = f"local://{tmp_path}/bucket"
    job = batch_job(photos, out=staging_folder(url), output_url=url)
    with pytest.raises(OutputError, match=f"local://{tmp_path}/bucket/manifest.jsonl: is there and was not written"):
        run(job)
    assert Path("bucket/manifest.jsonl").read_bytes() == mine


def test_a_damaged_overlay_costs_its_small_picture_only(photos: Path) -> None:
    job = batch_job(photos, report=True)
    run(job)
    Path("out/img0_overlay.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    shutil.copy(photos / "img0.png", photos / "img3.png")
    assert run(job).exit_code == 0
    assert "img3" in Path("out/report.html").read_text()


@pytest.mark.parametrize("kinds", ["overlay,json", "labels,cutouts,json"])  # the second fails at its second kind
def test_choosing_again_without_the_photo_costs_nothing(
    photos: Path, kinds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(photos / "img0.png", save=f"{kinds},candidates") == 0
    before = {path.name: path.read_bytes() for path in files_in(Path("out"))}
    (photos / "img0.png").rename(photos / "moved.png")
    assert segment("out/img0.candidates", save=kinds) == 1
    assert "is not there any more" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in files_in(Path("out"))} == before
