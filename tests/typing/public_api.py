"""The public API as a user types it. mypy checks this file strictly; it is never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, assert_type
from uuid import UUID

from msgspec import Struct

import leftfold
from leftfold import (
    ALL,
    Appended,
    AsyncEventStore,
    Codec,
    Event,
    EventStore,
    EventType,
    Metadata,
    NoneMatch,
    Payload,
    Query,
    RecordedEvent,
    Store,
    StreamVersion,
    Tag,
    Upcaster,
    Version,
    select,
)
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteOptions, SqliteStore


class Deposited(Struct, frozen=True):
    amount: Decimal
    account: Annotated[str, Tag()] = ""


def upcast(data: dict[str, Any]) -> Payload:
    return Payload("Deposited", data, 2)


codec = Codec(
    EventType(Deposited, version=2),
    upcasters=[Upcaster("Deposited", 1, upcast), Upcaster("Gone", 1, lambda data: [])],
    format="msgpack",
    unknown="pass",
)


def sync() -> None:
    with leftfold.open("sqlite:///bank.db", codec) as es:
        assert_type(es, EventStore)
        appended = es.append_to_stream(
            "account-1", [Deposited(Decimal(1))], expected_version=0, metadata=Metadata(actor="me")
        )
        assert_type(appended, Appended)
        assert_type(appended.position, int)
        event = Event("account-1", Deposited(Decimal(1)), occurred_at=datetime.now(UTC))
        assert_type(event, Event[Deposited])
        assert_type(event.id, UUID)
        es.append([event], conditions=[StreamVersion("account-1", 1), NoneMatch(ALL, after=3)])
        query = select("account-1") | select(types=[Deposited, "Old"], tags=["account:1"])
        assert_type(query, Query)
        assert_type(es.read(query, after=1, limit=5), Iterator[RecordedEvent[Any]])
        for recorded in es.read(select("account-1"), until=Version(3), backwards=True):
            assert_type(recorded.recorded_at, datetime)
            assert_type(recorded.metadata.actor, str | None)
        for recorded in es.subscribe(select(category="account")):
            assert_type(recorded, RecordedEvent[Any])


async def asynchronous() -> None:
    async with await leftfold.aopen("memory://", codec) as es:
        assert_type(es, AsyncEventStore)
        assert_type(await es.append_to_stream("a-1", [Deposited(Decimal(1))]), Appended)
        assert_type(es.read(), AsyncIterator[RecordedEvent[Any]])
        async for recorded in es.subscribe():
            assert_type(recorded.version, int)


def stores() -> list[Store]:
    return [MemoryStore(), SqliteStore("bank.db", SqliteOptions(busy_timeout_s=1))]
