"""The machine passes a good decider, and finds each kind of bug."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from msgspec import Struct
from msgspec.structs import replace
from testkit_account import (
    Account,
    Deposit,
    Deposited,
    InsufficientFunds,
    Withdraw,
    Withdrawn,
    account,
    codec,
    evolve,
    is_solvent,
)

import leftfold.face
import leftfold.testing.deciders
from leftfold import (
    Aggregate,
    Codec,
    Decider,
    Event,
    EventStore,
    InvalidDecision,
    Snapshots,
    Tag,
    select,
)
from leftfold.cache import StateCache
from leftfold.errors import LeftfoldError
from leftfold.stores.memory_snapshots import MemorySnapshots
from leftfold.testing import decider_machine

amounts = st.integers(0, 9).map(Decimal)
commands = st.builds(Deposit, amounts) | st.builds(Withdraw, amounts)
asked = {"invariant": is_solvent, "rejections": (InsufficientFunds,), "codec": codec}

TestAccount = decider_machine(account, commands, **asked).TestCase
TestTwoAccountsWithoutCodec = decider_machine(
    replace(account, snapshots=None),
    {"1": commands, "2": commands},
    invariant=is_solvent,
    rejections=(InsufficientFunds,),
).TestCase


@dataclass
class Purse(Aggregate):
    coins: int = 0

    def apply(self, event: Deposited) -> None:
        self.coins += int(event.amount)

    def put(self, amount: Decimal) -> None:
        self.record(Deposited(amount))


TestAggregate = decider_machine(
    Purse.decider("purse", snapshots=Snapshots()),
    amounts.map(lambda amount: lambda purse: purse.put(amount)),
    invariant=lambda purse: purse.coins >= 0,
    codec=codec,
).TestCase


class Enrolled(Struct, frozen=True):
    course: Annotated[str, Tag()]
    student: Annotated[str, Tag()]


class Full(Exception):
    pass


def enrol(command: tuple[str, str], enrolled: list[str]) -> list[Event[Enrolled]]:
    course, student = command
    if enrolled.count(course) == 2:
        raise Full
    return [Event(f"course-{course}", Enrolled(course, student))]


enrolment = Decider[tuple[str, str], list[str], Any](
    "enrolment",
    initial_state=[],
    decide=enrol,
    evolve=lambda enrolled, event: [*enrolled, event.course],
    snapshots=Snapshots(),
)
enrolments = {
    select(tags=[f"course:{course}"]) | select(tags=[f"student:{student}"]): st.just(
        (course, student)
    )
    for course in ("math", "art")
    for student in ("ada", "bob")
}
courses = {"rejections": (Full,), "codec": Codec(Enrolled)}

TestBoundaries = decider_machine(
    enrolment, enrolments, invariant=lambda enrolled: enrolled.count("math") <= 2, **courses
).TestCase

for each in (TestAccount, TestTwoAccountsWithoutCodec, TestAggregate, TestBoundaries):
    each.settings = settings(each.settings, max_examples=30)


def failure(machine: Any, kind: type[Exception] = AssertionError) -> Exception:
    """What the machine finds, told by Hypothesis. Derandomized: it finds it always, or never."""
    once = settings(
        machine.TestCase.settings, derandomize=True, database=None, report_multiple_bugs=False
    )
    with pytest.raises(kind) as found:
        run_state_machine_as_test(machine, settings=once)
    return found.value


def steps(error: Exception) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if "state.handle(" in note]


def test_finds_an_overdraft_and_shrinks_it_to_one_command() -> None:
    def careless(command: Any, state: Account) -> list[Any]:
        return [Withdrawn(command.amount)] if isinstance(command, Withdraw) else []

    error = failure(decider_machine(replace(account, decide=careless), commands, **asked))
    assert "the invariant returned False of Account" in str(error)
    assert len(steps(error)) == 1
    assert "Withdraw(Decimal(1))" in steps(error)[0]


def test_finds_a_bug_of_the_second_boundary() -> None:
    only = {"1": st.just(Deposit(Decimal(1))), "2": st.just(Deposit(Decimal(2)))}
    machine = decider_machine(account, only, invariant=lambda state: state.balance < 2)
    assert steps(failure(machine))


def test_finds_an_invariant_that_forgets_to_return() -> None:
    error = failure(
        decider_machine(account, commands, **{**asked, "invariant": lambda state: None})
    )
    assert "the invariant returned None" in str(error)


def test_finds_a_rejection_that_is_not_listed() -> None:
    failure(decider_machine(account, commands, invariant=is_solvent), InsufficientFunds)


class Wallet(Struct):
    notes: list[Decimal] = []  # msgspec copies it


def test_finds_a_decide_that_changes_the_state_whatever_is_listed() -> None:
    def greedy(command: Any, wallet: Wallet) -> list[Any]:
        wallet.notes.append(command.amount)
        return [Deposited(command.amount)]

    wallets = Decider("wallet", initial_state=Wallet(), decide=greedy, evolve=lambda s, e: s)
    machine = decider_machine(
        wallets, commands, invariant=lambda state: True, rejections=(Exception,)
    )
    assert "changed the state" in str(failure(machine, InvalidDecision))


def test_finds_a_decide_that_changes_its_command() -> None:
    def eat(command: list[int], state: int) -> list[Any]:
        command.clear()
        return []

    eater = Decider("eater", initial_state=0, decide=eat, evolve=lambda s, e: s)
    machine = decider_machine(
        eater, st.lists(st.integers(), min_size=1), invariant=lambda state: True
    )
    assert "the command that decide was given" in str(failure(machine))


def test_finds_a_decide_that_uses_chance() -> None:
    def gamble(command: Any, state: Account) -> list[Any]:
        return [Deposited(Decimal(random.randint(1, 1000)))]

    error = failure(decider_machine(replace(account, decide=gamble), commands, **asked))
    assert "repeated, differs" in str(error)


def test_finds_a_rejection_that_depends_on_chance() -> None:
    def gamble(command: Any, state: Account) -> list[Any]:
        if random.random() < 0.5:
            raise InsufficientFunds(Decimal(1))
        return []

    error = failure(decider_machine(replace(account, decide=gamble), commands, **asked))
    assert "InsufficientFunds" in str(error)


def test_finds_a_kind_of_rejection_that_depends_on_chance() -> None:
    def gamble(command: Any, state: Account) -> list[Any]:
        raise random.choice([InsufficientFunds(Decimal(1)), KeyError()])

    both = {**asked, "rejections": (InsufficientFunds, KeyError)}
    error = failure(decider_machine(replace(account, decide=gamble), commands, **both))
    assert "repeated, differs" in str(error)


def test_finds_an_evolve_that_forgets_a_case() -> None:
    def forgets(state: Account, event: Any) -> Account:
        if isinstance(event, Withdrawn):
            raise TypeError("unknown")
        return evolve(state, event)

    machine = decider_machine(replace(account, evolve=forgets), commands, **asked)
    error = failure(machine, InvalidDecision)
    assert "evolve cannot take Withdrawn: it raised TypeError" in str(error)
    assert len(steps(error)) == 2


def test_finds_an_evolve_that_counts_outside_of_the_state() -> None:
    calls: list[int] = []

    def counts(state: Account, event: Any) -> Account:
        calls.append(1)
        return Account("", Decimal(len(calls)))

    error = failure(decider_machine(replace(account, evolve=counts), commands, **asked))
    assert "evolve on Deposited(amount=Decimal('1')), repeated" in str(error)


def test_finds_an_evolve_that_changes_the_state_it_replaces() -> None:
    def shares(wallet: Wallet, event: Deposited) -> Wallet:
        wallet.notes.append(event.amount)
        return Wallet(wallet.notes)

    def in_place(wallet: Wallet, event: Deposited) -> Wallet:
        wallet.notes.append(event.amount)
        return wallet

    wallets = Decider[Any, Wallet, Any](
        "wallet", initial_state=Wallet(), decide=lambda c, s: [Deposited(c)], evolve=shares
    )
    machine = decider_machine(wallets, amounts, invariant=lambda state: True)
    assert "the state that evolve was given" in str(failure(machine))
    # What the fold alone owns may be changed in place, as aggregates are.
    machine = decider_machine(
        replace(wallets, evolve=in_place), amounts, invariant=lambda state: True
    )
    few = settings(machine.TestCase.settings, max_examples=20, derandomize=True, database=None)
    run_state_machine_as_test(machine, settings=few)


class Listed(Struct):
    items: list[int]


def test_finds_an_evolve_that_changes_the_event() -> None:
    def marks(state: int, event: Listed) -> int:
        event.items[0] = 7
        return state + 1

    marker = Decider("marker", initial_state=0, decide=lambda c, s: [Listed([c])], evolve=marks)
    machine = decider_machine(marker, st.integers(0, 3), invariant=lambda state: True)
    assert "the event that evolve was given" in str(failure(machine))


class Noted(Struct, frozen=True):
    what: Any


def test_finds_an_event_that_changes_in_the_codec() -> None:
    def tells(state: str, event: Noted) -> str:
        return type(event.what).__name__

    noted = Decider("note", initial_state="", decide=lambda c, s: [Noted(c)], evolve=tells)
    machine = decider_machine(noted, amounts, invariant=lambda state: True, codec=Codec(Noted))
    error = failure(machine)
    assert "the events read back through the codec, differs" in str(error)
    assert len(steps(error)) == 1


class Total(Struct, frozen=True):
    parts: tuple[Any, ...] = ()


def test_finds_a_state_that_snapshots_cannot_keep() -> None:
    totals = Decider(
        "total",
        initial_state=Total(),
        decide=lambda c, s: [Deposited(c)],
        evolve=lambda s, e: Total((*s.parts, e.amount)),
        snapshots=Snapshots(),
    )
    machine = decider_machine(totals, amounts, invariant=lambda state: True, codec=codec)
    assert "the state kept as a snapshot" in str(failure(machine))


def test_finds_wrong_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lying(MemorySnapshots):
        async def find(self, *args: Any, **bounds: Any) -> Any:
            found = await super().find(*args, **bounds)
            wrong = msgspec.msgpack.encode(Account("eve"))
            return found and msgspec.structs.replace(found, data=wrong)

    monkeypatch.setattr(leftfold.testing.deciders, "MemorySnapshots", Lying)
    failure(decider_machine(account, commands, **asked))


def test_finds_a_stale_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lying(StateCache):
        def get(self, *args: Any) -> Any:
            found = super().get(*args)
            return found and msgspec.structs.replace(found, state=Account("eve"))

    monkeypatch.setattr(leftfold.face, "StateCache", Lying)
    failure(decider_machine(account, commands, **asked))


@pytest.mark.parametrize("is_earlier", [False, True])
def test_finds_a_load_that_is_wrong(monkeypatch: pytest.MonkeyPatch, is_earlier: bool) -> None:
    load = EventStore.state

    def lie(self: EventStore, *where: Any, at: int | None = None) -> Any:
        found = load(self, *where, at=at)
        return Account("eve") if (at is not None) == is_earlier else found

    monkeypatch.setattr(EventStore, "state", lie)
    told = str(failure(decider_machine(account, commands, **asked)))
    assert ("the state loaded at=" if is_earlier else "the state loaded through") in told


@pytest.mark.parametrize(("wrong", "value"), [("state", Account("eve")), ("version", 99)])
def test_finds_a_handle_that_returns_something_wrong(
    monkeypatch: pytest.MonkeyPatch, wrong: str, value: object
) -> None:
    handle = EventStore.handle
    monkeypatch.setattr(
        EventStore,
        "handle",
        lambda *order: msgspec.structs.replace(handle(*order), **{wrong: value}),
    )
    told = str(failure(decider_machine(account, commands, **asked)))
    assert f"the {wrong} that handle returned, differs" in told


def test_commands_are_handled_with_snapshots_and_with_a_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle, seen = EventStore.handle, set()

    def note(self: EventStore, *order: Any) -> Any:
        seen.add((self._parts.cache is None, self._parts.snapshotting is None))
        return handle(self, *order)

    monkeypatch.setattr(EventStore, "handle", note)
    machine = decider_machine(account, commands, **asked)
    few = settings(machine.TestCase.settings, max_examples=3, derandomize=True, database=None)
    run_state_machine_as_test(machine, settings=few)
    assert seen == {(True, False), (False, True)}


def test_finds_a_boundary_that_is_too_narrow() -> None:
    narrow = {
        select(tags=["student:ada"]): st.just(("math", "ada")),
        select(tags=["student:bob"]): st.just(("math", "bob")),
        select(types=[Enrolled]): st.nothing(),
    }
    machine = decider_machine(
        enrolment, narrow, invariant=lambda enrolled: enrolled.count("math") <= 2, **courses
    )
    assert len(steps(failure(machine))) == 3


def test_does_not_depend_on_speed_and_does_not_explain() -> None:
    asked_for = decider_machine(account, commands, **asked).TestCase.settings
    assert asked_for.deadline is None
    assert asked_for.suppress_health_check
    assert Phase.explain not in asked_for.phases


def test_the_errors_of_leftfold_are_never_rejections() -> None:
    def refuses(command: Any, state: Account) -> list[Any]:
        raise LeftfoldError("no")

    machine = decider_machine(
        replace(account, decide=refuses),
        commands,
        invariant=is_solvent,
        rejections=(LeftfoldError,),
        codec=codec,
    )
    failure(machine, LeftfoldError)
