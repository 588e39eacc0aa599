"""`python -m benchmarks`: measures, shows progress on stderr, and prints the table, or JSON, on stdout.

A full run writes `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys

from . import report
from .row import Run
from .rows import ROWS
from .servers import Failed, started


def main() -> int:
    """Run what was asked for; returns 1 if the run is not valid."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, one round: 90 s on 2 cores")
    parser.add_argument("--json", action="store_true", help="print {row: {metric: median}}")
    parser.add_argument("--only", choices=ROWS, metavar="NAME", help=f"one row of {', '.join(ROWS)}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    logging.basicConfig(level=logging.WARNING)
    print(report.machine(), report.versions(), sep="\n", file=sys.stderr)
    names = [options.only] if options.only else list(ROWS)
    try:
        with started() as bench:
            run = Run(bench, options.quick, report.clock())
            figures = {name: ROWS[name].measure(run) for name in names}
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    if not (options.quick or options.only):
        report.RESULTS.write_text(report.markdown(ROWS, figures))
    print(json.dumps(report.by_row(figures), indent=2) if options.json else report.table(ROWS, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
