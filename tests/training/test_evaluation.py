"""Evaluation with known answers: overlaps, baselines, boundaries, keyboards, and a whole run over two tiny photos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from training import evaluate
from training.evaluation.baselines import label_maps
from training.evaluation.edges import boundary, f_score
from training.evaluation.generated import keyboard_outcome
from training.evaluation.people import AgainstPeople
from training.evaluation.truths import Truth, bsds_photos

WINDOW = np.ones((20, 30), bool)


def halves(height: int = 60, width: int = 90) -> np.ndarray:
    labels = np.ones((height, width), np.int64)
    labels[:, width // 2 :] = 2
    return labels


def test_overlaps_of_masks_with_every_persons_regions() -> None:
    square = np.full((60, 90), 5)
    square[10:30, 20:50] = 9
    truth = Truth.of([halves(), square], min_region=600)
    overlaps = truth.overlaps([(20, 10, WINDOW), (0, 0, np.ones((60, 45), bool))])
    assert overlaps.shape == (2, 4)
    left, right = 20 * 25, 20 * 5
    assert overlaps[0].tolist() == pytest.approx([left / (2700 + 100), right / (2700 + 500), 0.0, 1.0])
    assert overlaps[1, 0] == 1.0
    assert truth.large.all()
    assert truth.best(overlaps) == pytest.approx(overlaps.max(0).mean())
    assert Truth.of([halves(), square], min_region=700).large.tolist() == [True, True, True, False]
    assert truth.best(overlaps[:0]) == 0.0
    assert np.allclose(truth.overlaps_of_labels(halves())[0], overlaps[1])


def test_baselines_find_flat_halves() -> None:
    pixels = np.where(halves()[..., None] == 1, 40, 210).astype(np.uint8).repeat(3, 2)
    truth = Truth.of([halves()])
    maps = label_maps(pixels)
    assert len(maps) == 5
    assert truth.best(truth.overlaps_of_labels(maps["felzenszwalb, scale 300"])) > 0.95


def test_boundaries() -> None:
    size = (100, 120)
    true = boundary([(30, 20, np.ones((40, 50), bool))], size)
    assert true.sum() == 2 * 50 + 2 * 38
    assert f_score(true, true) == (1.0, 1.0, 1.0)
    half = boundary([(30, 20, np.ones((40, 50), bool))], size)
    half[:, 55:] = False
    f, precision, recall = f_score(half, true)
    assert precision == 1.0 and 0.45 < recall < 0.6 and f == pytest.approx(2 * recall / (1 + recall))
    assert f_score(np.zeros(size, bool), true) == (0.0, 0.0, 0.0)
    assert not boundary([(0, 0, np.ones(size, bool))], size).any(), "the frame is no boundary"


def test_one_mask_for_the_keyboard() -> None:
    keyboard = np.zeros((100, 200), bool)
    keyboard[30:70, 40:160] = True
    whole = (42, 30, np.ones((40, 118), bool))
    key = (50, 35, np.ones((8, 8), bool))
    desk = (0, 0, ~keyboard)
    assert keyboard_outcome([whole, desk], keyboard)[:2] == (True, 0)
    assert keyboard_outcome([whole, key, desk], keyboard)[:2] == (True, 1)
    assert keyboard_outcome([key], keyboard)[:2] == (False, 1)


@pytest.fixture(scope="module")
def tiny_bsds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of flat halves, as BSDS500 stores them; two people agree on each."""
    folder = tmp_path_factory.mktemp("bsds")
    for name, (dark, bright) in {"one": (30, 220), "two": (90, 170)}.items():
        labels = halves(96, 144)
        cv2.imwrite(str(folder / f"{name}.jpg"), np.where(labels[..., None] == 1, dark, bright).repeat(3, 2))
        people = np.empty((1, 2), object)
        for k in range(2):
            people[0, k] = {"Segmentation": labels.astype(np.uint16), "Boundaries": labels.astype(np.uint8)}
        savemat(folder / f"{name}.mat", {"groundTruth": people})
    return folder


def test_reading_bsds(tiny_bsds: Path) -> None:
    photos = list(bsds_photos(tiny_bsds))
    assert [name for name, _, _ in photos] == ["one", "two"]
    assert photos[0][2].large.tolist() == [True] * 4
    assert [name for name, _, _ in bsds_photos(tiny_bsds, 1)] == ["one"]
    with pytest.raises(SystemExit, match="no .mat"):
        list(bsds_photos(tiny_bsds / "nowhere"))


def test_evaluation_of_a_known_answer(tiny_bsds: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """A few points keep it quick. The baselines' answer is known; all candidates can only be better than kept ones."""
    from training.evaluation import people

    preset = tiny_bsds / "coarse.yaml"
    preset.write_text("extends: dense\ngenerator: {points_per_side: 6}\n")
    monkeypatch.setattr(people, "PRESET", str(preset))
    monkeypatch.setattr(evaluate, "PRESET", str(preset))
    evaluate.main(["--bsds", str(tiny_bsds), "--model", "starter", "--device", "cpu", "--thresholds", "0.2/0.2"])
    printed = capsys.readouterr().out
    rows = {cells[0]: cells for line in printed.splitlines() if (cells := [c.strip() for c in line.split("|")[1:-1]])}
    assert float(rows["felzenszwalb, scale 300"][1]) > 0.95
    overlap = {name: float(rows[name][1]) for name in ("kept at 0.20 / 0.20", "all candidates", "kept at 0.85 / 0.90")}
    assert overlap["all candidates"] + 0.01 >= overlap["kept at 0.20 / 0.20"]  # the clean-up has filled holes of these
    assert overlap["kept at 0.20 / 0.20"] + 0.01 >= overlap["kept at 0.85 / 0.90"]
    assert overlap["kept at 0.20 / 0.20"] > 0
    assert rows["all candidates"][2] == f"{6 * 6 * 3:.1f}"
    binned = [cells for name, cells in rows.items() if "–" in name]
    assert sum(int(cells[1].replace(",", "")) for cells in binned) == 2 * 6 * 6 * 3
    assert "Correlation" in printed


def test_calibration_of_candidates_that_are_right() -> None:
    figures = AgainstPeople()
    predicted = np.linspace(0.05, 0.95, 10)
    figures.predicted, figures.measured, figures.stability = [predicted], [predicted], [np.ones(10)]
    rows, correlation, error = figures.calibration()
    assert correlation == pytest.approx(1) and error == 0
    assert [row["count"] for row in rows] == [1] * 10
    assert all(row["from"] <= row["measured"] <= row["to"] for row in rows)
