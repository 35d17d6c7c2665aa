"""A small bank with inline projections, and a process that appends to it.

Run with: URL, name, appends. Prints a line after each append that its view shows; exits with an
error where one does not show at once. With 0 appends it goes on until it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import (
    REMOVED,
    App,
    Codec,
    Event,
    EventStore,
    Projection,
    RecordedEvent,
    SqlProjection,
)
from leftfold.projection.definition import Sql


class Moved(Struct, frozen=True):
    """Cents to accounts."""

    cents: int
    to: list[str]


class Closed(Struct, frozen=True):
    account: str


class Noted(Struct, frozen=True):
    text: str = ""


CODEC = Codec(Moved, Closed, Noted)


class Balance(Struct, frozen=True):
    account: str
    cents: int = 0
    moves: int = 0


def evolve_moved(row: Balance, event: RecordedEvent[Any]) -> Balance:
    if event.data.cents < 0:
        raise ValueError("a move is positive")
    return replace(row, cents=row.cents + event.data.cents, moves=row.moves + 1)


def evolve_closed(row: Balance, event: RecordedEvent[Any]) -> Any:
    return REMOVED


def key(event: RecordedEvent[Any]) -> Any:
    return event.data.to if isinstance(event.data, Moved) else event.data.account


def balances(**changes: Any) -> Projection[Balance]:
    arguments: dict[str, Any] = {
        "name": "balances",
        "row": Balance,
        "key": key,
        "evolve": {Moved: evolve_moved, Closed: evolve_closed},
        "mode": "inline",
    }
    return Projection(**arguments | changes)


BALANCES = balances()


def create_totals(sql: Sql) -> None:
    sql.execute(f"CREATE TABLE {sql.table} (stream text PRIMARY KEY, cents bigint NOT NULL)")


def apply_totals(sql: Sql, events: Sequence[RecordedEvent[Any]]) -> None:
    for event in events:
        if isinstance(event.data, Moved):
            if event.data.cents == 13:
                raise ValueError("unlucky")
            sql.execute(
                f"INSERT INTO {sql.table} AS t VALUES (?, ?) "
                "ON CONFLICT (stream) DO UPDATE SET cents = t.cents + excluded.cents",
                [event.stream, event.data.cents],
            )


TOTALS = SqlProjection(name="totals", create=create_totals, apply=apply_totals, mode="inline")
APP = App(codec=CODEC, projections=[BALANCES, TOTALS])


def moved(cents: int, *to: str, stream: str = "bank-1") -> Event[Moved]:
    return Event(stream, Moved(cents, [*to]))


def rows_of(es: EventStore, projection: Projection[Balance] = BALANCES) -> list[Balance]:
    return sorted(es.view(projection).find(limit=10_000), key=lambda row: row.account)


def folded(events: Iterable[RecordedEvent[Any]]) -> list[Balance]:
    """What the rows have to be."""
    rows: dict[str, Balance] = {}
    for event in events:
        data = event.data
        if isinstance(data, Closed):
            rows.pop(data.account, None)
        elif isinstance(data, Moved):
            for each in dict.fromkeys(data.to):
                rows[each] = evolve_moved(rows.get(each, Balance(each)), event)
    return sorted(rows.values(), key=lambda row: row.account)


def totals_of(es: EventStore) -> dict[str, int]:
    return {row["stream"]: row["cents"] for row in es.view(TOTALS).sql("SELECT * FROM totals")}


def folded_totals(events: Iterable[RecordedEvent[Any]]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for event in events:
        if isinstance(event.data, Moved):
            totals[event.stream] = totals.get(event.stream, 0) + event.data.cents
    return totals


def check(es: EventStore) -> None:
    """The read models are what the log says."""
    log = [*es.read()]
    assert rows_of(es) == folded(log)
    assert totals_of(es) == folded_totals(log)


def main(url: str, name: str, appends: int) -> None:
    with leftfold.open(url, APP) as es:
        view = es.view(BALANCES)
        before = view.get(name) or Balance(name)
        for number in range(1, appends + 1) if appends else count(1):
            es.append([moved(1, name, "all", stream=f"bank-{name}")])
            row = view.get(name)
            assert row, "it does not show"
            assert row.moves == before.moves + number
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
