"""The rows of the published table: which subjects, how much work, and what to reach."""

from __future__ import annotations

from collections.abc import Iterator

from bench import (
    boundary,
    handling,
    loading,
    on_eventsourcing,
    on_leftfold,
    on_raw,
    on_umadb,
    projecting,
    rows_postgres,
    rows_processes,
    rows_projections,
)
from bench.core import Goal, Row, Subject
from bench.data import Posted, PostedArray

ES = "eventsourcing"


def all_rows(scale: float, boundary_events: int) -> list[Row]:
    """Every row. `scale` shortens slices and logs: 1 is what is published."""

    def scaled(events: int, multiple_of: int = 1) -> int:
        return max(1, int(events * scale) // multiple_of) * multiple_of

    return [
        _one_event(scaled(1000), "durable", on_leftfold.FULL, "FULL", (2, 0.7)),
        _one_event(scaled(2000), "relaxed", on_leftfold.RELAXED, "NORMAL", (3, 0.5)),
        _batches(scaled(4000, 10), 10, 3),
        _batches(scaled(16_000, 100), 100, 9),
        _writers(scaled(1600, 8), 8, 5),
        _writers(scaled(3200, 32), 32, 8),
        _load_long(scaled(10_000)),
        *(_load_snapshot(scaled(10_000), after) for after in (0, 50)),
        *_reading(scaled(100_000, 100)),
        _load_short(scaled(2000), scaled(1000)),
        _commands(scaled(500), "durable", on_leftfold.FULL, 6),
        _commands(scaled(1000), "relaxed", on_leftfold.RELAXED, 10),
        _size(scaled(50_000, 10)),
        _boundary(scaled(300), boundary_events),
        *rows_postgres.all_rows(scaled),
        *rows_projections.all_rows(scaled),
        *rows_processes.all_rows(scaled),
    ]


def _goals(least_of_es: float, least_of_raw: float) -> Iterator[Goal]:
    for suffix in ("", ", 2 tags"):
        yield Goal(f"leftfold{suffix}", ES, least_of_es)
        yield Goal(f"leftfold{suffix}", f"raw SQLite{suffix}", least_of_raw)
        yield Goal(f"raw SQLite{suffix}", ES)


def _one_event(
    events: int, name: str, durability: str, synchronous: str, least: tuple[float, float]
) -> Row:
    subjects = [
        on_leftfold.Writer("leftfold", durability=durability),
        on_leftfold.Writer("leftfold, 2 tags", durability=durability, tagged=True),
        on_raw.Writer("raw SQLite", durability=durability),
        on_raw.Writer("raw SQLite, 2 tags", durability=durability, tagged=True),
        on_eventsourcing.Writer(ES, synchronous=synchronous),
    ]
    return Row("W1", f"one event per commit, {name}", subjects, events, [*_goals(*least)])


def _batches(events: int, batch: int, least_of_es: float) -> Row:
    subjects = [
        on_leftfold.Writer("leftfold", batch=batch),
        on_leftfold.Writer("leftfold, 2 tags", batch=batch, tagged=True),
        on_raw.Writer("raw SQLite", batch=batch),
        on_raw.Writer("raw SQLite, 2 tags", batch=batch, tagged=True),
        on_eventsourcing.Writer(ES, batch=batch),
    ]
    goals = [*_goals(least_of_es, 0.8)]
    return Row("W2", f"batches of {batch}, durable", subjects, events, goals)


def _writers(events: int, writers: int, least_of_es: float) -> Row:
    names = ("leftfold, threads", "leftfold, tasks")
    subjects = [
        on_leftfold.Threads(names[0], writers),
        on_leftfold.Tasks(names[1], writers),
        on_leftfold.Writer("leftfold, one writer"),
        on_eventsourcing.Threads(ES, writers),
    ]
    goals = [Goal(name, ES, least_of_es) for name in names]
    if writers == 32:
        goals += [Goal(name, "leftfold, one writer", 4) for name in names]
    return Row("W3", f"{writers} concurrent writers, durable", subjects, events, goals)


def _load_long(events: int) -> Row:
    shape = loading.Shape(accounts=1, events_each=events)
    subjects = [
        loading.Loader("leftfold", shape),
        loading.BareSelect("bare SELECT", shape),
        loading.EventsourcingLoader(ES, shape),
    ]
    goals = [
        Goal("leftfold", ES, 35),
        Goal("leftfold", "bare SELECT", 0.286),
        Goal("bare SELECT", ES),
    ]
    return Row("W4", f"load one account of {events:,} events", subjects, 5, goals, "loads/s")


def _load_snapshot(events: int, after: int) -> Row:
    shape = loading.Shape(accounts=1, events_each=events, after_snapshot=after)
    limit = "1 ms a load"
    subjects = [
        loading.Loader("leftfold", shape),
        loading.EventsourcingLoader(ES, shape),
        loading.Fixed(limit, 1000),
    ]
    goals = [Goal("leftfold", ES, 20), Goal("leftfold", limit, 1)]
    more = f" and {after} events after it" if after else ""
    return Row("W4", f"load it from a snapshot{more}", subjects, 300, goals, "loads/s")


def _load_short(loads: int, accounts: int) -> Row:
    shape = loading.Shape(accounts, events_each=20)
    subjects = [
        loading.Loader("leftfold", shape),
        loading.Loader("leftfold, cached", shape, is_cached=True),
        loading.BareSelect("bare SELECT", shape),
        loading.EventsourcingLoader(ES, shape),
        loading.EventsourcingLoader(f"{ES}, cached", shape, is_cached=True),
    ]
    goals = [
        Goal("leftfold", ES, 25),
        Goal("leftfold", "bare SELECT", 0.7),
        Goal("bare SELECT", ES),
        Goal("leftfold, cached", f"{ES}, cached"),
        Goal("leftfold, cached", "leftfold"),
    ]
    return Row("W7", "load accounts of 20 events", subjects, loads, goals, "loads/s")


def _commands(count: int, name: str, durability: str, least_of_es: float) -> Row:
    shape = loading.Shape(accounts=1000, events_each=20)
    subjects: list[Subject] = []
    for suffix, is_cached in (("", False), (", cached", True)):
        subjects += [
            handling.Handler(
                f"leftfold{suffix}", shape, durability=durability, is_cached=is_cached
            ),
            handling.EventsourcingHandler(
                f"{ES}{suffix}", shape, durability=durability, is_cached=is_cached
            ),
        ]
    subjects.append(handling.RawHandler("raw SQLite", shape, durability=durability))
    goals = [
        Goal("leftfold", ES, least_of_es),
        Goal("leftfold, cached", f"{ES}, cached", least_of_es),
        Goal("leftfold", "raw SQLite"),
        Goal("raw SQLite", ES),
    ]
    return Row("W7", f"whole commands, {name}", subjects, count, goals, "commands/s")


def _reading(events: int) -> list[Row]:
    subjects = [
        on_leftfold.Reader("leftfold", events),
        on_leftfold.Reader("leftfold, undecoded", events, decoded=False),
        loading.Folder("leftfold, one state", events),
        projecting.Viewer("leftfold, live rows", events, is_live=True),
        projecting.Viewer("leftfold, rows as of", events, is_live=False),
        on_raw.Reader("bare rows"),
        on_eventsourcing.Reader(ES, events),
        on_eventsourcing.Reader(f"{ES}, its log reader", events, own_reader=True),
    ]
    goals = [
        Goal("leftfold", ES, 12),
        Goal("leftfold", f"{ES}, its log reader", 12),
        Goal("leftfold", "bare rows", 0.35),
        Goal("leftfold, undecoded", "bare rows", 0.35),
        Goal("leftfold, one state", ES, 12),
        Goal("leftfold, one state", "bare rows", 0.35),
        Goal("leftfold, live rows", ES, 12),
        Goal("leftfold, live rows", "bare rows"),
        Goal("leftfold, rows as of", ES, 12),
        Goal("bare rows", ES),
    ]
    shares = [
        on_leftfold.ReaderMemory("the whole log", events, 1),
        on_leftfold.ReaderMemory("a tenth of it", events, 0.1),
    ]
    memory = [Goal("the whole log", "a tenth of it", 1.1, at_least=False)]
    return [
        Row("W5", f"read {events:,} events", subjects, events, goals),
        Row("W5", "peak memory of reading", shares, events, memory, "KiB", rounds=1),
    ]


def _size(events: int) -> Row:
    json, msgpack = "leftfold JSON", "leftfold msgpack"
    subjects = [
        on_eventsourcing.Size(ES),
        on_leftfold.Size(json, Posted, "json"),
        on_leftfold.Size(f"{json}, 2 tags", Posted, "json", tagged=True),
        on_leftfold.Size(msgpack, Posted, "msgpack"),
        on_leftfold.Size(f"{msgpack}, 2 tags", Posted, "msgpack", tagged=True),
        on_leftfold.Size(f"{msgpack} arrays", PostedArray, "msgpack"),
    ]
    bounds = {json: 0.5, f"{json}, 2 tags": 0.5}
    goals = [
        Goal(subject.name, ES, bounds.get(subject.name, 0.35), at_least=False)
        for subject in subjects[1:]
    ]
    return Row("W8", "size on disk", subjects, events, goals, "bytes/event", rounds=1)


def _boundary(events: int, length: int) -> Row:
    log = boundary.SharedLog(length)
    subjects = [
        boundary.Conditional("leftfold", log),
        boundary.Conditional("leftfold, from head", log, from_head=True),
        boundary.Unconditional("leftfold, append only", log),
        on_umadb.Conditional("UmaDB", length),
    ]
    goals = [
        Goal(name, against, bound)
        for name in ("leftfold", "leftfold, from head")
        for against, bound in (("UmaDB", 1.5), ("leftfold, append only", 0.5))
    ]
    title = f"in {length:,} events, durable"
    return Row("boundary", title, subjects, events, goals)
