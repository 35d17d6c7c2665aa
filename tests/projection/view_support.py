"""A small bank, projections of it, and read models of them that are folded by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from leftfold import Codec, Event, Projection, RecordedEvent, SqlProjection
from leftfold.drive import BlockingDriver, run_sync
from leftfold.event import now_us
from leftfold.projection.applying import Batch, work_of
from leftfold.projection.catalog import (
    Build,
    Failure,
    Progress,
    Quarantined,
    advance,
    builds,
    progress,
    put_in_quarantine,
)
from leftfold.projection.database import Database
from leftfold.projection.definition import Sql, Subscriber
from leftfold.projection.folding import Control
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.swapping import make_build, unmade
from leftfold.projection.views import View
from leftfold.reading import Decoding
from leftfold.store import Store
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteDatabase


class Opened(Struct, frozen=True):
    account: str
    owner: str | None = None


class Deposited(Struct, frozen=True):
    account: str
    cents: int


class Noted(Struct, frozen=True):
    text: str = ""


CODEC = Codec(Opened, Deposited, Noted)


class Balance(Struct, frozen=True):
    account: str
    owner: str | None = None
    cents: int = 0


def evolve_opened(row: Balance, event: RecordedEvent[Any]) -> Balance:
    return replace(row, owner=event.data.owner)


def evolve_deposited(row: Balance, event: RecordedEvent[Any]) -> Balance:
    if event.data.cents < 0:
        raise ValueError("a deposit is positive")
    return replace(row, cents=row.cents + event.data.cents)


def projection(**changes: Any) -> Projection[Balance]:
    """Balances by account, found by owner as well."""
    arguments: dict[str, Any] = {
        "name": "balances",
        "row": Balance,
        "key": lambda event: event.data.account,
        "evolve": {Opened: evolve_opened, Deposited: evolve_deposited},
        "indexes": ["owner"],
    }
    return Projection(**arguments | changes)


BALANCES = projection()


def create_totals(sql: Sql) -> None:
    sql.execute(f"CREATE TABLE {sql.table} (day integer PRIMARY KEY, cents integer NOT NULL)")


def apply_totals(sql: Sql, events: Sequence[RecordedEvent[Any]]) -> None:
    for event in events:
        if isinstance(event.data, Deposited):
            sql.execute(
                f"INSERT INTO {sql.table} AS t VALUES (1, ?) "
                "ON CONFLICT (day) DO UPDATE SET cents = t.cents + excluded.cents",
                [event.data.cents],
            )


def totals(**changes: Any) -> SqlProjection:
    return SqlProjection(name="totals", create=create_totals, apply=apply_totals, **changes)


class Untouched(SqliteDatabase):
    """The database of read models where nobody has a use for it."""

    def read(self, work: Any) -> Any:
        raise AssertionError("it was read")

    def write(self, work: Any, *, durable: bool = False) -> Any:
        raise AssertionError("it was written")


class Bank:
    """A log, a database of read models, and what a runner would do to them."""

    def __init__(self, database: Database, *subscribers: Subscriber) -> None:
        self.recorded_us: int | None = None
        self.store: Store = MemoryStore(clock=self._clock)
        self.database = database
        self.parts = ProjectionParts(
            self.store,
            CODEC,
            subscribers or (BALANCES,),
            databases=(database, None),
            make_driver=BlockingDriver,
        )

    def _clock(self) -> int:
        return self.recorded_us or now_us()

    def append(self, *data: Any) -> str:
        """The token of an append."""
        encoded = [CODEC.encode(Event("bank-1", each)) for each in data]
        return str(run_sync(self.store.append(encoded)).position)

    def view(self, of: Projection[Balance] = BALANCES, **arguments: Any) -> View[Balance]:
        return View(self.parts, of, **arguments)

    def write(self, work: Any) -> Any:
        return run_sync(self.parts.write(self.database, work))

    def builds(self, name: str = "balances") -> list[Build]:
        return run_sync(self.parts.read(self.database, lambda tx: builds(tx, name)))

    def build(self, of: Subscriber = BALANCES, *, partitions: int = 1) -> Build:
        """A new build: it serves when it is the first."""
        unbuilt = replace(unmade(of, CODEC.fingerprint), partitions=partitions)
        made: Build = self.write(lambda tx: make_build(tx, of, unbuilt))
        return made

    def progress(self, build: Build) -> list[Progress]:
        return run_sync(self.parts.read(self.database, lambda tx: progress(tx, build.id)))

    def run(self, build: Build, of: Subscriber = BALANCES, until: int | None = None) -> None:
        """Fold all partitions up to the head, or up to `until`, event by event."""
        for held in self.progress(build):
            self.run_partition(build, of, held=held, until=until)

    def run_partition(
        self, build: Build, of: Subscriber, *, held: Progress, until: int | None = None
    ) -> None:
        work = work_of(of, build, self.database)
        decoding = Decoding(CODEC, of.events)
        end = run_sync(self.store.head()) if until is None else until
        page = run_sync(self.store.read(decoding.query, after=held.position, until=end))
        for event in decoding.page(page):
            held = work.apply(held, Batch([event], event.position), Control()).progress
        work.apply(held, Batch([], end), Control())

    def stop(self, build: Build, position: int, partition: int = 0) -> None:
        """Let a partition be stopped by the event at `position`."""
        failure = msgspec.json.encode(_failure(position)).decode()
        held = self.progress(build)[partition]
        self.write(lambda tx: advance(tx, held, replace(held, failure=failure)))

    def quarantine(self, build: Build, key: str, position: int) -> None:
        failure = msgspec.json.encode(_failure(position)).decode()
        each = Quarantined(
            build=build.id, key=key, position=position, failure=failure, waiting=0, is_due=0
        )
        self.write(lambda tx: put_in_quarantine(tx, each))


def _failure(position: int) -> Failure:
    return Failure(position, "bank-1", 1, "Deposited", "", "ValueError: no", 3, 0)
