"""From what a reaction asks for to what is recorded of it. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from leftfold.event import Event, to_us
from leftfold.limits import check_moment
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
_MICROSECOND = timedelta(microseconds=1)


class Refused(Exception):
    """A reaction asks for what cannot be."""


class Asking:
    """One reaction of one instance; `now` is the instance as far as its events are recorded."""

    def __init__(self, rules: Rules[Any], now: Instance, deciders: Collection[str] | None) -> None:
        self._rules = rules
        self._deciders = deciders
        self.now = now
        self.count = 0

    def is_mine(self, event: Any) -> bool:
        """Whether an event is of the stream of the instance."""
        return not isinstance(event, Event)

    def events(self, outputs: Any) -> Iterator[Any]:
        """The events that the outputs are recorded as, one by one."""
        if not isinstance(outputs, Sequence) or isinstance(outputs, str | bytes):
            if inspect.iscoroutine(outputs):
                outputs.close()
            raise Refused(f"react returns a list of outputs, found {type(outputs).__name__}")
        for output in outputs:
            self.count += 1
            if self.now.phase != "running":
                raise Refused(f"nothing comes after Done and Compensate, found {output!r}")
            yield from self._events(output)

    def _events(self, output: Any) -> Iterator[Any]:
        match output:
            case Send() | Call():
                yield from self._sent(output)
            case Event():
                yield self._emitted(output)
            case Timer():
                yield self._timer(output)
            case CancelTimer(name=name):
                if self.now.timer(name) is not None:
                    yield log.TimerCancelled(name)
            case Answered(step=step):
                yield from self._answered(step)
            case Compensate(reason=reason):
                yield log.Compensating(reason)
            case Done():
                yield log.Ended("done")
            case _:
                raise Refused(f"{type(output).__name__} is no output of a reaction: {output!r}")

    def _sent(self, output: Send | Call) -> Iterator[Any]:
        name = output.step or type(output.command).__name__
        steps = self._rules.steps
        if self.now.step(name) is not None or name.startswith("undo "):
            raise Refused(f"step {name!r} was sent already; give each of its steps another name")
        if steps and name not in steps:
            known = ", ".join(map(repr, steps))
            raise Refused(f"there is no step {name!r}; steps={known}")
        compensation = self._compensation(output)
        awaits = output.answer_within is not None
        yield log.StepSent(name, self._work(output), compensation, awaits)
        if output.answer_within is not None:
            after_us = _us(output.answer_within)
            number = self.now.timers_set + 1
            yield log.TimerSet(f"answer {name}", number, after_us=after_us, step=name)

    def _compensation(self, output: Send | Call) -> log.Work | None:
        back = output.compensate
        if back is None:
            return None
        if not isinstance(back, Send | Call):
            back = replace(output, command=back)
        return self._work(back)

    def _work(self, output: Send | Call) -> log.Work:
        self._check_is_known(output)
        encoded = commands_of(self._rules).encode(Event("command", output.command))
        id = _id(output.id) if isinstance(output, Send) else None
        to = output.category if isinstance(output, Send) else output.to
        return pack_work(to, id, encoded)

    def _check_is_known(self, output: Send | Call) -> None:
        if isinstance(output, Call):
            if output.to not in self._rules.calls:
                known = ", ".join(map(repr, self._rules.calls)) or "none"
                raise Refused(f"there is no call {output.to!r}; calls={known}")
        elif self._deciders is not None and output.category not in self._deciders:
            known = ", ".join(map(repr, self._deciders)) or "none"
            raise Refused(f"the App has no decider {output.category!r}, it has {known}")

    def _emitted(self, output: Event[Any]) -> Event[Any]:
        if not output.stream or category_of(output.stream) == self._rules.name:
            raise Refused(
                f"an event of a reaction names a stream that is not a process's own, found "
                f"{output.stream!r}"
            )
        return output

    def _timer(self, output: Timer) -> log.TimerSet:
        if output.name.startswith(("answer ", "call ")) or not output.name:
            raise Refused(f"a timer has another name, found {output.name!r}")
        if (output.after is None) == (output.at is None):
            raise Refused(f"timer {output.name!r} has either after= or at=")
        number = self.now.timers_set + 1
        if output.at is not None:
            check_moment(f"timer {output.name!r}", output.at)
            return log.TimerSet(output.name, number, at_us=to_us(output.at))
        return log.TimerSet(output.name, number, after_us=_us(output.after or timedelta()))

    def _answered(self, name: str) -> Iterator[Any]:
        step = self.now.step(name)
        if step is None:
            known = ", ".join(repr(each.name) for each in self.now.steps) or "none"
            raise Refused(f"Answered names no step of the instance: {name!r}; it has {known}")
        if step.awaits:
            yield log.StepAnswered(name)


def _us(time: timedelta) -> int:
    if time < timedelta():
        raise Refused(f"a time lies ahead, found {time}")
    if time > TIME_MAX:
        raise Refused(f"a time is at most 1,000 years, found {time}")
    return time // _MICROSECOND


def _id(id: Any) -> str:
    text = "" if id is None else str(id)
    if not text:
        raise Refused("a command is for an id, found none")
    return text
