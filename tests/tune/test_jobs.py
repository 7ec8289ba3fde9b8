"""What needs the model: denser grids and asking it for more, one at a time, while the rest stays usable."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from densecli import Segmenter
from densecli.errors import InputError, UsageError
from densecli.presets import load_preset
from densecli.tune.jobs import Job, Jobs
from densecli.tune.state import FLOOR, Tuning
from tests.conftest import FIRST_STARTER
from tests.same_masks import assert_same_masks
from tests.tune.conftest import OVERRIDES, Client, client_of


def ended(jobs: Jobs) -> Job:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        job = jobs.latest()
        assert job is not None
        if job.state != "running":
            return job
        time.sleep(0.01)
    raise AssertionError("the job does not end")


def test_a_job_goes_from_running_to_done() -> None:
    jobs, go = Jobs(), threading.Event()
    assert jobs.latest() is None

    def work(progress: Any) -> str:
        progress(3, 10)
        go.wait(10)
        return "result"

    job = jobs.start("it", work)
    with pytest.raises(UsageError, match=r"busy \(it\)"):
        jobs.start("another", work)
    while job.done != 3:
        time.sleep(0.001)
    assert (job.state, job.total, job.error) == ("running", 10, "")
    go.set()
    assert ended(jobs) is job and (job.state, job.result) == ("done", "result")
    assert jobs.start("next", lambda progress: None).number == job.number + 1
    ended(jobs)


def test_a_job_can_be_called_off_and_the_next_one_runs() -> None:
    jobs = Jobs()

    def endless(progress: Any) -> None:
        while True:
            progress(1, 2)
            time.sleep(0.001)

    jobs.start("endless", endless)
    jobs.stop(wait_seconds=10)
    assert ended(jobs).state == "cancelled"
    jobs.start("short", lambda progress: progress(2, 2))
    assert ended(jobs).state == "done"


@pytest.mark.parametrize(
    ("error", "said"),
    [(InputError("desk.png: is damaged"), "desk.png: is damaged"), (OSError("a\nb"), "unexpected OSError: a b")],
)
def test_a_job_that_fails_says_why_in_one_line(error: Exception, said: str) -> None:
    jobs = Jobs()

    def work(progress: Any) -> None:
        raise error

    jobs.start("it", work)
    job = ended(jobs)
    assert (job.state, job.error) == ("failed", said)


def test_a_denser_grid_comes_beside_the_first(client: Client, tuning: Tuning) -> None:
    before = client.ask("choose")
    assert (before["grids"], before["denser"]) == ([8], [12, 16, 24])
    client.ask("choose", points_per_side=12, status=400)
    assert client.ask("job") is None
    started = client.ask("add-points", {"points_per_side": 12})
    assert started["what"] == "12 × 12 points" and started["number"] == 0
    assert client.ask("choose")["masks"] == before["masks"]
    assert ended(tuning.jobs).error == ""
    job = client.ask("job")
    assert (job["state"], job["done"], job["total"]) == ("done", 144, 144)
    assert job["result"] == {"points_per_side": 12}
    after = client.ask("choose", points_per_side=12)
    assert (after["grids"], after["denser"]) == ([8, 12], [18, 24, 36]) and after["funnel"]["candidates"] == 432
    fresh = Segmenter(
        "dense", "starter", "cpu", overrides=["points_per_side=12", "min_mask_region_area=20", "box_nms_thresh=0.9"]
    )(tuning.pixels)
    found, _ = tuning.choose(tuning.resolved({"points_per_side": 12, "box_nms_thresh": 0.9}))
    assert_same_masks([m.summary() for m in found.masks], [m.summary() for m in fresh.masks])
    assert client.ask("choose")["masks"] == before["masks"]


@pytest.mark.parametrize("points", [8, 9, 0, 1024, "12", 12.0, True, None])
def test_other_grids_are_refused(client: Client, points: Any) -> None:
    client.ask("add-points", {"points_per_side": points}, status=400)
    assert client.ask("job") is None


def test_stopped_it_leaves_all_as_it_was(client: Client, tuning: Tuning) -> None:
    client.ask("add-points", {"points_per_side": 24})
    client.ask("stop")
    assert ended(tuning.jobs).state == "cancelled"
    assert client.ask("choose")["grids"] == [8]


def test_fill_is_asked_of_the_model_and_is_what_a_fresh_run_gives(photo_file: Path) -> None:
    # The first starter answers its 1,856 points three times as soon as the one that ships.
    segmenter = Segmenter("dense", FIRST_STARTER[0], "cpu", overrides=[*OVERRIDES, "stability_score_thresh=0.6"])
    kept = segmenter(photo_file, keep_candidates=FLOOR).proposals
    assert kept is not None
    tuning = Tuning(kept, segmenter.preset, segmenter)
    client = client_of(tuning, photo_file)
    rest = {"pred_iou_thresh": 0.3, "max_mask_area_fraction": 0.03}  # few masks, and much between them
    values = {"fill": True, **rest}
    preview = client.ask("choose", **values)
    assert preview["unfinished"] and preview["masks"] == client.ask("choose", **rest)["masks"]
    assert not client.ask("choose")["unfinished"]
    client.ask("finish", {"values": values})
    assert ended(tuning.jobs).error == ""
    filled = client.ask("choose", **values)
    assert not filled["unfinished"] and len(filled["masks"]) > len(preview["masks"])
    fresh = segmenter.with_values(tuning.resolved(values))(tuning.pixels)
    assert [(m["id"], m["color"]) for m in filled["masks"]] == [(m.id, m.color) for m in fresh.masks]
    found, asks = tuning.choose(tuning.resolved(values))
    assert not asks
    assert_same_masks([m.summary() for m in found.masks], [m.summary() for m in fresh.masks])
    # Ids in the explanation are those of the masks that are shown.
    named = {}
    for x, y in [(x, y) for x in range(10, 160, 30) for y in range(10, 107, 30)]:
        for candidate in client.ask("why", {"values": values, "x": x, "y": y})["candidates"]:
            if candidate["mask"] is not None:
                named[candidate["mask"]] = candidate["predicted_iou"]
    by_id = {m["id"]: m["predicted_iou"] for m in filled["masks"]}
    assert named and all(by_id[i] == iou for i, iou in named.items())


def test_refined_edges_are_worked_out_when_asked_for_and_need_no_model() -> None:
    from skimage import data

    # Large enough that a cell of the model's grid is wider than a pixel: only then is there anything to refine.
    segmenter = Segmenter("dense", "starter", "cpu", overrides=["points_per_side=4"])
    kept = segmenter(data.coffee(), keep_candidates=FLOOR).proposals
    assert kept is not None
    tuning = Tuning(kept, segmenter.preset, None)
    wish = tuning.resolved({"refine_edges": "guided"})
    preview, unfinished = tuning.choose(wish)
    assert unfinished and [m.area for m in preview.masks] == [m.area for m in tuning.choose(tuning.start)[0].masks]
    tuning.finish(wish)
    assert ended(tuning.jobs).error == ""
    found, unfinished = tuning.choose(wish)
    wanted = Segmenter.refilter(kept, "dense", ["points_per_side=4", "refine_edges=guided"])
    assert not unfinished and [m.summary() for m in found.masks] == [m.summary() for m in wanted.masks]
    assert [m.area for m in found.masks] != [m.area for m in preview.masks]


def test_refining_edges_can_be_called_off(tuning: Tuning, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from densecli.engine import edges

    begun, go, true = threading.Event(), threading.Event(), edges._Edge.refined

    def refined(edge: Any) -> Any:
        begun.set()
        go.wait(10)
        return true(edge)

    monkeypatch.setattr(edges._Edge, "refined", refined)
    client.ask("finish", {"values": {"refine_edges": "guided"}})
    assert begun.wait(10)
    client.ask("stop")
    go.set()
    assert ended(tuning.jobs).state == "cancelled"
    assert client.ask("choose", refine_edges="guided")["unfinished"]


def test_each_job_counts_its_own_points(photo_file: Path) -> None:
    segmenter = Segmenter("dense", FIRST_STARTER[0], "cpu", overrides=[*OVERRIDES, "stability_score_thresh=0.6"])
    kept = segmenter(photo_file, keep_candidates=FLOOR).proposals
    assert kept is not None
    tuning = Tuning(kept, segmenter.preset, segmenter)
    totals = []
    for share in (0.03, 0.030001):  # as good as the same, but not known yet
        values = {"fill": True, "ask_for_wholes": False, "pred_iou_thresh": 0.6, "max_mask_area_fraction": share}
        tuning.finish(tuning.resolved(values))
        job = ended(tuning.jobs)
        assert (job.error, job.done) == ("", job.total)
        totals.append(job.total)
    assert totals[0] == totals[1] > 0


def test_without_a_model_only_choosing_is_left(first: tuple[Segmenter, Any]) -> None:
    _, kept = first
    tuning = Tuning(kept, load_preset("dense"), None)
    assert tuning.denser() == [] and tuning.grids() == [8]
    # The preset's grid is another one; what is there counts.
    assert tuning.start.generator.points_per_side == 8
    assert tuning.choose(tuning.start)[0].masks
    for ask in (lambda: tuning.add_points(12), lambda: tuning.finish(tuning.resolved({"fill": True}))):
        with pytest.raises(UsageError, match="no model"):
            ask()


def test_a_preset_below_what_was_kept_begins_at_the_floor(first: tuple[Segmenter, Any]) -> None:
    _, kept = first
    low = load_preset("dense", ["pred_iou_thresh=0.1", "stability_score_thresh=0"])
    tuning = Tuning(kept, low, None)
    assert tuning.start.generator.pred_iou_thresh == kept.proposals.floor.predicted_iou
    assert tuning.start.generator.stability_score_thresh == kept.proposals.floor.stability
    assert tuning.choose(tuning.start)[0].masks
