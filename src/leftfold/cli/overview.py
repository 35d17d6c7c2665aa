"""Commands that say what is in the log as a whole: streams, types, stat. Each reads all of it."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.doctor import server_of, without_password
from leftfold.cli.progress import Timer, bar, rate
from leftfold.cli.session import Session
from leftfold.cli.times import iso
from leftfold.event import RecordedEvent
from leftfold.query import ALL, select
from leftfold.store import Store
from leftfold.stores.sqlite import SqliteStore

US_PER_DAY = 86_400_000_000


class StreamRow(Struct, frozen=True):
    """A stream, for `streams`."""

    stream: str
    events: int
    first_recorded_at: str
    last_recorded_at: str


class TypeRow(Struct, frozen=True):
    """A type in one schema version, for `types`."""

    type: str
    schema_version: int
    events: int
    first_position: int
    last_position: int


class _Seen(Struct):
    """How often, and first and last where or when."""

    first: int
    events: int = 0
    last: int = 0

    def add(self, place: int) -> None:
        self.events += 1
        self.last = place


class StreamsOptions(Struct, frozen=True, kw_only=True):
    """Which streams."""

    category: Annotated[
        str | None, typer.Option("--category", metavar="NAME", help="Streams of one category.")
    ] = None
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Streams whose names begin so.")
    ] = ""


def streams(session: Session, options: StreamsOptions) -> None:
    """List the streams."""
    found: dict[str, _Seen] = {}
    query = select(category=options.category)
    with session.open() as store, bar("streams", store.head()) as shown:
        for event in shown.along(store.read(query)):
            if not event.stream.startswith(options.prefix):
                continue
            seen = found.get(event.stream) or found.setdefault(
                event.stream, _Seen(event.recorded_us)
            )
            seen.add(event.recorded_us)
    session.output.rows(
        sorted(found.items()),
        lambda each: StreamRow(each[0], each[1].events, iso(each[1].first), iso(each[1].last)),
        StreamRow,
    )


def types(session: Session) -> None:
    """List the types of events."""
    found: dict[tuple[str, int], _Seen] = {}
    with session.open() as store, bar("types", store.head()) as shown:
        for event in shown.along(store.read(ALL)):
            key = (event.type, event.schema_version)
            seen = found.get(key) or found.setdefault(key, _Seen(event.position))
            seen.add(event.position)
    session.output.rows(
        sorted(found.items()),
        lambda each: TypeRow(*each[0], each[1].events, each[1].first, each[1].last),
        TypeRow,
    )


class Stat(Struct, frozen=True):
    """The log in numbers."""

    store: str
    head: int
    events: int
    streams: int
    types: int
    tags: int
    data_bytes: int
    disk_bytes: int | None
    first_recorded_at: str | None
    last_recorded_at: str | None
    events_per_day: float | None
    """From the first to the last event, where that is a day or more."""
    read_per_second: int
    """How fast this command has read."""


class PostgresStat(Stat, frozen=True):
    """The log in numbers, on PostgreSQL."""

    at_work: int
    """Transactions that have appended and have not ended."""
    oldest_at_work_s: float | None
    """How long ago the oldest of them began, None where there is none, or it may not be seen."""


class _Count:
    """What `stat` counts along the log."""

    def __init__(self) -> None:
        self.events = self.data_bytes = 0
        self.streams: set[str] = set()
        self.types: set[str] = set()
        self.tags: set[str] = set()
        self.first: int | None = None
        self.last: int | None = None

    def add(self, event: RecordedEvent[bytes]) -> None:
        self.events += 1
        self.data_bytes += len(event.data)
        self.streams.add(event.stream)
        self.types.add(event.type)
        if event.tags:
            self.tags.update(event.tags)
        self.last = event.recorded_us
        if self.first is None:
            self.first = self.last


def stat(session: Session) -> None:
    """Describe the log in numbers."""
    count, timer = _Count(), Timer()
    with session.open() as store:
        head = store.head()
        with bar("stat", head) as shown:
            for event in shown.along(store.read(ALL, until=head)):
                count.add(event)
        first, last = count.first, count.last
        days = (last - first) / US_PER_DAY if first is not None and last is not None else 0
        result = Stat(
            without_password(session.url),
            head,
            count.events,
            len(count.streams),
            len(count.types),
            len(count.tags),
            count.data_bytes,
            _disk_bytes(store.store),
            None if first is None else iso(first),
            None if last is None else iso(last),
            round(rate(count.events, days), 1) if days >= 1 else None,
            timer.rate(count.events),
        )
    if session.url.startswith(("postgresql:", "postgres:")):
        result = _with_server(result, session.url)
    session.output.document(result)


def _with_server(stat: Stat, url: str) -> PostgresStat:
    with server_of(url) as server:
        facts = server.facts()
    held_s = [each.held_s for each in facts.at_work if each.held_s is not None]
    stat = msgspec.structs.replace(stat, disk_bytes=facts.disk_bytes)
    values = msgspec.structs.asdict(stat)
    oldest_s = max(held_s, default=None)
    return PostgresStat(**values, at_work=len(facts.at_work), oldest_at_work_s=oldest_s)


def _disk_bytes(store: Store) -> int | None:
    """The file and what is still in the write-ahead log, or None where there is no file."""
    if not isinstance(store, SqliteStore):
        return None
    paths = (store.path, f"{store.path}-wal")
    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))
