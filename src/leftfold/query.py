"""Values: which events are meant (`Query`), how far (`Version`), and on what condition to append.
Without I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from msgspec import Struct

from leftfold.errors import InvalidInput
from leftfold.event import Event, RecordedEvent


def category_of(stream: str) -> str:
    """The part of a stream's name before its first dash; the whole name where it has none."""
    return stream.partition("-")[0]


class QueryItem(Struct, frozen=True):
    """Events of any of `types` (empty: all types) with all of `tags`, in one stream, one category,
    or everywhere.
    """

    stream: str | None = None
    category: str | None = None
    types: tuple[str | type, ...] = ()
    tags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        types = [each if isinstance(each, str) else each.__name__ for each in self.types]
        parts = (
            ("stream", self.stream),
            ("category", self.category),
            ("types", types),
            ("tags", list(self.tags)),
        )
        return f"select({', '.join(f'{name}={value!r}' for name, value in parts if value)})"

    def matches(self, event: Event[Any] | RecordedEvent[Any]) -> bool:
        """Whether an event is meant."""
        return (
            (self.stream is None or self.stream == event.stream)
            and (self.category is None or self.category == category_of(event.stream))
            and (not self.types or event.type in self.types)
            and all(tag in event.tags for tag in self.tags)
        )


class Query(Struct, frozen=True):
    """Events that match any of `items`. Made with `select(...)`, joined with `|`."""

    items: tuple[QueryItem, ...]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.items)) or "Query(())"

    def __or__(self, other: Query) -> Query:
        return Query(self.items + other.items)

    def matches(self, event: Event[Any] | RecordedEvent[Any]) -> bool:
        """Whether an event is meant. Types are names here; a codec resolves classes to
        names.
        """
        return any(item.matches(event) for item in self.items)

    @property
    def single_stream(self) -> str | None:
        """The stream, where the query is about exactly one stream."""
        return self.items[0].stream if len(self.items) == 1 else None


def select(
    stream: str | None = None,
    *,
    category: str | None = None,
    types: Iterable[str | type] = (),
    tags: Iterable[str] = (),
) -> Query:
    """The events of any of `types` with all of `tags`, in one stream, one category, or everywhere.

    A type is a stored name, or an event class that the codec knows: the class also means every
    older stored name that an upcaster turns into it. `select(...) | select(...)` means either.
    """
    if stream is not None and category is not None:
        raise InvalidInput(
            f"select stream {stream!r} or category {category!r}: a stream is in one category"
        )
    for name, value in (("types", types), ("tags", tags)):
        if isinstance(value, str | type):
            raise InvalidInput(f"{name} is a list, found {value!r}; put it in brackets")
    return Query((QueryItem(stream, category, tuple(types), tuple(tags)),))


ALL = select()
"""Every event."""


class Version(Struct, frozen=True):
    """A version as a bound in reading one stream: `read(select("account-1"), until=Version(3))`."""

    number: int


Bound = int | datetime | Version
"""A place in the log: a position, a moment of recording (with a time zone), or a version of the one
stream asked for.
"""


class StreamVersion(Struct, frozen=True):
    """Append only if `stream` is at `version` (0: only if it does not exist)."""

    stream: str
    version: int

    def failure(self, found: int) -> str:
        """How to say that the stream is at version `found` instead."""
        return f"stream {self.stream!r} is at version {found}, expected version {self.version}"


class NoneMatch(Struct, frozen=True):
    """Append only if no event after position `after` matches `query`: what was decided on still
    holds.

    Take `after` from `head()` before reading, or from the last event read. A position that the log
    has not reached is refused with InvalidInput: it is of another log.
    """

    query: Query
    after: int = 0

    def failure(self, found: int) -> str:
        """How to say that the event at position `found` matches."""
        expected = f"none after position {self.after}"
        return f"the event at position {found} matches {self.query}, expected {expected}"

    def beyond(self, head: int) -> str:
        """How to say that `after` is a position that the log has not reached."""
        return f"NoneMatch after position {self.after}: the head is {head}, so it is of another log"


Condition = StreamVersion | NoneMatch
