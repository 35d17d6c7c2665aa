"""The command: `python -m bench [--quick] [--rows W1,W3]`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import report
from bench.core import Result, run_row
from bench.data import ACCOUNTS
from bench.rows import all_rows

HERE = Path(__file__).parent
QUICK_SCALE, QUICK_ROUNDS, QUICK_BOUNDARY_EVENTS = 0.1, 2, 20_000


def main() -> None:
    """Measure, print the table, and keep the results of a complete run."""
    arguments = _arguments()
    # A server or a temporary directory must not survive us, however we are asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = _measure(arguments)
    facts = report.facts()
    print(report.as_text(report.table(results)), *map(": ".join, facts.items()), sep="\n")
    if arguments.out is not None:
        report.write(arguments.out, results, facts, ACCOUNTS)
    elif not arguments.quick and not arguments.rows:
        report.write(HERE, results, facts, ACCOUNTS)


def _measure(arguments: argparse.Namespace) -> list[Result]:
    rows = all_rows(QUICK_SCALE if arguments.quick else 1, arguments.boundary_events)
    wanted = {name.lower() for name in arguments.rows.split(",") if name}
    if unknown := wanted - {row.name.lower() for row in rows}:
        raise SystemExit(f"no such rows: {', '.join(sorted(unknown))}")
    started = time.monotonic()
    results = []
    for row in rows:
        if not wanted or row.name.lower() in wanted:
            with tempfile.TemporaryDirectory(prefix="leftfold-bench-") as directory:
                results.append(run_row(row, Path(directory), arguments.rounds, _say))
    _say(f"measured in {time.monotonic() - started:.0f} s\n")
    return results


def _say(message: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{message}\033[K", end="", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure leftfold against the bare engine and against peers. A complete run "
        "writes bench/results.json and bench/RESULTS.md.",
        epilog="Files go to the system's temporary directory (TMPDIR), which must be on a disk.",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test; means nothing")
    parser.add_argument("--rows", default="", help="some rows only, such as W1,W3,boundary")
    parser.add_argument("--rounds", type=int, help="how often each subject has its turn")
    parser.add_argument("--boundary-events", type=int, help="the log of the row 'boundary'")
    parser.add_argument("--out", type=Path, help="keep the results in this directory instead")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else 9)
    arguments.boundary_events = arguments.boundary_events or (
        QUICK_BOUNDARY_EVENTS if arguments.quick else 1_000_000
    )
    return arguments


if __name__ == "__main__":
    main()
