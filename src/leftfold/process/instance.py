"""One instance of a process, folded from its stream. Pure."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from leftfold.event import NO_METADATA, RecordedEvent, pack_metadata
from leftfold.process import events as log
from leftfold.process.rules import Rules
from leftfold.states import isolated

StepStatus = Literal[
    "sent", "done", "rejected", "unanswered", "failed", "skipped", "compensated", "retrying"
]
Phase = Literal["new", "running", "compensating", "done", "compensated", "cancelled"]
CONVERSATIONS_MAX = 100
"""Conversations whose reactions are counted: those that went on last."""
_NOTHING = pack_metadata(NO_METADATA)


class Step(Struct, frozen=True):
    """A step of an instance, and how it is. `undoes` names the step that it takes back."""

    sent: log.StepSent
    status: StepStatus
    awaits: bool = False
    reason: str = ""
    """Why it was rejected or failed, or its last call did."""

    @property
    def name(self) -> str:
        return self.sent.step

    @property
    def undoes(self) -> str:
        return self.sent.undoes


class Instance(Struct, frozen=True):
    """An instance as far as its stream tells."""

    state: Any
    """What `evolve` of the process manager makes of it."""
    key: str = ""
    version: int = 0
    phase: Phase = "new"
    stuck: str = ""
    """Why it waits to be repaired; empty: it does not."""
    reason: str = ""
    """Why it was compensated or cancelled."""
    steps: tuple[Step, ...] = ()
    timers: tuple[log.TimerSet, ...] = ()
    waiting: tuple[log.Held, ...] = ()
    """What came in and waits, as it was recorded."""
    is_cancelled: bool = False
    timers_set: int = 0
    conversation: str | None = None
    counts: tuple[tuple[str | None, int], ...] = ()
    """How many reactions there were within each of the last conversations."""

    @property
    def reactions(self) -> int:
        """How many there were within this conversation."""
        return dict(self.counts).get(self.conversation, 0)

    @property
    def held(self) -> tuple[RecordedEvent[Any], ...]:
        """What came in and waits."""
        return tuple(each.event for each in self.waiting)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is reacted to any more."""
        return self.phase in ("done", "compensated", "cancelled")

    @property
    def status(self) -> str:
        """In one word: `stuck`, or its phase."""
        return "stuck" if self.stuck else self.phase

    def step(self, name: str) -> Step | None:
        """The step of a name."""
        for each in self.steps:
            # There may be thousands: a property and a generator would cost thrice as much.
            if each.sent.step == name:
                return each
        return None

    def __isolated__(self) -> Instance:
        """Only the state and what came in hold objects of users, which may be changed in place."""
        state, waiting = isolated(self.state), isolated(self.waiting)
        is_same = state is self.state and waiting is self.waiting
        return self if is_same else replace(self, state=state, waiting=waiting)

    def timer(self, name: str) -> log.TimerSet | None:
        """The timer of a name that is set."""
        return next((each for each in self.timers if each.name == name), None)


def own(instance: Instance, name: str, data: Any) -> RecordedEvent[Any]:
    """What a process gets of itself, in the form of what it gets from others. It is given before
    it is recorded, so it has no position, version or time.
    """
    stream = f"{name}-{instance.key}"
    kind = log.type_name(type(data))
    return RecordedEvent(0, stream, 0, kind, data, (), 1, b"\0" * 16, 0, None, _NOTHING)


class InstanceFold:
    """The left fold of an instance's stream."""

    def __init__(self, rules: Rules[Any]) -> None:
        self._rules = rules

    def evolve(self, instance: Instance, event: Any) -> Instance:
        """The instance after one event of its stream. Events of no meaning here change nothing."""
        if isinstance(event, log.OWN):
            return self._own(instance, event)
        match event:
            case log.Started(key=key, version=version):
                return self._started(instance, key, version)
            case log.Migrated(version=version):
                return self._migrated(instance, version)
            case log.Reacted():
                return self._reacted(instance, event)
            case log.TimerSet() | log.TimerCancelled():
                return _timed(instance, event)
        return _phased(_stepped(instance, event), event)

    def _own(self, instance: Instance, event: Any) -> Instance:
        unheld = _unheld(instance, event)
        # What waited has told of its step when it came. Much may have become of that since.
        stepped = _stepped(instance, event) if unheld is instance else unheld
        stepped = _counted(stepped, instance.conversation)
        if isinstance(event, log.StepSkipped):
            stepped = replace(stepped, stuck="")
        return self._with_state(stepped, own(instance, self._rules.name, event))

    def _started(self, instance: Instance, key: str, version: int) -> Instance:
        rules = self._rules.of_version(version)
        # A fold may change the very state that it is given.
        state = isolated(rules.initial_state) if rules else instance.state
        return replace(instance, key=key, version=version, phase="running", state=state)

    def _migrated(self, instance: Instance, version: int) -> Instance:
        rules = self._rules.of_version(version)
        if rules is None or rules.migrate is None:
            return replace(instance, version=version)
        state = rules.migrate(instance.state, instance.version)
        return replace(instance, version=version, state=state)

    def _reacted(self, instance: Instance, reacted: log.Reacted) -> Instance:
        if not instance.version:
            # It changed nothing, and is recorded so that it is known when it comes again.
            return instance
        incoming = reacted.event
        instance = _unheld(instance, incoming)
        instance = _counted(instance, incoming.metadata.correlation_id or str(incoming.id))
        for each in reacted.events:
            instance = self._with_state(instance, each)
        return instance

    def _with_state(self, instance: Instance, incoming: RecordedEvent[Any]) -> Instance:
        rules = self._rules.of_version(instance.version)
        if rules is None:
            return instance
        state = rules.evolve(instance.state, incoming)
        if state is None and rules.initial_state is not None:
            raise TypeError(f"evolve of process {rules.name!r} returned None, not a state")
        return replace(instance, state=state)


def _counted(instance: Instance, conversation: str | None) -> Instance:
    known = dict(instance.counts).get(conversation, 0)
    others = [each for each in instance.counts if each[0] != conversation]
    counts = (*others[1 - CONVERSATIONS_MAX :], (conversation, known + 1))
    return replace(instance, conversation=conversation, counts=counts)


def _unheld(instance: Instance, incoming: Any) -> Instance:
    """Without the first of what was held, where that is what is reacted to now."""
    if not instance.waiting:
        return instance
    first, *rest = instance.waiting
    is_it = _is_it(first.event, incoming)
    return replace(instance, waiting=tuple(rest)) if is_it else instance


def _is_it(held: RecordedEvent[Any], incoming: Any) -> bool:
    """Whether this is what was held. Its data may be of a class without equality."""
    if isinstance(incoming, RecordedEvent):
        # What it is called may change with upcasters.
        return (held.position, held.id) == (incoming.position, incoming.id)
    if type(held.data) is not type(incoming):
        return False
    if isinstance(incoming, log.TimerFired):
        return bool((held.data.name, held.data.number) == (incoming.name, incoming.number))
    return bool(held.data.step == incoming.step)


def _timed(instance: Instance, event: log.TimerSet | log.TimerCancelled) -> Instance:
    rest = tuple(each for each in instance.timers if each.name != event.name)
    if isinstance(event, log.TimerCancelled):
        return replace(instance, timers=rest)
    return replace(instance, timers=(*rest, event), timers_set=event.number)


_STATUS: dict[type, StepStatus] = {
    log.StepDone: "done",
    log.StepRejected: "rejected",
    log.NoAnswer: "unanswered",
    log.StepFailed: "failed",
    log.CallFailed: "retrying",
}


def _stepped(instance: Instance, event: Any) -> Instance:
    """What an event says of the steps and of their timers."""
    match event:
        case log.StepSent():
            return _sent(instance, event)
        case log.TimerFired(name=name):
            return _timed(instance, log.TimerCancelled(name))
        case log.StepSkipped(step=name):
            return _skipped(instance, name)
        case log.StepAnswered(step=name):
            return _answered(instance, name)
        case log.StepCompensated(step=name):
            undoing = next((each.name for each in instance.steps if each.undoes == name), name)
            return _set(_set(instance, undoing, "compensated"), name, "compensated")
    status = _STATUS.get(type(event))
    if status is not None:
        told = {"reason": event.reason} if hasattr(event, "reason") else {}
        instance = _with_step(instance, event.step, status=status, **told)
    # After these, it is waited for no more, and not tried again.
    is_last = isinstance(event, log.StepRejected | log.NoAnswer)
    return _without_timers(instance, event.step) if is_last else instance


def _skipped(instance: Instance, name: str) -> Instance:
    step = instance.step(name)
    if step is not None and step.undoes:
        instance = _set(instance, step.undoes, "skipped")
    # One that was done stays so, and is taken back: only its answer is waited for no more.
    if step is not None and step.status != "done":
        instance = _set(instance, name, "skipped")
    return _without_timers(instance, name)


def _sent(instance: Instance, event: log.StepSent) -> Instance:
    """A step that is sent again keeps its place: steps are taken back in their order."""
    sent = Step(event, "sent", event.awaits)
    known = instance.step(event.step)
    if known is None:
        return replace(instance, steps=(*instance.steps, sent))
    steps = tuple(sent if each is known else each for each in instance.steps)
    timers = (each for each in instance.timers if not (each.retries and each.step == event.step))
    return replace(instance, steps=steps, timers=tuple(timers))


def _set(instance: Instance, name: str, status: StepStatus) -> Instance:
    return _with_step(instance, name, status=status)


def _with_step(instance: Instance, name: str, **changes: Any) -> Instance:
    known = instance.step(name)
    if known is None:
        return instance
    steps = [*instance.steps]
    steps[steps.index(known)] = replace(known, **changes)
    return replace(instance, steps=tuple(steps))


def _answered(instance: Instance, name: str) -> Instance:
    answered = _with_step(instance, name, awaits=False)
    # A call that is under way is still made until it succeeds, whoever answered.
    timers = tuple(each for each in instance.timers if each.step != name or each.retries)
    return replace(answered, timers=timers)


def _without_timers(instance: Instance, name: str) -> Instance:
    timers = tuple(each for each in instance.timers if each.step != name)
    return replace(_answered(instance, name), timers=timers)


def _phased(instance: Instance, event: Any) -> Instance:
    match event:
        case log.Compensating(reason=reason):
            return replace(instance, phase="compensating", reason=reason, timers=_retries(instance))
        case log.Ended(outcome=outcome, reason=reason):
            reason = reason or instance.reason
            return replace(instance, phase=outcome, reason=reason, timers=_retries(instance))
        case log.Held():
            return _held(instance, event)
        case log.Quarantined(reason=reason):
            return replace(instance, stuck=reason)
    return _repaired(instance, event)


def _held(instance: Instance, held: log.Held) -> Instance:
    instance = replace(instance, waiting=(*instance.waiting, held))
    data = held.event.data
    # A step was done, and a timer has fired, whatever comes of it and when.
    return _stepped(instance, data) if isinstance(data, log.OWN) else instance


def _repaired(instance: Instance, event: Any) -> Instance:
    match event:
        case log.Retried():
            return replace(instance, stuck="", counts=())
        case log.EventSkipped():
            return replace(instance, stuck="", waiting=instance.waiting[1:])
        case log.Cancelled():
            return replace(instance, stuck="", waiting=(), is_cancelled=True)
    return instance


def _retries(instance: Instance) -> tuple[log.TimerSet, ...]:
    """The timers that outlive a process's own: calls under way are still made."""
    return tuple(each for each in instance.timers if each.retries)
