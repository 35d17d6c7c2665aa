"""What is recorded of a process in its own stream, and what of it a process gets to see.

An instance is the stream `name-key`. Everything that came in is kept there together with what was
made of it, so the stream alone gives the state.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from leftfold.event import RecordedEvent


class Work(Struct, frozen=True):
    """A command as it is kept until it is delivered. `id` is None for a call to the outside."""

    to: str
    id: str | None
    type: str
    version: int
    command: msgspec.Raw


class StepDone(Struct, frozen=True):
    """The command of a step was accepted. Given to `evolve` and `react`."""

    step: str


class StepRejected(Struct, frozen=True):
    """The command of a step was rejected. Given to `evolve` and `react`; a reaction that returns
    nothing for it compensates.
    """

    step: str
    reason: str


class NoAnswer(Struct, frozen=True):
    """A step had no answer in time. Given to `evolve` and `react`; a reaction that returns nothing
    for it compensates.
    """

    step: str


class TimerFired(Struct, frozen=True):
    """A timer was due. Given to `evolve` and `react`."""

    name: str
    number: int = 0


class StepSkipped(Struct, frozen=True):
    """Somebody let the process go on without a step. Given to `evolve` and `react`."""

    step: str
    reason: str
    actor: str


OWN = (StepDone, StepRejected, NoAnswer, TimerFired, StepSkipped)
"""What a process gets of itself, besides the events that it reacts to."""


class Started(Struct, frozen=True):
    """The first event of an instance. It goes on by the definition of this version."""

    key: str
    version: int


class Migrated(Struct, frozen=True):
    """From here on, it goes by the definition of this version."""

    version: int


class CameIn(Struct, frozen=True):
    """Something came in. Where upcasters make none or several of it by now, `event` is as it was
    stored, with its data in bytes, and `today` is what they make of it.
    """

    event: RecordedEvent[Any]
    today: tuple[RecordedEvent[Any], ...] | None = None

    @property
    def events(self) -> tuple[RecordedEvent[Any], ...]:
        """What it means today: mostly that one event."""
        return (self.event,) if self.today is None else self.today


class Reacted(CameIn, frozen=True):
    """An event came in. What follows it in the same append was made of it."""


class Held(CameIn, frozen=True):
    """Something came in, and waits until the instance is repaired."""


class StepSent(Struct, frozen=True):
    """A command is to be delivered. `undoes` names the step that it takes back."""

    step: str
    work: Work
    compensation: Work | None = None
    awaits: bool = False
    undoes: str = ""
    attempt: int = 1


class CommandRejected(Struct, frozen=True):
    """A command was not accepted, and never will be: this has the id that its first event would
    have had.
    """

    step: str
    outcome: Literal["rejected", "failed"]
    reason: str


class StepAnswered(Struct, frozen=True):
    """A step is waited for no more."""

    step: str


class StepCompensated(Struct, frozen=True):
    """A step was taken back."""

    step: str


class StepFailed(Struct, frozen=True):
    """A command could be neither delivered nor rejected, or what takes back a step was rejected."""

    step: str
    reason: str


class CallFailed(Struct, frozen=True):
    """A call to the outside failed. It is made again in `after_us` microseconds."""

    step: str
    reason: str
    attempt: int
    after_us: int


class TimerSet(Struct, frozen=True):
    """A timer, by a moment or by a time from this record on; `step`: it is for a step's answer;
    `retries`: for its next attempt.
    """

    name: str
    number: int
    after_us: int = 0
    at_us: int | None = None
    step: str = ""
    retries: bool = False


class TimerCancelled(Struct, frozen=True):
    """A timer fires no more."""

    name: str


class Compensating(Struct, frozen=True):
    """From here on, steps are taken back. Timers are void."""

    reason: str


class Quarantined(Struct, frozen=True):
    """The instance waits to be repaired, and so does what comes in. Others go on."""

    reason: str


class Retried(Struct, frozen=True):
    """Somebody let it try again what it was stuck at."""

    actor: str


class EventSkipped(Struct, frozen=True):
    """Somebody let it pass over the first of what waits."""

    reason: str
    actor: str


class OutsideRetried(Struct, frozen=True):
    """Somebody had events delivered again that wait outside of all instances, those of a stream."""

    stream: str
    position: int
    actor: str


class OutsideSkipped(Struct, frozen=True):
    """Somebody let an event be passed over that waits outside of all instances."""

    stream: str
    position: int
    reason: str
    actor: str


class Cancelled(Struct, frozen=True):
    """Somebody cancelled it."""

    reason: str
    actor: str
    compensate: bool


class Ended(Struct, frozen=True):
    """The process has ended."""

    outcome: Literal["done", "compensated", "cancelled"]
    reason: str = ""


WITH_EVENTS = (Reacted, Held)
PLAIN: tuple[type, ...] = (
    *OWN,
    Started,
    Migrated,
    StepSent,
    CommandRejected,
    StepAnswered,
    StepCompensated,
    StepFailed,
    CallFailed,
    TimerSet,
    TimerCancelled,
    Compensating,
    Quarantined,
    Retried,
    EventSkipped,
    OutsideRetried,
    OutsideSkipped,
    Cancelled,
    Ended,
)


def type_name(kind: type) -> str:
    """The stored name of a class of these: no class of a user has such a name by itself."""
    return f"process.{kind.__name__}"
