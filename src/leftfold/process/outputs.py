"""What a reaction may ask for: plain values, returned by `react`. Without I/O."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from leftfold.decider import Decider
from leftfold.event import Event


class _Step(Struct, frozen=True, kw_only=True):
    step: str = ""
    """How the step is called; no two of an instance have one name. Left out: as the class of the
    command.
    """
    compensate: Any = None
    """What takes it back: a command to the same id, a `Send` or a `Call`."""
    answer_within: timedelta | None = None
    """How long to wait until a reaction returns `Answered(step)`, before `NoAnswer(step)`."""


class Send(_Step, frozen=True):
    """A command for a decider of the App: `Send("inventory", "tea", Reserve(2), step="reserve")`.

    It is handled once. The process then gets `StepDone(step)`, or `StepRejected(step, reason)`.
    """

    to: str | Decider[Any, Any, Any]
    id: Any
    command: Any

    @property
    def category(self) -> str:
        """Of the decider."""
        return self.to.category if isinstance(self.to, Decider) else self.to


class Call(_Step, frozen=True):
    """A request to the outside world, by a function of the process manager:
    `Call("charge", Charge(amount), step="payment")`.

    The function gets the request and an idempotency key, which is the same at each attempt. When it
    raises it is called again, after pauses that grow, and at last the process gets
    `NoAnswer(step)`: nobody knows whether it reached the outside. When it returns, it gets
    `StepDone(step)`; when it raises `Declined`, `StepRejected(step, reason)`.
    """

    to: str
    command: Any


class _Named(Struct, frozen=True):
    name: str


class Timer(_Named, frozen=True, kw_only=True):
    """Come back at a moment, or after some time by the store's clock: the process then gets
    `TimerFired(name)`. One of the same name is replaced. One whose moment has passed fires at once.
    """

    after: timedelta | None = None
    at: datetime | None = None


class CancelTimer(_Named, frozen=True):
    """A timer fires no more. One that is not set any more is left alone."""


class Answered(Struct, frozen=True):
    """A step has its answer: its `answer_within` is over."""

    step: str


class Compensate(Struct, frozen=True):
    """Take back, last first, every step that was done and says how; then the process has ended.

    Steps under way are waited for. Nothing is reacted to any more.
    """

    reason: str = ""


class Done(Struct, frozen=True):
    """The process has ended. What comes later is passed over."""


Output = Send | Call | Event[Any] | Timer | CancelTimer | Answered | Compensate | Done
"""What `react` returns a list of. An `Event(stream, data)` is recorded together with the reaction.
"""


class Declined(Exception):
    """Raised by a function that a `Call` names: the outside world says no, for good."""
