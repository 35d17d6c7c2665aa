"""Deciders: what a system decides, as pure functions; and aggregates, the same as classes. Without
I/O.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import reduce
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from leftfold.errors import InvalidDecision, InvalidInput
from leftfold.event import Event
from leftfold.fingerprint import shape
from leftfold.limits import POSITION_MAX, check_integer, check_is_query, check_name
from leftfold.query import Query, select
from leftfold.states import Folding, has_equality, isolated

C = TypeVar("C")
S = TypeVar("S")
E = TypeVar("E")

Boundary = str | int | UUID | Query
"""What a decision depends on: the id of one stream, or a query over tags and types."""


class Snapshots(Struct, frozen=True):
    """When states of a decider are kept, so that a load need not fold from the first event.

    A snapshot is taken once a load has folded `every` events since the last one; `every` may be a
    function of the state and that number. It is a cache and never a truth: it is ignored when the
    log does not hold the event it was taken after, when it does not decode, and when the state's
    type or the code of `evolve` or of an upcaster has changed. Raise `version` when something that
    they call changes what it returns.

    States are kept as msgpack of `state_type`, which is the type of the initial state unless given;
    one that does not come back the same, types included, is not kept.
    """

    every: int | Callable[[Any, int], bool] = 100
    version: int = 1
    state_type: Any = None

    def __post_init__(self) -> None:
        if not callable(self.every):
            check_integer("Snapshots.every (events, or a function)", self.every, 1, POSITION_MAX)
        check_integer("Snapshots.version", self.version, 0, POSITION_MAX)

    def is_due(self, state: object, events: int) -> bool:
        """Whether to take one, `events` events after the last."""
        return self.every(state, events) if callable(self.every) else events >= self.every


def _no_decide(_command: object, _state: object) -> Any:
    raise InvalidInput("this decider only folds; give it decide=...")


class _Named(Struct, frozen=True):
    category: str


class Decider(_Named, Generic[C, S, E], frozen=True, kw_only=True, eq=False):
    """What is decided about one kind of thing, as pure functions over plain values.

    - `decide(command, state)` returns a list of events, empty where there is nothing to do, or
      raises an exception of yours: a rejection. It changes nothing. Without it, the decider folds.
    - `evolve(state, event)` returns the state after an event. It takes every event that its
      boundary may hold, old ones included, and returns the state as it is for what does not matter.
    - `initial_state` is the state before the first event.

    The events of one id go to the stream `category-id`. For other places, `stream` is a function
    of an event that names its stream, or `decide` returns `Event(stream, data)` values; a boundary
    over a query needs one of the two. An `Event` may also carry tags and `occurred_at`, and without
    a name its stream is the usual one: `Event("", data, occurred_at=...)`.
    """

    initial_state: S
    decide: Callable[[C, S], Iterable[E]] = _no_decide
    evolve: Callable[[S, E], S]
    stream: Callable[[E], str] | None = None
    snapshots: Snapshots | None = None

    def __post_init__(self) -> None:
        check_name("category", self.category)
        if "-" in self.category:
            raise InvalidInput(
                f"a category ends at its first dash, so it has none, found {self.category!r}"
            )
        for name in ("decide", "evolve", "stream"):
            if not callable(getattr(self, name)) and (name != "stream" or self.stream is not None):
                raise InvalidInput(f"{name} of decider {self.category!r} is a function")
        if isinstance(self.snapshots, Snapshots):
            state_encoder(self)
        elif self.snapshots is not None:
            raise InvalidInput(f"snapshots of decider {self.category!r} is a Snapshots(...)")

    def query(self, boundary: Boundary) -> Query:
        """The events that a decision depends on: those of one stream where `boundary` is an id."""
        if isinstance(boundary, str | int | UUID) and not isinstance(boundary, bool):
            if boundary == "":
                raise InvalidInput(f"an id of {self.category!r} is not empty")
            stream = f"{self.category}-{boundary}"
            check_name("stream", stream)
            return select(stream)
        return check_is_query(boundary)

    def folding(self) -> Folding:
        """How its events become a state."""
        return Folding(self.category, self.evolve, self.initial_state)

    def decided(self, command: C, state: S) -> list[E]:
        """What `decide` says, checked to be events and to have left `state` alone.

        Raises InvalidDecision, and what `decide` raises.
        """
        given = isolated(state)
        events = _listed(self.decide(command, given))
        if isinstance(events, str):
            raise self.invalid(command, events)
        if given is not state and _has_changed(self._expected(state, events), given, state):
            raise self.invalid(
                command, "it changed the state, which is lost; return, or record, events instead"
            )
        return events

    def _expected(self, state: S, events: list[Any]) -> Any:
        """What `decide` may leave of the state: an aggregate applies the events to itself."""
        if not isinstance(state, Aggregate):
            return state
        evolve: Callable[[Any, Any], Any] = self.evolve
        return reduce(evolve, map(_data, events), isolated(state))

    def invalid(self, command: object, reason: str) -> InvalidDecision:
        """The error for a decision that breaks the rules."""
        return InvalidDecision(self.category, type(command).__name__, reason)


def check_is_decider(decider: object) -> None:
    """Refuse, with InvalidInput, what is none."""
    if not isinstance(decider, Decider):
        found = getattr(decider, "__name__", type(decider).__name__)
        raise InvalidInput(f"a state is that of a Decider, found {found}")


def _listed(decision: object) -> list[Any] | str:
    """The events of a decision, or what is wrong with it."""
    if inspect.iscoroutine(decision):
        decision.close()
        return "it is a coroutine; decide is a plain function"
    if decision is None:
        return "it returned None; return a list of events, or does it lack a case for this command?"
    # No other iterables: a set has no order, and a pydantic model iterates over its fields.
    if not isinstance(decision, Sequence | Iterator) or isinstance(decision, str | bytes):
        found = type(decision).__name__
        return f"it returned {found}; return a list of events, with brackets also around one"
    return list(decision)


def _data(event: Any) -> Any:
    return event.data if isinstance(event, Event) else event


def _has_changed(expected: object, found: object, original: object) -> bool:
    if isinstance(expected, Aggregate):
        attributes = {**vars(expected)}
        attributes.pop("_recorded", None)
        # What a cached property has added is no change.
        expected, found = attributes, {name: vars(found).get(name) for name in attributes}
        original = vars(original)
    # Where a copy does not equal its original, equality tells nothing.
    return has_equality(found) and expected != found and deepcopy(original) == original


def state_encoder(decider: Decider[Any, Any, Any]) -> tuple[Any, msgspec.msgpack.Decoder[Any]]:
    """The type of a decider's states and its decoder. Raises InvalidInput where it has none."""
    state_type = decider.snapshots.state_type if decider.snapshots else None
    if state_type is None:
        state_type = type(decider.initial_state)
    try:
        msgspec.msgpack.encode(decider.initial_state)
        shape(state_type)
        return state_type, msgspec.msgpack.Decoder(state_type)
    except (TypeError, ValueError, NameError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise InvalidInput(
            f"states of decider {decider.category!r} cannot be kept as snapshots: {reason}; "
            "use a Struct, a dataclass or plain values, or give Snapshots(state_type=...)"
        ) from error


class Aggregate:
    """A decider as a class: commands are its methods, and its attributes are the state.

    A method that decides checks, raises to reject, and calls `record(event)`. `apply(event)`
    changes the attributes; it alone does, for it runs again whenever the state is folded.
    `Account.decider("account")` is the decider, whose commands are functions of the aggregate:
    `es.handle(accounts, "123", lambda account: account.withdraw(amount))`. The class is called
    without arguments for the initial state; a dataclass can have snapshots.
    """

    def apply(self, event: Any) -> None:
        """Change the attributes as `event` says. Yours to write, for example with `match`."""
        raise NotImplementedError(f"{type(self).__name__} has no method apply(self, event)")

    def record(self, event: Any) -> None:
        """Decide on `event`, data or an `Event`: apply its data, and have it appended when the
        command is done.
        """
        self.apply(_data(event))
        self.__dict__.setdefault("_recorded", []).append(event)

    @classmethod
    def decider(
        cls, category: str, *, snapshots: Snapshots | None = None
    ) -> Decider[Callable[[Self], object], Self, Any]:
        """The decider whose states are objects of this class."""
        return Decider(
            category,
            initial_state=cls(),
            decide=_run,
            evolve=_applied,
            snapshots=snapshots,
        )


A = TypeVar("A", bound=Aggregate)


def _run(command: Callable[[A], object], aggregate: A) -> list[Any]:
    aggregate.__dict__["_recorded"] = recorded = list[Any]()
    outcome = command(aggregate)
    if inspect.iscoroutine(outcome):
        outcome.close()
        raise TypeError("a command of an aggregate is a plain function, found a coroutine")
    return recorded


def _applied(aggregate: A, event: object) -> A:
    aggregate.apply(event)
    return aggregate
