"""A thread pool that starts small and grows only when it is stuck."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Generic, TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")

FIRST_THREADS = 4
STUCK_S = 0.01
"""Work is queued and nothing has completed for this long: the pool doubles, up to its limit.

Many threads that start at once on receivers that answer instantly form a convoy on the interpreter's lock.
"""
IDLE_S = 5.0
"""A thread that has had nothing to do for this long ends."""
BATCH = 512
NAP_S = 0.005
BATCH_WAIT_S = 0.1
"""How long `collect` waits for more to share one transaction, as long as each nap brings some."""


class ElasticPool(Generic[Task, Done]):
    """Runs `work` on threads. `submit` and `collect` belong to one thread, the owner's; `work` must not raise."""

    def __init__(self, work: Callable[[Task], Done], limit: int) -> None:
        self._work = work
        self._limit = limit
        self._threads = 0
        self._lock = threading.Lock()
        self._todo: SimpleQueue[Task] = SimpleQueue()
        self._done: SimpleQueue[Done | None] = SimpleQueue()
        self.unfinished = 0
        """Tasks that were submitted and not yet collected."""

    @property
    def queued(self) -> int:
        """Tasks that no thread has begun."""
        return self._todo.qsize()

    def submit(self, task: Task) -> None:
        self.unfinished += 1
        with self._lock:
            self._todo.put(task)
            wanted = min(FIRST_THREADS, self._limit, self.unfinished)
            if self._threads < wanted:
                self._start_thread()

    def collect(self, wait_s: float) -> list[Done]:
        """What is done: waits at most `wait_s` for the first, then briefly for others; empty when none came."""
        deadline = monotonic() + wait_s
        while (remaining := deadline - monotonic()) > 0:
            stuck_after = min(STUCK_S, remaining) if self.queued else remaining
            try:
                first = self._done.get(timeout=stuck_after)
            except Empty:
                self._grow()
            else:
                return self._counted([first, *self._more()])
        return []

    def interrupt(self) -> None:
        """Have `collect` return at once; safe in a signal handler."""
        self._done.put(None)

    def _more(self) -> list[Done | None]:
        """What else gets done while more and more does. It naps: waking for each would take the others' lock away."""
        deadline = monotonic() + BATCH_WAIT_S
        before = -1
        while before < (done := self._done.qsize()) < min(BATCH, self.unfinished) - 1 and monotonic() < deadline:
            before = done
            sleep(NAP_S)
        return [self._done.get_nowait() for _ in range(min(BATCH - 1, self._done.qsize()))]

    def _counted(self, items: list[Done | None]) -> list[Done]:
        done = [item for item in items if item is not None]
        self.unfinished -= len(done)
        return done

    def _grow(self) -> None:
        with self._lock:
            for _ in range(min(self._threads, self._limit - self._threads, self.queued)):
                self._start_thread()

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(target=self._run, name="hubhooks-delivery", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                task = self._todo.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    if self._todo.empty():
                        self._threads -= 1
                        return
            else:
                self._done.put(self._work(task))


class InlinePool(ElasticPool[Task, Done]):
    """Starts no thread: each task is done when it is collected, by the thread that collects."""

    def submit(self, task: Task) -> None:
        self.unfinished += 1
        self._todo.put(task)

    def collect(self, wait_s: float) -> list[Done]:
        """Do the first task that is queued; there is nothing to wait for."""
        if not self.queued:
            return []
        self.unfinished -= 1  # first, so that what breaks off in the middle leaves no task behind
        return [self._work(self._todo.get_nowait())]
