"""Fits the number of requests in flight to the limit of open files."""

from __future__ import annotations

import logging
from functools import cache

logger = logging.getLogger(__name__)

RESERVE = 128
"""Files left for the interpreter, the database, Redis, lookups and the host's own code."""
FILES_PER_REQUEST = 2
"""The connection of a request, and one that is kept idle."""


@cache
def max_requests(wanted: int) -> int:
    """Return how many requests may be in flight: `wanted`, or fewer if the limit of open files is lower.

    Raises the soft limit if the hard one allows it, and warns if fewer requests fit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * FILES_PER_REQUEST + RESERVE
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (ValueError, OSError):  # some kernels have a lower limit than they report
            logger.debug("the limit of open files cannot be raised", exc_info=True)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fitting = wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, (soft - RESERVE) // FILES_PER_REQUEST))
    if fitting < wanted:
        logger.warning(
            "at most %d requests are sent at once: the limit of open files (ulimit -n) is %d, and %d are needed",
            fitting,
            soft,
            needed,
        )
    else:
        logger.debug("at most %d requests are sent at once; the limit of open files is %d", fitting, soft)
    return fitting
