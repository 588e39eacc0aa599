"""A thread pool that starts small, grows while its threads wait for receivers, and takes turns by destination."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from time import monotonic, process_time, sleep
from typing import Generic, TypeVar

from .caps import Caps

Task = TypeVar("Task")
Done = TypeVar("Done")

FIRST_THREADS = 2
LOOK_S, BUSY = 0.01, 0.5
"""Work is queued, and for this long the process has used less than this part of a processor: its threads wait for
receivers, so the pool doubles, up to its limit.

More threads than it takes to keep busy form a convoy on the interpreter's lock: on a receiver that answers instantly
4 were a fifth slower than 2 (measured).
"""
HANGING_S = 1.0
"""A task that has been at work for this long hangs: it does not count against the limit any more."""
HANGING_TIMES, THREADS_MOST = 4, 256
"""How far hanging tasks let the pool outgrow its limit: this many times, and to so many threads.

Receivers that hang would otherwise take all threads: with 64, half of 200 destinations hanging made the others wait
20 s; with 256 nothing was noticed of it (measured).
"""
IDLE_S = 5.0
"""A thread that has had nothing to do for this long ends."""
BATCH = 512
NAP_S = 0.005
BATCH_WAIT_S = 0.1
"""How long `collect` waits for more to share one transaction, as long as each nap brings some."""


class ElasticPool(Generic[Task, Done]):
    """Runs `work` on threads, `limit` tasks at a time beside those that hang, in the order that `caps` allow.

    `submit`, `collect` and `withdraw` belong to one thread, the owner's; `work` must not raise.
    """

    def __init__(self, work: Callable[[Task], Done], limit: int, caps: Caps[Task, Done]) -> None:
        self._work = work
        self._limit = limit
        self._most = max(limit, min(HANGING_TIMES * limit, THREADS_MOST))
        self._caps = caps
        self.threads = 0
        self._begun: dict[int, float] = {}  # when each thread that is at work began its task
        self._lock = threading.Lock()
        self._todo: SimpleQueue[Task] = SimpleQueue()
        self._done: SimpleQueue[Done | None] = SimpleQueue()
        self._looked_at = self._used_s = 0.0  # since when, and at how much processor time, growing is considered
        self.unfinished = 0
        """Tasks that were submitted and neither collected nor withdrawn yet."""

    @property
    def queued(self) -> int:
        """Tasks that could be begun, but no thread has."""
        return self._todo.qsize()

    def submit(self, task: Task, at_once: bool = False) -> None:
        """Have a task done: in its turn, or `at_once`."""
        self.unfinished += 1
        if not self.queued:
            self._look()
        with self._lock:
            self._begin(self._caps.add(task, at_once))
            wanted = min(FIRST_THREADS, self._limit, self.unfinished)
            if self.threads < wanted:
                self._start_thread()

    def collect(self, wait_s: float) -> list[Done]:
        """What is done: waits at most `wait_s` for the first, then briefly for others; empty when none came."""
        deadline = monotonic() + wait_s
        while (remaining := deadline - monotonic()) > 0:
            try:
                first = self._done.get(timeout=min(LOOK_S, remaining) if self.queued else remaining)
            except Empty:
                self._grow()
            else:
                self._grow()
                return self._counted([first, *self._more()])
        return []

    def withdraw(self, everything: bool) -> list[tuple[Task, float]]:
        """Take back what `caps` hold back, each with the seconds for which it is; or all that no thread has begun."""
        withdrawn = self._caps.withdraw(everything)
        while everything and self.queued:
            try:
                task = self._todo.get_nowait()
            except Empty:
                break
            self._caps.unsent(task)
            withdrawn.append((task, 0.0))
        self.unfinished -= len(withdrawn)
        return withdrawn

    def interrupt(self) -> None:
        """Have `collect` return at once; safe in a signal handler."""
        self._done.put(None)

    def _more(self) -> list[Done | None]:
        """What else gets done while more and more does. It naps: waking for each would take the others' lock away."""
        deadline = monotonic() + BATCH_WAIT_S
        before = -1
        while before < (done := self._done.qsize()) < BATCH - 1 and monotonic() < deadline and self._moving():
            before = done
            sleep(NAP_S)
        return [self._done.get_nowait() for _ in range(min(BATCH - 1, self._done.qsize()))]

    def _moving(self) -> bool:
        """Whether more will be done soon: something is at work, and not for so long already that it may hang."""
        return self.queued > 0 or self._at_work_since(monotonic() - BATCH_WAIT_S) > 0

    def _at_work_since(self, moment: float) -> int:
        return sum(began > moment for began in list(self._begun.values()))

    def _counted(self, items: list[Done | None]) -> list[Done]:
        done = [item for item in items if item is not None]
        self.unfinished -= len(done)
        return done

    def _begin(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._todo.put(task)

    def _grow(self) -> None:
        seconds, used_s = monotonic() - self._looked_at, process_time() - self._used_s
        if seconds < LOOK_S:
            return
        self._look()
        if used_s > BUSY * seconds and not self._stuck():
            return
        with self._lock:
            for _ in range(min(self.threads or 1, self._allowed() - self.threads, self.queued)):
                self._start_thread()

    def _stuck(self) -> bool:
        """Whether all threads have been at their tasks for a while: something else keeps the process busy."""
        return len(self._begun) == self.threads and not self._at_work_since(monotonic() - BATCH_WAIT_S)

    def _look(self) -> None:
        self._looked_at, self._used_s = monotonic(), process_time()

    def _allowed(self) -> int:
        hanging = len(self._begun) - self._at_work_since(monotonic() - HANGING_S)
        return min(self._limit + hanging, self._most)

    def _start_thread(self) -> None:
        self.threads += 1
        threading.Thread(target=self._run, name="hubhooks-delivery", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self._do(self._todo.get(timeout=IDLE_S))
            except Empty:
                if self._ends(idle=True):
                    return
            else:
                if self.threads > self._limit and self._ends():
                    return

    def _do(self, task: Task) -> None:
        number = threading.get_ident()
        self._begun[number] = monotonic()
        done = self._work(task)
        del self._begun[number]
        self._begin(self._caps.finished(task, done))
        self._done.put(done)

    def _ends(self, idle: bool = False) -> bool:
        """Whether this thread is to end: it has nothing to do, or what let it outgrow the limit hangs no more."""
        with self._lock:
            ends = self._todo.empty() if idle else self.threads > self._allowed()
            self.threads -= ends
            return ends


class InlinePool(ElasticPool[Task, Done]):
    """Starts no thread and holds nothing back: each task is done by the thread that collects it, in order."""

    def submit(self, task: Task, at_once: bool = False) -> None:
        self.unfinished += 1
        self._todo.put(task)

    def collect(self, wait_s: float) -> list[Done]:
        """Do the first task that is queued; there is nothing to wait for."""
        if not self.queued:
            return []
        self.unfinished -= 1  # first, so that what breaks off in the middle leaves no task behind
        return [self._work(self._todo.get_nowait())]

    def withdraw(self, everything: bool) -> list[tuple[Task, float]]:
        return []
