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
    Aggregate,
    App,
    Appended,
    AsyncEventStore,
    Codec,
    Decider,
    Event,
    EventStore,
    EventType,
    Handled,
    Loaded,
    Metadata,
    NoneMatch,
    Payload,
    Query,
    RecordedEvent,
    Snapshots,
    Step,
    Store,
    StreamVersion,
    Tag,
    Upcaster,
    Version,
    select,
)
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteOptions, SqliteStore
from leftfold.testing import given


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


class Deposit(Struct, frozen=True):
    amount: Decimal


class Balance(Struct, frozen=True):
    amount: Decimal = Decimal(0)


def decide(command: Deposit, state: Balance) -> list[Deposited]:
    return [Deposited(command.amount)]


def evolve(state: Balance, event: Deposited) -> Balance:
    return Balance(state.amount + event.amount)


account = Decider(
    "account",
    initial_state=Balance(),
    decide=decide,
    evolve=evolve,
    stream=lambda event: f"account-{event.account}",
    snapshots=Snapshots(every=lambda state, events: events > 10, version=2),
)
app = App(codec=codec, deciders=[account])


class Wallet(Aggregate):
    def __init__(self) -> None:
        self.balance = Decimal(0)

    def receive(self, amount: Decimal) -> None:
        self.record(Deposited(amount))

    def apply(self, event: Deposited) -> None:
        self.balance += event.amount


wallets = Wallet.decider("wallet", snapshots=None)


def deciders() -> None:
    assert_type(account, Decider[Deposit, Balance, Deposited])
    with leftfold.open("memory://", app, cached_states_max=10) as es:
        reply = es.handle(account, "1", Deposit(Decimal(1)), expected_version=3)
        assert_type(reply, Handled[Balance])
        assert_type(reply.state, Balance)
        es.handle(account, UUID(int=1), Deposit(Decimal(1)), metadata=Metadata(actor="me"))
        es.handle(account, select(tags=["account:1"]), Deposit(Decimal(1)))
        es.handle(account, "1", "deposit")  # type: ignore[misc]
        assert_type(es.state(account, 7, at=datetime.now(UTC)), Balance)
        assert_type(es.load(account, "1", at=3, as_of=datetime.now(UTC)), Loaded[Balance])
        assert_type(es.history(account, "1", after=1, until=3), Iterator[Step[Balance]])
        wallet = es.handle(wallets, "1", lambda wallet: wallet.receive(Decimal(1)))
        assert_type(wallet, Handled[Wallet])


class Refused(Exception):
    balance: Decimal


def scenarios() -> None:
    outcome = given(account, Deposited(Decimal(1))).when(Deposit(Decimal(2)))
    assert_type(outcome.then(Deposited(Decimal(2))).state, Balance)
    assert_type(outcome.then_rejected(Refused).balance, Decimal)


async def deciders_in_tasks() -> None:
    async with await leftfold.aopen("memory://", app) as es:
        assert_type(await es.handle(account, "1", Deposit(Decimal(1))), Handled[Balance])
        assert_type(await es.load(account, "1"), Loaded[Balance])
        assert_type(es.history(account, "1"), AsyncIterator[Step[Balance]])
        assert_type(await es.state(wallets, "1"), Wallet)
