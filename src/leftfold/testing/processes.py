"""Tests of a process, as sentences, with time. Pure: without a store.

given_process(transfer, Requested("1")).when(StepRejected("take", "no funds")).then(Done())
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from leftfold.codec import EventCodec
from leftfold.errors import InvalidInput
from leftfold.event import NO_METADATA, Event, RecordedEvent, from_us, new_id, pack_metadata, to_us
from leftfold.process import events as log
from leftfold.process.definition import ProcessManager
from leftfold.process.instance import Instance
from leftfold.process.outputs import (
    Answered,
    Call,
    CancelTimer,
    Compensate,
    Done,
    Send,
    Timer,
)
from leftfold.process.stepping import Answer, Cancel, Fire, Order, React, Retry, Skip, decider_of
from leftfold.process.wire import ProcessCodec, unpack_command
from leftfold.query import QueryItem
from leftfold.testing.difference import differences

# Has pytest show the line of the test, and none of this file.
__tracebackhide__ = True

BEGIN = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
FIRED_MAX = 10_000
_STREAM = "?-1"
"""Of data without a stream."""


def given_process(
    process: ProcessManager[Any], *events: Any, codec: EventCodec | None = None
) -> GivenProcess:
    """A process after events: data, `Event` values, or what it gets of its own, `StepDone(step)`
    for example. Go on with `when(event)`, or with `after(hours=2)`.

    It is that instance which the key of the first event names; data without a stream is taken to be
    of the stream `?-1`. With `codec`, all that is recorded must come back from it as it was.

    What no runner would give to this instance raises AssertionError: an event of another one or of
    none, or that the query does not select; a timer that is not set; a step not waited for.
    """
    given = GivenProcess(process, codec)
    for each in events:
        given = given.when(each)
    return given.then_anything()


class _Told(Struct, frozen=True):
    """What came last."""

    story: tuple[str, ...] = ()
    events: tuple[Any, ...] = ()


class GivenProcess:
    """An instance of a process, and what came of the last thing that happened to it."""

    def __init__(self, process: ProcessManager[Any], codec: EventCodec | None) -> None:
        self._process = process
        self._codec = ProcessCodec(codec) if codec is not None else None
        self._decider = decider_of(process)
        self._now: Instance = self._decider.initial_state
        self._due: dict[int, int] = {}
        self._now_us = to_us(BEGIN)
        self._told = _Told()
        self._key: str | None = None

    @property
    def instance(self) -> Instance:
        """The instance as it is now."""
        return self._now

    def having(self, *events: Any) -> GivenProcess:
        """After these events as well; what came of them is not looked at."""
        given = self
        for each in events:
            given = given.when(each)
        return given.then_anything()

    def when(self, event: Any) -> GivenProcess:
        """Let an event happen: of the log, or one of the process's own. Go on with `then...`."""
        after = self._copy(f"when {event!r}")
        order = after._order(event)
        after._decide(order)
        if isinstance(order, Fire) and not after._told.events:
            after._fail("nothing comes of it: its step is still to be delivered, or has failed")
        return after

    def after(self, **time: float) -> GivenProcess:
        """Let time pass, given as for a timedelta: timers that are due fire, in their order."""
        passed = timedelta(**time)
        if passed < timedelta():
            raise InvalidInput(f"time goes forward, found {passed}")
        after = self._copy(f"after {passed}")
        until_us = self._now_us + passed // timedelta(microseconds=1)
        idle: set[int] = set()
        for _ in range(FIRED_MAX):
            due = after._next_due(until_us, idle)
            if due is None:
                break
            after._now_us = max(after._now_us, after._due[due.number])
            if not after._decide(Fire(due.name, due.number)):
                # A runner tries it again, once its step was delivered.
                idle.add(due.number)
        else:
            after._fail(f"{FIRED_MAX} timers have fired, and another one is due")
        after._now_us = until_us
        return after

    def retried(self, *, actor: str) -> GivenProcess:
        """Let somebody try again what it is stuck at."""
        return self._repaired(Retry(actor))

    def skipped(self, step: str = "", *, reason: str, actor: str) -> GivenProcess:
        """Let somebody go on without a step, or without what it is stuck at."""
        return self._repaired(Skip(step, reason, actor))

    def cancelled(self, *, reason: str, actor: str, compensate: bool = True) -> GivenProcess:
        """Let somebody cancel it."""
        return self._repaired(Cancel(reason, actor, compensate))

    def then(self, *outputs: Any) -> Self:
        """Exactly this came of it, in this order: `Send`, `Call`, `Event`, `Timer`, `CancelTimer`,
        `Answered`, `Compensate` and `Done`, those of compensation included.
        """
        found = self._outputs()
        expected = [self._normal(each) for each in outputs]
        if lines := differences(expected, found):
            self._fail("other outputs came of it", lines)
        return self

    def then_nothing(self) -> Self:
        """Nothing came of it."""
        return self.then()

    def then_anything(self) -> GivenProcess:
        """Whatever came of it, unless it is stuck now."""
        if self._now.stuck:
            self._fail(f"it is stuck: {self._now.stuck}")
        return self

    def then_state(self, expected: Any) -> Self:
        """The state equals `expected`."""
        if lines := differences(expected, self._now.state):
            self._fail("the state differs", lines)
        return self

    def then_status(self, expected: str) -> Self:
        """It is `new`, `running`, `compensating`, `done`, `compensated`, `cancelled` or `stuck`."""
        if self._now.status != expected:
            because = f": {self._now.stuck}" if self._now.stuck else ""
            self._fail(f"expected the status {expected!r}, found {self._now.status!r}{because}")
        return self

    def then_stuck(self, *, match: str) -> Self:
        """It waits to be repaired, and the reason has `match` in it."""
        self.then_status("stuck")
        if match not in self._now.stuck:
            self._fail(f"expected {match!r} in the reason, found {self._now.stuck!r}")
        return self

    def _repaired(self, order: Order) -> GivenProcess:
        for what in ("reason", "actor"):
            found = getattr(order, what, "none is asked for")
            if not isinstance(found, str) or not found.strip():
                raise InvalidInput(f"a repair is recorded with its {what}, a text, found {found!r}")
        after = self._copy(f"when {order!r}")
        after._decide(order)
        return after

    def _copy(self, told: str) -> GivenProcess:
        after = GivenProcess(self._process, None)
        after._codec = self._codec
        after._now, after._due, after._now_us = self._now, {**self._due}, self._now_us
        after._told = _Told((*self._told.story, told))
        after._key = self._key
        return after

    def _order(self, event: Any) -> Order:
        match event:
            case log.StepDone(step=step):
                return Answer(step, self._attempt(step), "done")
            case log.StepRejected(step=step, reason=reason):
                return Answer(step, self._attempt(step), "rejected", reason)
            case log.TimerFired(name=name):
                return self._due_now(name, "no timer {!r} is set; set: {}", "")
            case log.NoAnswer(step=name):
                problem = "no step {!r} waits for an answer; those that do: {}"
                return self._due_now(name, problem, "answer ")
            case log.StepSkipped():
                raise InvalidInput("somebody skips a step: .skipped(step, reason=..., actor=...)")
        recorded = self._recorded(event)
        self._check_is_selected(recorded, has_stream=isinstance(event, Event))
        return React(self._checked_key(recorded), recorded)

    def _due_now(self, name: str, problem: str, prefix: str) -> Fire:
        timer = self._now.timer(prefix + name)
        if timer is None:
            own = [each for each in self._now.timers if bool(each.step) == bool(prefix)]
            names = (repr(each.name.removeprefix(prefix)) for each in own if not each.retries)
            self._fail(problem.format(name, ", ".join(names) or "none"))
        return Fire(prefix + name, timer.number if timer else 0)

    def _check_is_selected(self, event: RecordedEvent[Any], *, has_stream: bool) -> None:
        query = self._process.query
        known = query if self._codec is None else self._codec.resolve(query)
        if not any(self._is_meant(item, event, has_stream) for item in known.items):
            name = type(event.data).__name__
            hint = "" if self._codec else "; give codec=, where its types are stored names"
            self._fail(f"the query does not select {name} of {event.stream!r}: {query!r}{hint}")

    def _is_meant(self, item: QueryItem, event: RecordedEvent[Any], has_stream: bool) -> bool:
        if type(event.data) in item.types:
            item = replace(item, types=())
        if not has_stream:
            item = replace(item, stream=None, category=None)
        if self._codec is None and not event.tags:
            # They may be of its class, which a codec knows.
            item = replace(item, tags=())
        return item.matches(event)

    def _checked_key(self, event: RecordedEvent[Any]) -> str:
        """The key of the instance, which is that of its first event."""
        found: Any = self._process.key(event)
        if found is None or found == "":
            self._fail(f"key gives {found!r}, so it is of no instance")
        if not isinstance(found, str | int | UUID) or isinstance(found, bool):
            self._fail(f"key gives a str, an int, a UUID or None, found {found!r}")
        key = str(found)
        if self._key not in (None, key):
            hint = "; give Event(stream, data)" if event.stream == _STREAM else ""
            self._fail(f"it is of instance {key!r}, and this is {self._key!r}{hint}")
        self._key = key
        return key

    def _attempt(self, name: str) -> int:
        step = self._now.step(name)
        if step is None or step.status != "sent":
            self._fail(f"no step {name!r} is under way")
        return step.sent.attempt if step else 1

    def _recorded(self, event: Any) -> RecordedEvent[Any]:
        if not isinstance(event, Event):
            event = Event(_STREAM, event)
        metadata = event.metadata
        if metadata is NO_METADATA:
            metadata = replace(metadata, correlation_id=str(event.id))
        encoded = self._codec.encode(event) if self._codec else event
        kind = encoded.type or type(event.data).__name__
        occurred_us = None if event.occurred_at is None else to_us(event.occurred_at)
        facts = (
            encoded.tags,
            1,
            new_id().bytes,
            self._now_us,
            occurred_us,
            pack_metadata(metadata),
        )
        return RecordedEvent(len(self._told.story), event.stream, 1, kind, event.data, *facts)

    def _decide(self, order: Order) -> bool:
        """Whether anything comes of it."""
        decided = self._decider.decided(order, self._now)
        for event in decided:
            self._check_codec(event)
            self._told = replace(self._told, events=(*self._told.events, event))
            if isinstance(event, Event):
                continue
            self._now = self._decider.evolve(self._now, event)
            if isinstance(event, log.TimerSet):
                at_us = event.at_us
                self._due[event.number] = self._now_us + event.after_us if at_us is None else at_us
        return bool(decided)

    def _check_codec(self, event: Any) -> None:
        if self._codec is None:
            return
        given = event if isinstance(event, Event) else Event("process-1", event)
        again = self._codec.read_back(self._codec.encode(given))
        if lines := differences(given.data, again):
            self._fail("it does not come back from the codec as it was", lines)

    def _next_due(self, until_us: int, idle: Collection[int]) -> log.TimerSet | None:
        timers = [each for each in self._now.timers if each.number not in idle]
        due = [each for each in timers if self._due[each.number] <= until_us]
        return min(due, key=lambda each: (self._due[each.number], each.number), default=None)

    def _outputs(self) -> list[Any]:
        found: list[Any] = []
        for event in self._told.events:
            match event:
                case log.StepSent():
                    found.append(self._sent(event))
                case log.TimerSet(step=step) if step and not event.retries:
                    found[-1] = replace(found[-1], answer_within=_time(event.after_us))
                case log.TimerSet(name=name, at_us=None) if not event.retries:
                    found.append(Timer(name, after=_time(event.after_us)))
                case log.TimerSet(name=name, at_us=int(at_us)):
                    found.append(Timer(name, at=from_us(at_us)))
                case Event() if not isinstance(event.data, log.CommandRejected):
                    found.append(self._normal(event))
                case _:
                    found += _plain(event)
        return found

    def _sent(self, event: log.StepSent) -> Send | Call:
        sent = self._output(event.work)
        back = self._output(event.compensation) if event.compensation else None
        return replace(sent, step=event.step, compensate=back)

    def _output(self, work: log.Work) -> Send | Call:
        command = unpack_command(self._process, work)
        return Call(work.to, command) if work.id is None else Send(work.to, work.id, command)

    def _normal(self, output: Any) -> Any:
        """An output in the form in which it comes back."""
        if isinstance(output, Event):
            return output.stream, output.data
        if not isinstance(output, Send | Call):
            return output
        if isinstance(output, Send):
            output = replace(output, to=output.category, id=str(output.id))
        back = output.compensate
        if back is not None and not isinstance(back, Send | Call):
            back = replace(output, command=back, step="", compensate=None, answer_within=None)
        step = output.step or type(output.command).__name__
        back = replace(self._normal(back), step="") if back is not None else None
        return replace(output, step=step, compensate=back)

    def _fail(self, problem: str, lines: Sequence[str] = ()) -> None:
        story = [*self._told.story, *(f"  recorded {each!r}" for each in self._told.events)]
        raise AssertionError("\n".join([problem, *(f"  {line}" for line in lines), "", *story]))


def _plain(event: Any) -> list[Any]:
    match event:
        case log.TimerCancelled(name=name):
            return [CancelTimer(name)]
        case log.StepAnswered(step=step):
            return [Answered(step)]
        case log.Compensating(reason=reason):
            return [Compensate(reason)]
        case log.Ended(outcome="done"):
            return [Done()]
    return []


def _time(us: int) -> timedelta:
    return timedelta(microseconds=us)
