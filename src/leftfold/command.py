"""The flow of a command: load, fold, decide, append; after a conflict read what is new and decide
again.
"""

from __future__ import annotations

import random
from itertools import count
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from leftfold.decider import Boundary, Decider
from leftfold.errors import (
    AppendConditionFailed,
    Contention,
    InvalidInput,
    OutcomeUnknown,
    StoreClosed,
    StoreUnavailable,
)
from leftfold.event import (
    NO_METADATA,
    Appended,
    Event,
    Instead,
    Metadata,
    RecordedEvent,
    derived_id,
    new_id,
)
from leftfold.limits import POSITION_MAX, check_integer, check_metadata
from leftfold.loading import Loading, Parts
from leftfold.query import ALL, Query, StreamVersion, select
from leftfold.reading import PAGE_EVENTS
from leftfold.states import isolated
from leftfold.turns import Place, Turns

C = TypeVar("C")
S = TypeVar("S")

ATTEMPTS_MAX = 50
"""How often a command is decided before it gives up with Contention."""
PAUSE_S = 0.0005
PAUSE_MAX_S = 0.05
"""Pauses between attempts are random, in seconds; their limit doubles from one to the other."""

FIRST_PAGE_EVENTS = 10
"""Read first to find the events of a command that was handled before: mostly they are few."""


class Handled(Struct, Generic[S], frozen=True):
    """What a command came to. A command that is delivered again gets what the first one got."""

    state: S
    """After its events."""
    version: int
    """How many events the state is of: the version of the stream, where the boundary is one."""
    position: int
    """Of its last event; where it decided on none, of the last event of its boundary."""
    events: tuple[Any, ...]
    """What was decided, as recorded."""

    @property
    def token(self) -> str:
        """For `after=` of views: they then show its events."""
        return str(self.position)


class Order(Struct, Generic[C], frozen=True):
    """A command and what was said with it."""

    command: C
    expected_version: int | None
    metadata: Metadata


class _Decision(Struct, frozen=True):
    """Events that are to be appended, and the state after those of the boundary."""

    encoded: list[Event[bytes]]
    events: tuple[Any, ...]
    mine: list[int]
    state: Any


class Handling(Generic[C, S]):
    """Handles one command."""

    def __init__(
        self,
        parts: Parts,
        turns: Turns,
        decider: Decider[C, S, Any],
        *,
        boundary: Boundary,
        order: Order[C],
    ) -> None:
        self._parts = parts
        self._turns = turns
        self._decider = decider
        self._boundary = boundary
        self._order = order
        check_metadata(order.metadata)
        self._is_given = order.metadata.command_id is not None
        self._metadata = _complete(order.metadata)
        self._loading = Loading(parts, decider, boundary)
        if order.expected_version is not None:
            check_integer("expected_version", order.expected_version, 0, POSITION_MAX)
            if self._loading.stream is None:
                raise InvalidInput("expected_version is that of a stream; give an id, no query")
        self._home = self._loading.stream or decider.category
        self._scope = self._loading.stream or (decider.category, self._named(boundary))
        self._place: Place | None = None

    def _named(self, boundary: Boundary) -> str:
        """The query as it was given, with the names of classes. What it is resolved to changes when
        upcasters are added.
        """
        resolve = self._parts.codec.resolve

        def name(kind: str | type) -> str:
            # Its own name comes first, then older ones.
            return (
                kind
                if isinstance(kind, str)
                else str(resolve(select(types=[kind])).items[0].types[0])
            )

        items = self._decider.query(boundary).items
        named = (replace(item, types=tuple(map(name, item.types))) for item in items)
        return repr(Query(tuple(named)))

    async def run(self) -> Handled[S]:
        try:
            return await self._decide_until_appended()
        except (StoreClosed, StoreUnavailable, OutcomeUnknown):
            raise
        except Exception:
            # Delivered again, a command may be rejected or conflict: by what it did itself.
            first = await self._first_result()
            if first is None:
                raise
            return first

    async def _decide_until_appended(self) -> Handled[S]:
        stream = self._loading.stream
        try:
            if stream is not None and self._turns.is_taken(stream):
                self._place = await self._turns.wait(stream)
            await self._loading.run()
            return await self._attempts()
        finally:
            if self._place is not None:
                self._turns.leave(self._place)

    async def _attempts(self) -> Handled[S]:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            decision = self._decision()
            if not decision.encoded:
                first = await self._first_result()
                now = self._loading
                return first or Handled(now.state, now.version, now.position, ())
            conditions = [self._loading.condition()]
            try:
                appended = await self._parts.store.append(decision.encoded, conditions=conditions)
            except AppendConditionFailed as error:
                if self._order.expected_version is not None:
                    raise
                conflict = error
            else:
                return await self._reply(decision, appended)
            await self._let_others_go(attempt)
            await self._loading.catch_up()
        raise Contention(self._decider.category, ATTEMPTS_MAX, conflict)

    async def _reply(self, decision: _Decision, appended: Appended) -> Handled[S]:
        if appended.is_repeat and self._is_given:
            # Delivered twice at the same time. The other one may have decided on another state.
            return await self._recorded(appended)
        self._loading.advance(decision.state, appended, decision.mine)
        version = self._loading.version
        return Handled(decision.state, version, appended.position, decision.events)

    async def _let_others_go(self, attempt: int) -> None:
        if self._place is None:
            self._place = await self._turns.wait(self._home)
        else:
            # The others are of other processes, or new here.
            pause_s = min(PAUSE_MAX_S, PAUSE_S * 2 ** min(attempt, 10))
            await self._turns.pause(random.uniform(0, pause_s))

    def _decision(self) -> _Decision:
        """What is decided on the state as it is now, and what comes of it."""
        self._check_version()
        decided = self._decider.decided(self._order.command, self._loading.state)
        made = [self._event(each, index) for index, each in enumerate(decided)]
        codec = self._parts.codec
        encoded = [codec.encode(event) for event in made]
        # As the log will give them back: these have to be folded ever after.
        events = tuple(map(codec.read_back, encoded))
        mine = [index for index, event in enumerate(encoded) if self._loading.includes(event)]
        state = self._state_after([events[index] for index in mine]) if encoded else None
        return _Decision(encoded, events, mine, state)

    def _check_version(self) -> None:
        expected, loading = self._order.expected_version, self._loading
        if expected is not None and loading.version != expected:
            condition = StreamVersion(loading.stream or "", expected)
            raise AppendConditionFailed(condition, loading.version)

    def _event(self, decided: Any, index: int) -> Event[Any]:
        """A decided event as it is appended."""
        if not isinstance(decided, Event):
            decided = Event("", decided)
        metadata = self._metadata
        if decided.metadata is not NO_METADATA:
            check_metadata(decided.metadata)
            metadata = replace(metadata, extra={**metadata.extra, **decided.metadata.extra})
        stream = decided.stream or self._stream_of(decided.data)
        id = decided.id if isinstance(decided, Instead) else self._id(index)
        return replace(decided, stream=stream, id=id, metadata=metadata)

    def _stream_of(self, data: Any) -> str:
        name, stream = self._decider.stream, self._loading.stream
        if name is not None:
            return name(data)
        if stream is None:
            raise self._decider.invalid(
                self._order.command,
                "its boundary is a query, so nobody says to which stream its events go; "
                "give the decider stream=..., or return Event(stream, ...)",
            )
        return stream

    def _id(self, index: int) -> UUID:
        """The id of the event number `index` of this very command on this very boundary."""
        if not self._is_given:
            return new_id()
        return derived_id(self._scope, self._metadata.command_id, index)

    def _state_after(self, events: list[Any]) -> S:
        """The state after events that are about to be recorded: what cannot be folded must not be,
        for it would stay for ever.
        """
        state: Any = isolated(self._loading.state)
        evolve = self._decider.folding().evolve
        for event in events:
            try:
                state = evolve(state, event)
            except Exception as error:
                found = f"it raised {type(error).__name__}: {error}"
                reason = f"evolve cannot take {type(event).__name__}: {found}"
                raise self._decider.invalid(self._order.command, reason) from error
        return cast(S, state)

    async def _first_result(self) -> Handled[S] | None:
        """What this command came to when it was delivered before; None where it was not."""
        if not self._is_given:
            return None
        # Ids come before conditions (G5), and this condition never holds: so nothing is recorded,
        # and an id that is known says where.
        probe = Event(self._home, b"{}", type="probe", id=self._id(0))
        try:
            never = StreamVersion(self._home, POSITION_MAX)
            appended = await self._parts.store.append([probe], conditions=[never])
        except AppendConditionFailed:
            return None
        return await self._recorded(appended)

    async def _recorded(self, appended: Appended) -> Handled[S]:
        """The result of the delivery that was recorded at `appended`, as the log has it."""
        events: list[RecordedEvent[bytes]] = []
        after, limit, is_more = appended.first_position - 1, FIRST_PAGE_EVENTS, True
        while is_more:
            page = await self._parts.store.read(ALL, after=after, limit=limit)
            # By G1 the events of an append are adjacent and in order.
            ids = (self._id(index).bytes for index in count(len(events)))
            mine = [event for event, id in zip(page, ids, strict=False) if event.id_bytes == id]
            events += mine
            after += len(mine)
            is_more, limit = len(mine) == limit, PAGE_EVENTS
        loading = Loading(self._parts, self._decider, self._boundary)
        await loading.go_to_event(events[-1])
        data = tuple(event.data for event in self._parts.codec.decode_page(events))
        return Handled(loading.state, loading.version, events[-1].position, data)


def _complete(metadata: Metadata) -> Metadata:
    """With a command id, and as the start of a conversation where it is in none."""
    command_id = metadata.command_id or str(new_id())
    return replace(
        metadata,
        command_id=command_id,
        correlation_id=metadata.correlation_id or command_id,
        causation_id=metadata.causation_id or command_id,
    )
