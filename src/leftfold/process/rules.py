"""The fields of a process manager, for the fold and the decisions below it. Without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from msgspec import Struct

from leftfold.codec import Codec, EventType
from leftfold.event import RecordedEvent
from leftfold.query import Query, QueryItem

S = TypeVar("S")

REACTIONS_MAX = 1_000
"""Reactions of an instance within one conversation, unless told."""
CALL_ATTEMPTS_MAX = 10
"""How often a call to the outside is made before it counts as not answered, unless told."""

CONCURRENCY = 4
"""Instances that one runner works on at a time, unless told."""


class _Named(Struct, frozen=True, weakref=True):
    name: str


class Rules(_Named, Generic[S], frozen=True, kw_only=True, eq=False):
    """How the instances of a process go on. See `ProcessManager`, which has the same fields."""

    key: Callable[[RecordedEvent[Any]], str | int | UUID | None]
    initial_state: S
    evolve: Callable[[S, RecordedEvent[Any]], S]
    react: Callable[[S, RecordedEvent[Any]], Sequence[Any]]
    query: Query
    commands: Sequence[type | EventType] | Codec = ()
    calls: Mapping[str, Callable[[Any, str], object]] = {}
    steps: Sequence[str] = ()
    version: int = 1
    earlier: Sequence[Rules[Any]] = ()
    migrate: Callable[[Any, int], S] | None = None
    start: Literal["first", "now"] = "first"
    reactions_max: int = REACTIONS_MAX
    call_attempts_max: int = CALL_ATTEMPTS_MAX
    concurrency: int = CONCURRENCY

    @property
    def in_use(self) -> tuple[Rules[Any], ...]:
        """The definitions that instances may go by, this one first; with `migrate`, it alone."""
        return (self,) if self.migrate is not None else (self, *self.earlier)

    @property
    def followed(self) -> Query:
        """The events that an instance of any version may be given."""
        items: list[QueryItem] = []
        for each in self.in_use:
            items += [item for item in each.query.items if item not in items]
        return Query(tuple(items))

    def of_version(self, version: int) -> Rules[Any] | None:
        """The definition of a version, None where it is not known."""
        known = (self, *self.earlier)
        return next((each for each in known if each.version == version), None)
