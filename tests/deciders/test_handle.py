"""Commands: decided on the true state, recorded once, retried after conflicts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from decider_bank import (
    ACCOUNT,
    BANK,
    CODEC,
    Account,
    AccountOpened,
    MoneyDeposited,
    MoneyWithdrawn,
    Nothing,
    Open,
    Overdrawn,
    deposit,
    withdraw,
)
from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import (
    ALL,
    AppendConditionFailed,
    Codec,
    Contention,
    Decider,
    Event,
    EventStore,
    InvalidInput,
    Metadata,
    NoneMatch,
    StoreUnavailable,
    StreamVersion,
    select,
)
from leftfold.command import ATTEMPTS_MAX
from leftfold.stores.memory import MemoryStore


def meddling(store: Any, times: int, amount: int = -1) -> Any:
    """`store`, in which somebody else withdraws just before each of the first `times` appends."""
    append = store.append
    left = times

    async def append_second(events: Any, *, conditions: Any = ()) -> Any:
        nonlocal left
        if left and conditions:
            left -= 1
            kind = (
                MoneyWithdrawn(Decimal(-amount)) if amount < 0 else MoneyDeposited(Decimal(amount))
            )
            await append([CODEC.encode(Event("account-1", kind))])
        return await append(events, conditions=conditions)

    store.append = append_second
    return store


def test_a_command_is_decided_on_what_was_recorded(es: EventStore) -> None:
    opened = es.handle(ACCOUNT, "1", Open("ada"))
    assert (opened.version, opened.position) == (1, 1)
    paid = es.handle(ACCOUNT, "1", deposit(5))
    assert paid.state == Account("ada", Decimal(5))
    assert paid.events == (MoneyDeposited(Decimal(5)),)
    assert (paid.version, paid.position) == (2, 2)
    assert es.handle(ACCOUNT, "2", deposit(7)).version == 1
    assert [(each.stream, each.data) for each in es.read()] == [
        ("account-1", AccountOpened("ada")),
        ("account-1", MoneyDeposited(Decimal(5))),
        ("account-2", MoneyDeposited(Decimal(7))),
    ]
    assert next(iter(es.read())).tags == ("owner:ada",)


def test_a_rejection_passes_through_and_records_nothing(es: EventStore) -> None:
    es.handle(ACCOUNT, "1", deposit(5))
    with pytest.raises(Overdrawn, match="6 of 5"):
        es.handle(ACCOUNT, "1", withdraw(6))
    assert es.head() == 1


def test_a_rejection_is_not_retried() -> None:
    calls = 0

    def decide(command: object, state: int) -> list[Any]:
        nonlocal calls
        calls += 1
        raise Overdrawn

    decider = Decider("account", initial_state=0, decide=decide, evolve=lambda state, event: state)
    with leftfold.open("memory://", CODEC) as es, pytest.raises(Overdrawn):
        es.handle(decider, "1", None)
    assert calls == 1


def test_nothing_to_do(es: EventStore) -> None:
    es.handle(ACCOUNT, "1", deposit(5))
    reply = es.handle(ACCOUNT, "1", Nothing())
    assert (reply.events, reply.version, reply.position) == ((), 1, 1)
    assert reply.state == Account("", Decimal(5))
    assert es.handle(ACCOUNT, "2", Nothing()).version == 0


@pytest.mark.parametrize("conflicts", [1, 2, ATTEMPTS_MAX - 1])
def test_a_conflict_is_decided_again_on_what_is_new(conflicts: int) -> None:
    es = EventStore(meddling(MemoryStore(), conflicts), CODEC)
    es.append_to_stream("account-1", [MoneyDeposited(Decimal(100))])
    reply = es.handle(ACCOUNT, "1", withdraw(1))
    assert reply.state.balance == 100 - conflicts - 1
    assert reply.version == conflicts + 2
    assert es.state(ACCOUNT, "1") == reply.state


def test_a_conflict_may_turn_into_a_rejection() -> None:
    es = EventStore(meddling(MemoryStore(), 1), CODEC)
    es.append_to_stream("account-1", [MoneyDeposited(Decimal(3))])
    with pytest.raises(Overdrawn, match="3 of 2"):
        es.handle(ACCOUNT, "1", withdraw(3))


def test_after_a_conflict_only_what_is_new_is_read() -> None:
    store = MemoryStore()
    es = EventStore(meddling(store, 2), CODEC)
    es.append_to_stream("account-1", [MoneyDeposited(Decimal(1))] * 1200)
    read, pages = store.read, []

    async def counted(*args: Any, **kwargs: Any) -> Any:
        page = await read(*args, **kwargs)
        pages.append(len(page))
        return page

    store.read = counted  # type: ignore[method-assign]
    es.handle(ACCOUNT, "1", withdraw(1))
    assert pages == [500, 500, 200, 1, 1]


def test_conflicts_have_an_end() -> None:
    es = EventStore(meddling(MemoryStore(), 10**9), CODEC)
    with pytest.raises(Contention, match=f"overtaken {ATTEMPTS_MAX} times") as caught:
        es.handle(ACCOUNT, "1", deposit(1))
    assert caught.value.attempts == ATTEMPTS_MAX
    assert isinstance(caught.value.conflict.condition, StreamVersion)
    assert not any(each.data == MoneyDeposited(Decimal(1)) for each in es.read())


def test_a_caller_may_insist_on_a_version(es: EventStore) -> None:
    es.handle(ACCOUNT, "1", deposit(5), expected_version=0)
    es.handle(ACCOUNT, "1", deposit(5), expected_version=1)
    with pytest.raises(AppendConditionFailed) as caught:
        es.handle(ACCOUNT, "1", deposit(5), expected_version=1)
    assert (caught.value.condition, caught.value.found) == (StreamVersion("account-1", 1), 2)
    assert es.head() == 2


def test_a_version_that_somebody_else_overtakes_is_not_retried() -> None:
    es = EventStore(meddling(MemoryStore(), 1), CODEC)
    with pytest.raises(AppendConditionFailed):
        es.handle(ACCOUNT, "1", deposit(1), expected_version=0)
    assert es.head() == 1


def test_where_an_event_comes_from(es: EventStore) -> None:
    asked = Metadata(
        correlation_id="order-7", causation_id="click-3", actor="ada", extra={"ip": "::1"}
    )
    es.handle(ACCOUNT, "1", deposit(5), metadata=asked)
    [event] = es.read()
    assert event.metadata == replace(asked, command_id=event.metadata.command_id)
    assert UUID(event.metadata.command_id).version == event.id.version == 7
    es.handle(ACCOUNT, "1", deposit(5), metadata=Metadata(command_id="c-1"))
    event = list(es.read())[-1]
    assert event.metadata == Metadata(correlation_id="c-1", causation_id="c-1", command_id="c-1")


def test_failures_of_the_store_pass_through() -> None:
    store = MemoryStore()

    async def fail(events: Any, *, conditions: Any = ()) -> Any:
        raise StoreUnavailable("locked")

    es = EventStore(store, CODEC)
    store.append = fail  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        es.handle(ACCOUNT, "1", deposit(1), metadata=Metadata(command_id="c-1"))


class Enrolled(Struct, frozen=True):
    course: str
    student: str


class Enrol(Struct, frozen=True):
    course: str
    student: str


class Full(Exception):
    pass


def enrol(command: Enrol, taken: frozenset[str]) -> list[Event[Enrolled]]:
    if len(taken) >= 2:
        raise Full
    enrolled = Enrolled(command.course, command.student)
    tags = (f"course:{command.course}", f"student:{command.student}")
    return [Event(f"course-{command.course}", enrolled, tags=tags)]


ENROLMENT = Decider(
    "enrolment",
    initial_state=frozenset[str](),
    decide=enrol,
    evolve=lambda state, event: state | {event.student},
)


def test_a_boundary_over_tags(url: str) -> None:
    with leftfold.open(url, Codec(Enrolled)) as es:
        math, art = (select(types=[Enrolled], tags=[f"course:{name}"]) for name in ("math", "art"))
        es.handle(ENROLMENT, art, Enrol("art", "ada"))
        for version, student in enumerate(("ada", "bob"), 1):
            reply = es.handle(ENROLMENT, math, Enrol("math", student))
            assert reply.version == version
        with pytest.raises(Full):
            es.handle(ENROLMENT, math, Enrol("math", "cleo"))
        assert es.state(ENROLMENT, math) == {"ada", "bob"}
        assert [step.after for step in es.history(ENROLMENT, math)] == [{"ada"}, {"ada", "bob"}]
        assert es.state(ENROLMENT, math, at=1) == {"ada"}
        with pytest.raises(InvalidInput, match="expected_version"):
            es.handle(ENROLMENT, art, Enrol("art", "bob"), expected_version=1)


def test_a_boundary_over_tags_meets_conflicts() -> None:
    store = MemoryStore()
    append, conditions_seen = store.append, []

    async def overtaken(events: Any, *, conditions: Any = ()) -> Any:
        conditions_seen.extend(conditions)
        if len(conditions_seen) == 1:
            await append([Codec(Enrolled).encode(*enrol(Enrol("math", "eve"), frozenset()))])
        return await append(events, conditions=conditions)

    es = EventStore(store, Codec(Enrolled))
    es.append([Event("other-1", Enrolled("art", "zoe"), tags=("course:art",))])
    store.append = overtaken  # type: ignore[method-assign]
    math = select(types=["Enrolled"], tags=["course:math"])
    reply = es.handle(ENROLMENT, math, Enrol("math", "ada"))
    assert reply.state == {"eve", "ada"}
    assert conditions_seen == [NoneMatch(math, 1), NoneMatch(math, 2)]


def test_a_decider_may_say_where_its_events_go(es: EventStore) -> None:
    decider = Decider(
        "teller",
        initial_state=0,
        decide=lambda command, state: [MoneyDeposited(Decimal(command))],
        evolve=lambda state, event: state + 1,
        stream=lambda event: f"account-{event.amount}",
    )
    reply = es.handle(decider, ALL, 7)
    assert (reply.state, reply.version) == (1, 1)
    assert next(iter(es.read())).stream == "account-7"
    # For an id, events of other streams are not of its boundary.
    reply = es.handle(decider, "1", 8)
    assert (reply.state, reply.version, reply.position) == (0, 0, 2)
    first = es.handle(decider, "1", 9, metadata=Metadata(command_id="c-1"))
    assert es.handle(decider, "1", 9, metadata=Metadata(command_id="c-1")) == first
    assert es.head() == 3


def test_a_decision_about_the_past(es: EventStore) -> None:
    then = datetime(2020, 1, 1, tzinfo=UTC)
    past = replace(
        ACCOUNT,
        decide=lambda command, state: [
            Event("", MoneyDeposited(Decimal(command)), occurred_at=then, tags=("late:yes",))
        ],
    )
    assert es.handle(past, "1", 3).version == 1
    [event] = es.read(select("account-1", tags=["late:yes"]))
    assert event.occurred_at == then
    assert es.state(ACCOUNT, "1", as_of=then).balance == 3


def test_several_streams_in_one_decision(es: EventStore) -> None:
    def transfer(command: int, state: Account) -> list[Event[Any]]:
        if command > state.balance:
            raise Overdrawn
        return [
            Event("account-1", MoneyWithdrawn(Decimal(command))),
            Event("account-2", MoneyDeposited(Decimal(command)), metadata=Metadata(extra={"a": 1})),
        ]

    decider = replace(ACCOUNT, decide=transfer)
    es.handle(ACCOUNT, "1", deposit(5))
    reply = es.handle(decider, "1", 3, metadata=Metadata(actor="ada", extra={"b": 2}))
    assert (reply.state.balance, reply.version, reply.position) == (2, 2, 3)
    cached = EventStore(es.store, CODEC, cached_states_max=1)
    cached.handle(decider, "1", 0)
    assert cached.load(decider, "1").position == es.load(decider, "1").position == 4
    assert es.state(ACCOUNT, "2").balance == 3
    last = list(es.read())[2]
    assert (last.metadata.actor, last.metadata.extra) == ("ada", {"a": 1, "b": 2})


def test_the_async_face_handles_the_same(url: str) -> None:
    async def main() -> None:
        async with await leftfold.aopen(url, BANK, cached_states_max=5) as es:
            await es.handle(ACCOUNT, "1", deposit(5))
            with pytest.raises(Overdrawn):
                await es.handle(ACCOUNT, "1", withdraw(6))
            replies = await asyncio.gather(
                *(es.handle(ACCOUNT, "1", deposit(1)) for _ in range(30))
            )
            assert sorted(reply.version for reply in replies) == list(range(2, 32))
            loaded = await es.load(ACCOUNT, "1")
            assert (loaded.state.balance, loaded.version) == (35, 31)
            assert (await es.state(ACCOUNT, "1", at=1)).balance == 5
            steps = [step async for step in es.history(ACCOUNT, "1", after=29)]
            assert [step.after.balance for step in steps] == [34, 35]

    asyncio.run(main())
