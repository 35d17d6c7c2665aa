"""An upcaster may split a recorded event: what comes of it is applied together, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from running_support import eventually

import leftfold
from leftfold import (
    App,
    Codec,
    Consumer,
    Event,
    EventStore,
    Payload,
    Projection,
    RecordedEvent,
    Sql,
    SqlProjection,
    Upcaster,
)

EVENTS = 6


class Debited(Struct, frozen=True):
    amount: int


class Credited(Struct, frozen=True):
    amount: int


class Sum(Struct, frozen=True):
    account: str
    debits: int = 0
    credits: int = 0


def split(data: dict[str, Any]) -> list[Payload]:
    return [Payload("Debited", data), Payload("Credited", data)]


CODEC = Codec(Debited, Credited, upcasters=[Upcaster("Moved", 1, split, ("Debited", "Credited"))])


class Bank:
    """Credits fail for as long as `is_broken`."""

    def __init__(self) -> None:
        self.is_broken = True
        self.delivered: list[tuple[int, type]] = []

    def check(self, event: RecordedEvent[Any]) -> None:
        if self.is_broken and isinstance(event.data, Credited) and event.position == EVENTS // 2:
            raise RuntimeError("broken")

    def evolve(self, row: Sum, event: RecordedEvent[Any]) -> Sum:
        self.check(event)
        if isinstance(event.data, Debited):
            return replace(row, debits=row.debits + event.data.amount)
        return replace(row, credits=row.credits + event.data.amount)

    def apply(self, sql: Sql, events: Sequence[RecordedEvent[Any]]) -> None:
        for event in events:
            self.check(event)
            name = "debits" if isinstance(event.data, Debited) else "credits"
            sql.execute(f"UPDATE {sql.table} SET {name} = {name} + ?", [event.data.amount])

    def handle(self, event: RecordedEvent[Any]) -> None:
        self.check(event)
        self.delivered.append((event.position, type(event.data)))

    def app(self) -> App:
        rest: Any = {"attempts_max": 1}
        return App(
            codec=CODEC,
            projections=[
                Projection("keyed", row=Sum, key=stream_of, evolve=self.evolve, **rest),
                SqlProjection("own", create=create, apply=self.apply, **rest),
            ],
            consumers=[Consumer("told", handle=self.handle, checkpoint_events=1, **rest)],
        )


def stream_of(event: RecordedEvent[Any]) -> str:
    return event.stream


def create(sql: Sql) -> None:
    sql.execute(f"CREATE TABLE {sql.table} (debits INTEGER, credits INTEGER)")
    sql.execute(f"INSERT INTO {sql.table} VALUES (0, 0)")


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/log.db"
    with leftfold.open(url) as raw:
        raw.append([Event("account-1", b'{"amount":1}', type="Moved") for _ in range(EVENTS)])
    return url


def until(es: EventStore, *, stopped: bool) -> None:
    def is_so() -> bool:
        found = es.projections.status()
        if stopped:
            return len(found) == 3 and all(each.failure for each in found)
        return all(each.position == EVENTS and not each.failure for each in found)

    eventually(is_so)


def test_what_an_event_is_split_into_is_applied_together(url: str) -> None:
    bank = Bank()
    app = bank.app()
    with leftfold.open(url, app) as es, es.running():
        until(es, stopped=True)
        before = EVENTS // 2 - 1
        assert es.view(app.projections[0]).get("account-1") == Sum("account-1", before, before)
        assert es.view(app.projections[1]).sql("SELECT * FROM own") == [
            {"debits": before, "credits": before}
        ]
        bank.is_broken = False
        for each in app.subscribers:
            es.projections.retry(each.name)
        until(es, stopped=False)
        assert es.view(app.projections[0]).get("account-1") == Sum("account-1", EVENTS, EVENTS)
        assert es.view(app.projections[1]).sql("SELECT * FROM own") == [
            {"debits": EVENTS, "credits": EVENTS}
        ]
        expected = {(p + 1, kind) for p in range(EVENTS) for kind in (Debited, Credited)}
        assert {*bank.delivered} == expected
