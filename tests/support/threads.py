"""Calls at the same moment, and the threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
U = TypeVar("U")


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Return what these return, called from threads that start together."""
    together = threading.Barrier(len(calls))

    def call(each: Callable[[], T]) -> T:
        together.wait(10)
        return each()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def in_pair(first: Callable[[], T], second: Callable[[], U]) -> tuple[T, U]:
    """Do as `at_once` does with two that return different things."""
    one, other = at_once(first, second)
    return cast(T, one), cast(U, other)


def threads_named(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name]
