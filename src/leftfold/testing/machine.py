"""Random operations on a store, compared step by step with the memory store.

class MyMachine(StoreMachine):
    def open_store(self):
        return MyStore(...)

TestMyMachine = MyMachine.TestCase
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leftfold.drive import run_sync
from leftfold.errors import AppendConditionFailed, DuplicateEvent, InvalidInput, LeftfoldError
from leftfold.event import Appended, Event, Metadata, RecordedEvent
from leftfold.query import ALL, NoneMatch, Query, QueryItem, StreamVersion, Version
from leftfold.store import Store
from leftfold.stores.memory import MemoryStore

STREAMS = ["account-1", "account-2", "order-1", "order-2", "settings"]
TYPES = ["Opened", "Closed", "Moved"]
TAGS = ["owner:ada", "owner:bob", "city:ulm"]

events = st.builds(
    Event,
    st.sampled_from(STREAMS),
    st.sampled_from([b"{}", b'{"a":1}', b"\xff\x00"]),
    type=st.sampled_from(TYPES),
    tags=st.lists(st.sampled_from(TAGS), unique=True).map(tuple),
    metadata=st.sampled_from([Metadata(), Metadata(actor="me", extra={"a": [1]})]),
    schema_version=st.sampled_from([1, 2]),
)
items = st.builds(
    QueryItem,
    st.none() | st.sampled_from([*STREAMS, "account-9"]),
    st.none(),
    st.lists(st.sampled_from([*TYPES, "Unknown"]), unique=True).map(tuple),
    st.lists(st.sampled_from([*TAGS, "owner:eve"]), unique=True).map(tuple),
) | st.builds(
    QueryItem,
    st.none(),
    st.sampled_from(["account", "order", "none"]),
    st.lists(st.sampled_from(TYPES), unique=True).map(tuple),
    st.lists(st.sampled_from(TAGS), unique=True, max_size=1).map(tuple),
)
queries = st.lists(items, min_size=1, max_size=3).map(lambda some: Query(tuple(some)))


class StoreMachine(RuleBasedStateMachine):
    """Whatever happens, a store answers as the memory store does.

    Positions may have gaps, so they are compared by the order of events; times are the store's own.
    """

    def open_store(self) -> Store:
        """A new, empty store."""
        raise NotImplementedError

    def reopen_store(self, store: Store) -> Store:
        """The same store, closed and opened again. By default it just goes on."""
        return store

    def run_store(self, coroutine: Any) -> Any:
        """Finish a coroutine of the store."""
        return run_sync(coroutine)

    @initialize()
    def start(self) -> None:
        self.model = MemoryStore()
        self.store = self.open_store()
        self.positions = [0]
        """By position of the model, which has no gaps: the position in the store."""
        self.appended: list[list[Event[bytes]]] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run_store(self.store.close())

    @rule(batch=st.lists(events, min_size=1, max_size=4), data=st.data())
    def append(self, batch: list[Event[bytes]], data: st.DataObject) -> None:
        self._append(batch, data.draw(self._conditions()))

    @precondition(lambda self: self.appended)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self._append(data.draw(st.sampled_from(self.appended)), data.draw(self._conditions()))

    @precondition(lambda self: self.appended)
    @rule(data=st.data(), more=events)
    def repeat_in_part(self, data: st.DataObject, more: Event[bytes]) -> None:
        known = data.draw(st.sampled_from(self.appended))
        self._append([*known[:1], more], data.draw(self._conditions()))

    @rule(query=queries, backwards=st.booleans(), limit=st.integers(1, 6), data=st.data())
    def read(self, query: Query, backwards: bool, limit: int, data: st.DataObject) -> None:
        bounds = st.integers(0, len(self.positions) - 1)
        after, until = data.draw(bounds), data.draw(st.none() | bounds)
        expected = run_sync(
            self.model.read(query, after=after, until=until, limit=limit, backwards=backwards)
        )
        found = self._read(
            query,
            after=self.positions[after],
            until=None if until is None else self.positions[until],
            limit=limit,
            backwards=backwards,
        )
        assert [self._plain(each) for each in found] == [self._plain(each) for each in expected]

    @rule(stream=st.sampled_from(STREAMS), tags=items, backwards=st.booleans(), data=st.data())
    def read_versions(
        self, stream: str, tags: QueryItem, backwards: bool, data: st.DataObject
    ) -> None:
        versions = st.integers(0, 8).map(Version)
        query = Query((QueryItem(stream, None, tags.types, tags.tags),))
        bounds: dict[str, Any] = {"after": data.draw(versions), "until": data.draw(versions)}
        expected = run_sync(self.model.read(query, backwards=backwards, **bounds))
        found = self._read(query, backwards=backwards, **bounds)
        assert [self._plain(each) for each in found] == [self._plain(each) for each in expected]

    @precondition(lambda self: self.appended)
    @rule(query=queries, data=st.data())
    def read_by_time(self, query: Query, data: st.DataObject) -> None:
        everything = self._read(ALL)
        at = data.draw(st.sampled_from(everything)).recorded_at
        matching = [each for each in everything if query.matches(each)]
        by_then = [each for each in matching if each.recorded_at <= at]
        assert self._read(query, until=at) == by_then
        assert self._read(query, after=at) == matching[len(by_then) :]

    @rule()
    def reopen(self) -> None:
        self.store = self.reopen_store(self.store)

    @invariant()
    def heads_agree(self) -> None:
        if hasattr(self, "store"):
            assert self.run_store(self.store.head()) == self.positions[-1]

    def _read(self, query: Query, **bounds: Any) -> list[RecordedEvent[bytes]]:
        found: list[RecordedEvent[bytes]] = self.run_store(self.store.read(query, **bounds))
        return found

    def _conditions(self) -> st.SearchStrategy[list[StreamVersion | NoneMatch]]:
        head = len(self.positions) - 1
        versions = st.builds(StreamVersion, st.sampled_from(STREAMS), st.integers(0, 5))
        boundaries = st.builds(NoneMatch, queries, st.integers(max(0, head - 4), head))
        return st.lists(versions | boundaries, max_size=2)

    def _append(
        self, batch: list[Event[bytes]], conditions: list[StreamVersion | NoneMatch]
    ) -> None:
        theirs = [
            NoneMatch(each.query, self.positions[each.after])
            if isinstance(each, NoneMatch)
            else each
            for each in conditions
        ]
        expected = _outcome(run_sync, self.model.append(batch, conditions=conditions))
        found = _outcome(self.run_store, self.store.append(batch, conditions=theirs))
        if isinstance(expected, Appended):
            self._learn()
            if batch not in self.appended:
                self.appended.append(batch)
        assert found == self._translated(expected)

    def _learn(self) -> None:
        """The store's positions of what is new, after a check that it is what the model has."""
        new = self._read(ALL, after=self.positions[-1])
        expected = run_sync(self.model.read(after=len(self.positions) - 1))
        assert [self._plain(each) for each in new] == [self._plain(each) for each in expected]
        self.positions += [each.position for each in new]

    def _translated(self, outcome: Any) -> Any:
        """An outcome of the model, with the positions of the store."""
        if isinstance(outcome, Appended):
            first, last = self.positions[outcome.first_position], self.positions[outcome.position]
            return Appended(first, last, outcome.versions)
        kind, condition, found = outcome
        if isinstance(condition, NoneMatch):
            condition = NoneMatch(condition.query, self.positions[condition.after])
            found = self.positions[found]
        return kind, condition, found

    @staticmethod
    def _plain(event: RecordedEvent[bytes]) -> tuple[Any, ...]:
        """What must be the same in all stores."""
        placed = (event.stream, event.version, event.type, event.schema_version, event.id)
        return (*placed, event.data, event.tags, event.metadata)


def _outcome(run: Any, coroutine: Any) -> Any:
    try:
        return run(coroutine)
    except AppendConditionFailed as error:
        return type(error), error.condition, error.found
    except DuplicateEvent as error:
        return type(error), error.known, error.unknown
    except (InvalidInput, LeftfoldError) as error:
        return type(error), None, None
