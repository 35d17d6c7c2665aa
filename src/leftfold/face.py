"""What both facades share: their parts, and how domain events become stored ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from leftfold.app import App
from leftfold.cache import StateCache
from leftfold.codec import RAW, EventCodec, resolve_condition
from leftfold.command import Handled, Handling, Order
from leftfold.decider import Boundary, Decider
from leftfold.drive import Driver
from leftfold.errors import InvalidInput
from leftfold.event import Appended, Event, Metadata
from leftfold.limits import POSITION_MAX, check_integer
from leftfold.loading import Parts
from leftfold.process.wire import ProcessCodec
from leftfold.process.working import Working
from leftfold.projection.database import Database
from leftfold.projection.inline import inline_log, inline_of
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.registering import register
from leftfold.projection.waiting import WAIT_S, to_wait_for, wait_for
from leftfold.query import Condition, NoneMatch, StreamVersion
from leftfold.snapshot import SnapshotStore, Snapshotting
from leftfold.store import Store
from leftfold.stores.sqlite.database import SqliteDatabase
from leftfold.turns import Turns

Consistency = Literal["eventual", "strong"] | Sequence[str]
"""Whether a command is to be seen in projections when it returns: in none for certain, in all async
ones of the App, or in those named.
"""

C = TypeVar("C")
S = TypeVar("S")


class Face:
    """The parts of a facade. `codec` is a codec, or an App that has one.

    `snapshots` is where snapshots are kept, for deciders that want them. `cached_states_max` states
    are remembered in the process, so that a load reads only what is new; 0: none. `databases` are
    where read models are kept, and where those of inline projections are: the log's own.
    """

    _make_driver: Callable[[], Driver]
    _work: type[Working]

    def __init__(
        self,
        store: Store,
        codec: EventCodec | App = RAW,
        *,
        snapshots: SnapshotStore | None = None,
        databases: tuple[Database, Database | None] | None = None,
        cached_states_max: int = 0,
    ) -> None:
        check_integer("cached_states_max", cached_states_max, 0, POSITION_MAX)
        if cached_states_max and not getattr(store, "appends_are_final", True):
            raise InvalidInput(
                "within a transaction no states are cached: it may be rolled back; leave "
                "cached_states_max out"
            )
        self.store = store
        app = codec if isinstance(codec, App) else App(codec=codec)
        self.codec: EventCodec = ProcessCodec(app.codec) if app.processes else app.codec
        self._turns = Turns(self._make_driver)
        self._working = [self._work(app, each) for each in app.processes]
        self._projecting = ProjectionParts(
            store,
            self.codec,
            (*app.subscribers, *(each for some in self._working for each in some.subscribers)),
            databases=databases or (SqliteDatabase(""), None),
            make_driver=self._make_driver,
        )
        for each in inline_of(self._projecting):
            inline_log(self._projecting, each)
        self._parts = Parts(
            store,
            self.codec,
            Snapshotting(snapshots, self.codec.fingerprint) if snapshots is not None else None,
            StateCache(cached_states_max) if cached_states_max else None,
        )
        for working in self._working:
            working.begin(self._parts, self._turns, self._projecting)

    def _runs(self, only: Iterable[str] | None) -> Iterable[str] | None:
        """The names of all that has to run for those of `only`."""
        if isinstance(only, str) or not isinstance(only, Iterable):
            # None, or what is refused by whoever runs it.
            return only
        names = [*only]
        rows = {each.name: each.rows.name for each in self._working}
        return [*dict.fromkeys([*names, *(rows[each] for each in names if each in rows)])]

    async def _keep_inline(self) -> None:
        """Bring the inline projections of the App up to date, and keep them so from now on."""
        try:
            await register(self._projecting)
        except BaseException:
            await self._close()
            raise

    async def _append(
        self, events: Iterable[Event[Any]], conditions: Sequence[Condition]
    ) -> Appended:
        encode = self.codec.encode
        encoded = [encode(event) for event in _events(events)]
        if isinstance(conditions, StreamVersion | NoneMatch):
            raise InvalidInput(f"conditions is a list, found {conditions}; put it in brackets")
        resolved = [resolve_condition(self.codec, condition) for condition in conditions]
        return await self.store.append(encoded, conditions=resolved)

    async def _append_to_stream(
        self, stream: str, events: Iterable[Any], expected_version: int | None, metadata: Metadata
    ) -> Appended:
        conditions = () if expected_version is None else (StreamVersion(stream, expected_version),)
        return await self._append(
            [Event(stream, data, metadata=metadata) for data in _each(events)], conditions
        )

    async def _handle(
        self,
        decider: Decider[C, S, Any],
        boundary: Boundary,
        order: Order[C],
        consistency: Consistency,
    ) -> Handled[S]:
        names = None if consistency == "strong" else consistency
        shown = [] if names == "eventual" else to_wait_for(self._projecting, names)
        handling = Handling(self._parts, self._turns, decider, boundary=boundary, order=order)
        handled = await handling.run()
        await wait_for(self._projecting, shown, handled.position, WAIT_S)
        return handled

    async def _close(self) -> None:
        if self._parts.snapshotting is not None:
            await self._parts.snapshotting.close()
        for working in self._working:
            working.end()
        await self._projecting.close()
        await self.store.close()


def _events(events: Iterable[Event[Any]]) -> Iterator[Event[Any]]:
    for event in _each(events):
        if not isinstance(event, Event):
            found = type(event).__name__
            raise InvalidInput(f"append takes Event(stream, data) values, found {found}")
        yield event


def _each(events: Iterable[Any]) -> Iterable[Any]:
    if not isinstance(events, Iterable):
        raise InvalidInput(f"an append takes a list of events, found one {type(events).__name__}")
    return events
