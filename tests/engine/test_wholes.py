"""Grouping similar masks in rows and grids, on scenes that are exact: what hangs together, and what does not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.engine import wholes
from densecli.engine.parts import Placed
from densecli.engine.wholes import Group, groups, is_whole, spread, without_whole
from densecli.masks import Runs

SIZE = 600, 900


def placed(mask: np.ndarray) -> Placed:
    return Placed(*Runs.of(mask).trimmed())


def polygon(corners) -> Placed:
    canvas = np.zeros(SIZE, dtype=np.uint8)
    cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 1)
    return placed(canvas.astype(bool))


def box(x: float, y: float, w: float, h: float) -> np.ndarray:
    return np.array([[x, y], [x + w - 1, y], [x + w - 1, y + h - 1], [x, y + h - 1]], dtype=np.float64)


def rectangle(x: float, y: float, w: float, h: float) -> Placed:
    return polygon(box(x, y, w, h))


def keys(rows: int, columns: int, stagger: float = 0, gap: float = 8) -> list[np.ndarray]:
    step = 32 + gap
    return [box(60 + step * c + stagger * r, 120 + step * r, 32, 32) for r in range(rows) for c in range(columns)]


def turned(corners: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (corners - [250, 220]) @ turn.T + [430, 300]


def in_perspective(corners: np.ndarray) -> np.ndarray:
    matrix = cv2.getPerspectiveTransform(
        np.float32([[0, 0], [500, 0], [500, 300], [0, 300]]), np.float32([[150, 40], [560, 70], [860, 480], [20, 440]])
    )
    return cv2.perspectiveTransform(corners[None].astype(np.float32), matrix)[0]


def books(seed: int, n: int = 14) -> list[np.ndarray]:
    random, x, found = np.random.default_rng(seed), 60.0, []
    for _ in range(n):
        w, h = random.integers(16, 44), random.integers(150, 200)
        found.append(box(x, 400 - h, w, h))
        x += w + 2
    return found


REGULAR = {
    "keys": keys(5, 9),
    "a row": keys(1, 6),
    "2 × 2": keys(2, 2),
    "windows, as far apart as they are wide": keys(3, 5, gap=36),
    "rows that are shifted": keys(4, 9, stagger=10),
    "turned by 15°": [turned(k, 15) for k in keys(4, 9)],
    "turned by 45°": [turned(k, 45) for k in keys(4, 9)],
    "in perspective": [in_perspective(k) for k in keys(4, 9)],
    "books": books(0),
    "books, turned a little": [turned(b, 6) for b in books(1)],
    "stacked": [b[:, ::-1] for b in books(2)],
}


@pytest.mark.parametrize("name", REGULAR)
def test_regular_rows_and_grids_are_one_group(name: str) -> None:
    masks = [polygon(corners) for corners in REGULAR[name]]
    found = groups(masks, 4)
    assert [set(group.members) for group in found] == [set(range(len(masks)))]
    x0, y0 = min(m.x for m in masks), min(m.y for m in masks)
    x1, y1 = max(m.x + m.runs.size[1] for m in masks), max(m.y + m.runs.size[0] for m in masks)
    assert found[0].box == (x0, y0, x1, y1)


def test_keys_of_different_widths_with_some_missing() -> None:
    random, masks = np.random.default_rng(5), []
    for row in range(5):
        x = 60.0 + (0, 16, 22, 32, 0)[row]
        while x < 700:
            w = random.choice([32, 32, 32, 32, 44, 60])
            if random.random() > 0.1:
                masks.append(rectangle(x, 120 + 40 * row, w, 32))
            x += w + 8
    found = groups(masks, 4)
    assert len(found[0].members) > 0.85 * len(masks)


def test_two_keyboards_are_two_groups_and_what_lies_between_them_is_in_none() -> None:
    left = [polygon(k) for k in keys(4, 5)]
    right = [polygon(k + [500, 150]) for k in keys(4, 5)]
    between = [rectangle(330, 150, 90, 90), rectangle(400, 300, 60, 20)]
    found = groups(left + right + between, 4)
    assert {group.members for group in found} == {tuple(range(20)), tuple(range(20, 40))}


@pytest.mark.parametrize(("n", "at_least", "expected"), [(3, 4, 0), (4, 4, 1), (5, 6, 0), (3, 3, 1)])
def test_smallest_group(n: int, at_least: int, expected: int) -> None:
    assert len(groups([polygon(k) for k in keys(1, n)], at_least)) == expected


def scattered(seed: int, n: int) -> list[Placed]:
    """Boxes of many sizes anywhere, no two of them on the same pixel."""
    random, taken, masks = np.random.default_rng(seed), np.zeros(SIZE, dtype=bool), []
    for _ in range(n):
        w, h = random.integers(20, 90, 2)
        x, y = random.integers(0, SIZE[1] - w), random.integers(0, SIZE[0] - h)
        if not taken[y : y + h, x : x + w].any():
            taken[y : y + h, x : x + w] = True
            masks.append(rectangle(x, y, w, h))
    return masks


def test_clutter_makes_no_image_wide_groups() -> None:
    largest = [max((len(g.members) for g in groups(scattered(seed, 120), 4)), default=0) for seed in range(40)]
    assert np.mean([size > 0 for size in largest]) < 0.3 and max(largest) <= 8


def test_a_keyboard_in_clutter_stays_a_keyboard() -> None:
    masks = [polygon(k) for k in keys(4, 9)]
    around = [m for m in scattered(3, 150) if m.x > 460 or m.y > 320]
    found = groups(masks + around, 4)
    assert set(range(36)) <= set(found[0].members) and len(found[0].members) <= 38


def test_thin_and_ragged_masks_are_no_bricks() -> None:
    canvas = np.zeros(SIZE, dtype=np.uint8)
    for k in keys(1, 6):
        cv2.polylines(canvas, [k.astype(np.int32)], True, 1)
    outlines = [placed((canvas > 0) & (polygon_mask(k) > 0)) for k in keys(1, 6)]
    assert groups(outlines, 4) == []


def polygon_mask(corners: np.ndarray) -> np.ndarray:
    canvas = np.zeros(SIZE, dtype=np.uint8)
    cv2.fillPoly(canvas, [corners.astype(np.int32)], 1)
    return canvas


def test_what_has_its_whole_is_not_asked_about() -> None:
    masks = [polygon(k) for k in keys(4, 8)]
    whole = rectangle(50, 110, 330, 170)
    assert len(without_whole(masks, 4)) == 1
    assert without_whole([whole, *masks], 4) == []
    # Neither a mask of a part of the keys, nor the desk under the keyboard, nor one beside it is the whole.
    for other in (rectangle(50, 110, 250, 170), rectangle(0, 0, 900, 600), rectangle(400, 300, 330, 170)):
        assert len(without_whole([other, *masks], 4)) == 1


def test_a_whole_covers_80_percent_and_is_not_much_larger() -> None:
    masks = [polygon(k) for k in keys(1, 10)]  # 60 to 452
    group = Group(tuple(range(10)), (60, 120, 452, 152))
    assert is_whole(rectangle(60, 110, 312, 50), group, masks)  # eight keys
    assert not is_whole(rectangle(60, 110, 300, 50), group, masks)
    assert is_whole(rectangle(60, 100, 392, 90), group, masks)
    assert not is_whole(rectangle(60, 100, 392, 100), group, masks)


@settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(-3, 3), st.integers(-3, 3))
def test_order_and_place_do_not_matter(random, dx: int, dy: int) -> None:
    masks = [polygon(k) for k in [*keys(3, 5), *(b + [250, 0] for b in books(4, 6))]]
    moved = [Placed(m.x + dx, m.y + dy, m.runs) for m in masks]
    order = list(range(len(masks)))
    random.shuffle(order)
    found = {frozenset(group.members) for group in groups(masks, 4)}
    again = {frozenset(order[i] for i in group.members) for group in groups([moved[i] for i in order], 4)}
    assert found == again and len(found) == 2


def test_the_work_goes_with_the_number_of_masks() -> None:
    per_mask = []
    for side in (15, 45):
        boxes = np.array([[20.0 * x, 20.0 * y, 20 * x + 16, 20 * y + 16] for y in range(side) for x in range(side)])
        near = wholes._near(boxes, np.arange(len(boxes)))
        per_mask.append(sum(map(len, near.values())) / len(boxes))
    assert per_mask[1] < 1.3 * per_mask[0] < 50


def test_nothing_and_one_mask() -> None:
    assert groups([], 4) == [] and without_whole([rectangle(5, 5, 5, 5)], 4) == []


def test_points_of_a_group_lie_far_apart_and_on_their_masks() -> None:
    masks = [polygon(k) for k in keys(4, 9)]
    # A mask with a hole in its middle: its point goes elsewhere.
    ring = np.zeros(SIZE, dtype=bool)
    ring[120:152, 60:92] = True
    ring[128:144, 60 + 8 : 92 - 8] = False
    masks[0] = placed(ring)
    group = Group(tuple(range(36)), (60, 120, 412, 272))
    points = spread(masks, group, 8)
    assert len(points) == 8
    taken = np.zeros(SIZE, dtype=int)
    for n, mask in enumerate(masks, 1):
        h, w = mask.runs.size
        taken[mask.y : mask.y + h, mask.x : mask.x + w][mask.runs.decode()] = n
    assert len({taken[int(y), int(x)] for x, y in points} - {0}) == 8
    distances = [np.hypot(ax - bx, ay - by) for ax, ay in points for bx, by in points if (ax, ay) != (bx, by)]
    assert min(distances) > 60
    assert len(spread(masks[:3], Group((0, 1, 2), (0, 0, 1, 1)), 8)) == 3
