"""Orders that come twice, late, or out of their turn: what an instance makes of each."""

from __future__ import annotations

from datetime import timedelta
from functools import reduce
from typing import Any

import process_bank as bank
from msgspec import Struct

from leftfold import select
from leftfold.process import Call, ProcessManager, Timer
from leftfold.process import events as log
from leftfold.process.instance import Instance
from leftfold.process.stepping import Answer, Cancel, Fire, Order, decider_of
from leftfold.testing.processes import given_process


class Go(Struct, frozen=True):
    pass


def react(state: Any, event: Any) -> list[Any]:
    if not isinstance(event.data, Go):
        return []
    back = Call("bank", bank.Withdraw(1))
    pay = Call("bank", bank.Deposit(1), step="pay", compensate=back)
    return [pay, Timer("late", after=timedelta(1)), Timer("late", after=timedelta(2))]


process = ProcessManager(
    "order",
    key=lambda event: "1",
    query=select(types=[Go]),
    initial_state=(),
    evolve=lambda state, event: (*state, type(event.data).__name__),
    react=react,
    commands=bank.COMMANDS,
    calls={"bank": lambda request, key: None},
)
decider = decider_of(process)


def after(*orders: Order) -> tuple[Instance, list[str]]:
    """An instance that was begun and then got these, and what the last of them came to."""
    instance: Instance = given_process(process, Go()).instance
    names: list[str] = []
    for order in orders:
        events = decider.decide(order, instance)
        names = [type(each).__name__ for each in events]
        instance = reduce(decider.evolve, events, instance)
    return instance, names


def test_only_the_timer_that_is_set_fires() -> None:
    first, second = Fire("late", 1), Fire("late", 2)
    assert after(first)[1] == []
    assert after(second)[1] == ["TimerFired"]
    assert after(second, second)[1] == []


def test_a_step_is_answered_once_and_for_its_own_attempt() -> None:
    done = Answer("pay", 1, "done")
    assert after(done)[1] == ["StepDone"]
    assert after(done, done)[1] == []
    assert after(done, Answer("pay", 1, "rejected", "late"))[1] == []
    assert after(Answer("pay", 2, "done"))[1] == []


def test_a_call_that_is_made_again_is_waited_for_before_anything_is_taken_back() -> None:
    unreached = Answer("pay", 1, "unreached", "dead")
    cancel = Cancel("fraud", "ada", compensate=True)
    instance, names = after(unreached, cancel)
    assert (instance.phase, names) == ("compensating", ["Cancelled", "Compensating"])
    [timer] = instance.timers
    assert timer.retries
    again = Fire(timer.name, timer.number)
    instance, names = after(unreached, cancel, again)
    assert (instance.timers, names) == ((), [log.StepSent.__name__])
    _, names = after(unreached, cancel, again, Answer("pay", 2, "done"))
    assert names == ["StepDone", "StepSent"]
    ended, _ = after(Answer("pay", 1, "done"), cancel, Answer("undo pay", 1, "done"))
    assert (ended.phase, ended.timers) == ("cancelled", ())
