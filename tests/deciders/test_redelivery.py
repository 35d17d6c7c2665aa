"""A command that is delivered again is recorded once, and gets the first result."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from decider_bank import (
    ACCOUNT,
    BANK,
    AccountOpened,
    MoneyDeposited,
    Open,
    Overdrawn,
    deposit,
    withdraw,
)
from msgspec import Struct, defstruct

import leftfold
from leftfold import (
    AppendConditionFailed,
    Codec,
    Decider,
    Event,
    EventStore,
    EventType,
    Metadata,
    select,
)


def test_a_second_delivery_gets_the_first_result(es: EventStore) -> None:
    first = es.handle(ACCOUNT, "1", deposit(5), metadata=Metadata(command_id="c-1"))
    taken = es.handle(ACCOUNT, "1", withdraw(5), metadata=Metadata(command_id="c-2"))
    es.handle(ACCOUNT, "1", deposit(1))
    for _ in range(2):
        assert es.handle(ACCOUNT, "1", deposit(5), metadata=Metadata(command_id="c-1")) == first
        # By now there is not enough money for it.
        assert es.handle(ACCOUNT, "1", withdraw(5), metadata=Metadata(command_id="c-2")) == taken
    assert es.head() == 3


def test_a_second_delivery_with_an_expected_version(es: EventStore) -> None:
    first = Metadata(command_id="c-1")
    reply = es.handle(ACCOUNT, "1", deposit(5), expected_version=0, metadata=first)
    assert es.handle(ACCOUNT, "1", deposit(5), expected_version=0, metadata=first) == reply
    with pytest.raises(AppendConditionFailed):
        es.handle(ACCOUNT, "1", deposit(5), expected_version=0, metadata=Metadata(command_id="2"))


def test_a_second_delivery_that_has_nothing_to_do(es: EventStore) -> None:
    reply = es.handle(ACCOUNT, "1", Open("ada"), metadata=Metadata(command_id="c-1"))
    es.handle(ACCOUNT, "1", deposit(5))
    assert es.handle(ACCOUNT, "1", Open("ada"), metadata=Metadata(command_id="c-1")) == reply
    assert reply.events == (AccountOpened("ada"),)


def test_a_rejected_command_may_be_delivered_again(es: EventStore) -> None:
    with pytest.raises(Overdrawn):
        es.handle(ACCOUNT, "1", withdraw(5), metadata=Metadata(command_id="c-1"))
    es.handle(ACCOUNT, "1", deposit(5))
    reply = es.handle(ACCOUNT, "1", withdraw(5), metadata=Metadata(command_id="c-1"))
    assert reply.state.balance == 0


def test_one_command_id_for_two_boundaries(es: EventStore) -> None:
    for account in ("1", "2"):
        es.handle(ACCOUNT, account, deposit(5), metadata=Metadata(command_id="transfer-1"))
    assert es.head() == 2


def test_one_command_id_for_two_queries(es: EventStore) -> None:
    sent = Metadata(command_id="c-1")
    counting = Decider(
        "n",
        initial_state=0,
        decide=lambda command, state: [MoneyDeposited(Decimal(command))],
        evolve=lambda state, event: state + 1,
        stream=lambda event: f"account-{event.amount}",
    )
    for number in (1, 2, 1, 2):
        reply = es.handle(counting, select(f"account-{number}"), number, metadata=sent)
        assert reply.events == (MoneyDeposited(Decimal(number)),)
    assert es.head() == 2


def created(name: str) -> type[Struct]:
    return defstruct("Created", [("name", str)], frozen=True, namespace={"__qualname__": name})


def test_queries_by_classes_of_one_name_are_two(url: str) -> None:
    first, second = created("First"), created("Second")
    codec = Codec(EventType(first, "FirstCreated"), EventType(second, "SecondCreated"))
    decider = Decider(
        "n",
        initial_state=0,
        decide=lambda command, state: [command],
        evolve=lambda state, event: state + 1,
        stream=lambda event: "n-1",
    )
    with leftfold.open(url, codec) as es:
        for kind in (first, second, first, second):
            event: Any = kind("x")
            sent = Metadata(command_id="c-1")
            assert es.handle(decider, select(types=[kind]), event, metadata=sent).events == (event,)
        assert es.head() == 2


def test_a_class_that_is_renamed_is_the_same(url: str) -> None:
    old = defstruct("Old", [("name", str)], frozen=True)
    new = defstruct("New", [("name", str)], frozen=True)
    decider = Decider(
        "n",
        initial_state=0,
        decide=lambda command, state: [command],
        evolve=lambda state, event: state + 1,
        stream=lambda event: "n-1",
    )
    with leftfold.open(url, Codec(EventType(old, "Created"))) as es:
        for kind in (old, new):
            face = EventStore(es.store, Codec(EventType(kind, "Created")))
            sent = Metadata(command_id="c-1")
            assert face.handle(decider, select(types=[kind]), kind("x"), metadata=sent).version == 1
        assert es.head() == 1


class Split(Struct, frozen=True):
    parts: int


def split(command: Split, state: int) -> list[MoneyDeposited]:
    # As many as are missing: delivered again, it decides on fewer events, or more, or none.
    return [MoneyDeposited(Decimal(1)) for _ in range(command.parts - state)]


SPLITTER = Decider("account", initial_state=0, decide=split, evolve=lambda state, event: state + 1)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 700])
def test_a_second_delivery_that_decides_otherwise(es: EventStore, parts: int) -> None:
    first = es.handle(SPLITTER, "1", Split(3), metadata=Metadata(command_id="c-1"))
    again = es.handle(SPLITTER, "1", Split(parts), metadata=Metadata(command_id="c-1"))
    assert again == first
    assert (first.version, len(first.events), es.head()) == (3, 3, 3)


def test_a_second_delivery_of_many_events(es: EventStore) -> None:
    first = es.handle(SPLITTER, "1", Split(1200), metadata=Metadata(command_id="c-1"))
    es.handle(SPLITTER, "1", Split(1300))
    assert es.handle(SPLITTER, "1", Split(1200), metadata=Metadata(command_id="c-1")) == first
    assert first.version == 1200


def test_two_deliveries_at_once_are_one(url: str) -> None:
    async def main() -> None:
        async with await leftfold.aopen(url, BANK) as es:
            ids = [f"c-{n % 5}" for n in range(50)]
            replies = await asyncio.gather(
                *(
                    es.handle(ACCOUNT, "1", deposit(1), metadata=Metadata(command_id=id))
                    for id in ids
                )
            )
            assert await es.head() == 5
            assert {reply.version for reply in replies} == {1, 2, 3, 4, 5}
            for id in set(ids):
                same = [reply for reply, its in zip(replies, ids, strict=True) if its == id]
                assert all(reply == same[0] for reply in same)

    asyncio.run(main())


class Numbered(Struct, frozen=True):
    who: str


@pytest.mark.parametrize("cached", [0, 5])
@pytest.mark.parametrize("over", ["query", "stream"])
def test_two_deliveries_at_once_that_saw_different_states(url: str, over: str, cached: int) -> None:
    """The second has loaded before the first was recorded, and somebody else comes in between."""
    boundary: Any = select(tags=["seat:1"]) if over == "query" else "1"

    def decide(command: str, state: tuple[str, ...]) -> list[Event[Numbered]]:
        nonlocal is_first
        if command == "late" and is_first:
            is_first = False
            es.handle(seats, boundary, "other")
            firsts.append(es.handle(seats, boundary, "late", metadata=Metadata(command_id="c-1")))
        taken = Numbered(f"{command} after {len(state)}")
        return [Event("seat-1", taken, tags=("seat:1",))]

    is_first, firsts = True, list[Any]()
    seats = Decider(
        "seat", initial_state=(), decide=decide, evolve=lambda state, event: (*state, event.who)
    )
    with leftfold.open(url, Codec(Numbered), cached_states_max=cached) as es:
        again = es.handle(seats, boundary, "late", metadata=Metadata(command_id="c-1"))
        assert [again] == firsts
        recorded = ("other after 0", "late after 1")
        assert tuple(event.data.who for event in es.read()) == recorded
        assert es.state(seats, boundary) == again.state == recorded


@pytest.mark.parametrize("numbers", [(1, 1), (2, 1), (1, 2)])
def test_two_deliveries_at_once_that_decide_otherwise(url: str, numbers: tuple[int, int]) -> None:
    def decide(command: object, state: int) -> list[Numbered]:
        nonlocal calls
        calls += 1
        call = calls
        if call == 1:
            firsts.append(es.handle(decider, "1", None, metadata=Metadata(command_id="c-1")))
        # What a clock or a random number in `decide` comes to.
        return [Numbered(f"call {call}")] * numbers[call - 1]

    calls, firsts = 0, list[Any]()
    decider = Decider("n", initial_state=0, decide=decide, evolve=lambda state, event: state + 1)
    with leftfold.open(url, Codec(Numbered), cached_states_max=5) as es:
        again = es.handle(decider, "1", None, metadata=Metadata(command_id="c-1"))
        assert [again] == firsts
        assert again.events == (Numbered("call 2"),) * numbers[1]
        assert es.load(decider, "1").version == numbers[1]
