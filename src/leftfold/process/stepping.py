"""What an instance of a process does next. Pure: commands in, events of its stream out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from msgspec.structs import replace

from leftfold.decider import Decider
from leftfold.errors import InvalidInput
from leftfold.event import Instead, RecordedEvent
from leftfold.process import events as log
from leftfold.process.instance import Instance, InstanceFold, Step, own
from leftfold.process.orders import Answer, Cancel, Fire, Order, React, Retry, Skip
from leftfold.process.reacting import Asking, Refused
from leftfold.process.rules import Rules
from leftfold.process.wire import first_id
from leftfold.states import has_equality, isolated

__all__ = ["Answer", "Cancel", "Fire", "Order", "React", "Retry", "Skip", "decider_of"]

PAUSE_US = 1_000_000
PAUSE_MAX_US = 600 * 1_000_000
"""Pauses before a call to the outside is made again double from the one to the other."""


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
            case Fire():
                self._fire(order)
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
        by = self._goes_by()
        mine = [each for each in (order, *order.others) if by in (each.versions or (by,))]
        if self.now.has_ended or not mine:
            return
        is_new = not self.now.version
        if is_new:
            self._record(log.Started(key, self._rules.version))
        for each in mine:
            if not self.now.has_ended:
                self._take(log.Held(each.event), order.refused)
        kinds = {type(each) for each in self.events}
        if is_new and kinds == {log.Started, log.Reacted} and self._is_unchanged():
            # It is not for this process as yet. It is recorded, so that it is known when it comes
            # again: by then it might have a meaning.
            self.events[:] = self.events[1:]

    def _is_unchanged(self) -> bool:
        state = self.now.state
        return has_equality(state) and bool(state == self._rules.initial_state)

    def _goes_by(self) -> int:
        """The version of the definition that says what the instance is given; 0: it is new."""
        rules, version = self._rules, self.now.version
        known = (0, *(each.version for each in rules.in_use))
        return version if version in known else rules.version

    def _take(self, held: log.Held, refused: str = "", *, was_held: bool = False) -> None:
        """React to what came in, wholly; or hold it, and wait to be repaired."""
        if self.now.stuck:
            self._record(held)
            return
        begun, before = len(self.events), isolated(self.now)
        try:
            if refused:
                raise Refused(refused)
            self._react(held)
        except Exception as error:
            # It may be anything: the functions are the user's.
            self.now = before
            del self.events[begun:]
            if not was_held:
                self._record(held)
            self._record(log.Quarantined(_why(held.event, error)))

    def _react(self, held: log.Held) -> None:
        rules = self._rules_now()
        data = held.event.data
        is_own = isinstance(data, log.OWN)
        self._record(data if is_own else log.Reacted(held.event, held.today))
        self._go_back()
        for each in held.events:
            if self.now.phase == "running":
                self._react_to(rules, each)

    def _react_to(self, rules: Rules[Any], incoming: RecordedEvent[Any]) -> None:
        data = incoming.data
        asking = Asking(rules, self.now, self._deciders)
        outputs = rules.react(isolated(self.now.state), incoming)
        # What nothing comes of is the end of any loop.
        if outputs and self.now.reactions > rules.reactions_max:
            raise Refused(
                f"it reacted {rules.reactions_max} times within one conversation, so it may be "
                "without an end; raise reactions_max if that is right"
            )
        self._ask(asking, outputs)
        unwell = isinstance(data, log.StepRejected | log.NoAnswer)
        if unwell and not outputs:
            self._compensate(self._reason(data))

    def _reason(self, data: log.StepRejected | log.NoAnswer) -> str:
        if isinstance(data, log.StepRejected):
            return f"step {data.step!r} was rejected: {data.reason}"
        step = self.now.step(data.step)
        why = f": {step.reason}" if step is not None and step.reason else ""
        return f"step {data.step!r} had no answer in time{why}"

    def _ask(self, asking: Asking, outputs: Sequence[Any]) -> None:
        for event in asking.events(outputs):
            self._record(event)
            self._go_back()
            asking.now = self.now

    def _rules_now(self) -> Rules[Any]:
        """The definition that the instance goes by, after it was migrated where it is to be."""
        rules, now = self._rules, self.now
        known = rules.of_version(now.version)
        if known is None:
            raise Refused(
                f"it goes by version {now.version}, and the App has version "
                f"{', '.join(str(each.version) for each in (rules, *rules.earlier))}; give its "
                "definition in earlier=[...], or is older code running?"
            )
        if known is not rules and rules.migrate is not None:
            self._record(log.Migrated(rules.version))
            known = rules
        steps = set(known.steps)
        sent = self.now.steps if steps else ()
        lost = [each.name for each in sent if (each.undoes or each.name) not in steps]
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
        """Where it compensates: take back the last step that is to be, with nothing under way."""
        now = self.now
        if now.phase != "compensating" or now.stuck:
            return
        if any(each.status in ("sent", "retrying", "failed") for each in now.steps):
            return
        for each in reversed(now.steps):
            work = each.sent.compensation
            if work is not None and self._may_have_been_done(each):
                self._record(log.StepSent(f"undo {each.name}", work, undoes=each.name))
                return
        self._record(log.Ended("cancelled" if now.is_cancelled else "compensated"))

    def _may_have_been_done(self, step: Step) -> bool:
        """Whether a step is still to be taken back. A call that was skipped may have been made, for
        all that anybody knows; a command that was skipped is never accepted.
        """
        if step.status != "skipped":
            return step.status in ("done", "unanswered")
        return step.sent.work.id is None and self.now.step(f"undo {step.name}") is None

    def _answer(self, order: Answer) -> None:
        step = self.now.step(order.step)
        if step is None or step.sent.attempt != order.attempt or step.status != "sent":
            return
        if order.outcome == "unreached":
            self._call_again(step, order)
        elif order.outcome == "failed" or (order.outcome == "rejected" and self._is_final(step)):
            self._fail(order)
        elif step.undoes:
            self._record(log.StepCompensated(step.undoes))
            self._go_back()
        elif order.outcome == "done":
            self._own(log.StepDone(order.step), order.refused)
        else:
            self._own(log.StepRejected(order.step, order.reason), order.refused)

    def _is_final(self, step: Step) -> bool:
        """Whether a rejection cannot be reacted to."""
        return bool(step.undoes) or self.now.has_ended

    def _own(self, data: Any, refused: str = "") -> None:
        if self.now.has_ended:
            self._record(data)
        else:
            self._take(self._held(data), refused)

    def _held(self, data: Any) -> log.Held:
        """What a process gets of itself, as it comes in."""
        return log.Held(own(self.now, self._rules.name, data))

    def _fail(self, order: Answer) -> None:
        reason = f"step {order.step!r}: {order.reason}"
        self._record(log.StepFailed(order.step, order.reason), log.Quarantined(reason))

    def _call_again(self, step: Step, order: Answer) -> None:
        rules = self._rules.of_version(self.now.version) or self._rules
        is_last = order.attempt >= rules.call_attempts_max or self.now.phase == "cancelled"
        pause_us = min(PAUSE_US * 2 ** min(order.attempt - 1, 30), PAUSE_MAX_US)
        after_us = 0 if is_last else pause_us
        self._record(log.CallFailed(order.step, order.reason, order.attempt, after_us))
        if not is_last:
            name, number = f"call {step.name}", self.now.timers_set + 1
            again = log.TimerSet(name, number, after_us=after_us, step=step.name, retries=True)
            self._record(again)
        elif step.undoes:
            # It cannot be taken back by itself. Somebody is to look at it.
            self._fail(order)
        else:
            # Nobody knows whether it reached the outside, so it is taken back as well.
            self._own(log.NoAnswer(order.step), order.refused)

    def _fire(self, order: Fire) -> None:
        timer = self.now.timer(order.name)
        if timer is None or timer.number != order.number:
            return
        step = self.now.step(timer.step)
        if step is None:
            self._own(log.TimerFired(order.name, order.number), order.refused)
        elif timer.retries:
            if step.status == "retrying":
                self._send_again(step)
        elif not _is_undelivered(step):
            self._own(log.NoAnswer(timer.step), order.refused)

    def _send_again(self, step: Step) -> None:
        self._record(replace(step.sent, attempt=step.sent.attempt + 1))

    def _retry(self, actor: str) -> None:
        self._check(bool(self.now.stuck), "is not stuck, so there is nothing to try again")
        self._record(log.Retried(actor))
        for each in self.now.steps:
            if each.status == "failed":
                self._send_again(each)
        self._resume()

    def _resume(self) -> None:
        while self.now.waiting and not self.now.stuck:
            self._take(self.now.waiting[0], was_held=True)
        self._go_back()

    def _skip(self, order: Skip) -> None:
        failed = next((each.name for each in self.now.steps if each.status == "failed"), "")
        name = order.step or failed
        if name:
            step: Any = self.now.step(name)
            known = ", ".join(repr(each.name) for each in self.now.steps) or "none"
            self._check(step is not None, f"has no step {name!r}; its steps: {known}")
            self._skip_step(step, order)
        else:
            found = "waits for no repair; name the step to skip"
            self._check(bool(self.now.stuck and self.now.waiting), found)
            self._record(log.EventSkipped(order.reason, order.actor))
        left = next((each.name for each in self.now.steps if each.status == "failed"), "")
        if left and not self.now.stuck:
            self._record(log.Quarantined(f"step {left!r} failed too, and waits for repair"))
        self._resume()

    def _skip_step(self, step: Step, order: Skip) -> None:
        is_open = step.status in ("sent", "failed", "retrying") or step.awaits
        self._check(is_open, f"does not wait for step {step.name!r}, which is {step.status}")
        if step.status == "sent" and step.sent.work.id is not None:
            self._prevent(step, order)
        skipped = log.StepSkipped(step.name, order.reason, order.actor)
        if step.undoes or self.now.has_ended:
            self._record(skipped)
        elif self.now.waiting:
            # It gets its turn after what waits already.
            self._record(self._held(skipped), log.Retried(order.actor))
        else:
            self.now = replace(self.now, stuck="")
            self._take(self._held(skipped))

    def _prevent(self, step: Step, order: Skip) -> None:
        """See to it that a command is not accepted any more, whoever is delivering it."""
        stream = f"{self._rules.name}-{self.now.key}"
        rejected = log.CommandRejected(step.name, "rejected", f"skipped: {order.reason}")
        self._record(Instead(stream, rejected, id=first_id(stream, step.sent)))

    def _cancel(self, order: Cancel) -> None:
        self._check(
            bool(self.now.version) and not self.now.has_ended,
            f"is {self.now.status}, so there is nothing to cancel",
        )
        now = self.now
        is_under_way = now.is_cancelled and not any(each.status == "failed" for each in now.steps)
        self._check(not (is_under_way and order.compensate), "is being cancelled already")
        self._record(log.Cancelled(order.reason, order.actor, order.compensate))
        for each in self.now.steps:
            if each.status == "failed" and each.undoes and order.compensate:
                self._send_again(each)
            elif each.status == "failed" or (each.status == "retrying" and not order.compensate):
                self._record(log.StepSkipped(each.name, order.reason, order.actor))
        if order.compensate:
            self._compensate(order.reason)
        else:
            self._record(log.Ended("cancelled", order.reason))

    def _check(self, is_right: bool, found: str) -> None:
        if not is_right:
            raise InvalidInput(f"{self._rules.name}-{self.now.key or '?'} {found}")


def _is_undelivered(step: Any) -> bool:
    """Whether a step is known not to have reached anybody: that is no lack of an answer."""
    is_command = step.sent.work.id is not None
    return step.status == "failed" or (step.status == "sent" and is_command)


def _why(incoming: RecordedEvent[Any], error: Exception) -> str:
    is_ours = isinstance(error, Refused)
    said = str(error) if is_ours else f"{type(error).__name__}: {error} ({_place(error)})"
    at = f" at position {incoming.position}" if incoming.position else ""
    return f"on {incoming.type!r}{at}: {said}"


def _place(error: Exception) -> str:
    """The line that raised an error."""
    at: Any = error.__traceback__
    while at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}"
