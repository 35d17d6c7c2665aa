"""The face of a store for async code: the twin of `EventStore`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from leftfold.command import Handled, Order
from leftfold.decider import Boundary, Decider
from leftfold.drive import LoopDriver
from leftfold.event import NO_METADATA, Appended, Event, Metadata, RecordedEvent
from leftfold.face import Consistency, Face
from leftfold.loading import At, Loaded, Step, Stepping, load
from leftfold.process.managers import AsyncProcesses
from leftfold.process.repairing import Repairing
from leftfold.process.working import AsyncWorking
from leftfold.projection.definition import Projection, SqlProjection
from leftfold.projection.folded import Moment
from leftfold.projection.managers import AsyncProjections, AsyncRunner
from leftfold.projection.managing import Managing
from leftfold.projection.running import Running, Share, Swap
from leftfold.projection.views import AsyncView
from leftfold.query import ALL, Bound, Condition, Query
from leftfold.reading import Following, ReadArguments, Reading
from leftfold.subscriptions import AsyncSubscription

C = TypeVar("C")
S = TypeVar("S")
R = TypeVar("R")


class AsyncEventStore(Face):
    """A store and a codec, for async code: tasks of the event loop in which it was opened.

    Data of appended and read events is domain objects of the codec's classes; without a codec it is
    bytes. A cancelled append may still be recorded.
    """

    _make_driver = LoopDriver
    _work = AsyncWorking

    async def append(
        self, events: Iterable[Event[Any]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        """Record events of one or several streams, all or none, if every condition holds.

        Repeating an append with the same events is harmless: their ids tell. Raises InvalidEvent,
        InvalidInput, AppendConditionFailed, DuplicateEvent, StoreUnavailable, OutcomeUnknown,
        StoreClosed; see `Store`.
        """
        return await self._append(events, conditions)

    async def append_to_stream(
        self,
        stream: str,
        events: Iterable[Any],
        *,
        expected_version: int | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Appended:
        """Record domain objects in one stream; with `expected_version`, only if the stream is at it
        (0: is new).

        Each call makes new event ids. To repeat an append after OutcomeUnknown without recording
        it twice, make the events first and use `append`. Raises what `append` raises.
        """
        return await self._append_to_stream(stream, events, expected_version, metadata)

    async def read(
        self,
        query: Query = ALL,
        *,
        after: Bound = 0,
        until: Bound | None = None,
        limit: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[RecordedEvent[Any]]:
        """Matching events in log order, or last first, from after `after` up to and including
        `until`.

        A bound is a position, a moment of recording (a datetime with a time zone), or for one
        stream a `Version`. Reads in pages of 500, so memory stays bounded; ends at the head of the
        log. `limit` counts recorded events. Raises InvalidInput, UndecodableEvent,
        UnknownEventType, StoreUnavailable, StoreClosed.
        """
        reading = Reading(
            self.store, self.codec, ReadArguments(query, after, until, limit, backwards)
        )
        while (page := await reading.next_page()) is not None:
            for event in page:
                yield event

    def subscribe(self, query: Query = ALL, *, after: Bound = 0) -> AsyncSubscription:
        """Matching events after `after`, then new ones as they are recorded, by any task or
        process.

        Raises while iterating what `read` raises.
        """
        return AsyncSubscription(Following(self.store, self.codec, query, after))

    async def handle(
        self,
        decider: Decider[C, S, Any],
        boundary: Boundary,
        command: C,
        *,
        expected_version: int | None = None,
        metadata: Metadata = NO_METADATA,
        consistency: Consistency = "eventual",
    ) -> Handled[S]:
        """Decide on a command and record what was decided, on the true state of its boundary.

        `boundary` is the id of a stream `category-id`, or a query over tags and types. After a
        conflict what is new is read and the command is decided again, at most 50 times, then
        Contention. What `decide` raises passes through and is not retried.
        With `expected_version` it is refused with AppendConditionFailed, and not retried, unless
        the stream is at that version. With a `command_id` in `metadata` a second delivery gets what
        the first one got. With `consistency="strong"`, or a list of names, it returns once the
        events show in all async projections, or in those named; if they do not within 5 seconds it
        raises ProjectionBehind, and they are recorded all the same. Raises InvalidDecision,
        EvolveFailed and what `append` and `read` raise.
        """
        order = Order(command, expected_version, metadata)
        return await self._handle(decider, boundary, order, consistency)

    async def load(
        self,
        decider: Decider[Any, S, Any],
        boundary: Boundary,
        *,
        at: At | None = None,
        as_of: datetime | None = None,
    ) -> Loaded[S]:
        """The state of a boundary, and its version: now, or at a time by either clock.

        `at` is a version (a number of events) or a moment of recording. `as_of` is a moment of the
        world's clock: it folds the events that had occurred by then, in the order in which they
        occurred; that holds them in memory. Raises EvolveFailed, InvalidInput for a version that
        there is not yet, and what `read` raises.
        """
        return await load(self._parts, decider, boundary, at=at, as_of=as_of)

    async def state(
        self,
        decider: Decider[Any, S, Any],
        boundary: Boundary,
        *,
        at: At | None = None,
        as_of: datetime | None = None,
    ) -> S:
        """The state alone of what `load` gives."""
        return (await load(self._parts, decider, boundary, at=at, as_of=as_of)).state

    async def history(
        self,
        decider: Decider[Any, S, Any],
        boundary: Boundary,
        *,
        after: At = 0,
        until: At | None = None,
    ) -> AsyncIterator[Step[S]]:
        """Every event of a boundary, with the state before and after it: why it is what it is.

        From after `after` up to and including `until`, each a version or a moment of recording.
        Memory stays bounded. Raises what `load` raises.
        """
        stepping = Stepping(self._parts, decider, boundary, after_until=(after, until))
        while (page := await stepping.next_page()) is not None:
            for step in page:
                yield step

    @overload
    def view(self, projection: Projection[R], *, at: Moment | None = None) -> AsyncView[R]: ...

    @overload
    def view(self, projection: SqlProjection, *, at: Moment | None = None) -> AsyncView[Any]: ...

    def view(
        self, projection: Projection[Any] | SqlProjection, *, at: Moment | None = None
    ) -> AsyncView[Any]:
        """What a projection shows: now, or as of `at`, a position or a moment of recording.

        Raises InvalidInput for what is no projection, or no time.
        """
        return AsyncView(self._projecting, projection, at)

    @property
    def projections(self) -> AsyncProjections:
        """How the projections of the App are; to build them again, mend and drop them."""
        return AsyncProjections(Managing(self._projecting))

    @property
    def processes(self) -> AsyncProcesses:
        """How the instances of the App's processes are; to try them again, go on, or end them."""
        return AsyncProcesses(Repairing(self._parts, self._projecting, self._working))

    def running(
        self,
        *,
        only: Iterable[str] | None = None,
        swap: Swap = "auto",
        share: Share | None = None,
    ) -> AsyncRunner:
        """A runner of the App's async projections, consumers and processes, or of `only` those of
        these names, for a `with` block.

        Builds that are complete are swapped in, unless `swap="manual"`. Other processes may run
        the same ones: each partition of each has one owner at a time. To divide the partitions
        among 3 processes, give them `share=(0, 3)`, `(1, 3)` and `(2, 3)`. Raises InvalidInput.
        """
        return AsyncRunner(Running(self._projecting, self._runs(only), swap, share=share))

    async def head(self) -> int:
        """The position of the last event, 0 when there is none."""
        return await self.store.head()

    async def close(self) -> None:
        """Finish what was accepted and free everything. Subscriptions end. Closing twice is
        harmless.
        """
        await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
