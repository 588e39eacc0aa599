"""The pool: few threads where work is quick, many where it waits, and every task exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_hubhooks.delivery import pool
from flask_hubhooks.delivery.breaker import Sign
from flask_hubhooks.delivery.caps import Caps
from flask_hubhooks.delivery.pool import FIRST_THREADS, ElasticPool, InlinePool

from .receivers import poll

Task = TypeVar("Task")
Done = TypeVar("Done")


class Work:
    """Work that waits at a gate, and knows how many were ever at work together."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, task: int) -> int:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.gate.wait(10)
        with self._lock:
            self.running -= 1
        return task


def pool_of(work: Callable[[Task], Done], limit: int, destination: str = "") -> ElasticPool[Task, Done]:
    """A pool whose tasks are each of a destination of their own, or all of this one, and all good."""
    return ElasticPool(work, limit, Caps(limit, lambda task: destination or str(task), lambda _: Sign.GOOD))


def collect_all(tasks: ElasticPool[Task, Done], until: Callable[[], bool] | None = None) -> list[Done]:
    """Collect until nothing is unfinished, or until a condition holds."""
    done: list[Done] = []
    deadline = monotonic() + 10
    while tasks.unfinished and not (until and until()):
        assert monotonic() < deadline
        done += tasks.collect(0.05)
    return done


@settings(max_examples=20)
@given(st.lists(st.integers(0, 300), max_size=4), st.integers(1, 20))
def test_everything_exactly_once(batches: list[int], limit: int) -> None:
    """Each submitted task is done and collected exactly once, whatever the limit."""
    numbers: ElasticPool[int, int] = pool_of(lambda number: number, limit)
    done: list[int] = []
    for batch, size in enumerate(batches):
        for number in range(size):
            numbers.submit(batch * 1000 + number)
        done += numbers.collect(0.01)
    done += collect_all(numbers)
    assert sorted(done) == [batch * 1000 + number for batch, size in enumerate(batches) for number in range(size)]
    assert numbers.unfinished == numbers.queued == 0


def test_starts_small() -> None:
    """Submitting starts few threads, however much is queued."""
    work = Work()
    tasks = pool_of(work, 64)
    for number in range(200):
        tasks.submit(number)
    poll(lambda: work.running == FIRST_THREADS)
    assert tasks.queued == 200 - FIRST_THREADS
    work.gate.set()
    collect_all(tasks)


def test_grows_when_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing completes it grows up to its limit, and not beyond."""
    monkeypatch.setattr(pool, "HANGING_S", 60)
    work = Work()
    tasks = pool_of(work, 37)
    for number in range(100):
        tasks.submit(number)
    assert collect_all(tasks, until=lambda: work.running == 37) == []
    assert tasks.collect(0.1) == []  # time to grow on, if it would
    work.gate.set()
    assert sorted(collect_all(tasks)) == list(range(100))
    assert work.most == 37


def test_grows_while_receivers_are_waited_for() -> None:
    """It grows although one task after the other completes, where the process has little to do meanwhile."""
    tasks = pool_of(lambda number: sleep(0.002) or number, 16)
    for number in range(3000):
        tasks.submit(number)
    collect_all(tasks, until=lambda: tasks.threads > 2 * FIRST_THREADS)
    assert tasks.threads > 2 * FIRST_THREADS
    collect_all(tasks)


def test_does_not_grow_while_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process is busy no more threads than the first are started: they would be in each other's way."""
    monkeypatch.setattr(pool, "process_time", monotonic)
    tasks = pool_of(lambda number: sleep(0.002) or number, 16)
    for number in range(100):
        tasks.submit(number)
    assert sorted(collect_all(tasks)) == list(range(100))
    assert tasks.threads == FIRST_THREADS


def test_grows_past_what_hangs_while_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that hang on all threads hold up no others, whatever else keeps the process busy."""
    monkeypatch.setattr(pool, "process_time", monotonic)
    work = Work()
    tasks = pool_of(lambda number: work(number) if number < FIRST_THREADS else number, 16)
    for number in range(40):
        tasks.submit(number)
    collect_all(tasks, until=lambda: tasks.unfinished == FIRST_THREADS)
    assert tasks.unfinished == FIRST_THREADS
    work.gate.set()
    collect_all(tasks)


@pytest.mark.parametrize(("limit", "most"), [(3, 12), (100, 256), (300, 300)])
def test_outgrows_what_hangs(monkeypatch: pytest.MonkeyPatch, limit: int, most: int) -> None:
    """Tasks that hang do not count against the limit, up to a bound; it holds again when they have ended."""
    monkeypatch.setattr(pool, "HANGING_S", 0.02)
    work = Work()
    tasks = pool_of(work, limit)
    for number in range(most + 20):
        tasks.submit(number)
    assert collect_all(tasks, until=lambda: work.running == most) == []
    assert tasks.collect(0.1) == []  # time to grow on, if it would
    monkeypatch.setattr(pool, "HANGING_S", 60)
    work.gate.set()
    assert sorted(collect_all(tasks)) == list(range(most + 20))
    assert work.most == most
    work.gate.clear()
    work.most = 0
    for number in range(most + 20):
        tasks.submit(number)
    assert collect_all(tasks, until=lambda: work.running == limit) == []
    assert tasks.collect(0.1) == []
    work.gate.set()
    collect_all(tasks)
    assert work.most == limit


def test_turns_of_a_destination() -> None:
    """Of one destination one task is begun, then as many as its cap has grown to: all its threads, if it is alone."""
    work = Work()
    tasks = pool_of(work, 20, destination="one")
    for number in range(3):
        tasks.submit(number)
    assert collect_all(tasks, until=lambda: work.running == 1) == []
    assert (tasks.queued, tasks.unfinished) == (0, 3)
    work.gate.set()
    assert sorted(collect_all(tasks)) == [0, 1, 2]
    work.gate.clear()
    for number in range(60):
        tasks.submit(number)
    work.gate.set()
    assert sorted(collect_all(tasks)) == list(range(60))


@pytest.mark.parametrize("everything", [False, True])
def test_withdrawing(everything: bool) -> None:
    """All that no thread has begun can be taken back, whether it waits for a thread or for its turn."""
    work = Work()
    tasks = pool_of(work, 1)
    same = pool_of(work, 1, destination="one")
    for each in (tasks, same):
        for number in range(3):
            each.submit(number)
    poll(lambda: work.running == 2)
    assert [sorted(each.withdraw(everything)) for each in (tasks, same)] == [[(1, 0.0), (2, 0.0)] * everything] * 2
    work.gate.set()
    assert [sorted(collect_all(each)) for each in (tasks, same)] == [[0] if everything else [0, 1, 2]] * 2


def test_one_thread() -> None:
    """A limit of one is kept."""
    work = Work()
    tasks = pool_of(work, 1)
    for number in range(3):
        tasks.submit(number)
    assert tasks.collect(0.05) == []
    work.gate.set()
    assert collect_all(tasks) == [0, 1, 2]
    assert work.most == 1


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads without work end, and the pool goes on working afterwards."""
    monkeypatch.setattr(pool, "IDLE_S", 0.02)
    threads = pool_of(lambda _: threading.current_thread(), 4)
    threads.submit(1)
    [first] = collect_all(threads)
    poll(lambda: not first.is_alive())
    threads.submit(2)
    [second] = collect_all(threads)
    assert first is not second


def test_nothing_done() -> None:
    """Collecting what nobody submitted waits its time and returns nothing."""
    numbers: ElasticPool[int, int] = pool_of(lambda number: number, 4)
    assert numbers.collect(0.01) == []


def test_interrupt() -> None:
    """An interrupt ends the wait at once, and takes nothing away."""
    work = Work()
    tasks = pool_of(work, 4)
    tasks.submit(1)
    began = monotonic()
    tasks.interrupt()
    assert tasks.collect(9) == []
    assert monotonic() - began < 5
    assert tasks.unfinished == 1
    work.gate.set()
    assert collect_all(tasks) == [1]


def test_inline() -> None:
    """The pool without threads does one task each time it is asked, in order, in the thread that asks."""
    tasks: InlinePool[int, tuple[int, threading.Thread]]
    tasks = InlinePool(lambda task: (task, threading.current_thread()), 2, Caps(2, str, lambda _: None))
    for task in (1, 2):
        tasks.submit(task)
    tasks.interrupt()
    assert (tasks.queued, tasks.unfinished) == (2, 2)
    for task in (1, 2):
        assert tasks.collect(10) == [(task, threading.current_thread())]
    assert (tasks.collect(10), tasks.queued, tasks.unfinished) == ([], 0, 0)
