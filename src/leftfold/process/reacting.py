"""From what a reaction asks for to what is recorded of it. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from leftfold.decider import Decider
from leftfold.errors import InvalidInput
from leftfold.event import Event, to_us
from leftfold.limits import NAME_BYTES_MAX, check_moment, check_name
from leftfold.process import events as log
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
from leftfold.process.rules import Rules
from leftfold.process.wire import commands_of, pack_work
from leftfold.query import category_of

TIME_MAX = timedelta(days=365_250)
"""How far ahead a timer may be set: it is due within the calendar, whenever it is recorded."""
STEP_BYTES_MAX = NAME_BYTES_MAX - len(":undo :1000000")
"""Of the names of an instance's stream and of a step: ids of commands are made of both."""
_MICROSECOND = timedelta(microseconds=1)


class Refused(Exception):
    """A reaction asks for what cannot be."""


class Asking:
    """One reaction of one instance; `now` is the instance as far as its events are recorded."""

    def __init__(self, rules: Rules[Any], now: Instance, deciders: Collection[str] | None) -> None:
        self._rules = rules
        self._deciders = deciders
        self.now = now

    def events(self, outputs: Any) -> Iterator[Any]:
        """The events that the outputs are recorded as, one by one."""
        if not isinstance(outputs, Sequence) or isinstance(outputs, str | bytes):
            if inspect.iscoroutine(outputs):
                outputs.close()
            kind = type(outputs).__name__
            raise Refused(f"react returns a list of outputs, [] for none; found {kind}")
        for output in outputs:
            if self.now.phase != "running":
                raise Refused(f"nothing comes after Done and Compensate, found {output!r}")
            try:
                yield from self._events(output)
            except InvalidInput as error:
                raise Refused(str(error)) from None

    def _events(self, output: Any) -> Iterator[Any]:
        match output:
            case Send() | Call():
                yield from self._sent(output)
            case Event():
                yield self._emitted(output)
            case Timer():
                yield self._timer(output)
            case CancelTimer(name=name):
                check_name("timer's name", name)
                if self.now.timer(name) is not None:
                    yield log.TimerCancelled(name)
            case Answered(step=step):
                yield from self._answered(step)
            case Compensate(reason=reason):
                if not isinstance(reason, str):
                    raise Refused(f"reason of Compensate is a str, found {reason!r}")
                yield log.Compensating(reason)
            case Done():
                yield log.Ended("done")
            case _:
                raise Refused(
                    f"{output!r} is no output of a reaction; those are Send, Call, Event, Timer, "
                    "CancelTimer, Answered, Compensate and Done"
                )

    def _sent(self, output: Send | Call) -> Iterator[Any]:
        name = output.step or type(output.command).__name__
        self._check_step(name)
        compensation = self._compensation(output)
        awaits = output.answer_within is not None
        yield log.StepSent(name, self._work(output), compensation, awaits)
        if output.answer_within is not None:
            after_us = _us(f"answer_within of step {name!r}", output.answer_within)
            number = self.now.timers_set + 1
            yield log.TimerSet(f"answer {name}", number, after_us=after_us, step=name)

    def _check_step(self, name: str) -> None:
        check_name("step's name", name)
        size = len(f"{self._rules.name}-{self.now.key}{name}".encode())
        if size > STEP_BYTES_MAX:
            raise Refused(
                f"the names of an instance's stream and of a step have at most {STEP_BYTES_MAX} "
                f"bytes together, found {size}: step {name!r}"
            )
        if name.startswith("undo "):
            raise Refused(f"a step's name does not begin with 'undo ', found {name!r}")
        if self.now.step(name) is not None:
            raise Refused(f"step {name!r} was sent already; give each of its steps another name")
        steps = self._rules.steps
        if steps and name not in steps:
            known = ", ".join(map(repr, steps))
            raise Refused(f"there is no step {name!r}; steps={known}")

    def _compensation(self, output: Send | Call) -> log.Work | None:
        back = output.compensate
        if back is None:
            return None
        if not isinstance(back, Send | Call):
            back = replace(output, command=back)
        return self._work(back)

    def _work(self, output: Send | Call) -> log.Work:
        self._check_is_known(output)
        encoded = self._encoded(output.command)
        id = _id(output.id) if isinstance(output, Send) else None
        to = output.category if isinstance(output, Send) else output.to
        return pack_work(to, id, encoded)

    def _encoded(self, command: Any) -> Event[bytes]:
        codec = commands_of(self._rules)
        if type(command) not in [each.cls for each in codec.types]:
            raise Refused(
                f"command {type(command).__name__} is not registered; add it to commands=[...] of "
                f"process {self._rules.name!r}"
            )
        return codec.encode(Event("command", command))

    def _check_is_known(self, output: Send | Call) -> None:
        to: Any = output.to
        if isinstance(output, Call):
            if not isinstance(to, str) or to not in self._rules.calls:
                known = ", ".join(map(repr, self._rules.calls)) or "none"
                raise Refused(f"there is no call {to!r}; calls={known}")
        elif not isinstance(to, str | Decider):
            raise Refused(f"a command is for a decider or its category, found {to!r}")
        elif self._deciders is not None and output.category not in self._deciders:
            known = ", ".join(map(repr, self._deciders)) or "none"
            raise Refused(f"the App has no decider {output.category!r}, it has {known}")

    def _emitted(self, output: Event[Any]) -> Event[Any]:
        check_name("stream that an event of a reaction names", output.stream)
        if category_of(output.stream) == self._rules.name:
            raise Refused(
                f"an event of a reaction names a stream that is not a process's own, found "
                f"{output.stream!r}"
            )
        return output

    def _timer(self, output: Timer) -> log.TimerSet:
        name, number = output.name, self.now.timers_set + 1
        check_name("timer's name", name)
        if name.startswith(("answer ", "call ")):
            raise Refused(
                f"a timer's name does not begin with 'answer ' or 'call ', found {name!r}"
            )
        if (output.after is None) == (output.at is None):
            raise Refused(f"timer {name!r} has either after= or at=, found {output!r}")
        if output.at is None:
            after_us = _us(f"after of timer {name!r}", output.after)
            return log.TimerSet(name, number, after_us=after_us)
        check_moment(f"at of timer {name!r}", output.at)
        return log.TimerSet(name, number, at_us=to_us(output.at))

    def _answered(self, name: str) -> Iterator[Any]:
        step = self.now.step(name)
        if step is None:
            known = ", ".join(repr(each.name) for each in self.now.steps) or "none"
            raise Refused(f"Answered names no step of the instance: {name!r}; it has {known}")
        if step.awaits:
            yield log.StepAnswered(name)


def _us(what: str, time: Any) -> int:
    if not isinstance(time, timedelta):
        raise Refused(f"{what} is a timedelta, such as timedelta(hours=1), found {time!r}")
    if time < timedelta():
        raise Refused(f"{what} lies ahead, found {time}")
    if time > TIME_MAX:
        raise Refused(f"{what} is at most 1,000 years, found {time}")
    return time // _MICROSECOND


def _id(id: Any) -> str:
    if not isinstance(id, str | int | UUID) or isinstance(id, bool) or id == "":
        raise Refused(f"a command is for an id, a str, an int or a UUID, found {id!r}")
    return str(id)
