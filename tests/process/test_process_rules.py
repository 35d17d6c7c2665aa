"""What holds of the instances of any process: when steps are taken back, and what is over."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from process_told import CHARGE, HOUR, SOLD, TAKE, Do, Go, Told, Undo, process, reacting, recorded

from leftfold import Event, Metadata, RecordedEvent
from leftfold.event import pack_metadata
from leftfold.process import Answered, CancelTimer, Compensate, Done, Send, StepSkipped, Timer
from leftfold.process.stepping import Answer, Cancel, Fire, Retry, Skip
from leftfold.process.tracing import tree


def test_a_step_that_failed_is_waited_for_before_any_is_taken_back() -> None:
    three = [Send("account", each, Do(), step=each, compensate=Undo()) for each in "abc"]
    told = Told(process(reacting({Go: three, StepSkipped: [Compensate("no")]})))
    told.go()
    told.do(Answer("a", 1, "done"))
    for each in "bc":
        told.do(Answer(each, 1, "failed", "no decider"))
    assert "StepSent" not in told.do(Skip("b", "by hand", "ada"))
    assert (told.now.phase, told.now.status) == ("compensating", "stuck")
    assert told.do(Retry("ada")) == ["Retried", "StepSent"]
    told.do(Answer("c", 2, "done"))
    assert (told.status("undo c"), told.now.step("undo a")) == ("sent", None)


@pytest.mark.parametrize("end", [CancelTimer("late"), Compensate("no"), Done()])
def test_a_timer_that_is_over_is_set_nowhere_and_never_fires(end: Any) -> None:
    begin = [SOLD, Timer("late", after=HOUR)]
    told = Told(process(lambda state, data: begin if data == Go(0) else [end]))
    told.go()
    told.go(1)
    assert (told.now.timers, told.row.timers, told.row.due_us) == ((), {}, None)
    assert told.do(Fire("late", 1)) == []


def test_a_retry_gives_an_instance_all_its_reactions_again() -> None:
    told = Told(process(lambda state, data: [Event("x-1", Go())], reactions_max=2))
    for _ in range(3):
        told.go()
    assert "reacted 2 times" in told.now.stuck
    told.do(Retry("ada"))
    assert (told.now.status, told.now.state, told.row.held) == ("running", 3, 0)


@pytest.mark.parametrize("compensate", [True, False])
def test_who_cancels_goes_on_without_the_steps_that_failed(compensate: bool) -> None:
    told = Told(process(reacting({Go: [SOLD]})))
    told.go()
    told.do(Answer("take", 1, "failed", "no decider"))
    told.do(Cancel("fraud", "ada", compensate))
    assert (told.now.status, told.status("take")) == ("cancelled", "skipped")
    assert (told.row.status, told.row.reason) == ("cancelled", "fraud")


def test_a_step_that_failed_and_is_skipped_is_reacted_to_at_once() -> None:
    told = Told(process(reacting({Go: [SOLD], StepSkipped: [Done()]})))
    told.go()
    told.do(Answer("take", 1, "failed", "no decider"))
    assert told.do(Skip("", "by hand", "ada")) == ["StepSkipped", "Ended"]
    assert told.row.status == "done"


def test_pauses_of_a_call_grow_from_a_second_to_ten_minutes() -> None:
    told = Told(process(reacting({Go: [CHARGE]}), call_attempts_max=100))
    told.go()
    pauses_s = []
    for attempt in range(1, 13):
        told.do(Answer("charge", attempt, "unreached", "down"))
        pauses_s += [each.after_us / 1_000_000 for each in told.now.timers if each.retries]
        told.fire("call charge")
    assert [*told.row.timers] == ["answer charge"]
    assert pauses_s == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]


def taking_back(evolve: Any = None) -> Told:
    """Two steps that were done, the second of which is being taken back."""
    two = [Send("account", each, Do(), step=each, compensate=Undo()) for each in "ab"]
    told = Told(process(reacting({Go: two}), evolve))
    told.go()
    for each in "ab":
        told.do(Answer(each, 1, "done"))
    told.do(Cancel("fraud", "ada", compensate=True))
    assert told.status("undo b") == "sent"
    return told


def test_an_instance_that_waits_for_repair_takes_nothing_back() -> None:
    faulty = [True]

    def evolve(state: Any, event: Any) -> Any:
        if faulty and event.data == Go(1):
            raise ValueError("a fault")
        return state

    told = taking_back(evolve)
    assert told.go(1) == ["Held", "Quarantined"]
    faulty.clear()
    assert told.do(Answer("undo b", 1, "done")) == ["StepCompensated"]
    assert told.do(Retry("ada"))[-1] == "StepSent"
    assert told.status("undo a") == "sent"


def test_an_instance_that_was_ended_at_once_takes_nothing_back() -> None:
    told = taking_back()
    told.do(Cancel("enough", "ada", compensate=False))
    assert told.do(Answer("undo b", 1, "done")) == ["StepCompensated"]
    assert (told.now.status, told.status("a")) == ("cancelled", "done")


def test_what_becomes_of_a_step_after_the_end_is_recorded() -> None:
    told = Told(process(reacting({Go: [SOLD, Done()]})))
    told.go()
    assert told.do(Answer("take", 1, "done")) == ["StepDone"]
    assert (told.now.status, told.status("take")) == ("done", "done")


def test_a_step_is_answered_once() -> None:
    told = Told(process(lambda state, data: [Answered("take")] if data == Go(1) else [TAKE]))
    told.go()
    assert told.go(1) == ["Reacted", "StepAnswered"]
    assert told.go(1) == ["Reacted"]


def test_attempts_are_those_of_the_version_that_an_instance_was_started_by() -> None:
    old = process(reacting({Go: [CHARGE]}), call_attempts_max=1)
    told = Told(old)
    told.go()
    new = process(reacting({}), version=2, earlier=[old], call_attempts_max=9)
    told = Told(new, told.events)
    assert "NoAnswer" in told.do(Answer("charge", 1, "unreached", "down"))


def test_the_row_of_an_instance_that_was_migrated_has_its_version() -> None:
    old = process(reacting({}))
    told = Told(old)
    told.go()
    new = process(reacting({}), version=2, earlier=[old], migrate=lambda state, version: state)
    told = Told(new, told.events)
    told.go()
    assert (told.now.version, told.row.version) == (2, 2)


def test_a_call_that_may_have_reached_the_outside_is_unanswered() -> None:
    told = Told(process(reacting({Go: [CHARGE]})))
    told.go()
    assert told.fire("answer charge")[0] == "NoAnswer"


def test_evolve_and_react_get_a_state_that_is_theirs() -> None:
    def evolve(state: Any, event: Any) -> Any:
        state += [event.data.n] * bool(event.data.n)
        return state

    def react(state: Any, data: Any) -> Any:
        state.clear()
        return []

    told = Told(process(react, evolve, initial_state=[7]))
    assert told.go() == ["Reacted"]
    told.go(1)
    told.go(2)
    assert told.now.state == [7, 1, 2]


def test_events_without_a_conversation_are_no_endless_loop() -> None:
    told = Told(process(lambda state, data: [Event("x-1", Go())], reactions_max=2))
    for _ in range(120):
        told.go(conversation=None)
    assert told.now.status == "running"
    assert len(told.now.counts) == 100


def test_a_step_that_is_sent_again_is_taken_back_in_its_place() -> None:
    two = [Send("account", each, Do(), step=each, compensate=Undo()) for each in "ab"]
    told = Told(process(reacting({Go: two})))
    told.go()
    told.do(Answer("b", 1, "done"))
    told.do(Answer("a", 1, "failed", "no decider"))
    told.do(Retry("ada"))
    told.do(Answer("a", 2, "done"))
    told.do(Cancel("fraud", "ada", compensate=True))
    assert (told.status("undo b"), told.now.step("undo a")) == ("sent", None)


def test_what_waits_is_void_once_somebody_cancels() -> None:
    told = Told(process(reacting({Go: ValueError("a fault")})))
    told.go()
    assert told.now.held
    told.do(Cancel("fraud", "ada", compensate=True))
    assert (told.now.status, told.now.held) == ("cancelled", ())
    assert (told.row.status, told.row.held) == ("cancelled", 0)


def caused(position: int, cause: RecordedEvent[Any] | str) -> RecordedEvent[Any]:
    cause_id = cause if isinstance(cause, str) else str(cause.id)
    metadata = pack_metadata(Metadata(causation_id=cause_id))
    return replace(recorded(Go(), position), packed_metadata=metadata)


def test_a_tree_has_each_event_after_its_cause_and_else_in_log_order() -> None:
    first, second = caused(1, "a click"), caused(2, "another")
    of_second, of_first, later = caused(3, second), caused(4, first), caused(5, first)
    found = tree([first, second, of_second, of_first, later])
    told = [(each.depth, each.event.position) for each in found]
    assert told == [(0, 1), (1, 4), (1, 5), (0, 2), (1, 3)]
