"""The rows of the published table that are about PostgreSQL. All of them are durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench import on_postgres, on_raw_postgres, projecting
from bench.core import Goal, Row
from bench.on_postgres import Cluster
from bench.processes import Processes

ES = "eventsourcing"
RAW = "raw psycopg"
LOCK = "one lock"
WRITERS = 32


def all_rows(scaled: Callable[..., int]) -> list[Row]:
    """Every row; `scaled` shortens slices and logs."""
    events = scaled(100 * WRITERS, WRITERS)
    return [
        _one_event(scaled(1000)),
        _writers(events),
        _processes(events),
        _growth(events),
        _reading(scaled(100_000, 100)),
    ]


def _goals(names: Sequence[str], least_of_es: float, least_of_lock: float | None) -> Iterator[Goal]:
    for name in names:
        yield Goal(name, ES, least_of_es)
        yield Goal(name, LOCK, least_of_lock)
    yield Goal(LOCK, ES)


def _one_event(events: int) -> Row:
    cluster = Cluster()
    subjects = [
        on_postgres.Writer(cluster, "leftfold"),
        on_raw_postgres.Writers(cluster, RAW),
        on_raw_postgres.OneLock(cluster, LOCK),
        on_postgres.EventsourcingWriter(cluster, ES),
    ]
    goals = [*_goals(["leftfold"], 2, None), Goal("leftfold", RAW)]
    return Row("PG-W1", "PostgreSQL: one event per commit", subjects, events, goals)


def _writers(events: int) -> Row:
    cluster = Cluster()
    names = ("leftfold, threads", "leftfold, tasks")
    one = "leftfold, one writer"
    subjects = [
        on_postgres.Threads(cluster, names[0], WRITERS),
        on_postgres.Tasks(cluster, names[1], WRITERS),
        on_postgres.Writer(cluster, one),
        on_raw_postgres.Writers(cluster, RAW, WRITERS),
        on_raw_postgres.OneLock(cluster, LOCK, WRITERS),
        on_postgres.EventsourcingThreads(cluster, ES, WRITERS),
    ]
    goals = [*_goals(names, 15, 5), *(Goal(name, RAW) for name in names)]
    goals += [Goal(name, one, 4) for name in names]
    title = f"PostgreSQL: {WRITERS} concurrent writers"
    return Row("PG-W3", title, subjects, events, goals)


def _processes(events: int) -> Row:
    cluster = Cluster()
    names = ("leftfold, threads", "leftfold, tasks")
    # With raw writers too there would be more connections than a server has by default.
    subjects = [
        Processes(cluster, names[0], on_postgres.Threads),
        Processes(cluster, names[1], on_postgres.Tasks),
        Processes(cluster, LOCK, on_raw_postgres.OneLock),
        Processes(cluster, ES, on_postgres.EventsourcingThreads),
    ]
    title = "PostgreSQL: 4 processes of 8 writers"
    return Row("PG-W3-processes", title, subjects, events, [*_goals(names, 15, 5)])


def _growth(events: int) -> Row:
    cluster = Cluster()
    threads, raw = on_postgres.Threads, f"{RAW}, 4 processes of 8"
    subjects = [
        on_postgres.Writer(cluster, "1 writer"),
        threads(cluster, "8 writers", 8),
        threads(cluster, "32 writers", WRITERS),
        Processes(cluster, "1 process of 8", threads, processes=1),
        Processes(cluster, "4 processes of 8", threads),
        Processes(cluster, raw, on_raw_postgres.Writers),
    ]
    goals = [
        Goal("8 writers", "1 writer", 1),
        Goal("32 writers", "8 writers", 1),
        Goal("4 processes of 8", "1 process of 8", 1),
        Goal("4 processes of 8", raw),
    ]
    title = "PostgreSQL: throughput grows with writers and processes"
    return Row("PG-growth", title, subjects, events, goals)


def _reading(events: int) -> Row:
    cluster = Cluster()
    own_reader = f"{ES}, its log reader"
    subjects = [
        on_postgres.Reader(cluster, "leftfold", events),
        on_postgres.Reader(cluster, "leftfold, undecoded", events, decoded=False),
        projecting.PostgresViewer(cluster, "leftfold, live rows", events, is_live=True),
        on_raw_postgres.Reader(cluster, "bare rows"),
        on_postgres.EventsourcingReader(cluster, ES, events),
        on_postgres.EventsourcingReader(cluster, own_reader, events, own_reader=True),
    ]
    goals = [
        Goal("leftfold", ES, 12),
        Goal("leftfold", own_reader, 12),
        Goal("leftfold", "bare rows", 0.35),
        Goal("leftfold, undecoded", "bare rows", 0.35),
        Goal("leftfold, live rows", ES, 12),
        Goal("leftfold, live rows", "bare rows"),
        Goal("bare rows", ES),
    ]
    return Row("PG-W5", f"PostgreSQL: read {events:,} events", subjects, events, goals)
