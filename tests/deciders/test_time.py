"""States at any version and moment, by either clock, and every step to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from decider_bank import (
    ACCOUNT,
    CODEC,
    Account,
    AccountOpened,
    MoneyDeposited,
    MoneyWithdrawn,
    Open,
    deposit,
    withdraw,
)
from msgspec import Struct
from msgspec.structs import replace

from leftfold import (
    Codec,
    Decider,
    Event,
    EventStore,
    EventType,
    InvalidInput,
    Loaded,
    Payload,
    Upcaster,
    select,
)
from leftfold.stores.memory import MemoryStore

NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001
DAY = datetime(2024, 3, 1, tzinfo=UTC)


class Clock:
    """A clock that goes on by a day at each append."""

    def __init__(self) -> None:
        self.us = int(DAY.timestamp()) * 1_000_000

    def __call__(self) -> int:
        self.us += 86_400_000_000
        return self.us


def day(number: int) -> datetime:
    return DAY + timedelta(days=number)


@pytest.fixture
def dated() -> EventStore:
    """Recorded on day 1 to 4, balances 10, 30, 25, 26."""
    es = EventStore(MemoryStore(clock=Clock()), CODEC)
    for command in (deposit(10), deposit(20), withdraw(5), deposit(1)):
        es.handle(ACCOUNT, "1", command)
    return es


def test_what_does_not_exist_is_the_initial_state(es: EventStore) -> None:
    assert es.load(ACCOUNT, "1") == Loaded(Account(), 0, 0)
    assert list(es.history(ACCOUNT, "1")) == []
    assert es.load(ACCOUNT, select(tags=["owner:nobody"])) == Loaded(Account(), 0, 0)


def test_the_state_at_each_version(dated: EventStore) -> None:
    balances = [dated.state(ACCOUNT, "1", at=version).balance for version in range(5)]
    assert balances == [0, 10, 30, 25, 26]
    assert dated.load(ACCOUNT, "1", at=3) == Loaded(Account("", Decimal(25)), 3, 3)


def test_the_state_at_a_moment_of_recording(dated: EventStore) -> None:
    moments = [day(0), day(1), day(2) - timedelta(microseconds=1), day(2), day(3), day(99)]
    balances = [dated.state(ACCOUNT, "1", at=moment).balance for moment in moments]
    assert balances == [0, 10, 10, 30, 25, 26]


def test_the_state_by_the_clock_of_the_world(es: EventStore) -> None:
    # Recorded in another order than that in which they occurred.
    times = {1: AccountOpened("ada"), 5: MoneyWithdrawn(Decimal(7)), 3: MoneyDeposited(Decimal(10))}
    for occurred, data in times.items():
        es.append([Event("account-1", data, occurred_at=day(occurred))])
    es.append([Event("account-1", AccountOpened("ann"), occurred_at=day(4))])
    states = [es.state(ACCOUNT, "1", as_of=day(number)) for number in range(6)]
    assert [state.balance for state in states] == [0, 0, 0, 10, 10, 3]
    assert [state.owner for state in states] == ["", "ada", "ada", "ada", "ann", "ann"]
    # What was believed after two events, of day 9: nothing was known of the deposit.
    assert es.state(ACCOUNT, "1", at=2, as_of=day(9)).balance == -7
    assert es.load(ACCOUNT, "1", as_of=day(3)) == Loaded(Account("ada", Decimal(10)), 2, 3)
    assert es.load(ACCOUNT, "1", at=0, as_of=day(3)) == Loaded(Account(), 0, 0)


def test_equal_times_keep_the_order_of_the_log(es: EventStore) -> None:
    for owner in ("a", "b", "c"):
        es.append([Event("account-1", AccountOpened(owner), occurred_at=day(1))])
    assert es.state(ACCOUNT, "1", as_of=day(1)).owner == "c"


def test_a_correction_counts_from_when_it_occurred(es: EventStore) -> None:
    es.append([Event("account-1", AccountOpened("late"), occurred_at=day(15))])
    es.append([Event("account-1", AccountOpened("early"), occurred_at=day(1))])
    assert es.state(ACCOUNT, "1").owner == "early"
    assert es.state(ACCOUNT, "1", as_of=day(20)).owner == "late"
    assert es.state(ACCOUNT, "1", as_of=day(2)).owner == "early"


def test_the_history_has_every_step(es: EventStore) -> None:
    for command in (Open("ada"), deposit(10), withdraw(3)):
        es.handle(ACCOUNT, "1", command)
    steps = list(es.history(ACCOUNT, "1"))
    assert [step.event.version for step in steps] == [1, 2, 3]
    assert [step.event.data for step in steps][2] == MoneyWithdrawn(Decimal(3))
    states = [Account(), Account("ada"), Account("ada", Decimal(10)), Account("ada", Decimal(7))]
    assert [step.before for step in steps] == states[:3]
    assert [step.after for step in steps] == states[1:]


def test_part_of_a_history(dated: EventStore) -> None:
    def balances(**bounds: Any) -> list[tuple[int, int]]:
        steps = dated.history(ACCOUNT, "1", **bounds)
        return [(int(step.before.balance), int(step.after.balance)) for step in steps]

    assert balances(after=2) == [(30, 25), (25, 26)]
    assert balances(after=1, until=3) == [(10, 30), (30, 25)]
    assert balances(after=day(1), until=day(3)) == [(10, 30), (30, 25)]
    assert balances(after=3, until=2) == balances(until=0) == []
    assert balances(after=day(1), until=3) == [(10, 30), (30, 25)]
    assert len(balances(until=99)) == 4
    assert balances(until=1) == [(0, 10)]


def test_a_long_history_goes_in_pages(es: EventStore) -> None:
    es.append_to_stream("account-1", [MoneyDeposited(Decimal(1))] * 1203)
    query = select(category="account")
    for boundary in ("1", query):
        assert es.load(ACCOUNT, boundary) == Loaded(Account("", Decimal(1203)), 1203, 1203)
        assert es.state(ACCOUNT, boundary, at=500).balance == 500
        assert es.state(ACCOUNT, boundary, at=1000).balance == 1000
        assert es.state(ACCOUNT, boundary, at=1001).balance == 1001
        assert [step.after.balance for step in es.history(ACCOUNT, boundary, after=2)] == [
            *range(3, 1204)
        ]


@pytest.mark.parametrize("at", [-1, 2**70, 5, 10**6, True, "2024-01-01", 1.0, NAIVE])
def test_times_that_there_are_not(dated: EventStore, at: Any) -> None:
    with pytest.raises(InvalidInput, match="at"):
        dated.state(ACCOUNT, "1", at=at)


def test_a_version_that_there_is_not_yet_is_named(dated: EventStore) -> None:
    with pytest.raises(InvalidInput, match="account-1 is at version 4, found at=5"):
        dated.load(ACCOUNT, "1", at=5)
    with pytest.raises(InvalidInput, match="account-1 is at version 4, found at=5"):
        dated.load(ACCOUNT, "1", at=5, as_of=day(9))
    assert dated.load(ACCOUNT, "1", at=4, as_of=day(9)).version == 4
    assert list(dated.history(ACCOUNT, "1", after=5)) == []


def test_bounds_that_there_are_not(dated: EventStore) -> None:
    for bounds in ({"until": -1}, {"until": NAIVE}, {"after": "1"}, {"after": 2**70}):
        with pytest.raises(InvalidInput, match=r"until|after"):
            list(dated.history(ACCOUNT, "1", **bounds))  # type: ignore[arg-type]


def test_as_of_a_moment_without_zone(dated: EventStore) -> None:
    with pytest.raises(InvalidInput, match="as_of has a time zone"):
        dated.state(ACCOUNT, "1", as_of=NAIVE)


class Counted(Struct, frozen=True):
    number: int


def test_upcasters_may_drop_and_split_the_last_events() -> None:
    old = EventStore(MemoryStore(), Codec(EventType(Counted, "Counted", 1)))
    old.append_to_stream("n-1", [Counted(number) for number in (1, 2, 3, 0)])

    def split(data: dict[str, Any]) -> list[Payload]:
        return [Payload("Counted", {"number": 10}, 2)] * data["number"]

    codec = Codec(
        EventType(Counted, version=2), upcasters=[Upcaster("Counted", 1, split, to=("Counted",))]
    )
    es = EventStore(old.store, codec)
    decider = Decider(
        "n",
        initial_state=0,
        decide=lambda command, state: [Counted(command)],
        evolve=lambda state, event: state + event.number,
    )
    assert es.load(decider, "1") == Loaded(60, 4, 4)
    assert [es.state(decider, "1", at=version) for version in range(5)] == [0, 10, 30, 60, 60]
    assert es.handle(decider, "1", 5).version == 5
    assert es.load(decider, "1") == Loaded(65, 5, 5)
    as_of = es.load(decider, "1", as_of=datetime.now(UTC) + timedelta(days=1))
    # The one that was dropped is in no state.
    assert as_of == Loaded(65, 4, 5)


class Odd(Struct, frozen=True):
    number: int


def test_a_boundary_by_class_holds_what_upcasters_make_of_old_events() -> None:
    old = EventStore(MemoryStore(), Codec(EventType(Counted, "Number", 1)))
    old.append([Event("n-1", Counted(number), tags=("n:1",)) for number in (1, 2, 3, 4)])

    def by_kind(data: dict[str, Any]) -> Payload:
        return Payload("Odd" if data["number"] % 2 else "Counted", data)

    upcaster = Upcaster("Number", 1, by_kind, to=("Odd", "Counted"))
    es = EventStore(old.store, Codec(Counted, Odd, upcasters=[upcaster]))
    decider = Decider("n", initial_state=0, evolve=lambda state, event: state + event.number)
    assert es.state(decider, "1") == 10
    assert es.state(decider, select(types=[Odd])) == 4
    assert es.state(decider, select(types=[Counted], tags=["n:1"])) == 6
    # The same stored events, and not the same boundary; nor are all its own events of it.
    cached = EventStore(old.store, es.codec, cached_states_max=9)
    assert cached.state(decider, select(types=["Odd", "Number"])) == 10
    assert cached.state(decider, select(types=[Odd])) == 4
    deciding = replace(decider, decide=lambda command, state: command, stream=lambda event: "n-2")
    for event, total in ((Counted(100), 4), (Odd(1), 5)):
        assert cached.handle(deciding, select(types=[Odd]), [event]).state == total
        assert cached.state(deciding, select(types=[Odd])) == total


def test_what_is_recorded_while_a_boundary_is_read_is_folded_once() -> None:
    store = MemoryStore()
    es = EventStore(store, CODEC, cached_states_max=1)
    es.append_to_stream("account-1", [MoneyDeposited(Decimal(1))])
    read, is_first = store.read, True

    async def overtaken(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            await store.append([CODEC.encode(Event("account-2", MoneyDeposited(Decimal(2))))])
        return await read(*args, **kwargs)

    store.read = overtaken  # type: ignore[method-assign]
    everything = select(category="account")
    assert es.state(ACCOUNT, everything).balance == 1
    assert es.state(ACCOUNT, everything).balance == 3
