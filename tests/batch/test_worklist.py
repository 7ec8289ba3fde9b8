"""The list between feeder and workers: bounded, nothing lost, nothing done twice, and it always ends."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from densecli.batch.worklist import Work, WorkList


def work(name: Any) -> Work:
    return Work(name, Future())


def test_order_and_room() -> None:
    todo = WorkList(1, room=2)
    for name in "ab":
        assert todo.put(lambda name=name: work(name))
    made = threading.Event()

    def third() -> Work:
        made.set()
        return work("c")

    feeder = threading.Thread(target=todo.put, args=(third,))
    feeder.start()
    assert not made.wait(0.05)  # it is not even decoded while there is no room
    assert todo.get(0).item == "a"
    feeder.join(5)
    todo.close()
    assert [todo.get(0).item, todo.get(0).item] == ["b", "c"]


def test_it_ends_only_when_nothing_can_come_back() -> None:
    todo = WorkList(2, room=2)
    todo.put(lambda: work("a"))
    todo.close()
    taken = todo.get(0)
    seen: list[Work | None] = []
    other = threading.Thread(target=lambda: seen.append(todo.get(1)))
    other.start()
    other.join(0.05)
    assert other.is_alive()
    todo.give_back(taken)
    other.join(5)
    assert seen == [taken]
    todo.done()
    assert todo.get(0) is None and todo.get(1) is None


def test_what_failed_on_one_worker_goes_to_another_while_there_is_one() -> None:
    todo = WorkList(2, room=3)
    for name in "ab":
        todo.put(lambda name=name: work(name))
    first = todo.get(0)
    first.failed_on.add(0)
    todo.give_back(first)
    assert todo.get(0).item == "b"
    assert todo.others_left(0)
    assert todo.leave(1) == 1
    assert todo.get(0) is first  # nobody else is left


def test_stop_gives_up_what_nobody_has() -> None:
    todo = WorkList(1, room=3)
    for name in "abc":
        todo.put(lambda name=name: work(name))
    taken = todo.get(0)
    assert [left.item for left in todo.stop()] == ["b", "c"]
    assert not todo.put(lambda: work("d"))
    todo.give_back(taken)  # its worker died: it was in work, so it is finished
    assert todo.get(0) is taken
    todo.done()
    assert todo.get(0) is None


@settings(max_examples=30)
@given(workers=st.integers(1, 4), room=st.integers(1, 5), count=st.integers(0, 40), clumsy=st.integers(0, 3))
def test_every_piece_is_done_once(workers: int, room: int, count: int, clumsy: int) -> None:
    todo, done = WorkList(workers, room), []

    def worker(number: int) -> None:
        while (piece := todo.get(number)) is not None:
            if piece.deaths < clumsy:
                piece.deaths += 1
                piece.failed_on.add(number)
                todo.give_back(piece)
            else:
                done.append(piece.item)
                todo.done()

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for number in range(count):
        assert todo.put(lambda number=number: work(number))
    todo.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(done) == list(range(count))
