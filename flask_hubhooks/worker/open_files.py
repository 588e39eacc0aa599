"""How many requests the limit of open files allows at once."""

from __future__ import annotations

import logging
from functools import cache

logger = logging.getLogger(__name__)

RESERVE = 128
"""Files that are left for the interpreter, the database, Redis, name look-ups and the host's own code."""
FILES_OF_REQUEST = 2
"""A request's connection, and one that is kept idle."""


@cache
def most(wanted: int) -> int:
    """Return how many requests may be in flight: `wanted`, or fewer where the limit of open files is lower.

    Raises the soft limit where the hard one allows it, and logs what it came to.
    """
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * FILES_OF_REQUEST + RESERVE
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (ValueError, OSError):  # a kernel with a lower limit than it says
            logger.debug("the limit of open files cannot be raised", exc_info=True)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fits = wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, (soft - RESERVE) // FILES_OF_REQUEST))
    if fits < wanted:
        logger.warning(
            "at most %d requests are sent at once: the limit of open files is %d (ulimit -n); %d are wanted",
            fits,
            soft,
            needed,
        )
    else:
        logger.info("at most %d requests are sent at once; the limit of open files is %d", fits, soft)
    return fits
