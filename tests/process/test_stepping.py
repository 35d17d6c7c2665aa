"""What a process makes of what comes in: the pure part, with given/when/then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import process_bank as bank
import pytest
from msgspec import Struct
from process_bank import Deposit, Transfer, TransferRequested, Withdraw, transfers

from leftfold import Event, InvalidInput, RecordedEvent, select
from leftfold.process import (
    Answered,
    Call,
    CancelTimer,
    Compensate,
    Done,
    NoAnswer,
    ProcessManager,
    Send,
    StepDone,
    StepRejected,
    StepSkipped,
    Timer,
    TimerFired,
)
from leftfold.process.stepping import decider_of
from leftfold.testing import given_process

REQUESTED = TransferRequested("a", "b", 5)
TAKE = Send("account", "a", Withdraw(5), step="take", compensate=Deposit(5))
GIVE = Send("account", "b", Deposit(5), step="give")
UNDO_TAKE = Send("account", "a", Deposit(5), step="undo take")


class Go(Struct, frozen=True):
    pass


class Paid(Struct, frozen=True):
    pass


def process(
    react: Callable[[list[str], Any], Any], evolve: Any = None, **options: Any
) -> ProcessManager[Any]:
    """One whose state is the names of what came in, and which reacts to the data."""

    def names(state: Any, event: RecordedEvent[Any]) -> Any:
        return [*state, type(event.data).__name__]

    given: dict[str, Any] = {
        "key": lambda event: "1",
        "query": select(types=[Go, Paid]),
        "initial_state": [],
        "commands": [Deposit, Withdraw],
        **options,
    }
    return ProcessManager(
        "order",
        evolve=evolve or names,
        react=lambda state, event: react(state, event.data),
        **given,
    )


def send(step: str, **options: Any) -> Send:
    return Send("account", "a", Deposit(1), step=step, **options)


def test_a_transfer_takes_then_gives_then_is_done() -> None:
    given_process(transfers, codec=bank.codec).when(REQUESTED).then(TAKE).when(
        StepDone("take")
    ).then(GIVE).when(StepDone("give")).then(Done()).then_status("done").then_state(
        Transfer("b", 5)
    )


def test_a_rejected_step_takes_back_those_before() -> None:
    back = given_process(transfers, REQUESTED, StepDone("take"), codec=bank.codec).when(
        StepRejected("give", "closed")
    )
    back.then(Compensate("step 'give' was rejected: closed"), UNDO_TAKE)
    back.then_status("compensating").when(StepDone("undo take")).then_status("compensated")


def test_nothing_is_taken_back_where_nothing_was_done() -> None:
    refused = given_process(transfers, REQUESTED).when(StepRejected("take", "no funds"))
    refused.then(Compensate("step 'take' was rejected: no funds")).then_status("compensated")


def test_steps_are_taken_back_in_reverse_one_after_the_other() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        match data:
            case Go():
                return [send(each, compensate=Withdraw(int(each))) for each in ("1", "2", "3")]
            case Paid():
                return [Compensate("no")]
        return []

    steps = [StepDone("2"), StepDone("3"), StepDone("1")]
    back = given_process(process(react), Go(), *steps).when(Paid())
    undo = [Send("account", "a", Withdraw(n), step=f"undo {n}") for n in (1, 2, 3)]
    back.then(Compensate("no"), undo[2])
    back = back.when(StepDone("undo 3")).then(undo[1]).when(StepDone("undo 2")).then(undo[0])
    back.when(StepDone("undo 1")).then_nothing().then_status("compensated")


def test_steps_under_way_are_waited_for_before_any_is_taken_back() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        if isinstance(data, Go):
            return [send("one", compensate=Withdraw(1)), send("two", compensate=Withdraw(2))]
        return [Compensate("no")] if isinstance(data, Paid) else []

    waits = given_process(process(react), Go(), StepDone("one")).when(Paid())
    waits.then(Compensate("no")).then_status("compensating")
    late = Send("account", "a", Withdraw(2), step="undo two")
    waits.when(StepDone("two")).then(late)
    one = Send("account", "a", Withdraw(1), step="undo one")
    waits.when(StepRejected("two", "never mind")).then(one)


def test_what_takes_back_a_step_and_is_rejected_waits_for_repair() -> None:
    back = given_process(transfers, REQUESTED, StepDone("take"), StepRejected("give", "closed"))
    stuck = back.when(StepRejected("undo take", "closed too")).then_stuck(match="closed too")
    again = stuck.retried(actor="ada").then(UNDO_TAKE).when(StepDone("undo take"))
    again.then_status("compensated")
    skipped = stuck.skipped(reason="paid by hand", actor="ada").then_status("compensated")
    assert skipped.instance.step("take").status == "skipped"


def test_a_timer_fires_once_when_its_time_has_come() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        if isinstance(data, Go):
            return [Timer("late", after=timedelta(hours=1))]
        return [Done()] if isinstance(data, TimerFired) else []

    waiting = given_process(process(react)).when(Go()).then(Timer("late", after=bank.HOUR))
    waiting.after(minutes=59).then_nothing().after(minutes=1).then(Done()).after(hours=9).then()
    waiting.after(hours=2).then(Done()).then_state(["Go", "TimerFired"])


def test_timers_are_cancelled_and_replaced_by_name() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        if isinstance(data, Go):
            return [Timer("late", after=timedelta(hours=len(state)))]
        return [CancelTimer("late"), CancelTimer("never")] if isinstance(data, Paid) else []

    waiting = given_process(process(react), Go())
    waiting.when(Paid()).then(CancelTimer("late")).after(hours=9).then_nothing().then_state(
        ["Go", "Paid"]
    )
    twice = waiting.having(Go()).after(minutes=90).then_state(["Go", "Go"])
    twice.after(hours=9).then_state(["Go", "Go", "TimerFired"])


def test_a_moment_that_has_passed_fires_at_once_and_late_ones_in_their_order() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        if isinstance(data, Go):
            past = [Timer(f"{year}", at=datetime(year, 1, 1, tzinfo=UTC)) for year in (1999, 1998)]
            return [Timer("later", after=timedelta(hours=1)), *past]
        return []

    def fired(state: Any, event: Any) -> Any:
        return [*state, event.data.name] if isinstance(event.data, TimerFired) else state

    late = given_process(process(react, fired), Go())
    late.after(seconds=0).then_state(["1998", "1999"]).after(days=1).then_state(
        ["1998", "1999", "later"]
    )


def test_a_step_without_answer_in_time_is_taken_back() -> None:
    asked = send("pay", compensate=Withdraw(1), answer_within=bank.HOUR)

    def react(state: Any, data: Any) -> list[Any]:
        match data:
            case Go():
                return [asked]
            case Paid():
                return [Answered("pay")]
        return []

    waiting = given_process(process(react)).when(Go()).then(asked).having(StepDone("pay"))
    undo = Send("account", "a", Withdraw(1), step="undo pay")
    silent = waiting.after(hours=1).then(Compensate("step 'pay' had no answer in time"), undo)
    silent.when(StepDone("undo pay")).then_status("compensated")
    waiting.when(Paid()).then(Answered("pay")).after(hours=9).then_nothing()


def test_no_answer_can_be_reacted_to() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        if isinstance(data, Go):
            return [send("pay", answer_within=bank.HOUR)]
        return [Done()] if isinstance(data, NoAnswer) else []

    delivered = given_process(process(react), Go(), StepDone("pay"))
    delivered.after(hours=2).then(Done()).then_status("done")


def test_events_are_recorded_together_with_the_reaction() -> None:
    made = Event("ledger-1", Paid())
    given_process(process(lambda state, data: [made, Done()])).when(Go()).then(made, Done())


def test_what_comes_after_the_end_is_passed_over() -> None:
    ended = given_process(process(lambda state, data: [Done()]), Go())
    ended.when(Paid()).then_nothing().then_state(["Go"])


def test_what_changes_nothing_starts_no_instance() -> None:
    idle = process(lambda state, data: [], evolve=lambda state, event: state)
    assert given_process(idle).when(Go()).instance == given_process(idle).instance


def test_a_reaction_that_raises_holds_that_instance_and_keeps_what_comes_in() -> None:
    faulty = [True]

    def react(state: Any, data: Any) -> list[Any]:
        if faulty and isinstance(data, Go):
            raise ValueError("no such thing")
        return []

    stuck = given_process(process(react)).when(Go()).then_stuck(match="ValueError: no such thing")
    stuck = stuck.when(Paid()).then_nothing().then_state([])
    again = stuck.retried(actor="ada").then_stuck(match="no such thing")
    skipped = again.skipped(reason="a test", actor="ada").then_status("running")
    skipped.then_state(["Paid"])
    faulty.clear()
    again.retried(actor="ada").then_status("running").then_state(["Go", "Paid"])


def test_an_evolve_that_raises_holds_that_instance() -> None:
    def evolve(state: Any, event: Any) -> Any:
        raise KeyError("amount")

    stuck = given_process(process(lambda state, data: [], evolve)).when(Go())
    stuck.then_stuck(match="KeyError: 'amount'")


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        ([Send("shop", "1", Deposit(1))], "has no decider 'shop'"),
        ([Send("account", "1", Go())], "not registered"),
        ([Send("account", "", Deposit(1))], "found ''"),
        ([Call("stripe", Deposit(1))], "no call 'stripe'"),
        ([Answered("pay")], "no step of the instance: 'pay'"),
        ([send("one"), send("one")], "'one' was sent already"),
        ([send("undo it")], "not begin with 'undo '"),
        ([Timer("x")], "either after= or at="),
        ([Timer("x", after=timedelta(-1))], "lies ahead"),
        ([Timer("x", at=datetime.fromisoformat("2000-01-01"))], "time zone"),
        ([Timer("call x", after=timedelta(1))], "not begin with 'answer ' or 'call '"),
        ([Done(), send("one")], "nothing comes after"),
        ([Compensate(), Done()], "nothing comes after"),
        ([Event("order-1", Paid())], "not a process's own"),
        ([Event("", Paid())], "names is not empty"),
        ([Deposit(1)], "no output of a reaction"),
        (None, "returns a list"),
        ("Done", "returns a list"),
    ],
)
def test_reactions_that_ask_for_what_cannot_be_are_refused(outputs: Any, match: str) -> None:
    faulty = process(lambda state, data: outputs)
    given = given_process(faulty)
    given._decider = decider_of(faulty, ["account"])
    after = given._copy("")
    after._decider = given._decider
    after._decide(after._order(Go()))
    after.then_stuck(match=match).then_state([])


def test_an_endless_loop_of_reactions_is_stopped() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        return [Timer("again", after=timedelta())]

    endless = given_process(process(react, reactions_max=50), Go()).after(seconds=1)
    endless.then_stuck(match="reacted 50 times within one conversation")
    assert len(endless.instance.state) == 50


def test_an_instance_goes_on_by_the_version_that_it_was_started_by() -> None:
    old = process(lambda state, data: [send("old")] if isinstance(data, Paid) else [])
    new = process(lambda state, data: [send("new")], version=2, earlier=[old])
    going = given_process(old, Go())
    going._process, going._decider = new, given_process(new)._decider
    going.when(Paid()).then(send("old"))


def test_an_instance_is_migrated_by_a_declared_function() -> None:
    old = process(lambda state, data: [])
    new = process(
        lambda state, data: [Done()],
        version=2,
        earlier=[old],
        migrate=lambda state, version: [f"from {version}", *state],
    )
    going = given_process(old, Go())
    going._process, going._decider = new, given_process(new)._decider
    going.when(Paid()).then(Done()).then_state(["from 1", "Go", "Paid"])


def test_an_instance_of_an_unknown_version_waits_for_repair() -> None:
    old = process(lambda state, data: [])
    new = process(lambda state, data: [Done()], version=2)
    going = given_process(old, Go())
    going._process, going._decider = new, given_process(new)._decider
    going.when(Paid()).then_stuck(match="goes by version 1, and the App has version 2")


def test_a_renamed_step_is_refused() -> None:
    old = process(lambda state, data: [send("reserve")], steps=["reserve"])
    new = process(lambda state, data: [], steps=["hold"])
    going = given_process(old, Go())
    going._process, going._decider = new, given_process(new)._decider
    going.when(Paid()).then_stuck(match="step 'reserve', which version 1 does not: that has 'hold'")


def test_a_process_is_cancelled_with_and_without_compensation() -> None:
    going = given_process(transfers, REQUESTED, StepDone("take"))
    back = going.cancelled(reason="fraud", actor="ada")
    back.then(Compensate("fraud"))
    assert back.instance.phase == "compensating"
    late = back.when(StepDone("give"))
    done = late.then(UNDO_TAKE).when(StepDone("undo take")).then_status("cancelled")
    assert done.instance.reason == "fraud"
    going.cancelled(reason="fraud", actor="ada", compensate=False).then_status("cancelled")
    with pytest.raises(InvalidInput, match="is cancelled, so"):
        done.cancelled(reason="again", actor="ada")


def test_a_step_that_nobody_answers_is_skipped_with_a_reason() -> None:
    def react(state: Any, data: Any) -> list[Any]:
        if isinstance(data, Go):
            return [send("pay", answer_within=bank.HOUR)]
        return [Done()] if isinstance(data, StepSkipped) else []

    waiting = given_process(process(react), Go(), StepDone("pay"))
    waiting.skipped("pay", reason="by phone", actor="ada").then(Done())
    with pytest.raises(InvalidInput, match="no step 'give'"):
        waiting.skipped("give", reason="x", actor="ada")


def test_a_rejection_after_the_end_waits_for_repair() -> None:
    ended = given_process(process(lambda state, data: [send("mail"), Done()]), Go())
    ended.when(StepRejected("mail", "no address")).then_stuck(match="no address")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"version": 0}, "version of 'order'"),
        ({"start": "later"}, "'first' or 'now'"),
        ({"query": "all"}, "made with select"),
        ({"commands": Deposit}, "put it in brackets"),
        ({"calls": {"a": 1}}, "call 'a' of process 'order' is a function"),
        ({"migrate": lambda state, version: state}, "earlier="),
        ({"reactions_max": 0}, "reactions_max"),
    ],
)
def test_unusable_definitions_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        process(lambda state, data: [], **options)
