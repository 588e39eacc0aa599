"""The rows of the table, in its order."""

from __future__ import annotations

from ..row import Row
from . import (
    beside,
    callbacks,
    chains,
    dead_backlog,
    footprint,
    formats,
    history_growth,
    hostile,
    idle_latency,
    isolation,
    memory,
    push_cost,
    receiver,
    scale_out,
    slow_receiver,
    sources,
    sqlite,
    throughput,
    tls,
    vs_bullmq,
    vs_rq,
)

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        receiver.ROW,
        throughput.ROW,
        formats.ROW,
        tls.ROW,
        chains.ROW,
        vs_rq.WORKER,
        vs_rq.SIMPLE,
        vs_bullmq.ROW,
        slow_receiver.ROW,
        idle_latency.ROW,
        push_cost.ROW,
        isolation.ROW,
        beside.HANGING,
        beside.SAME_HOST,
        beside.NAMES,
        hostile.ROW,
        dead_backlog.ROW,
        history_growth.ROW,
        scale_out.ROW,
        memory.ROW,
        footprint.ROW,
        callbacks.ROW,
        sources.ROW,
        sqlite.ROW,
    )
}
