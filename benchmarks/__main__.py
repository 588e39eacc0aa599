"""`python -m benchmarks`: measures, shows progress on stderr, and prints the table, or JSON, on stdout."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys

from . import report, rows
from .servers import Failed, started


def main() -> int:
    """Run what was asked for; 1 where the run is worth nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: ends within 90 s")
    parser.add_argument("--json", action="store_true", help="print {row: {metric: median}}")
    parser.add_argument("--only", choices=rows.NAMES, metavar="NAME", help=f"one row of {', '.join(rows.NAMES)}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    logging.basicConfig(level=logging.WARNING)
    progress = report.clock()
    print(report.heading(), file=sys.stderr)
    try:
        with started() as bench:
            figures = rows.measured(bench, [options.only] if options.only else rows.NAMES, options.quick, progress)
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    print(json.dumps(report.by_row(figures), indent=2) if options.json else report.table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
