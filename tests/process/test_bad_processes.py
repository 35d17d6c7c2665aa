"""What a process is given wrongly is refused with what was expected, what was found, and where."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Struct
from process_support import eventually, wait_for

import leftfold
from leftfold import App, Codec, Decider, Event, EventType, Projection, select
from leftfold.errors import InvalidInput
from leftfold.process import (
    Answered,
    Call,
    CancelTimer,
    Compensate,
    Done,
    ProcessManager,
    Send,
    StepDone,
    Timer,
)
from leftfold.process.reacting import STEP_BYTES_MAX
from leftfold.testing import given_process

DAY = timedelta(days=1)


class Asked(Struct, frozen=True):
    pass


class Unknown(Struct, frozen=True):
    pass


class Hold(Struct, frozen=True):
    nights: int = 1


class Free(Struct, frozen=True):
    pass


def booking(**options: Any) -> ProcessManager[Any]:
    fields: dict[str, Any] = {
        "key": lambda event: event.stream.partition("-")[2],
        "query": select(types=[Asked]),
        "initial_state": None,
        "evolve": lambda state, event: state,
        "react": lambda state, event: [],
        "commands": [Hold],
        **options,
    }
    return ProcessManager("booking", **fields)


async def later(*_: Any) -> None:
    pass


OTHER = booking(query=select(types=[Unknown]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"calls": ["x"]},
            "calls of process 'booking' are a dict of functions by name, found ['x']",
        ),
        ({"calls": None}, "calls of process 'booking' are a dict of functions by name, found None"),
        ({"calls": {"x": 3}}, "call 'x' of process 'booking' is a function, found 3"),
        ({"calls": {3: print}}, "a name in calls of process 'booking' is a str, found 3"),
        ({"calls": {"": print}}, "a name in calls of process 'booking' is not empty"),
        ({"key": 3}, "key of process 'booking' is a plain function, found 3"),
        (
            {"evolve": later},
            "evolve of process 'booking' is a plain function, found <function later",
        ),
        ({"react": None}, "react of process 'booking' is a plain function, found None"),
        ({"migrate": 3}, "migrate of process 'booking' is a plain function, found 3"),
        ({"earlier": ["x"]}, "earlier of process 'booking' are process managers, found 'x'"),
        ({"earlier": None}, "earlier of process 'booking' are a list, found None; put it in"),
        ({"earlier": OTHER}, "earlier of process 'booking' are a list, found ProcessManager("),
        ({"earlier": [ProcessManager]}, "are process managers, found <class "),
        (
            {"version": 3, "earlier": [booking(version=2, earlier=[booking()])]},
            "earlier definitions of 'booking' have none themselves; list them all",
        ),
        (
            {"commands": "x"},
            "commands of process 'booking' are a list, found 'x'; put it in brackets",
        ),
        ({"commands": Hold}, "commands of process 'booking' are a list, found <class "),
        ({"commands": ["x"]}, "commands of process 'booking': 'x' is not an event class"),
        ({"commands": [Hold, Hold]}, "commands of process 'booking': Hold is registered twice"),
        (
            {"commands": Codec(Hold, format="msgpack")},
            "commands of process 'booking' are kept as JSON, found format='msgpack'",
        ),
        (
            {"steps": "hold"},
            "steps of process 'booking' are a list, found 'hold'; put it in brackets",
        ),
        ({"steps": [""]}, "a name in steps of process 'booking' is not empty"),
        ({"steps": [3]}, "a name in steps of process 'booking' is a str, found 3"),
        ({"steps": ["a", "b", "a"]}, "steps of process 'booking' is given once, found 'a' again"),
        ({"steps": ["undo a"]}, "of process 'booking' do not begin with 'undo ', found 'undo a'"),
    ],
)
def test_a_definition_that_cannot_be_is_refused_where_it_is_made(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        booking(**options)


ritz = Decider("hotel", initial_state=0, decide=lambda *_: [], evolve=lambda state, _: state)
codec = Codec(Asked)


def app_of(process: ProcessManager[Any], **more: Any) -> App:
    return App(codec=codec, deciders=[ritz], processes=[process], **more)


@pytest.mark.parametrize("process", [OTHER, booking(version=2, earlier=[OTHER])])
def test_an_app_refuses_a_process_over_classes_that_its_codec_does_not_know(
    process: ProcessManager[Any],
) -> None:
    message = r"^process 'booking' in the App: Unknown is not registered .* add it to Codec\(...\)$"
    with pytest.raises(InvalidInput, match=message):
        app_of(process)


@pytest.mark.parametrize("wrong", [None, Codec, Asked])
def test_an_app_has_a_codec(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match=r"codec of the App is a Codec\(...\), found "):
        App(codec=wrong, processes=[booking()])


def test_an_app_with_processes_knows_what_they_record() -> None:
    class Steps(Struct):
        stream: str

    steps = Projection("steps", row=Steps, evolve={StepDone: lambda row, event: row})
    assert app_of(booking(query=select(types=[Asked, StepDone])), projections=[steps])
    with pytest.raises(InvalidInput, match="'steps' in the App: StepDone is not registered"):
        App(codec=codec, projections=[steps])


def test_an_app_refuses_what_would_mix_events_with_those_of_processes() -> None:
    class Own(Struct):
        pass

    with pytest.raises(InvalidInput, match="query of process 'booking' selects its own category"):
        app_of(booking(query=select(types=[Asked]) | select(category="booking")))
    own = Codec(Asked, EventType(Own, name="process.StepDone"))
    with pytest.raises(InvalidInput, match=r"found 'process\.StepDone' in the codec"):
        App(codec=own, processes=[booking()])
    assert App(codec=own)


def hold(**options: Any) -> Send:
    return Send("hotel", "ritz", Hold(), **options)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Timer("t", after=3600), "after of timer 't' is a timedelta, such as .*, found 3600"),
        (Timer("t", after=-DAY), "after of timer 't' lies ahead, found -1 day"),
        (
            Timer("t", after=400_000 * DAY),
            "after of timer 't' is at most 1,000 years, found 400000",
        ),
        (Timer("t", at="2026-01-01"), "at of timer 't' is a datetime, found '2026-01-01'"),
        (
            Timer("t", at=datetime.fromisoformat("2026-01-01")),
            "at of timer 't' has a time zone, found the naive 2026",
        ),
        (Timer("t"), r"timer 't' has either after= or at=, found Timer\("),
        (Timer("t", after=DAY, at=datetime.now(UTC)), "timer 't' has either after= or at=, found"),
        (Timer("", after=DAY), "a timer's name is not empty"),
        (Timer(3, after=DAY), "a timer's name is a str, found 3"),
        (Timer("answer x", after=DAY), "a timer's name does not begin with 'answer ' or 'call '"),
        (CancelTimer(3), "a timer's name is a str, found 3"),
        (Answered(3), "Answered names no step of the instance: 3; it has none"),
        (Compensate(3), "reason of Compensate is a str, found 3"),
        (Done, "<class .*Done'> is no output of a reaction; those are Send, Call, Event, "),
        (Hold(), r"Hold\(nights=1\) is no output of a reaction; those are Send"),
        (hold(answer_within=60), "answer_within of step 'Hold' is a timedelta, such .*, found 60"),
        (hold(step=3), "a step's name is a str, found 3"),
        (hold(step="a\0"), "a step's name has no NUL character"),
        (hold(step="undo it"), "a step's name does not begin with 'undo ', found 'undo it'"),
        (
            hold(step="a" * 233),
            "the names of an instance's stream and of a step have at most 241 bytes together",
        ),
        (Send(3, "ritz", Hold()), "a command is for a decider or its category, found 3"),
        (Send("hotel", 1.5, Hold()), "a command is for an id, a str, an int or a UUID, found 1.5"),
        (
            Send("hotel", None, Hold()),
            "a command is for an id, a str, an int or a UUID, found None",
        ),
        (
            Send("hotel", select("hotel-1"), Hold()),
            "a command is for an id, .* or a UUID, found select",
        ),
        (
            Send("hotel", "ritz", Free()),
            r"command Free is not registered; add it to commands=\[...\] of process 'booking'",
        ),
        (hold(compensate=Free()), r"command Free is not registered; add it to commands=\[...\]"),
        (Send("hotel", "ritz", Hold("x")), r"Hold at \$.nights: Expected `int`, got `str`"),
        (Call("pay", Hold()), "there is no call 'pay'; calls='ring'"),
        (Call(print, Hold()), "there is no call <built-in function print>; calls='ring'"),
        (Call(["ring"], Hold()), r"there is no call \['ring'\]; calls='ring'"),
        (Event(3, Asked()), "a stream that an event of a reaction names is a str, found 3"),
    ],
)
def test_a_reaction_that_asks_for_what_cannot_be_waits_with_the_reason(
    output: Any, message: str
) -> None:
    process = booking(react=lambda state, event: [output], calls={"ring": print})
    stuck = given_process(process).when(Asked())
    assert stuck.instance.status == "stuck"
    found = stuck.instance.stuck
    assert re.match(f"on 'Asked' at position 1: {message}", found), found


def test_a_step_with_the_longest_name_is_delivered_and_taken_back() -> None:
    def react(state: Any, event: Any) -> list[Any]:
        if isinstance(event.data, Asked):
            return [hold(step="a" * (STEP_BYTES_MAX - len("booking-1")), compensate=Hold())]
        return [Compensate()]

    process = booking(react=react)
    with leftfold.open("memory://", app_of(process)) as es, es.running():
        es.append([Event("asked-1", Asked())])
        wait_for(es, process, "1", "compensated")


@pytest.mark.parametrize(
    ("found", "kind"), [(None, "NoneType"), (hold(), "Send"), (iter([]), "list_iterator")]
)
def test_a_reaction_is_a_list(found: Any, kind: str) -> None:
    stuck = given_process(booking(react=lambda state, event: found)).when(Asked())
    stuck.then_stuck(match=f"react returns a list of outputs, [] for none; found {kind}")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"process": 3}, "the App has no process 3, it has 'booking'"),
        ({"process": ["booking"]}, "the App has no process ['booking'], it has 'booking'"),
        ({"status": ["stuck"]}, "compensated, cancelled, found ['stuck']"),
        ({"limit": "x"}, "limit (instances) is an integer from 1 to 10000, found 'x'"),
        ({"limit": 0}, "limit (instances) is an integer from 1 to 10000, found 0"),
        ({"limit": 10_001}, "limit (instances) is an integer from 1 to 10000, found 10001"),
    ],
)
def test_a_list_of_what_cannot_be_is_refused(asked: dict[str, Any], message: str) -> None:
    with (
        leftfold.open("memory://", app_of(booking())) as es,
        pytest.raises(InvalidInput, match=re.escape(message)),
    ):
        es.processes.list(**asked)


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (lambda event: 1.5, "key of process 'booking' is a str, an int, a UUID or None, found 1.5"),
        (lambda event: ("a", 1), "is a str, an int, a UUID or None, found ('a', 1) for 'Asked'"),
        (lambda event: event.metadata.extra["order"], "KeyError: 'order'"),
        (lambda event: event.data.order, "AttributeError: 'Asked' object has no attribute 'order'"),
        (lambda event: "a" * 300, "a stream takes at most 255 bytes, found 308: 'booking-aaa"),
    ],
)
def test_where_a_key_cannot_be_had_process_event_and_error_are_told(
    key: Callable[[Any], Any], error: str
) -> None:
    with leftfold.open("memory://", app_of(booking(key=key))) as es, es.running():
        es.append([Event("asked-1", Asked())])
        [found] = eventually(lambda: es.processes.list(status="stuck"), "it waits")
        [status] = [each for each in es.projections.status("booking") if each.quarantined]
        [waiting] = es.projections.quarantine("booking")
    assert (found.process, found.key, status.name) == ("booking", "asked-1", "booking")
    for text in (found.reason, waiting.failure.text()):
        assert "'Asked' at position 1, version 1 of stream 'asked-1'" in text
        assert error in text
