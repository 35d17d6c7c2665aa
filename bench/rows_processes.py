"""The rows of the published table that are about processes: all on SQLite, the first also on
PostgreSQL. All of them are durable.
"""

from __future__ import annotations

from collections.abc import Callable

from bench import processing, processing_eventsourcing
from bench.core import Goal, Row, Subject
from bench.loading import Fixed
from bench.managers import CALL_S, CALLS, CHARGES, NOTES
from bench.on_postgres import Cluster
from bench.processing import COMMITS

ES = "eventsourcing"
ES_THREADS = f"{ES}, threads"
BY_HAND = "leftfold, by hand"
EVENTS = (250, 1000, 4000)
STEPS = (100, 300, 1000)


def all_rows(scaled: Callable[..., int]) -> list[Row]:
    """Every row; `scaled` shortens slices and logs."""
    return [
        _transfers(scaled(500)),
        _postgres_transfers(scaled(500)),
        _growth(scaled),
        _timers(scaled(1000)),
        _calls(scaled(50)),
    ]


def _transfers(transfers: int) -> Row:
    raw = f"raw SQLite, {COMMITS} commits"
    subjects = [
        processing.Transfers("leftfold"),
        processing.ByHand(BY_HAND),
        processing.RawCommits(raw),
        processing_eventsourcing.SagaTransfers(ES),
        processing_eventsourcing.SagaTransfers(ES_THREADS, is_threaded=True),
    ]
    title = "transfers between accounts, durable"
    return Row("process", title, subjects, transfers, _goals(raw), "transfers/s")


def _postgres_transfers(transfers: int) -> Row:
    cluster = Cluster()
    raw = f"raw psycopg, {COMMITS} commits"
    subjects = [
        processing.PostgresTransfers(cluster, "leftfold"),
        processing.PostgresByHand(cluster, BY_HAND),
        processing.PostgresRawCommits(cluster, raw),
        processing_eventsourcing.PostgresSagaTransfers(cluster, ES),
        processing_eventsourcing.PostgresSagaTransfers(cluster, ES_THREADS, is_threaded=True),
    ]
    title = "PostgreSQL: transfers between accounts"
    return Row("PG-process", title, subjects, transfers, _goals(raw), "transfers/s")


def _goals(raw: str) -> list[Goal]:
    return [
        Goal("leftfold", ES),
        Goal("leftfold", ES_THREADS),
        Goal("leftfold", BY_HAND),
        Goal("leftfold", raw),
        Goal(raw, ES),
    ]


def _growth(scaled: Callable[..., int]) -> Row:
    subjects: list[Subject] = []
    goals = []
    for what, process, lengths in (("events", NOTES, EVENTS), ("steps", CHARGES, STEPS)):
        ages = {f"{scaled(length):,} {what}": scaled(length) for length in lengths}
        subjects += [processing.Growth(name, process, age) for name, age in ages.items()]
        first, *older = ages
        goals += [Goal(name, first, at_least=False) for name in older]
    title = "one instance that gets older"
    return Row("process-growth", title, subjects, 1, goals, "µs/event", rounds=3)


def _timers(instances: int) -> Row:
    subjects = [
        processing.Due("timers"),
        processing.Due("events", is_event=True),
    ]
    title = f"{instances:,} instances, the timers of all due, durable"
    goals = [Goal("timers", "events")]
    return Row("process-timers", title, subjects, instances, goals, "instances/s")


def _calls(calls: int) -> Row:
    ideal = "one after the other"
    subjects = [
        processing.Processing("leftfold", CALLS),
        Fixed(ideal, 1 / CALL_S),
    ]
    title = f"instances that call for {CALL_S * 1000:.0f} ms each"
    goals = [Goal("leftfold", ideal)]
    return Row("process-calls", title, subjects, calls, goals, "calls/s")
