"""What an instance of a process does next. Pure: commands in, events of its stream out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from leftfold.decider import Decider
from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent
from leftfold.process import events as log
from leftfold.process.instance import Instance, InstanceFold, own
from leftfold.process.reacting import Asking, Refused
from leftfold.process.rules import Rules
from leftfold.states import has_equality, isolated

PAUSE_US = 1_000_000
PAUSE_MAX_US = 600 * 1_000_000
"""Pauses before a call to the outside is made again double from the one to the other."""


class React(Struct, frozen=True):
    """Something came in. `refused`: it was found that what was made of it cannot be recorded."""

    key: str
    event: RecordedEvent[Any]
    refused: str = ""


class Answer(Struct, frozen=True):
    """What a step came to."""

    step: str
    attempt: int
    outcome: Literal["done", "rejected", "failed", "unreached"]
    reason: str = ""


class Fire(Struct, frozen=True):
    """A timer is due."""

    name: str
    number: int


class Retry(Struct, frozen=True):
    """Try again what it is stuck at."""

    actor: str


class Skip(Struct, frozen=True):
    """Go on without a step, or without what it is stuck at."""

    step: str
    reason: str
    actor: str


class Cancel(Struct, frozen=True):
    """End it."""

    reason: str
    actor: str
    compensate: bool


Order = React | Answer | Fire | Retry | Skip | Cancel


def decider_of(
    rules: Rules[Any], deciders: Collection[str] | None = None
) -> Decider[Order, Instance, Any]:
    """The instances of a process as a decider. `deciders` are those that commands can be for."""
    fold = InstanceFold(rules)

    def decide(order: Order, instance: Instance) -> Sequence[Any]:
        return Stepping(rules, fold, instance, deciders=deciders).decide(order)

    initial = Instance(rules.initial_state)
    return Decider(rules.name, initial_state=initial, decide=decide, evolve=fold.evolve)


class Stepping:
    """One decision about one instance."""

    def __init__(
        self,
        rules: Rules[Any],
        fold: InstanceFold,
        instance: Instance,
        *,
        deciders: Collection[str] | None,
    ) -> None:
        self._rules = rules
        self._fold = fold
        self._deciders = deciders
        self._before = instance
        # `evolve` may change the very state, which is the caller's.
        self.now = isolated(instance)
        self.events: list[Any] = []

    def decide(self, order: Order) -> list[Any]:
        """The events that an order comes to. Raises InvalidInput for repairs that do not fit."""
        match order:
            case React(key=key):
                self._came_in(key, order)
            case Answer():
                self._answer(order)
            case Fire(name=name, number=number):
                self._fire(name, number)
            case Retry(actor=actor):
                self._retry(actor)
            case Skip():
                self._skip(order)
            case Cancel():
                self._cancel(order)
        return self.events

    def _record(self, *events: Any) -> None:
        for event in events:
            self.events.append(event)
            self.now = self._fold.evolve(self.now, event)

    def _came_in(self, key: str, order: React) -> None:
        if self.now.has_ended:
            return
        if not self.now.version:
            self._record(log.Started(key, self._rules.version))
        before, begun = self.now, len(self.events)
        self._take(order.event, order.refused)
        # What changes nothing leaves no trace: an event of another state of affairs, for example.
        if [type(each) for each in self.events[begun:]] == [log.Reacted] and _is_same(before, self):
            self.events.clear()

    def _take(self, incoming: RecordedEvent[Any], refused: str = "") -> None:
        """React to what came in, wholly; or hold it, and wait to be repaired."""
        if self.now.stuck:
            self._record(log.Held(incoming))
            return
        was_held = self.now.held
        begun, before = len(self.events), isolated(self.now)
        try:
            if refused:
                raise Refused(refused)
            self._react(incoming)
        except Exception as error:
            # It may be anything: the functions are the user's.
            self.now = before
            del self.events[begun:]
            if not was_held:
                self._record(log.Held(incoming))
            self._record(log.Quarantined(_why(incoming, error)))

    def _react(self, incoming: RecordedEvent[Any]) -> None:
        rules = self._rules_now()
        data = incoming.data
        is_own = isinstance(data, log.OWN)
        self._record(data if is_own else log.Reacted(incoming))
        if self.now.reactions > rules.reactions_max:
            raise Refused(
                f"it reacted {rules.reactions_max} times within one conversation, so it may be "
                "without an end; raise reactions_max if that is right"
            )
        if self.now.phase == "compensating":
            self._go_back()
        if self.now.phase != "running":
            return
        asking = Asking(rules, self.now, self._deciders)
        self._ask(asking, rules.react(isolated(self.now.state), incoming))
        unwell = isinstance(data, log.StepRejected | log.NoAnswer)
        if unwell and not asking.count:
            self._compensate(_reason(data))

    def _ask(self, asking: Asking, outputs: Sequence[Any]) -> None:
        for event in asking.events(outputs):
            if isinstance(event, log.Compensating):
                self._compensate(event.reason)
            elif asking.is_mine(event):
                self._record(event)
            else:
                self.events.append(event)
            asking.now = self.now

    def _rules_now(self) -> Rules[Any]:
        """The definition that the instance goes by, after it was migrated where it is to be."""
        rules, now = self._rules, self.now
        known = rules.of_version(now.version)
        if known is None:
            raise Refused(
                f"it was started by version {now.version}, and the App has version "
                f"{', '.join(str(each.version) for each in (rules, *rules.earlier))}; give the "
                "old definition in earlier=[...]"
            )
        if known is not rules and rules.migrate is not None:
            self._record(log.Migrated(rules.version))
            known = rules
        lost = [each.name for each in self.now.steps if _is_lost(each, known)]
        if lost:
            raise Refused(
                f"it has the step {lost[0]!r}, which version {known.version} does not: that has "
                f"{', '.join(map(repr, known.steps))}; a renamed step is a new version"
            )
        return known

    def _compensate(self, reason: str) -> None:
        self._record(log.Compensating(reason))
        self._go_back()

    def _go_back(self) -> None:
        """Take back the last step that is to be, once nothing is under way."""
        now = self.now
        if any(each.status in ("sent", "retrying", "failed") for each in now.steps):
            return
        for each in reversed(now.steps):
            work = each.sent.compensation
            if work is not None and each.status in ("done", "unanswered"):
                self._record(log.StepSent(f"undo {each.name}", work, undoes=each.name))
                return
        self._record(log.Ended("cancelled" if now.is_cancelled else "compensated"))

    def _answer(self, order: Answer) -> None:
        step = self.now.step(order.step)
        if step is None or step.sent.attempt != order.attempt or step.status != "sent":
            return
        if order.outcome == "unreached":
            self._call_again(order)
        elif order.outcome == "failed" or (order.outcome == "rejected" and self._is_final(step)):
            reason = f"step {order.step!r}: {order.reason}"
            self._record(log.StepFailed(order.step, order.reason), log.Quarantined(reason))
        elif step.undoes:
            self._record(log.StepCompensated(step.undoes))
            if not self.now.stuck and self.now.phase == "compensating":
                self._go_back()
        elif order.outcome == "done":
            self._own(log.StepDone(order.step))
        else:
            self._own(log.StepRejected(order.step, order.reason))

    def _is_final(self, step: Any) -> bool:
        """Whether a rejection cannot be reacted to."""
        return bool(step.undoes) or self.now.has_ended

    def _own(self, data: Any) -> None:
        if self.now.has_ended:
            self._record(data)
        else:
            self._take(own(self.now, self._rules.name, data))

    def _call_again(self, order: Answer) -> None:
        rules = self._rules.of_version(self.now.version) or self._rules
        if order.attempt >= rules.call_attempts_max:
            # Nobody knows whether it reached the outside, so it is taken back as well.
            self._record(log.CallFailed(order.step, order.reason, order.attempt, 0))
            self._own(log.NoAnswer(order.step))
            return
        after_us = min(PAUSE_US * 2 ** min(order.attempt - 1, 30), PAUSE_MAX_US)
        number = self.now.timers_set + 1
        self._record(
            log.CallFailed(order.step, order.reason, order.attempt, after_us),
            log.TimerSet(
                f"call {order.step}", number, after_us=after_us, step=order.step, retries=True
            ),
        )

    def _fire(self, name: str, number: int) -> None:
        timer = self.now.timer(name)
        if timer is None or timer.number != number:
            return
        if timer.retries:
            self._send_again(timer.step)
        elif timer.step:
            self._own(log.NoAnswer(timer.step))
        else:
            self._own(log.TimerFired(name, number))

    def _send_again(self, name: str) -> None:
        step = self.now.step(name)
        if step is not None:
            self._record(replace(step.sent, attempt=step.sent.attempt + 1))

    def _retry(self, actor: str) -> None:
        self._check(bool(self.now.stuck), "is not stuck, so there is nothing to try again")
        self._record(log.Retried(actor))
        for each in self.now.steps:
            if each.status == "failed":
                self._send_again(each.name)
        self._resume()

    def _resume(self) -> None:
        while self.now.held and not self.now.stuck:
            self._take(self.now.held[0])
        if self.now.phase == "compensating" and not self.now.stuck:
            self._go_back()

    def _skip(self, order: Skip) -> None:
        failed = next((each.name for each in self.now.steps if each.status == "failed"), "")
        name = order.step or failed
        if name:
            step = self.now.step(name)
            known = ", ".join(repr(each.name) for each in self.now.steps) or "none"
            self._check(step is not None, f"has no step {name!r}; its steps: {known}")
            self._skip_step(step, order)
        else:
            found = "waits for no repair; name the step to skip"
            self._check(bool(self.now.stuck and self.now.held), found)
            self._record(log.EventSkipped(order.reason, order.actor))
        self._resume()

    def _skip_step(self, step: Any, order: Skip) -> None:
        is_open = step.status in ("sent", "failed", "retrying") or step.awaits
        self._check(is_open, f"does not wait for step {step.name!r}, which is {step.status}")
        skipped = log.StepSkipped(step.name, order.reason, order.actor)
        if step.undoes or self.now.has_ended or self.now.held:
            self._record(skipped)
        else:
            self.now = replace(self.now, stuck="")
            self._take(own(self.now, self._rules.name, skipped))

    def _cancel(self, order: Cancel) -> None:
        self._check(
            bool(self.now.version) and not self.now.has_ended,
            f"is {self.now.status}, so there is nothing to cancel",
        )
        self._record(log.Cancelled(order.reason, order.actor, order.compensate))
        for each in self.now.steps:
            if each.status == "failed" and each.undoes and order.compensate:
                self._send_again(each.name)
            elif each.status == "failed":
                self._record(log.StepSkipped(each.name, order.reason, order.actor))
        if order.compensate:
            self._compensate(order.reason)
        else:
            self._record(log.Ended("cancelled", order.reason))

    def _check(self, is_right: bool, found: str) -> None:
        if not is_right:
            raise InvalidInput(f"{self._rules.name}-{self.now.key or '?'} {found}")


def _is_same(before: Instance, stepping: Stepping) -> bool:
    state = stepping.now.state
    return has_equality(state) and bool(state == before.state)


def _is_lost(step: Any, rules: Rules[Any]) -> bool:
    return bool(rules.steps) and (step.undoes or step.name) not in rules.steps


def _why(incoming: RecordedEvent[Any], error: Exception) -> str:
    said = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
    at = f" at position {incoming.position}" if incoming.position else ""
    return f"on {incoming.type!r}{at}: {said}"


def _reason(data: log.StepRejected | log.NoAnswer) -> str:
    if isinstance(data, log.StepRejected):
        return f"step {data.step!r} was rejected: {data.reason}"
    return f"step {data.step!r} had no answer in time"
