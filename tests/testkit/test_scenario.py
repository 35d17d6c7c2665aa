"""`given(...).when(...).then(...)` accepts what `handle` would do, and says what differs."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from testkit_account import (
    FIVE,
    ONE,
    THREE,
    Account,
    Deposit,
    Deposited,
    InsufficientFunds,
    Opened,
    Withdraw,
    Withdrawn,
    account,
    codec,
)

from leftfold import Aggregate, Codec, Decider, Event, EvolveFailed, Tag, select
from leftfold.errors import InvalidDecision, InvalidEvent, InvalidInput
from leftfold.testing import given

opened = given(account, Opened("ada"), Deposited(FIVE), codec=codec)


def test_what_is_expected_passes() -> None:
    opened.when(Withdraw(THREE)).then(Withdrawn(THREE)).then_state(Account("ada", Decimal(2)))
    opened.when(Withdraw(Decimal(0))).then_nothing().then_state(Account("ada", FIVE))
    rejection = opened.when(Withdraw(Decimal(6))).then_rejected(InsufficientFunds, match="^1 is")
    assert rejection.missing == 1


def test_the_state_of_given_events_alone_is_checked_too() -> None:
    opened.then_state(Account("ada", FIVE))
    assert opened.state == Account("ada", FIVE)
    with pytest.raises(AssertionError, match=r"owner: expected 'bob', found 'ada'"):
        opened.then_state(Account("bob", FIVE))


def test_commands_follow_one_another() -> None:
    after = opened.when(Withdraw(THREE)).then(Withdrawn(THREE)).when(Deposit(ONE))
    after.then(Deposited(ONE)).then_state(Account("ada", THREE))
    # What was given is as it was.
    opened.when(Withdraw(FIVE)).when(Withdraw(ONE)).then_rejected(InsufficientFunds)


def failure(check: Any) -> str:
    with pytest.raises(AssertionError) as failed:
        check()
    return str(failed.value)


def test_a_difference_is_told_field_by_field_with_the_whole_story() -> None:
    outcome = opened.when(Deposit(ONE)).when(Withdraw(THREE))
    assert failure(lambda: outcome.then(Withdrawn(FIVE))) == dedent("""\
        other events were decided on
          event 1, Withdrawn: amount: expected Decimal('5'), found Decimal('3')

        given Opened(owner='ada')
        given Deposited(amount=Decimal('5'))
        state Account(owner='ada', balance=Decimal('5'))
         when Deposit(amount=Decimal('1'))
              decided Deposited(amount=Decimal('1'))
        state Account(owner='ada', balance=Decimal('6'))
         when Withdraw(amount=Decimal('3'))
              decided Withdrawn(amount=Decimal('3'))""")


def test_missing_and_surplus_events_are_told() -> None:
    outcome = opened.when(Withdraw(THREE))
    text = failure(lambda: outcome.then(Deposited(ONE), Withdrawn(THREE), Withdrawn(ONE)))
    assert "missing, as event 1: Deposited(amount=Decimal('1'))" in text
    assert "missing, as event 3: Withdrawn(amount=Decimal('1'))" in text
    assert "event 1, Withdrawn" not in text
    text = failure(outcome.then_nothing)
    assert "surplus, as event 1: Withdrawn(amount=Decimal('3'))" in text


def test_the_order_of_events_matters() -> None:
    both = replace(account, decide=lambda command, state: [Deposited(ONE), Withdrawn(ONE)])
    failure(lambda: given(both).when(Deposit(ONE)).then(Withdrawn(ONE), Deposited(ONE)))


def test_an_unexpected_rejection_is_told_with_its_reason_and_its_traceback() -> None:
    outcome = opened.when(Withdraw(Decimal(6)))
    for check in (
        lambda: outcome.then(Withdrawn(Decimal(6))),
        outcome.then_nothing,
        lambda: outcome.then_state(Account("ada", FIVE)),
        lambda: outcome.when(Deposit(ONE)),
    ):
        with pytest.raises(AssertionError, match=r"it was rejected: .*1 is missing") as failed:
            check()
        assert isinstance(failed.value.__cause__, InsufficientFunds)


def test_another_rejection_than_the_expected_one_fails() -> None:
    outcome = opened.when(Withdraw(Decimal(6)))
    assert "expected KeyError, found Ins" in failure(lambda: outcome.then_rejected(KeyError))
    check = lambda: outcome.then_rejected(InsufficientFunds, match="2 is")  # noqa: E731
    assert "expected a match of '2 is', found '1 is missing'" in failure(check)
    accepted = opened.when(Withdraw(ONE))
    assert "but it was accepted" in failure(lambda: accepted.then_rejected(InsufficientFunds))


class Wallet(Struct):
    notes: list[int] = []  # msgspec copies it


def take(command: str, wallet: Wallet) -> Any:
    match command:
        case "change":
            wallet.notes.append(1)
            return [Opened("ada")]
        case "nothing":
            return None
        case "text":
            return "Opened"
        case "strange":
            return [object()]
        case "forgotten":
            return [Withdrawn(ONE)]
    return [Opened(command)]


def put(wallet: Wallet, event: object) -> Wallet:
    if not isinstance(event, Opened):
        raise TypeError("unknown")
    return Wallet([*wallet.notes, 1])


wallets = Decider[str, Wallet, Any]("wallet", initial_state=Wallet(), decide=take, evolve=put)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("change", "it changed the state"),
        ("nothing", "it returned None"),
        ("text", "it returned str"),
        ("forgotten", "evolve cannot take Withdrawn: it raised TypeError: unknown"),
    ],
)
def test_a_decision_that_handle_refuses_is_refused(command: str, reason: str) -> None:
    with pytest.raises(InvalidDecision, match=reason):
        given(wallets).when(command)


def test_an_event_that_the_codec_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        given(wallets, codec=codec).when("strange")
    with pytest.raises(InvalidEvent):
        given(wallets, object(), codec=codec)


def test_nobody_outside_can_change_the_state() -> None:
    changed = given(wallets, Opened("ada"))
    changed.state.notes.clear()
    changed.then_state(Wallet([1]))


def test_given_events_that_evolve_cannot_take_are_refused() -> None:
    with pytest.raises(EvolveFailed, match="Withdrawn"):
        given(wallets, Opened("ada"), Withdrawn(ONE))


def test_what_no_store_records_is_refused() -> None:
    endless = Decider("a", initial_state=0, decide=lambda *_: [Event("a\0", ONE)], evolve=max)
    with pytest.raises(InvalidInput, match="no NUL"):
        given(endless).when(1)


class Noted(Struct, frozen=True):
    what: Any


def test_an_event_that_changes_in_the_codec_fails() -> None:
    noted = Decider("note", initial_state=0, decide=lambda c, s: [Noted(c)], evolve=lambda s, e: s)
    given(noted, codec=Codec(Noted)).when([1, "a"]).then(Noted([1, "a"]))
    text = failure(lambda: given(noted, codec=Codec(Noted)).when((1, Decimal(2))))
    assert "Noted does not come back from the codec as it was" in text
    assert "what: expected (1, Decimal('2')), found [1, '2']" in text
    failure(lambda: given(noted, Noted(ONE), codec=Codec(Noted)))
    given(noted).when((1, Decimal(2))).then(Noted((1, Decimal(2))))


class Purse(Aggregate):
    def __init__(self) -> None:
        self.coins: list[int] = []

    def apply(self, event: Deposited) -> None:
        self.coins.append(int(event.amount))

    def put(self, amount: Decimal) -> None:
        if len(self.coins) == 2:
            raise OverflowError("full")
        self.record(Deposited(amount))


def test_aggregates() -> None:
    purses = Purse.decider("purse")
    outcome = given(purses, Deposited(ONE)).when(lambda purse: purse.put(THREE))
    outcome.then(Deposited(THREE))
    outcome.when(lambda purse: purse.put(ONE)).then_rejected(OverflowError)
    # Objects without an equality are compared by their attributes.
    expected = Purse()
    expected.coins = [1, 3]
    outcome.then_state(expected)
    expected.coins[0] = 2
    assert "coins[0]: expected 2, found 1" in failure(lambda: outcome.then_state(expected))


class Enrolled(Struct, frozen=True):
    course: Annotated[str, Tag()]
    student: str


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def enrol(command: tuple[str, str], count: int) -> list[Event[Enrolled]]:
    event = Enrolled(*command)
    return [Event("enrolments", event, tags=(f"student:{command[1]}",), occurred_at=NOON)]


enrolment = Decider[tuple[str, str], int, Any](
    "enrolment", initial_state=0, decide=enrol, evolve=lambda count, event: count + 1
)


def test_an_expected_event_with_a_place_is_compared_with_its_place() -> None:
    math = given(enrolment, codec=Codec(Enrolled)).when(("math", "ada"))
    data = Enrolled("math", "ada")
    math.then(data)
    expected = Event("enrolments", data, tags=("student:ada", "course:math"), occurred_at=NOON)
    math.then(expected)
    # The codec adds the tag of the class to both.
    math.then(replace(expected, tags=("student:ada",)))
    for change, told in (
        ({"stream": "other"}, "stream: expected 'other', found 'enrolments'"),
        ({"tags": ("student:bob",)}, "tags[1]: expected 'student:bob', found 'student:ada'"),
        ({"occurred_at": None}, "occurred_at: expected None, found datetime"),
        ({"data": Enrolled("math", "bob")}, "data.student: expected 'bob', found 'ada'"),
    ):
        event = replace(expected, **change)
        assert told in failure(lambda event=event: math.then(event))


def test_with_a_boundary_only_its_events_are_folded() -> None:
    history = (Enrolled("math", "ada"), Enrolled("art", "ada"))
    boundary = select(tags=["course:math"], types=[Enrolled])
    within = given(enrolment, *history, codec=Codec(Enrolled), boundary=boundary)
    within.when(("math", "bob")).then_state(2)
    within.when(("art", "bob")).then_state(1)
    given(enrolment, *history).when(("art", "bob")).then_state(3)


def test_with_an_id_the_events_of_other_streams_are_not_folded() -> None:
    sent = [Event("account-2", Deposited(ONE)), Withdrawn(ONE)]
    transfer = replace(account, decide=lambda command, state: sent)
    outcome = given(transfer, Deposited(FIVE), boundary="1").when(Deposit(ONE))
    outcome.then(Event("account-2", Deposited(ONE)), Event("account-1", Withdrawn(ONE)))
    outcome.then_state(Account("", Decimal(4)))


def test_without_a_codec_classes_in_a_query_mean_their_names() -> None:
    within = given(account, Opened("ada"), Deposited(ONE), boundary=select(types=[Deposited]))
    within.then_state(Account("", ONE))


def test_an_event_without_a_stream_goes_to_the_usual_one() -> None:
    late = replace(account, decide=lambda c, s: [Event("", Deposited(ONE), occurred_at=NOON)])
    outcome = given(late, Event("", Deposited(FIVE)), boundary="1").when(Deposit(ONE))
    outcome.then(Event("", Deposited(ONE), occurred_at=NOON))
    outcome.then(Event("account-1", Deposited(ONE), occurred_at=NOON))
    outcome.then_state(Account("", Decimal(6)))
    with pytest.raises(InvalidDecision, match="boundary is a query"):
        given(late, boundary=select(types=[Deposited])).when(Deposit(ONE))


def test_over_a_query_a_decision_without_a_stream_is_refused() -> None:
    anywhere = given(account, Deposited(FIVE), boundary=select(types=[Deposited]))
    with pytest.raises(InvalidDecision, match="boundary is a query"):
        anywhere.when(Deposit(ONE))
    partly = given(account, boundary=select("account-1", types=[Deposited]))
    with pytest.raises(InvalidDecision, match="boundary is a query"):
        partly.when(Deposit(ONE))
    given(account, boundary=select("account-1")).when(Deposit(ONE)).then(Deposited(ONE))
    named = replace(account, stream=lambda event: "ledger")
    outcome = given(named, boundary=select(types=[Deposited])).when(Deposit(ONE))
    outcome.then(Event("ledger", Deposited(ONE)))


def test_what_was_decided_and_never_looked_at_gives_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="what came of Withdraw.* was never checked") as warned:
        opened.when(Withdraw(ONE))
    assert warned[0].filename == __file__


def run_pytest(directory: Path, body: str, *options: str) -> str:
    (directory / "test_it.py").write_text(
        "from testkit_account import *\nfrom leftfold.testing import given\n\n"
        f"def test_it():\n    {body}\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_it.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout
    return run.stdout


def test_pytest_shows_the_line_of_the_test_and_the_difference_alone(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "given(account).when(Deposit(ONE)).then(Deposited(THREE))")
    assert ">       given(account).when(Deposit(ONE)).then(Deposited(THREE))" in output
    assert "event 1, Deposited: amount: expected Decimal('3'), found Decimal('1')" in output
    assert "scenario.py" not in output


def test_where_warnings_are_errors_a_forgotten_then_fails(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, "given(account).when(Deposit(ONE))", "-W", "error")
    assert "was never checked" in output
