"""The rows of the published table that are about projections, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench import (
    on_leftfold,
    on_postgres,
    projecting,
    projecting_eventsourcing,
    projecting_raw,
    rebuilding,
)
from bench.core import Goal, Row
from bench.on_postgres import Cluster
from bench.projecting import ACCOUNTS

ES = "eventsourcing"
ES_SHARE = 0.05
"""The share of a slice that eventsourcing does, where it would take too long."""
WRITERS = 32


class Engine:
    """What makes the subjects of a row, all on one engine: in files, or on a server."""

    def __init__(self, *, is_postgres: bool) -> None:
        cluster = Cluster()

        def of(here: Any, there: Any) -> Any:
            return partial(there, cluster) if is_postgres else here

        self.prefix = "PG-" if is_postgres else ""
        self.place = "PostgreSQL: " if is_postgres else ""
        self.raw = "raw psycopg" if is_postgres else "raw SQLite"
        self.catch_up = of(projecting.CatchUp, projecting.PostgresCatchUp)
        self.raw_catch_up = of(projecting_raw.CatchUp, projecting_raw.PostgresCatchUp)
        es = projecting_eventsourcing
        self.es_catch_up = of(es.CatchUp, es.PostgresCatchUp)
        self.rebuild = of(rebuilding.Rebuild, rebuilding.PostgresRebuild)
        self.memory = of(rebuilding.RebuildMemory, rebuilding.PostgresRebuildMemory)
        self.read_your_write = of(rebuilding.ReadYourWrite, rebuilding.PostgresReadYourWrite)
        self.writer = of(on_leftfold.Writer, on_postgres.Writer)
        self.threads = of(on_leftfold.Threads, on_postgres.Threads)
        self.inline_writer = of(projecting.InlineWriter, projecting.PostgresInlineWriter)
        self.inline_threads = of(projecting.InlineThreads, projecting.PostgresInlineThreads)


def all_rows(scaled: Callable[..., int]) -> list[Row]:
    """Every row; `scaled` shortens slices and logs."""
    rows = []
    for is_postgres in (False, True):
        engine = partial(Engine, is_postgres=is_postgres)
        rows += [
            _one_event(engine(), scaled(3000)),
            _batches(engine(), scaled(100_000)),
            _rebuild(engine(), scaled(1_000_000)),
            _memory(engine(), scaled(1_000_000)),
            _read_your_write(engine(), scaled(500)),
            _inline(engine(), scaled(1000, 10), 1),
            _inline(engine(), scaled(4000, 10), 10),
            _inline_threads(engine(), scaled(100 * WRITERS, WRITERS)),
        ]
    return rows


def _one_event(engine: Engine, events: int) -> Row:
    subjects = [
        engine.catch_up("leftfold", events, batch=1),
        engine.catch_up("leftfold, synced", events, batch=1, is_synced=True),
        engine.raw_catch_up(engine.raw, events, batch=1),
        engine.raw_catch_up(f"{engine.raw}, synced", events, batch=1, is_synced=True),
        engine.es_catch_up(ES),
    ]
    goals = [
        Goal("leftfold", ES, 2),
        Goal("leftfold, synced", ES, 2),
        Goal("leftfold", engine.raw),
        Goal("leftfold, synced", f"{engine.raw}, synced"),
        Goal(f"{engine.raw}, synced", ES),
    ]
    title = f"{engine.place}projection, one event per transaction"
    return Row(f"{engine.prefix}W6", title, subjects, events, goals)


def _batches(engine: Engine, events: int) -> Row:
    raw = f"{engine.raw}, batches of {projecting_raw.BATCH:,}"
    subjects = [
        engine.catch_up("leftfold", events),
        engine.catch_up("leftfold, synced", events, is_synced=True),
        engine.raw_catch_up(raw, events),
        engine.es_catch_up(ES, ES_SHARE),
    ]
    goals = [
        Goal("leftfold", ES, 50),
        Goal("leftfold, synced", ES, 50),
        Goal("leftfold", raw),
        Goal(raw, ES),
    ]
    title = f"{engine.place}projection of {events:,} events, {ACCOUNTS:,} rows"
    return Row(f"{engine.prefix}W6", title, subjects, events, goals)


def _rebuild(engine: Engine, events: int) -> Row:
    subjects = [
        engine.rebuild("one worker", events),
        engine.rebuild("two workers", events, workers=2),
    ]
    goals = [Goal("two workers", "one worker", 1)]
    title = f"{engine.place}rebuild of {events:,} events"
    return Row(f"{engine.prefix}rebuild", title, subjects, events, goals, rounds=3)


def _memory(engine: Engine, events: int) -> Row:
    lengths = (events, 3 * events // 10, events // 10)
    whole, third, tenth = (f"{length:,} events" for length in lengths)
    subjects = [engine.memory(f"{length:,} events", length) for length in lengths]
    # The page caches of SQLite, which have a limit, are not full before.
    goals = [Goal(whole, third, 1.1, at_least=False), Goal(whole, tenth)]
    title = f"{engine.place}peak memory of a rebuild"
    return Row(f"{engine.prefix}rebuild", title, subjects, 1, goals, "KiB", rounds=1)


def _read_your_write(engine: Engine, reads: int) -> Row:
    places = {"same process": False, "another process": True}
    subjects = [
        engine.read_your_write(f"{place}, {name}", quantile, is_apart=is_apart)
        for place, is_apart in places.items()
        for name, quantile in (("median", 0.5), ("p99", 0.99))
    ]
    goals = [Goal(f"{place}, p99", f"{place}, median") for place in places]
    goals.append(Goal("another process, median", "same process, median"))
    title = f"{engine.place}append, then read the row after its token"
    return Row(f"{engine.prefix}read-your-write", title, subjects, reads, goals, "µs")


def _inline(engine: Engine, events: int, batch: int) -> Row:
    subjects = [
        engine.inline_writer("leftfold, inline", batch=batch),
        engine.writer("leftfold", batch=batch),
    ]
    title = f"{engine.place}an inline projection, {batch} events per commit"
    goals = [Goal("leftfold, inline", "leftfold")]
    return Row(f"{engine.prefix}inline", title, subjects, events, goals)


def _inline_threads(engine: Engine, events: int) -> Row:
    subjects = [
        engine.inline_threads("leftfold, inline", WRITERS),
        engine.threads("leftfold", WRITERS),
    ]
    title = f"{engine.place}an inline projection, {WRITERS} concurrent writers"
    goals = [Goal("leftfold, inline", "leftfold")]
    return Row(f"{engine.prefix}inline", title, subjects, events, goals)
