"""What concurrent writers were told and readers saw, checked against the log that came of it.

Writers note each `Attempt`, readers are `Watcher`s, and `check` compares both with the final log.
It is pure: it opens nothing, and works for the log of any store. Values are picklable, so writers
and watchers may be processes of their own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any
from uuid import UUID

from msgspec import Struct

from leftfold.event import Appended, Event, RecordedEvent
from leftfold.query import ALL, Condition, Query, QueryItem, StreamVersion


class Outcome(Enum):
    """What a writer knows about an append that did not return."""

    REFUSED = "refused"
    """An error said that nothing was recorded."""
    UNKNOWN = "unknown"
    """OutcomeUnknown, or the writer died: recorded whole, or not at all."""


class Attempt(Struct, frozen=True):
    """One append: its event ids in order, its conditions, and what it came to."""

    event_ids: tuple[UUID, ...]
    conditions: tuple[Condition, ...] = ()
    outcome: Appended | Outcome = Outcome.UNKNOWN

    @classmethod
    def of(
        cls,
        events: Iterable[Event[Any]],
        conditions: Iterable[Condition] = (),
        outcome: Appended | Outcome = Outcome.UNKNOWN,
    ) -> Attempt:
        """The attempt to append `events`."""
        return cls(tuple(event.id for event in events), tuple(conditions), outcome)


class Sightings(Struct, frozen=True):
    """What one reader saw: position and id of each event that `query` matches, in the order seen.

    It has looked at everything up to position `cursor`, and was told that the log reaches `head`.
    """

    query: Query
    cursor: int
    head: int
    seen: tuple[tuple[int, UUID], ...]


class Watcher:
    """Reads a log forward again and again while others write, and remembers what it saw.

    `read(after)` returns the next events after a position that `query` matches, at least one if
    there is one; `head()` the position of the last event of the log. One thread at a time.
    """

    def __init__(
        self,
        read: Callable[[int], Sequence[RecordedEvent[Any]]],
        head: Callable[[], int],
        query: Query = ALL,
    ) -> None:
        self._read = read
        self._head = head
        self._query = query
        self._cursor = 0
        self._highest = 0
        self._seen: list[tuple[int, UUID]] = []

    def look(self) -> int:
        """Read on to the end. Returns how many events were new."""
        # The head comes first: whatever it says must be readable afterwards.
        head = self._head()
        self._highest = max(self._highest, head)
        before = len(self._seen)
        while page := self._read(self._cursor):
            self._seen += [(event.position, event.id) for event in page]
            self._cursor = page[-1].position
        self._cursor = max(self._cursor, head)
        return len(self._seen) - before

    def watch(self, is_over: Callable[[], bool]) -> Sightings:
        """Look until `is_over()`, and once more after that."""
        while not is_over():
            self.look()
        self.look()
        return self.sightings

    @property
    def sightings(self) -> Sightings:
        """What was seen so far."""
        highest = max(self._highest, self._cursor)
        return Sightings(self._query, self._cursor, highest, tuple(self._seen))


def check(
    log: Sequence[RecordedEvent[Any]],
    attempts: Iterable[Attempt] = (),
    sightings: Iterable[Sightings] = (),
) -> None:
    """Raise AssertionError, with the facts, unless the whole log, read at the end, agrees with what
    writers were told and readers saw.

    Positions increase and versions have no holes (G3), no id appears twice (G5), times never
    decrease (G9). Each acknowledged append is there whole, adjacent, in order and where it was said
    to be (G1, G6), an unknown one whole or not at all, a refused one not at all, and nothing is
    there that nobody wrote. The conditions of whatever was recorded held where it stands (G2). No
    reader's past has changed (G4). An append that was repeated with the same ids and conditions is
    as many attempts.
    """
    _check_order(log)
    _check_attempts(log, _by_first_id(attempts))
    for each in sightings:
        _check_sightings(log, each)


def _check_order(log: Sequence[RecordedEvent[Any]]) -> None:
    versions: dict[str, int] = {}
    places: dict[bytes, int] = {}
    for event in log:
        expected = versions.get(event.stream, 0) + 1
        assert event.version == expected, (
            f"G3: stream {event.stream!r} goes from version {expected - 1} to {event.version} "
            f"at position {event.position}"
        )
        versions[event.stream] = event.version
        assert event.id_bytes not in places, (
            f"G5: event {event.id} is at positions {places[event.id_bytes]} and {event.position}"
        )
        places[event.id_bytes] = event.position
    for one, next in pairwise(log):
        assert one.position < next.position, f"G3: position {next.position} follows {one.position}"
        assert one.recorded_us <= next.recorded_us, (
            f"G9: recorded_at decreases from {one.recorded_at} at position {one.position} "
            f"to {next.recorded_at} at {next.position}"
        )


def _by_first_id(attempts: Iterable[Attempt]) -> dict[UUID, list[Attempt]]:
    """Attempts and their repeats together."""
    groups: dict[UUID, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[attempt.event_ids[0]].append(attempt)
    return groups


def _check_attempts(log: Sequence[RecordedEvent[Any]], groups: dict[UUID, list[Attempt]]) -> None:
    index = _Index(log)
    accounted = 0
    for group in groups.values():
        found = index.found(group[0].event_ids)
        accounted += len(found)
        for attempt in group:
            _check_presence(attempt, found)
        acknowledged = any(isinstance(attempt.outcome, Appended) for attempt in group)
        refused = all(attempt.outcome is Outcome.REFUSED for attempt in group)
        facts = f"the append of {_shown(group[0])}"
        assert found or not acknowledged, f"G6: {facts} was acknowledged and is not in the log"
        assert not (found and refused), (
            f"G1: {facts} was refused, and is at position {found and found[0].position}"
        )
        if found:
            for condition in group[0].conditions:
                index.check_condition(condition, found[0].position)
    if groups and accounted < len(log):
        written = {id for group in groups.values() for id in group[0].event_ids}
        stray = next(event for event in log if event.id not in written)
        raise AssertionError(f"nobody wrote {stray}")


def _check_presence(attempt: Attempt, found: Sequence[RecordedEvent[Any]]) -> None:
    ids = tuple(event.id for event in found)
    facts = f"of the append of {_shown(attempt)}, the log has at {[e.position for e in found]}"
    assert not found or ids == attempt.event_ids, (
        f"G1: whole, adjacent and in order: {facts} the events {[str(id) for id in ids]}"
    )
    if found and isinstance(attempt.outcome, Appended):
        versions = {event.stream: event.version for event in found}
        actual = Appended(found[0].position, found[-1].position, versions)
        assert actual == attempt.outcome, f"G1: {facts} {actual}, told was {attempt.outcome}"


def _check_sightings(log: Sequence[RecordedEvent[Any]], sightings: Sightings) -> None:
    cursor = sightings.cursor
    assert sightings.head <= cursor, (
        f"G4: a reader was told of head {sightings.head} and could read up to {cursor}"
    )
    for (one, _), (next, _) in pairwise(sightings.seen):
        assert one < next, f"G3: a reader was given position {next} after {one}"
    reached = {
        event.position: event.id
        for event in log
        if event.position <= cursor and sightings.query.matches(event)
    }
    seen = dict(sightings.seen)
    late = sorted(reached.keys() - seen.keys())
    assert not late, f"G4: positions {late} appeared after a reader had passed {cursor}"
    gone = sorted(seen.keys() - reached.keys())
    assert not gone, f"G6: a reader saw positions {gone}, which are gone from the log"
    changed = [position for position, id in seen.items() if reached[position] != id]
    assert not changed, f"G4: other events are at positions {changed} than a reader saw there"


def _shown(attempt: Attempt) -> str:
    return f"{len(attempt.event_ids)} event(s), the first {attempt.event_ids[0]}"


class _Index:
    """The log by id, stream and tag: conditions look at few events of it."""

    def __init__(self, log: Sequence[RecordedEvent[Any]]) -> None:
        self._log = log
        self._places = {event.id: place for place, event in enumerate(log)}
        self._by_stream: dict[str, list[RecordedEvent[Any]]] = defaultdict(list)
        self._by_tag: dict[str, list[RecordedEvent[Any]]] = defaultdict(list)
        for event in log:
            self._by_stream[event.stream].append(event)
            for tag in event.tags:
                self._by_tag[tag].append(event)

    def found(self, ids: tuple[UUID, ...]) -> Sequence[RecordedEvent[Any]]:
        """What the log has from the first to the last place of any of the ids."""
        places = sorted(self._places[id] for id in ids if id in self._places)
        return self._log[places[0] : places[-1] + 1] if places else ()

    def check_condition(self, condition: Condition, position: int) -> None:
        """Whether `condition` held for an append that begins at `position`."""
        if isinstance(condition, StreamVersion):
            events = self._by_stream.get(condition.stream, [])
            version = bisect_left(events, position, key=_position)
            assert version == condition.version, (
                f"G2: the append at position {position} was to see stream {condition.stream!r} "
                f"at version {condition.version}, and it was at {version}"
            )
            return
        for item in condition.query.items:
            for event in self._between(item, condition.after, position):
                assert not item.matches(event), (
                    f"G2: between {condition.after} and the append at position {position}, "
                    f"none was to match {item}, and the event at {event.position} does"
                )

    def _between(self, item: QueryItem, after: int, before: int) -> Iterator[RecordedEvent[Any]]:
        events: Sequence[RecordedEvent[Any]] = self._log
        if item.stream is not None:
            events = self._by_stream.get(item.stream, [])
        for tag in item.tags:
            events = min(events, self._by_tag.get(tag, []), key=len)
        first = bisect_right(events, after, key=_position)
        last = bisect_left(events, before, key=_position)
        return (events[place] for place in range(first, last))


def _position(event: RecordedEvent[Any]) -> int:
    return event.position


__all__ = ["Attempt", "Outcome", "Sightings", "Watcher", "check"]
