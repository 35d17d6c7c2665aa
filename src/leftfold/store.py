"""The store protocol: what every store promises. Stores implement it; flows and facades use nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from leftfold.event import Appended, Event, RecordedEvent
from leftfold.query import ALL, Bound, Condition, Query


class Capabilities(Struct, frozen=True):
    """What a store cannot do is False here, and then refused with Unsupported when asked for."""

    multi_stream_appends: bool = True
    query_conditions: bool = True
    """`NoneMatch` over any query; a store without it still judges `StreamVersion`."""
    durable: bool = True
    """Events outlive the store object. A store without it starts empty each time."""


class Store(Protocol):
    """An append-only log of events. Positions start at 1 and increase; `after` is always exclusive,
    `until` inclusive.

    - **G1 atomic**: all events of an append, across several streams, are recorded adjacent and in
      order, or none is.
    - **G2 conditional**: conditions are judged against everything committed before; nothing
      matching can slip between check and write.
    - **G3 ordered**: positions strictly increase; versions in a stream are 1..n without holes.
    - **G4 no late arrival**: once any reader has seen position p, no event at or below p will
      appear.
    - **G5 idempotent**: an append whose event ids are all recorded already is the same append: it
      returns the first result and writes nothing. This is looked at before the conditions, so a
      retry after a lost reply never conflicts with itself. Some but not all ids known:
      DuplicateEvent.
    - **G6 durable**: when append returned, a crash or power cut loses nothing.
    - **G7 faithful**: stream, type, schema version, data, tags, id, metadata and occurred_at come
      back as given.
    - **G8 bounded and loud**: a page has at most `limit` events; what is above a limit of
      `leftfold.limits`, empty or malformed is refused with InvalidInput, which names the limit.
    - **G9 time**: `recorded_at` never decreases along positions, so a moment is a position.
      `occurred_at` is the writer's, defaults to `recorded_at`, and may lie anywhere.

    Not promised: that positions have no gaps, or that a doorbell rings once. An append whose
    outcome cannot be known raises OutcomeUnknown. A closed store raises StoreClosed, also to those
    who are waiting in it.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def append(
        self, events: Sequence[Event[bytes]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        """Record all `events`, or none (G1), if every condition holds (G2).

        Raises InvalidInput, AppendConditionFailed, DuplicateEvent, StoreUnavailable,
        OutcomeUnknown, StoreClosed.
        """
        ...

    async def read(
        self,
        query: Query = ALL,
        *,
        after: Bound = 0,
        until: Bound | None = None,
        limit: int = 1000,
        backwards: bool = False,
    ) -> list[RecordedEvent[bytes]]:
        """One page: the first `limit` matching events after `after` up to and including `until`, in
        log order.

        Backwards: the last `limit` of them, last first. Fewer than `limit` means that there were no
        more.
        """
        ...

    async def head(self) -> int:
        """The position of the last event, 0 when there is none. All up to it can be read."""
        ...

    async def wait(self, after: int, timeout_s: float) -> None:
        """Return once there may be events after position `after`, or after `timeout_s` seconds: a
        doorbell.

        It may ring falsely or up to a poll interval late, so the caller reads again either way.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted, let waiting callers go, free everything. Closing twice is
        harmless.
        """
        ...
