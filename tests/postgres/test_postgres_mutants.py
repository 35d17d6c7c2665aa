"""The designs that lose events, kept as mutants: the watcher and the checker catch them, where the
real one passes. Two transactions are moved step by step, so nothing depends on chance.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from leftfold import AppendConditionFailed, Appended, Event, EventStore, NoneMatch, select
from leftfold.drive import run_sync
from leftfold.stores.postgres import PostgresOptions, PostgresStore
from leftfold.testing.history import Attempt, Outcome, Watcher, check

PATIENCE_S = 60
SETTLED = """CREATE OR REPLACE FUNCTION {0}.announce() RETURNS void LANGUAGE sql AS 'SELECT';
CREATE OR REPLACE FUNCTION {0}.gate(OUT handed_out bigint, OUT settled bigint)
LANGUAGE sql VOLATILE AS $$
  SELECT last_value, coalesce(
    (SELECT min(position) - 1 FROM {0}.events
     WHERE xmin::text::bigint >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint),
    last_value)
  FROM {0}.positions
$$"""
"""Readers stop below the oldest transaction that is at work, and nothing else."""
UNLOCKED = """CREATE OR REPLACE FUNCTION {0}.take_locks(
  shared text[], exclusive text[], give_up_at timestamptz)
RETURNS void LANGUAGE sql AS 'SELECT'"""
UNANNOUNCED = "CREATE OR REPLACE FUNCTION {0}.announce() RETURNS void LANGUAGE sql AS 'SELECT'"


class Actors:
    """Two transactions that append to one log, and a watcher of it."""

    def __init__(self, server: Any, mutation: str) -> None:
        schema = server.new_schema()
        self.server = server
        self.store = PostgresStore(server.url(), PostgresOptions(schema=schema))
        # The kind is made now: the mutants are about positions and locks.
        run_sync(self.store.append([event("warm-1")]))
        if mutation:
            server.execute(mutation.format(schema))
        self.events = EventStore(self.store)
        self.watcher = Watcher(lambda after: list(self.events.read(after=after)), self.events.head)
        self.connections = [psycopg.connect(server.url()) for _ in range(2)]
        self.attempts: list[Attempt] = []

    def append(self, number: int, mine: Event[bytes], *conditions: Any) -> None:
        """In the transaction of a number."""
        store = self.store.within(self.connections[number])
        outcome: Any
        try:
            outcome = run_sync(store.append([mine], conditions=conditions))
        except AppendConditionFailed:
            outcome = Outcome.CONFLICT
        self.attempts.append(Attempt.of([mine], conditions, outcome))

    def check(self) -> None:
        log = list(self.events.read())
        first = Attempt.of([log[0]], (), Outcome.UNKNOWN)
        check(log, [first, *self.attempts], [self.watcher.sightings])

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        self.events.close()


def event(stream: str, *tags: str) -> Event[bytes]:
    return Event(stream, b"{}", type="A", tags=tags)


@pytest.fixture
def actors(server: Any) -> Iterator[Any]:
    made: list[Actors] = []

    def make(mutation: str) -> Actors:
        made.append(Actors(server, mutation))
        return made[-1]

    yield make
    for each in made:
        each.close()


def late_arrival(actors: Actors) -> None:
    """The one with the older transaction draws the higher position, and commits first."""
    older, newer = actors.connections
    for connection in (older, newer):
        connection.execute("SELECT pg_current_xact_id()")
    actors.append(1, event("b-1"))
    actors.append(0, event("a-1"))
    older.commit()
    actors.watcher.look()
    newer.commit()
    actors.watcher.look()
    actors.check()


def test_nothing_arrives_late(actors: Any) -> None:
    late_arrival(actors(""))


@pytest.mark.parametrize("mutation", [SETTLED, UNANNOUNCED], ids=["xmin", "no announcement"])
def test_the_watcher_catches_late_arrivals(actors: Any, mutation: str) -> None:
    with pytest.raises(AssertionError, match=r"G4: positions \[2\] appeared after"):
        late_arrival(actors(mutation))


def one_username(actors: Actors) -> None:
    """Two claim one name. The second one waits for the first, or does not."""
    free = NoneMatch(select(tags=["username:ada"]))
    actors.append(0, event("user-1", "username:ada"), free)
    claim = event("user-2", "username:ada")
    second = threading.Thread(target=actors.append, args=(1, claim, free))
    second.start()
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    deadline_s = time.monotonic() + PATIENCE_S
    while second.is_alive() and actors.server.execute(waiting) == [(0,)]:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    actors.connections[0].commit()
    second.join()
    actors.connections[1].commit()
    actors.check()


def test_conditions_hold_where_events_stand(actors: Any) -> None:
    mine = actors("")
    one_username(mine)
    assert [type(each.outcome) for each in mine.attempts] == [Appended, Outcome]


def test_the_checker_catches_appends_without_locks(actors: Any) -> None:
    with pytest.raises(AssertionError, match="G2: between 0 and the append at position 3"):
        one_username(actors(UNLOCKED))
