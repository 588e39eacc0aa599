"""When a POST may be missing in the history, and when it may be sent again although it was answered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import inf

from .events import Worker
from .journal import LAG_S, Post
from .pace import BACK_OFF_S, DEADLINE_S, LEASE_LEFT_S

ORDER_S = 1.0
"""A worker writes answers in the order in which its threads have read them: what was answered so much later than
another is written after it. It is how long a thread may wait for its turn on a busy machine."""
RESUME_S = 0.3
"""How soon a thread that was suspended just before it sent something has sent it."""
WRITE_S = 3.0
"""How long an answer may be unwritten while PostgreSQL is there, on a busy machine."""


class Excuses:
    """Knows what befell the workers; times are of the machine's monotonic clock."""

    def __init__(
        self, posts: Sequence[Post], workers: Mapping[str, Worker], outages: Sequence[tuple[str, float, float]]
    ) -> None:
        self._workers = workers
        self._postgres = [(begin, end) for server, begin, end in outages if server == "postgres"]
        self._posts: defaultdict[str, list[Post]] = defaultdict(list)
        for post in posts:
            self._posts[post.worker].append(post)
        self._last_written = {
            name: max((each.known_at for each in sent if each.attempt), default=-inf)
            for name, sent in self._posts.items()
        }

    def sent(self, worker: str) -> bool:
        return worker in self._posts

    def unwritten(self, post: Post) -> bool:
        """Whether it was on the wire or not yet written when its worker died: nothing answered later is written."""
        is_last = post.known_at + ORDER_S >= self._last_written[post.worker]
        return is_last and self._died_with_it(post, self._workers[post.worker])

    def _died_with_it(self, post: Post, worker: Worker) -> bool:
        """Killed, or asked to end while PostgreSQL was away: it does not wait for long then."""
        away = [end for begin, end in self._postgres if begin <= post.known_at + WRITE_S]
        if worker.killed_at is not None:
            written_by = max([post.known_at, *(end + BACK_OFF_S[-1] for end in away)]) + WRITE_S
            return post.at <= worker.killed_at + LAG_S and worker.killed_at <= written_by
        return any(worker.asked_at and worker.asked_at <= end for end in away)

    def repeated(self, earlier: Post, later: Post) -> str:
        """Why a delivery was sent again; empty where there is no excuse.

        An attempt that failed is repeated anyway. Else a lease has ended without the answer having been written.
        """
        if not earlier.attempt:
            return "kill" if self.unwritten(earlier) and _lease_ended(earlier, later) else ""
        if earlier.attempt.status_code != 200:
            return "no answer" if not earlier.answered or earlier.waited_s >= DEADLINE_S else ""
        if _lease_ended(earlier, later) and any(self._too_late(earlier)):
            return "lease"
        return "resumed" if self._sent_on_resuming(later) else ""

    def _too_late(self, post: Post) -> Iterator[bool]:
        """For all that befell its worker: whether its answer was written after its lease had ended because of it."""
        for begin, end in self._workers[post.worker].suspended:
            yield _unwritten_within(post, begin, end)
        for begin, end in self._postgres:
            yield _unwritten_within(post, begin, end + BACK_OFF_S[-1])

    def _sent_on_resuming(self, post: Post) -> bool:
        """Whether its worker was suspended just before it sent this, when it had looked at the clock already."""
        return any(end <= post.at <= end + RESUME_S for _, end in self._workers[post.worker].suspended)

    @property
    def at_kills(self) -> Counter[bool]:
        """How many POSTs of workers that were killed are not in the history, by whether they had been answered."""
        return Counter(each.answered for posts in self._posts.values() for each in posts if not each.attempt)

    @property
    def at_lost_leases(self) -> int:
        """How many answers may have been written too late."""
        every = (each for posts in self._posts.values() for each in posts)
        return sum(each.answered and bool(each.attempt) and any(self._too_late(each)) for each in every)

    @property
    def longest_unwritten_s(self) -> float:
        """How long the oldest answer had been unwritten when its worker was killed."""
        waited = [
            killed_at - each.known_at
            for name, posts in self._posts.items()
            if (killed_at := self._workers[name].killed_at) is not None
            for each in posts
            if not each.attempt
        ]
        return max(waited, default=0.0)


def _lease_ended(earlier: Post, later: Post) -> bool:
    return later.at > earlier.at + LEASE_LEFT_S - LAG_S


def _unwritten_within(post: Post, begin: float, end: float) -> bool:
    """Whether it was on the wire or not yet written when that began, and its lease ended before it could be."""
    return begin <= post.known_at + WRITE_S and post.at <= end and post.at + LEASE_LEFT_S <= end + WRITE_S
