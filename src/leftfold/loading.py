"""Flows that fold: the state of a boundary, now or at an earlier time, and every step to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from leftfold.cache import Cached, StateCache
from leftfold.codec import EventCodec
from leftfold.decider import Boundary, Decider, check_is_decider
from leftfold.errors import InvalidInput
from leftfold.event import Appended, Event, RecordedEvent, to_us
from leftfold.fingerprint import digest
from leftfold.limits import POSITION_MAX, check_integer, check_moment
from leftfold.query import Bound, Condition, NoneMatch, Query, StreamVersion, Version
from leftfold.reading import PAGE_EVENTS, Decoding, ReadArguments, Reading
from leftfold.snapshot import Snapshot, Snapshotting
from leftfold.states import isolated
from leftfold.store import Store

S = TypeVar("S")

STALE_MAX = 200
"""Snapshots of another history that one load looks at."""

Page = list[RecordedEvent[bytes]]

At = int | datetime
"""After so many events of the boundary (of a stream: its version), or at a moment of recording."""


class Parts(Struct, frozen=True, eq=False):
    """What the flows of one facade work with."""

    store: Store
    codec: EventCodec
    snapshotting: Snapshotting | None = None
    cache: StateCache | None = None


class Loaded(Struct, Generic[S], frozen=True):
    """A state, and how far it goes."""

    state: S
    version: int
    """How many events it is the state of: the version of the stream, where it is of one."""
    position: int
    """Of the last of these events, 0 without any."""


class Step(Struct, Generic[S], frozen=True):
    """One event of a history, with the state before it and after it."""

    event: RecordedEvent[Any]
    before: S
    after: S


class Loading(Generic[S]):
    """The fold of a boundary as far as it was read. It goes on from where it stands."""

    def __init__(self, parts: Parts, decider: Decider[Any, S, Any], boundary: Boundary) -> None:
        check_is_decider(decider)
        self._parts = parts
        self._decider = decider
        query = decider.query(boundary)
        self._decoding = Decoding(parts.codec, query)
        self._folding = decider.folding()
        self.query = self._decoding.query
        self.stream = _whole_stream(self.query)
        self._key = self.stream or f"query {digest(self._decoding.key)}"
        self._at = Cached(isolated(decider.initial_state))
        self._remembered: Cached | None = None

    @property
    def state(self) -> S:
        state: S = self._at.state
        return state

    @property
    def version(self) -> int:
        return self._at.version

    @property
    def position(self) -> int:
        return self._at.position

    @property
    def seen(self) -> int:
        """Everything that matches up to this position is folded."""
        return max(self._at.seen, self._at.position)

    def includes(self, event: Event[bytes]) -> bool:
        """Whether an event that is about to be appended is one of this boundary."""
        return self._decoding.includes(event)

    def condition(self) -> Condition:
        """That nothing has come since."""
        if self.stream is not None:
            return StreamVersion(self.stream, self.version)
        return NoneMatch(self.query, self.seen)

    def loaded(self) -> Loaded[S]:
        """Where it stands."""
        return Loaded(self.state, self.version, self.position)

    async def run(self, at: At | None = None) -> None:
        """Fold from the nearest state that is kept up to `at`, or to the end."""
        await self._start(at)
        await self._go_to(*_until(at))

    async def run_to(self, at: At | None) -> None:
        """As `run`. Raises InvalidInput where the boundary has no such version yet."""
        await self.run(at)
        self._refuse_beyond(at)

    async def _start(self, at: At | None) -> None:
        cache, decider = self._parts.cache, self._decider
        cached = cache.get(decider, self._key) if cache is not None and at is None else None
        if cached is not None:
            self._at = self._remembered = cached
            return
        await self._start_from_snapshot(
            version_max=at if isinstance(at, int) else POSITION_MAX,
            recorded_us_max=to_us(at) if isinstance(at, datetime) else POSITION_MAX,
        )

    async def _start_from_snapshot(
        self, *, version_max: int = POSITION_MAX, recorded_us_max: int = POSITION_MAX
    ) -> None:
        snapshotting, decider = self._parts.snapshotting, self._decider
        if snapshotting is None or decider.snapshots is None:
            return
        for _ in range(STALE_MAX):
            found = await snapshotting.find(
                decider, self._key, version_max=version_max, recorded_us_max=recorded_us_max
            )
            if found is None:
                return
            snapshot, state = found
            if await self._is_of_this_log(snapshot):
                version, position = snapshot.version, snapshot.position
                self._at = Cached(state, version, position, position, version)
                return
            # The log was restored from a backup. What was kept of its other future is of no use.
            await snapshotting.drop(snapshot)
            version_max = snapshot.version - 1

    async def _is_of_this_log(self, snapshot: Snapshot) -> bool:
        """Whether the very event is there. Ids alone do not tell: one that comes from a command id
        is the same in another history.
        """
        after: Bound = snapshot.position - 1
        if self.stream is not None:
            after = Version(snapshot.version - 1)
        found = await self._parts.store.read(self.query, after=after, limit=1)
        facts = [(event.id_bytes, event.recorded_us) for event in found]
        return facts == [(snapshot.event_id, snapshot.recorded_us)]

    async def catch_up(self) -> None:
        """Fold what has been recorded since. Raises EvolveFailed."""
        await self._go_to(None, None)

    async def go_to_event(self, event: RecordedEvent[Any]) -> None:
        """Fold what was recorded up to an event."""
        # One that was recorded at the same time may be later, and then is of no use.
        await self._start_from_snapshot(recorded_us_max=event.recorded_us - 1)
        await self._go_to(event.position, None)

    async def _go_to(self, until: Bound | None, version: int | None) -> None:
        """Fold on to a bound, to a version, or to the end."""
        is_latest = until is None and version is None
        # By G4 nothing will appear at or below the head, so all up to it is folded afterwards.
        head = await self._parts.store.head() if self.stream is None else None
        await self._each_page(head if until is None else until, version, self._fold)
        if is_latest and head is not None:
            self._at = replace(self._at, seen=max(self._at.seen, head))
        await self._take_snapshot_if_due()
        if is_latest:
            self._remember()

    async def _each_page(
        self, until: Bound | None, version: int | None, fold: Callable[[Page], Any]
    ) -> None:
        """Move on page by page; `fold` gives the state after each."""
        limit = PAGE_EVENTS
        while limit == PAGE_EVENTS:
            limit = PAGE_EVENTS if version is None else min(PAGE_EVENTS, version - self.version)
            page = await self._read(until, limit) if limit > 0 else []
            if page:
                state, at = fold(page), self._at
                version_after = at.version + len(page)
                self._at = Cached(
                    state, version_after, page[-1].position, at.seen, at.snapshot_version
                )
            if len(page) < limit:
                break

    async def _read(self, until: Bound | None, limit: int) -> Page:
        after: Bound = self.seen if self.stream is None else Version(self.version)
        return await self._parts.store.read(self.query, after=after, until=until, limit=limit)

    def _fold(self, page: Page) -> Any:
        return self._folding.fold(self.state, self._decoding.pairs(page))

    async def _take_snapshot_if_due(self) -> None:
        at, decider, snapshotting = self._at, self._decider, self._parts.snapshotting
        since = at.version - at.snapshot_version
        if snapshotting is None or decider.snapshots is None or since < 1:
            return
        if not decider.snapshots.is_due(at.state, since):
            return
        until: Bound = self.seen if self.stream is None else Version(at.version)
        [last] = await self._parts.store.read(self.query, until=until, limit=1, backwards=True)
        self._at = replace(at, snapshot_version=at.version)
        unfilled = Snapshot(
            self._key, "", at.version, last.position, last.id_bytes, last.recorded_us, b""
        )
        snapshotting.take(decider, isolated(at.state), unfilled)

    def _remember(self) -> None:
        if self._parts.cache is not None and self._at is not self._remembered:
            self._remembered = self._at
            self._parts.cache.put(self._decider, self._key, self._at)

    def advance(self, state: S, appended: Appended, mine: Sequence[int]) -> None:
        """Stand after events of this boundary that were appended: `mine` are their places in the
        append.
        """
        at = self._at
        position = appended.first_position + mine[-1] if mine else at.position
        self._at = Cached(
            state, at.version + len(mine), position, appended.position, at.snapshot_version
        )
        self._remember()

    async def replay(self, at: At | None, as_of: datetime) -> None:
        """Fold what had occurred by `as_of`, in the order in which it occurred, of what was
        recorded by `at`. Holds the events of the boundary in memory.
        """
        events: list[tuple[RecordedEvent[Any], Any]] = []

        def keep(page: Page) -> Any:
            events.extend(
                pair for pair in self._decoding.pairs(page) if pair[0].occurred_at <= as_of
            )
            return self.state

        await self._each_page(*_until(at), keep)
        self._refuse_beyond(at)
        events.sort(key=lambda pair: (pair[0].occurred_at, pair[0].position))
        state = self._folding.fold(self.state, events)
        position = max((event.position for event, _ in events), default=0)
        self._at = Cached(state, len({event.position for event, _ in events}), position)

    def _refuse_beyond(self, at: At | None) -> None:
        if isinstance(at, int) and self.version < at:
            raise InvalidInput(
                f"{self.stream or self.query} is at version {self.version}, found at={at}"
            )


def _whole_stream(query: Query) -> str | None:
    """The stream, where the query is about all events of one stream."""
    item = query.items[0]
    return None if len(query.items) > 1 or item.types or item.tags else item.stream


def _until(at: At | None) -> tuple[datetime | None, int | None]:
    """As a bound and a version."""
    return (at, None) if isinstance(at, datetime) else (None, at)


def _check_at(what: str, at: object) -> None:
    if isinstance(at, datetime):
        check_moment(what, at)
    elif at is not None:
        check_integer(f"{what} (a version, or a datetime)", at, 0, POSITION_MAX)


class Stepping(Generic[S]):
    """The history of a boundary in pages."""

    def __init__(
        self,
        parts: Parts,
        decider: Decider[Any, S, Any],
        boundary: Boundary,
        *,
        after_until: tuple[At, At | None],
    ) -> None:
        self._after, self._until = after_until
        _check_at("after", self._after)
        _check_at("until", self._until)
        self._parts = parts
        self._loading = Loading(parts, decider, boundary)
        self._folding = decider.folding()
        self._reading: Reading | None = None
        self._state: Any = None

    async def next_page(self) -> list[Step[S]] | None:
        """The next steps, or None at the end."""
        if self._reading is None:
            await self._loading.run(self._after)
            self._state = self._loading.state
            self._reading = self._rest()
        page = await self._reading.next_page() if self._reading else None
        return None if page is None else [self._step(event) for event in page]

    def _rest(self) -> Reading | None:
        loading, until = self._loading, self._until
        after: Bound = Version(loading.version) if loading.stream else loading.position
        bound = until if isinstance(until, datetime) else None
        limit = until - loading.version if isinstance(until, int) else None
        if limit is not None and limit < 1:
            return None
        arguments = ReadArguments(loading.query, after, bound, limit)
        return Reading(self._parts.store, self._parts.codec, arguments)

    def _step(self, event: RecordedEvent[Any]) -> Step[S]:
        # The caller's own states: the fold goes on from ours.
        before = isolated(self._state)
        self._state = self._folding.fold(isolated(before), [(event, event.data)])
        return Step(event, before, isolated(self._state))


async def load(
    parts: Parts,
    decider: Decider[Any, S, Any],
    boundary: Boundary,
    *,
    at: At | None,
    as_of: datetime | None,
) -> Loaded[S]:
    """The state of a boundary, at a time by either clock."""
    loading = Loading(parts, decider, boundary)
    _check_at("at", at)
    if as_of is not None:
        check_moment("as_of", as_of)
        await loading.replay(at, as_of)
    else:
        await loading.run_to(at)
    return loading.loaded()
