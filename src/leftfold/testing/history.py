"""What concurrent writers were told and readers saw, checked against the log that came of it.

Writers (such as `RandomWriter`) note each `Attempt`, readers are `Watcher`s, and `check` compares
both with the final log. It is pure, and works for the log of any store. Values are picklable, so
writers and watchers may be processes of their own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from leftfold.errors import AppendConditionFailed, OutcomeUnknown, StoreUnavailable
from leftfold.event import Appended, Event, RecordedEvent
from leftfold.facade import EventStore
from leftfold.query import ALL, Condition, NoneMatch, Query, QueryItem, StreamVersion, select


class Outcome(Enum):
    """What a writer knows about an append that did not return."""

    CONFLICT = "conflict"
    """AppendConditionFailed."""
    UNAVAILABLE = "unavailable"
    """StoreUnavailable: nothing was recorded, for a reason outside of the log."""
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

    It was told that the log reaches `cursor`, and has looked at everything up to there.
    """

    query: Query
    cursor: int
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
        self._seen: list[tuple[int, UUID]] = []

    def look(self) -> int:
        """Read on to the end. Returns how many events were new."""
        # The head comes first: everything up to it must be readable afterwards.
        head = self._head()
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
        return Sightings(self._query, self._cursor, tuple(self._seen))


class RandomWriter:
    """Appends in every way that a store offers, at random from a seed, and tells `note` of each
    attempt before it (outcome unknown) and after it.

    Writers of one log have different names; they meet in shared streams and over shared tags.
    """

    def __init__(
        self, events: EventStore, name: str, seed: int, note: Callable[[Attempt], object]
    ) -> None:
        self._store = events
        self._name = name
        self._random = Random(f"{name} {seed}")
        self._note = note
        self._earlier: list[tuple[Sequence[Event[bytes]], Sequence[Condition]]] = []

    def step(self) -> None:
        """One append; or the repeat of an earlier one, the same in every way."""
        random = self._random
        if self._earlier and random.random() < 0.1:
            events, conditions = random.choice(self._earlier)
        else:
            streams = [f"own-{self._name}", "shared-1", "shared-2"]
            if random.random() < 0.5:
                streams = [random.choice(streams)]
            events = [self._event(random.choice(streams)) for _ in range(random.choice((1, 1, 5)))]
            conditions = [self._condition() for _ in range(random.choice((0, 1, 1, 2)))]
            self._earlier.append((events, conditions))
        attempt = Attempt.of(events, conditions)
        self._note(attempt)
        self._note(replace(attempt, outcome=self._outcome(events, conditions)))

    def _outcome(
        self, events: Sequence[Event[bytes]], conditions: Sequence[Condition]
    ) -> Appended | Outcome:
        try:
            return self._store.append(events, conditions=conditions)
        except AppendConditionFailed:
            return Outcome.CONFLICT
        except StoreUnavailable:
            return Outcome.UNAVAILABLE
        except OutcomeUnknown:
            return Outcome.UNKNOWN

    def _event(self, stream: str) -> Event[bytes]:
        # Sizes differ, so that events lie within and across the pages of a file.
        data = b'"%s"' % (b"x" * self._random.choice((3, 200, 3000)))
        tags = tuple({f"seat:{self._random.randrange(6)}" for _ in range(2)})
        return Event(stream, data, type=self._random.choice(("Held", "Freed")), tags=tags)

    def _condition(self) -> Condition:
        """What holds now, or held one event ago. What holds when the append is judged is up to the
        others.
        """
        random = self._random
        stale = random.random() < 0.1
        stream = random.choice((f"own-{self._name}", "shared-1", "shared-2"))
        if random.random() < 0.5:
            last = self._last(select(stream))
            return StreamVersion(stream, last.version - stale if last else 0)
        query = select(tags=[f"seat:{random.randrange(6)}"], types=random.choice(((), ("Held",))))
        if random.random() < 0.3:
            query |= select(category="own", types=["Freed"]) | select(stream)
        last = self._last(query)
        return NoneMatch(query, last.position - stale if last else 0)

    def _last(self, query: Query) -> RecordedEvent[Any] | None:
        return next(self._store.read(query, backwards=True, limit=1), None)


def check(
    log: Sequence[RecordedEvent[Any]],
    attempts: Iterable[Attempt] = (),
    sightings: Iterable[Sightings] = (),
) -> None:
    """Raise AssertionError, with the facts, unless the whole log, read at the end, agrees with what
    writers were told and readers saw.

    Positions increase and versions have no holes (G3), no id appears twice (G5), times never
    decrease (G9). Each acknowledged append is there whole, adjacent, in order and where it was said
    to be (G1, G6), an unknown one whole or not at all, one that failed not at all; given attempts,
    nothing is there that none of them wrote. The conditions of whatever was recorded held where it
    stands (G2). No reader's past has changed (G4). An append that was repeated with the same ids
    and conditions is as many attempts, in that order; once acknowledged, none conflicts (G5).
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
    for group in groups.values():
        found = index.found(group[0].event_ids)
        _check_outcomes(group, found)
        for condition in group[0].conditions if found else ():
            index.check_condition(condition, found[0].position)
    written = {id for group in groups.values() for id in group[0].event_ids}
    for event in log if groups else ():
        assert event.id in written, f"nobody wrote {event}"


def _check_outcomes(group: Sequence[Attempt], found: Sequence[RecordedEvent[Any]]) -> None:
    facts = f"the append of {_shown(group[0])}"
    acknowledged = False
    for attempt in group:
        _check_presence(attempt, found)
        assert not (acknowledged and attempt.outcome is Outcome.CONFLICT), (
            f"G5: {facts} was acknowledged, and its repeat conflicts with it"
        )
        acknowledged = acknowledged or isinstance(attempt.outcome, Appended)
    assert found or not acknowledged, f"G6: {facts} was acknowledged and is not in the log"
    if found and not acknowledged:
        may_be = any(attempt.outcome is Outcome.UNKNOWN for attempt in group)
        assert may_be, f"G1: {facts} failed, and is at position {found[0].position}"


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
