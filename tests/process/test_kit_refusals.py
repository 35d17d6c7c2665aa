"""The test kit of processes refuses what cannot happen, so that no test is green without reason."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from leftfold import Codec, Event, select
from leftfold.codec import EventType
from leftfold.errors import InvalidInput
from leftfold.process import NoAnswer, ProcessManager, Send, StepDone, StepSkipped, Timer
from leftfold.process import TimerFired as Fired
from leftfold.testing import given_process


class Asked(Struct, frozen=True):
    pass


class Paid(Struct, frozen=True):
    pass


class Other(Struct, frozen=True):
    pass


class Hold(Struct, frozen=True):
    pass


def react(state: Any, event: Any) -> list[Any]:
    match event.data:
        case Asked():
            hour = timedelta(hours=1)
            return [
                Send("hotel", "ritz", Hold(), step="hold", answer_within=hour),
                Timer("late", after=hour),
            ]
    return []


def process(**options: Any) -> ProcessManager[Any]:
    query = select(types=[Asked, Paid])
    fields = {"key": lambda event: event.stream.partition("-")[2], "query": query, **options}
    return ProcessManager(
        "booking",
        initial_state=0,
        evolve=lambda state, event: state + 1,
        react=react,
        commands=[Hold],
        **fields,
    )


asked = given_process(process(), Event("asked-7", Asked()))


def test_an_event_of_another_instance_is_refused() -> None:
    with pytest.raises(AssertionError, match="of instance '8', and this is '7'"):
        asked.when(Event("paid-8", Paid()))
    asked.when(Event("paid-7", Paid())).then_state(2)


def test_data_alone_may_be_of_another_instance() -> None:
    with pytest.raises(AssertionError, match=r"of instance '1', .* give Event\(stream, data\)"):
        asked.when(Paid())


@pytest.mark.parametrize("found", [None, ""])
def test_an_event_of_no_instance_is_refused(found: Any) -> None:
    with pytest.raises(AssertionError, match=f"key gives {found!r}, so it is of no instance"):
        given_process(process(key=lambda event: found), Asked())


@pytest.mark.parametrize(
    "query",
    [
        select(types=[Asked]),
        select(types=["Asked"]),
        select(category="asked", types=[Asked, Paid]),
        select("asked-7"),
    ],
)
@pytest.mark.parametrize("codec", [None, Codec(Asked, Paid, Other)])
def test_an_event_outside_the_query_is_refused(query: Any, codec: Any) -> None:
    given = given_process(process(query=query), Event("asked-7", Asked()), codec=codec)
    with pytest.raises(AssertionError, match="query does not select Paid"):
        given.when(Event("paid-7", Paid()))


def test_an_event_is_asked_for_by_the_name_that_the_codec_has_for_it() -> None:
    codec = Codec(EventType(Asked, "hotel-asked"), Paid, Other)
    for types in ([Asked], ["hotel-asked"]):
        known = process(query=select(types=types))
        given_process(known, Event("asked-7", Asked()), codec=codec).then_state(1)
    with pytest.raises(AssertionError, match="query does not select Asked"):
        given_process(process(query=select(types=["Asked"])), Asked(), codec=codec)


def test_tags_are_looked_at_where_a_codec_makes_them() -> None:
    tagged = process(query=select(types=[Asked], tags=["vip"]))
    given_process(tagged, Event("asked-7", Asked(), tags=("vip",))).then_state(1)
    with pytest.raises(AssertionError, match="query does not select Asked"):
        given_process(tagged, Event("asked-7", Asked()), codec=Codec(Asked))


def test_data_alone_is_of_any_stream_of_the_query() -> None:
    known = process(query=select(category="asked", types=[Asked]))
    given_process(known, Asked(), codec=Codec(Asked)).then_state(1)


def test_a_timer_that_is_not_set_cannot_fire() -> None:
    with pytest.raises(AssertionError, match="no timer 'lat' is set; set: 'late'"):
        asked.when(Fired("lat"))
    asked.when(Fired("late")).then_state(2)
    with pytest.raises(AssertionError, match="no timer 'late' is set; set: none"):
        asked.when(Fired("late")).when(Fired("late"))


def test_only_a_step_with_answer_within_can_have_no_answer() -> None:
    with pytest.raises(AssertionError, match="no step 'hodl' waits for an answer; those that do: "):
        asked.when(NoAnswer("hodl"))
    with pytest.raises(
        AssertionError, match="nothing comes of it: its step is still to be delivered"
    ):
        asked.when(NoAnswer("hold"))
    asked.having(StepDone("hold")).when(NoAnswer("hold")).then_status("compensated")


def test_a_step_that_is_still_to_be_delivered_holds_up_no_time() -> None:
    late = asked.after(hours=2).then_state(2)
    late.having(StepDone("hold")).after(seconds=0).then_status("compensated")


def test_only_a_step_under_way_is_done() -> None:
    with pytest.raises(AssertionError, match="no step 'hodl' is under way"):
        asked.when(StepDone("hodl"))


def test_a_step_is_skipped_by_somebody() -> None:
    with pytest.raises(InvalidInput, match="skipped"):
        asked.when(StepSkipped("hold", "by phone", "ada"))


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(InvalidInput, match="time goes forward, found -1 day"):
        asked.after(hours=-2)


@pytest.mark.parametrize("text", ["", "  ", None])
def test_repairs_have_an_actor_and_a_reason(text: Any) -> None:
    for wrong in ({"reason": text, "actor": "ada"}, {"reason": "fraud", "actor": text}):
        with pytest.raises(InvalidInput, match=r"is recorded with its (reason|actor)"):
            asked.skipped("hold", **wrong)
        with pytest.raises(InvalidInput, match=r"is recorded with its (reason|actor)"):
            asked.cancelled(**wrong)
    with pytest.raises(InvalidInput, match="is recorded with its actor"):
        asked.retried(actor=text)
