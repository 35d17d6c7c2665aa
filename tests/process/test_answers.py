"""Answers and timers of an instance: none is lost, and none has an effect that is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from process_told import CHARGE, HOUR, SOLD, TAKE, Do, Go, Told, process, reacting, recorded

from leftfold import Event, InvalidInput
from leftfold.process import (
    Answered,
    Compensate,
    Done,
    NoAnswer,
    Send,
    StepDone,
    StepSkipped,
    Timer,
    TimerFired,
)
from leftfold.process import events as log
from leftfold.process.stepping import Answer, Cancel, Fire, React, Retry, Skip


def test_an_answer_and_a_timer_that_cannot_be_recorded_wait_for_repair() -> None:
    told = Told(process(reacting({Go: [Timer("late", after=HOUR), SOLD], TimerFired: [Done()]})))
    told.go()
    assert told.fire("late", "too long") == ["Held", "Quarantined"]
    assert "too long" in told.now.stuck
    assert told.do(Retry("ada")) == ["Retried", "TimerFired", "Ended"]
    told = Told(process(reacting({Go: [SOLD], StepDone: [Done()]})))
    told.go()
    assert told.do(Answer("take", 1, "done", refused="too long")) == ["Held", "Quarantined"]
    assert told.do(Retry("ada")) == ["Retried", "StepDone", "Ended"]


def retrying(**outputs: Any) -> Told:
    """A call that failed once, and is to be made again."""
    told = Told(process(reacting({Go: [CHARGE], StepSkipped: [Done()]})))
    told.go()
    told.do(Answer("charge", 1, "unreached", "down"))
    assert told.status("charge") == "retrying"
    assert {*told.row.timers} == {"answer charge", "call charge"}
    return told


def test_a_call_that_counts_as_unanswered_is_not_made_again() -> None:
    told = retrying()
    again = told.now.timer("call charge")
    assert again is not None
    told.fire("answer charge")
    assert told.now.timers == ()
    assert told.row.timers == {}
    assert told.do(Fire("call charge", again.number)) == []
    told.do(Answer("undo charge", 1, "done"))
    assert told.now.status == told.row.status == "compensated"


def test_a_call_that_was_skipped_is_not_made_again() -> None:
    told = retrying()
    told.do(Skip("charge", "by hand", "ada"))
    assert told.status("charge") == "skipped"
    assert (told.now.timers, told.row.timers) == ((), {})


def test_a_call_of_a_process_that_was_cancelled_is_not_made_again() -> None:
    told = retrying()
    told.do(Cancel("fraud", "ada", compensate=False))
    assert (told.now.timers, told.row.timers) == ((), {})
    told = Told(process(reacting({Go: [CHARGE]})))
    told.go()
    told.do(Cancel("fraud", "ada", compensate=False))
    told.do(Answer("charge", 1, "unreached", "down"))
    assert (told.now.timers, told.row.timers) == ((), {})


def test_a_call_with_its_answer_is_still_made_again() -> None:
    told = Told(process(lambda state, data: [Answered("charge")] if data == Go(1) else [CHARGE]))
    told.go()
    told.do(Answer("charge", 1, "unreached", "down"))
    told.go(1)
    assert [each.name for each in told.now.timers] == [*told.row.timers] == ["call charge"]
    assert told.fire("call charge") == ["StepSent"]


def test_a_command_that_was_not_delivered_yet_is_not_unanswered() -> None:
    told = Told(process(reacting({Go: [TAKE]})))
    told.go()
    assert told.fire("answer take") == []
    told.do(Answer("take", 1, "done"))
    assert told.fire("answer take")[0] == "NoAnswer"
    assert told.status("undo take") == "sent"
    told = Told(process(reacting({Go: [TAKE]})))
    told.go()
    told.do(Answer("take", 1, "failed", "no decider"))
    assert told.fire("answer take") == []
    told.do(Retry("ada"))
    assert told.status("take") == "sent"


@pytest.mark.parametrize("is_skipped", [False, True])
def test_what_was_done_is_taken_back_where_its_answer_waits(is_skipped: bool) -> None:
    told = Told(process(reacting({Go: [SOLD], StepDone: RuntimeError("a fault")})))
    told.go()
    told.do(Answer("take", 1, "done"))
    assert told.now.stuck
    assert told.status("take") == "done"
    if is_skipped:
        told.do(Skip("", "a fault", "ada"))
    told.do(Cancel("fraud", "ada", compensate=True))
    assert told.status("undo take") == "sent"
    told.do(Answer("undo take", 1, "done"))
    assert told.now.status == told.row.status == "cancelled"


def test_a_timer_set_anew_outlives_the_one_that_waited() -> None:
    faulty = [True]

    def react(state: Any, data: Any) -> Any:
        if faulty and data == Go(1):
            raise RuntimeError("a fault")
        return [Timer("late", after=HOUR)] if isinstance(data, Go) else []

    told = Told(process(react))
    told.go()
    told.go(1)
    told.fire("late")
    faulty.clear()
    told.do(Retry("ada"))
    assert [each.number for each in told.now.timers] == [2]
    assert [each.number for each in told.row.timers.values()] == [2]
    assert (told.now.held, told.row.held) == ((), 0)


def test_no_answer_that_waited_is_counted_once() -> None:
    told = Told(process(reacting({Go: [TAKE], NoAnswer: RuntimeError("a fault")})))
    told.go()
    told.do(Answer("take", 1, "done"))
    told.fire("answer take")
    assert told.row.held == 1
    told.do(Skip("", "a fault", "ada"))
    assert told.row.held == 0
    faulty = process(reacting({Go: [TAKE], NoAnswer: [Done()]}))
    again = Told(faulty)
    again.go()
    again.do(Answer("take", 1, "done"))
    again.fire("answer take", "too long")
    again.do(Retry("ada"))
    assert again.row.held == 0


def test_a_state_that_is_changed_in_place_is_kept() -> None:
    def evolve(state: Any, event: Any) -> Any:
        state.append(event.data)
        return state

    told = Told(process(lambda state, data: [], evolve, initial_state=[]))
    told.go()
    assert told.now.state == [Go()]
    assert told.now.version == 1


def test_what_changes_nothing_is_known_again_but_starts_no_instance() -> None:
    def evolve(state: Any, event: Any) -> Any:
        return state + isinstance(event.data, Go) * event.data.n

    told = Told(process(lambda state, data: [], evolve))
    assert told.go() == ["Reacted"]
    assert (told.now.version, told.now.status, told.now.key) == (0, "new", "")
    assert told.row_or_none() is None
    assert told.go(3) == ["Started", "Reacted"]
    assert (told.now.version, told.now.state, told.row.status) == (1, 3, "running")
    assert told.go() == ["Reacted"]
    assert told.now.state == 3


def test_what_changes_nothing_is_no_endless_loop() -> None:
    told = Told(process(lambda state, data: [], lambda state, event: 1, reactions_max=2))
    for _ in range(9):
        told.go()
    assert told.now.status == "running"


@pytest.mark.parametrize(
    "output",
    [
        Timer("late", after=timedelta.max),
        Timer("late", after=timedelta(days=366_000)),
        Send("account", "a", Do(), answer_within=timedelta.max),
    ],
)
def test_times_that_nobody_will_see_are_refused(output: Any) -> None:
    told = Told(process(reacting({Go: [output]})))
    told.go()
    assert "at most 1,000 years" in told.now.stuck


def test_an_undo_call_that_never_gets_through_waits_for_repair() -> None:
    reaction = reacting({Go: [CHARGE], StepDone: [Compensate("no")]})
    told = Told(process(reaction, call_attempts_max=1))
    told.go()
    told.do(Answer("charge", 1, "done"))
    last = told.do(Answer("undo charge", 1, "unreached", "down"))
    assert last == ["CallFailed", "StepFailed", "Quarantined"]
    assert told.do(Retry("ada")) == ["Retried", "StepSent"]
    told.do(Answer("undo charge", 2, "done"))
    assert told.now.status == "compensated"


def test_it_waits_for_repair_as_long_as_a_step_does() -> None:
    two = [Send("account", each, Do(), step=each) for each in ("a", "b")]
    told = Told(process(reacting({Go: two})))
    told.go()
    told.do(Answer("a", 1, "failed", "x"))
    told.do(Answer("b", 1, "failed", "y"))
    told.do(Skip("a", "by hand", "ada"))
    assert told.now.status == told.row.status == "stuck"
    assert "'b'" in told.now.stuck
    told.do(Retry("ada"))
    assert (told.now.status, told.status("b")) == ("running", "sent")


def test_a_step_that_is_skipped_while_something_waits_is_reacted_to() -> None:
    faulty = [True]

    def react(state: Any, data: Any) -> Any:
        if data == Go(1) and faulty:
            raise RuntimeError("a fault")
        if isinstance(data, StepSkipped):
            return [Compensate("no")]
        return [TAKE] if data == Go(0) else []

    told = Told(process(react))
    told.go()
    told.do(Answer("take", 1, "done"))
    told.go(1)
    told.do(Skip("take", "by hand", "ada"))
    assert "a fault" in told.now.stuck
    assert told.row.held == len(told.now.held) == 2
    faulty.clear()
    told.do(Retry("ada"))
    # It was done, so it is taken back.
    assert told.status("undo take") == "sent"
    assert told.row.held == len(told.now.held) == 0


class Strange(Struct, frozen=True, eq=False):
    n: int = 0


def test_what_waits_is_known_without_equality() -> None:
    told = Told(process(lambda state, data: []))
    told.go()
    first, second = recorded(Strange(1), 7), recorded(Strange(2), 8)
    for each in (first, second):
        told.do(React("1", each, refused="a fault"))
    told.events += [log.Reacted(msgspec.structs.replace(first, data=Strange(1)))]
    assert [each.position for each in told.now.held] == [8]


def test_two_conversations_are_no_way_out_of_a_limit() -> None:
    made = Event("x-1", Go())
    told = Told(process(lambda state, data: [made], reactions_max=10))
    for number in range(22):
        told.go(number, f"c{number % 2}")
    assert "reacted 10 times" in told.now.stuck


def test_a_process_is_cancelled_once() -> None:
    told = Told(process(reacting({Go: [SOLD]})))
    told.go()
    told.do(Cancel("fraud", "ada", compensate=True))
    with pytest.raises(InvalidInput, match="is being cancelled already"):
        told.do(Cancel("again", "ada", compensate=True))
    told.do(Answer("take", 1, "done"))
    told.do(Answer("undo take", 1, "rejected", "no"))
    told.do(Cancel("again", "ada", compensate=True))
    assert told.status("undo take") == "sent"
    told.do(Cancel("enough", "ada", compensate=False))
    assert told.now.status == "cancelled"
