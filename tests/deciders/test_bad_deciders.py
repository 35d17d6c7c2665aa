"""What a wrong decider or call comes to: an error with the facts, and nothing recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any
from uuid import UUID

import pytest
from decider_bank import ACCOUNT, BANK, CODEC, Account, MoneyDeposited, deposit
from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import (
    ALL,
    Aggregate,
    App,
    AppendConditionFailed,
    Codec,
    Decider,
    Event,
    EventStore,
    EvolveFailed,
    InvalidDecision,
    InvalidEvent,
    InvalidInput,
    Metadata,
    StreamVersion,
    UnknownEventType,
    select,
)

PAID = MoneyDeposited(Decimal(1))


def deciding(decision: Any) -> Decider[Any, Any, Any]:
    return replace(ACCOUNT, decide=lambda command, state: decision)


async def coroutine() -> list[object]:
    return [PAID]


@pytest.mark.parametrize(
    ("decision", "found"),
    [
        (None, "returned None"),
        (PAID, "returned MoneyDeposited; return a list"),
        ("MoneyDeposited", "returned str"),
        ({"amount": 1}, "returned dict"),
        (MoneyDeposited, "returned StructMeta"),
        (7, "returned int"),
        ({PAID}, "returned set"),
    ],
)
def test_what_is_no_list_of_events(es: EventStore, decision: Any, found: str) -> None:
    with pytest.raises(InvalidDecision, match=found) as caught:
        es.handle(deciding(decision), "1", deposit(1))
    assert (caught.value.decider, caught.value.command) == ("account", "Deposit")
    assert "nothing was recorded" in str(caught.value)
    assert es.head() == 0


def test_an_async_decide(es: EventStore) -> None:
    async def decide(command: object, state: object) -> list[object]:
        return [PAID]

    with pytest.raises(InvalidDecision, match="decide is a plain function"):
        es.handle(replace(ACCOUNT, decide=decide), "1", deposit(1))  # type: ignore[type-var]
    assert es.head() == 0


def test_generators_and_tuples_are_lists_of_events(es: EventStore) -> None:
    es.handle(deciding((PAID, PAID)), "1", None)
    es.handle(deciding(each for each in [PAID]), "1", None)
    assert es.head() == 3


def test_an_unknown_command(es: EventStore) -> None:
    with pytest.raises(InvalidDecision, match=r"on str: it returned None.*lack a case"):
        es.handle(ACCOUNT, "1", "Deposit")  # type: ignore[arg-type]
    assert es.head() == 0


class Stranger(Struct, frozen=True):
    pass


def test_an_event_that_the_codec_does_not_know(es: EventStore) -> None:
    with pytest.raises(InvalidEvent, match=r"Stranger.*knows AccountOpened"):
        es.handle(deciding([PAID, Stranger()]), "1", None)
    with pytest.raises(InvalidEvent, match="str"):
        es.handle(deciding(["text"]), "1", None)
    assert es.head() == 0


def test_an_event_with_a_wrong_field(es: EventStore) -> None:
    with pytest.raises(InvalidEvent, match=r"\$\.amount"):
        es.handle(deciding([MoneyDeposited("much")]), "1", None)  # type: ignore[arg-type]
    assert es.head() == 0


def failing(state: Account, event: Any) -> Account:
    raise ZeroDivisionError("by zero")


def test_an_event_that_could_never_be_folded_is_not_recorded(es: EventStore) -> None:
    with pytest.raises(
        InvalidDecision, match="evolve cannot take MoneyDeposited: it raised ZeroDivisionError"
    ):
        es.handle(replace(ACCOUNT, evolve=failing), "1", deposit(1))
    forgotten = replace(ACCOUNT, evolve=lambda state, event: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidDecision, match="returned None, not a state"):
        es.handle(forgotten, "1", deposit(1))
    assert es.head() == 0


def test_an_evolve_that_fails_on_an_old_event(es: EventStore) -> None:
    es.append_to_stream("account-0", [PAID])
    es.append_to_stream("account-1", [PAID, PAID])

    def picky(state: Account, event: Any) -> Account:
        return failing(state, event) if state.balance else Account("", event.amount)

    broken = replace(ACCOUNT, evolve=picky)
    uses = (
        lambda: es.handle(broken, "1", deposit(1)),
        lambda: es.state(broken, "1"),
        lambda: list(es.history(broken, "1")),
        lambda: es.state(broken, select("account-1")),
    )
    for use in uses:
        with pytest.raises(EvolveFailed) as caught:
            use()
        error = caught.value
        assert (error.decider, error.stream, error.version) == ("account", "account-1", 2)
        assert (error.position, error.type) == (3, "MoneyDeposited")
        assert isinstance(error.__cause__, ZeroDivisionError)
        for fact in ("'account-1'", "version 2", "position 3", "ZeroDivisionError: by zero"):
            assert fact in str(error)
    assert es.head() == 3
    assert es.state(broken, "1", at=1).balance == 1


def test_an_evolve_that_forgets_to_return(es: EventStore) -> None:
    es.append_to_stream("account-1", [PAID])
    forgotten = replace(ACCOUNT, evolve=lambda state, event: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(EvolveFailed, match="returned None, not a state"):
        es.state(forgotten, "1")
    # Where None is a state, it is one.
    optional = replace(forgotten, initial_state=None)  # type: ignore[type-var]
    assert es.state(optional, "1") is None


def test_an_old_event_without_a_class(es: EventStore) -> None:
    EventStore(es.store).append([Event("account-1", b"{}", type="Ancient")])
    with pytest.raises(UnknownEventType, match=r"'Ancient'.*'account-1'"):
        es.handle(ACCOUNT, "1", deposit(1))


@dataclass
class Mutable:
    balance: int = 0
    notes: list[str] = field(default_factory=list)


def careless(command: str, state: Mutable) -> list[Any]:
    if command == "count":
        state.balance += 1
    if command == "note":
        state.notes.append("seen")
    return [PAID]


def in_place(state: Mutable, event: Any) -> Mutable:
    state.balance += 1
    return state


@pytest.mark.parametrize("cached", [0, 5])
def test_a_decide_that_changes_the_state(url: str, cached: int) -> None:
    decider = Decider("account", initial_state=Mutable(), decide=careless, evolve=in_place)
    with leftfold.open(url, CODEC, cached_states_max=cached) as es:
        for command in ("count", "note"):
            with pytest.raises(InvalidDecision, match="changed the state"):
                es.handle(decider, "1", command)
        assert es.handle(decider, "1", "").state == Mutable(1)
        with pytest.raises(InvalidDecision, match="changed the state"):
            es.handle(decider, "1", "count")
        assert es.load(decider, "1").state == Mutable(1)
    assert decider.initial_state == Mutable()


@pytest.mark.parametrize("cached", [0, 5])
def test_an_evolve_that_changes_the_state_in_place_does_no_harm(url: str, cached: int) -> None:
    decider = Decider("account", initial_state=Mutable(), decide=careless, evolve=in_place)
    with leftfold.open(url, CODEC, cached_states_max=cached) as es:
        for number in range(1, 4):
            reply = es.handle(decider, "1", "")
            assert reply.state == Mutable(number)
            reply.state.balance = 99
            es.state(decider, "1").notes.append("mine")
        assert es.state(decider, "1") == Mutable(3)
        assert es.state(decider, "2") == decider.initial_state == Mutable()
        assert [(step.before.balance, step.after.balance) for step in es.history(decider, "1")] == [
            (0, 1),
            (1, 2),
            (2, 3),
        ]


def test_names_and_functions_of_a_decider() -> None:
    for category in ("", "bank-account", "a" * 300, 7):
        with pytest.raises(InvalidInput, match="category"):
            replace(ACCOUNT, category=category)  # type: ignore[type-var]
    with pytest.raises(InvalidInput, match="evolve of decider 'account' is a function"):
        replace(ACCOUNT, evolve=None)  # type: ignore[type-var]
    for wrong in ({"stream": 3}, {"snapshots": 3}):
        with pytest.raises(InvalidInput, match="of decider 'account' is a"):
            replace(ACCOUNT, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "boundary", ["", None, 1.5, True, b"1", ("a", "b"), "x" * 300, "\0", "\ud800"]
)
def test_what_is_no_boundary(es: EventStore, boundary: Any) -> None:
    for use in (
        lambda: es.handle(ACCOUNT, boundary, deposit(1)),
        lambda: es.state(ACCOUNT, boundary),
    ):
        with pytest.raises(InvalidInput):
            use()
    assert es.head() == 0


def test_ids_of_other_kinds(es: EventStore) -> None:
    es.handle(ACCOUNT, 7, deposit(1))
    es.handle(ACCOUNT, UUID(int=7), deposit(1))
    assert [event.stream for event in es.read()] == ["account-7", f"account-{UUID(int=7)}"]


def test_what_is_no_decider(es: EventStore) -> None:
    for wrong in ("account", None, BANK, Aggregate):
        with pytest.raises(InvalidInput, match="a Decider"):
            es.handle(wrong, "1", deposit(1))  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="a Decider"):
            es.state(wrong, "1")  # type: ignore[arg-type]


def test_what_is_no_metadata(es: EventStore) -> None:
    with pytest.raises(InvalidInput, match="metadata is a Metadata"):
        es.handle(ACCOUNT, "1", deposit(1), metadata={"actor": "ada"})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="actor"):
        es.handle(ACCOUNT, "1", deposit(1), metadata=Metadata(actor=""))
    with pytest.raises(InvalidInput, match="command_id"):
        es.handle(ACCOUNT, "1", deposit(1), metadata=Metadata(command_id=""))
    assert es.head() == 0


@pytest.mark.parametrize("expected", [-1, "3", 1.5, True])
def test_what_is_no_expected_version(es: EventStore, expected: Any) -> None:
    es.append_to_stream("account-1", [PAID])
    with pytest.raises(InvalidInput, match="expected_version"):
        es.handle(ACCOUNT, "1", deposit(1), expected_version=expected)
    assert es.head() == 1


def test_a_query_without_a_place_for_its_events(es: EventStore) -> None:
    with pytest.raises(InvalidDecision, match="stream="):
        es.handle(ACCOUNT, ALL, deposit(1))
    assert es.head() == 0


def test_two_deciders_of_one_category() -> None:
    with pytest.raises(InvalidInput, match="two deciders or processes of category 'account'"):
        App(codec=CODEC, deciders=[ACCOUNT, ACCOUNT])
    with pytest.raises(InvalidInput, match="no decider of category 'order', it has 'account'"):
        BANK.decider("order")
    assert BANK.decider("account") is ACCOUNT


class Wallet(Aggregate):
    def __init__(self) -> None:
        self.balance = 0

    def pay(self, amount: int) -> None:
        if amount < 0:
            raise ValueError("negative")
        for _ in range(amount):
            self.record(PAID)

    async def pay_later(self) -> None:
        self.record(PAID)

    def apply(self, event: MoneyDeposited) -> None:
        self.balance += int(event.amount)


class Unfinished(Aggregate):
    pass


def test_aggregates(es: EventStore) -> None:
    wallets = Wallet.decider("wallet")
    reply = es.handle(wallets, "1", lambda wallet: wallet.pay(3))
    assert (reply.version, reply.state.balance, reply.events) == (3, 3, (PAID,) * 3)
    with pytest.raises(ValueError, match="negative"):
        es.handle(wallets, "1", lambda wallet: wallet.pay(-1))
    assert es.handle(wallets, "1", lambda wallet: wallet.pay(0)).events == ()
    with pytest.raises(TypeError, match="plain function, found a coroutine"):
        es.handle(wallets, "1", lambda wallet: wallet.pay_later())
    assert es.state(wallets, "1").balance == 3
    assert es.head() == 3
    es.append_to_stream("unfinished-1", [PAID])
    with pytest.raises(EvolveFailed, match=r"Unfinished has no method apply\(self, event\)"):
        es.state(Unfinished.decider("unfinished"), "1")


def test_an_app_is_refused_where_it_is_none(url: str) -> None:
    with pytest.raises(InvalidInput, match="cached_states_max"):
        leftfold.open(url, BANK, cached_states_max=-1)
    with pytest.raises(InvalidInput, match="cached_states_max"):
        leftfold.open(url, BANK, cached_states_max=1.5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="deciders of the App are a list"):
        App(codec=CODEC, deciders="account")  # type: ignore[arg-type]
    assert Codec(Stranger).types[0].cls is Stranger


@dataclass
class Purse(Aggregate):
    balance: int = 0

    def pay(self) -> None:
        self.record(PAID)

    def forget_to_record(self) -> None:
        self.balance -= 1

    def apply(self, event: MoneyDeposited) -> None:
        self.balance += int(event.amount)


def test_an_aggregate_that_changes_without_recording(es: EventStore) -> None:
    purses = Purse.decider("purse")
    assert es.handle(purses, "1", lambda purse: purse.pay()).state == Purse(1)
    with pytest.raises(InvalidDecision, match="changed the state, which is lost"):
        es.handle(purses, "1", lambda purse: purse.forget_to_record())
    assert es.state(purses, "1") == Purse(1)


class Anything(Struct, frozen=True):
    values: dict[str, Any]


def test_what_evolve_gets_is_what_the_log_gives_back(url: str) -> None:
    decider = Decider(
        "n",
        initial_state=Decimal(0),
        decide=lambda command, state: [Anything({"amount": command})],
        evolve=lambda state, event: state + event.values["amount"],
    )
    with leftfold.open(url, Codec(Anything), cached_states_max=5) as es:
        reply = es.handle(decider, "1", 7)
        assert reply.events == (Anything({"amount": 7}),)
        # As JSON it is text, and comes back as that.
        with pytest.raises(InvalidDecision, match="cannot take Anything: it raised TypeError"):
            es.handle(decider, "1", Decimal(7))
        assert es.load(decider, "1").version == 1


def test_a_mutable_state_and_a_conflict(url: str) -> None:
    def decide(command: object, state: Mutable) -> list[Any]:
        if not seen:
            es.append_to_stream("account-1", [PAID])
        seen.append(state.balance)
        return [PAID]

    seen: list[int] = []
    decider = Decider("account", initial_state=Mutable(), decide=decide, evolve=in_place)
    with leftfold.open(url, CODEC, cached_states_max=5) as es:
        es.append_to_stream("account-1", [PAID])
        assert es.handle(decider, "1", None).state == Mutable(3)
        assert seen == [1, 2]
        assert es.state(decider, "1") == Mutable(3)


def test_a_condition_that_decide_itself_fails_is_no_conflict(es: EventStore) -> None:
    failure = AppendConditionFailed(StreamVersion("other", 1), 2)
    calls = 0

    def decide(command: object, state: object) -> list[Any]:
        nonlocal calls
        calls += 1
        raise failure

    with pytest.raises(AppendConditionFailed) as caught:
        es.handle(replace(ACCOUNT, decide=decide), "1", None)
    assert caught.value is failure
    assert calls == 1


class Handle:
    """Without an equality: no copy of it equals it."""


@dataclass
class Untold:
    handle: Handle = field(default_factory=Handle)
    balance: int = 0


def test_a_state_whose_copies_do_not_equal_it_is_not_accused(es: EventStore) -> None:
    decider = Decider(
        "account",
        initial_state=Untold(),
        decide=lambda command, state: [PAID],
        evolve=lambda state, event: Untold(state.handle, state.balance + 1),
    )
    assert es.handle(decider, "1", None).state.balance == 1


def test_an_aggregate_without_equality_that_changes_without_recording(es: EventStore) -> None:
    def lose(wallet: Wallet) -> None:
        wallet.balance += 1

    with pytest.raises(InvalidDecision, match="changed the state"):
        es.handle(Wallet.decider("wallet"), "1", lose)


class Cached(Aggregate):
    def __init__(self) -> None:
        self.balance = 0

    @cached_property
    def twice(self) -> int:
        return self.balance * 2

    def pay(self, amount: int) -> None:
        if amount > 10 - self.twice:
            raise ValueError("too much")
        self.record(Event("", MoneyDeposited(Decimal(amount)), tags=("paid:yes",)))

    def apply(self, event: MoneyDeposited) -> None:
        self.balance += int(event.amount)


def test_an_aggregate_may_record_events_with_tags(es: EventStore) -> None:
    wallets = Cached.decider("wallet")
    assert es.handle(wallets, "1", lambda wallet: wallet.pay(3)).state.balance == 3
    with pytest.raises(ValueError, match="too much"):
        es.handle(wallets, "1", lambda wallet: wallet.pay(5))
    [event] = es.read(select("wallet-1", tags=["paid:yes"]))
    assert event.data == MoneyDeposited(Decimal(3))


def test_steps_of_a_history_are_the_callers_own(es: EventStore) -> None:
    decider = Decider("account", initial_state=Mutable(), decide=careless, evolve=in_place)
    es.append_to_stream("account-1", [PAID] * 1200)
    for step in es.history(decider, "1"):
        assert step.before == Mutable(step.event.version - 1)
        step.before.balance = step.after.balance = -7


def test_a_decider_that_only_folds(es: EventStore) -> None:
    folds = Decider("account", initial_state=0, evolve=lambda state, event: state + 1)
    es.append_to_stream("account-1", [PAID, PAID])
    assert es.state(folds, "1") == 2
    with pytest.raises(InvalidInput, match="only folds"):
        es.handle(folds, "1", "command")
