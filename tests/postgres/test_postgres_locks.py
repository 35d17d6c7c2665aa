"""Transactions that get in each other's way: who waits, who is retried, who sees what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from postgres_server import Server

import leftfold
from leftfold import Appended, Event, EventStore, Metadata, select
from leftfold.drive import run_sync
from leftfold.event import new_id
from leftfold.stores.group import Append
from leftfold.stores.postgres.writer import MustWait, _groups

PATIENCE_S = 60
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


def event(stream: str = "a-1", **more: Any) -> Event[bytes]:
    return Event(stream, b"{}", type="A", **more)


@pytest.fixture
def events(server: Any) -> Iterator[EventStore]:
    with leftfold.open(server.new_log()) as events:
        yield events


class Doing:
    """The outcome of what is done in a thread."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._outcome: Any = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._action()
        except Exception as error:
            self._outcome = error

    def outcome(self) -> Any:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return self._outcome


def wait_until_blocked(server: Any, number: int = 1) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while server.execute(WAITING)[0][0] < number:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_readers_wait_a_little_for_what_their_store_was_told_of(
    server: Any, events: EventStore, monkeypatch: Any
) -> None:
    monkeypatch.setattr("leftfold.stores.postgres.reader.OWN_WAIT_S", PATIENCE_S)
    with psycopg.connect(server.url()) as connection:
        EventStore(events.store.within(connection)).append([event("slow-1")])
        mine = events.append([event("quick-1")])
        reading = Doing(lambda: list(events.read()))
        reading.thread.join(0.3)
        assert reading.thread.is_alive(), "it does not see what was just appended"
        connection.commit()
        assert [each.stream for each in reading.outcome()] == ["slow-1", "quick-1"]
        assert events.head() == mine.position


def test_readers_who_wait_hold_no_connection(server: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("leftfold.stores.postgres.reader.OWN_WAIT_S", PATIENCE_S)
    monkeypatch.setattr("leftfold.stores.postgres.reader.MOMENT_WAIT_S", PATIENCE_S)
    with (
        leftfold.open(f"{server.new_log()}&readers_max=1&reader_timeout_s={PATIENCE_S}") as events,
        psycopg.connect(server.url()) as connection,
    ):
        early = events.append([event("early-1")])
        assert events.head() == early.position
        EventStore(events.store.within(connection)).append([event("slow-1")])
        events.append([event("quick-1")])
        at = datetime.now(UTC)
        waiting = [Doing(events.head), Doing(lambda: list(events.read(until=at)))]
        reads = [list(events.read(until=early.position)) for _ in range(20)]
        assert all(len(each) == 1 for each in reads)
        assert all(each.thread.is_alive() for each in waiting)
        connection.commit()
        assert waiting[0].outcome() == early.position + 2
        assert len(waiting[1].outcome()) == 3


def test_readers_of_other_stores_do_not_wait(server: Any, events: EventStore) -> None:
    with (
        leftfold.open(f"{server.url()}?schema={events.store._options.schema}") as others,
        psycopg.connect(server.url()) as connection,
    ):
        EventStore(events.store.within(connection)).append([event("slow-1")])
        events.append([event("quick-1")])
        assert others.head() == 0
        assert list(others.read()) == []


def test_a_page_goes_on_behind_a_gap(server: Any, events: EventStore) -> None:
    """Positions that nobody used do not make a page look full, nor the log look over."""
    with (
        leftfold.open(f"{server.url()}?schema={events.store._options.schema}") as others,
        psycopg.connect(server.url()) as connection,
    ):
        others.append([event() for _ in range(5)])
        EventStore(others.store.within(connection)).append([event() for _ in range(100)])
        connection.rollback()
        others.append([event()])
        assert len(list(events.read())) == 6
        others.append([event()])
        page = run_sync(events.store.read(limit=50))
        assert [each.version for each in page] == list(range(1, 8))


def test_an_id_that_two_record_at_once_is_recorded_once(server: Any, events: EventStore) -> None:
    id = new_id()
    with psycopg.connect(server.url()) as connection:
        mine = EventStore(events.store.within(connection))
        first = mine.append([event("a-1", id=id)])
        again = Doing(lambda: events.append([event("b-1", id=id)]))
        wait_until_blocked(server)
        connection.commit()
        assert again.outcome() == first
    assert [each.stream for each in events.read()] == ["a-1"]


def test_a_deadlock_is_resolved_and_the_append_made_again(server: Any, events: EventStore) -> None:
    order = "SELECT name FROM unnest(ARRAY['a', 'b']) name ORDER BY hashtext('stream:' || name)"
    first, second = (str(name) for (name,) in server.execute(order))
    with psycopg.connect(server.url()) as connection:
        # Let the other one be the victim.
        connection.execute("SET deadlock_timeout = '60s'")
        mine = EventStore(events.store.within(connection))
        mine.append([event(second)])
        theirs = Doing(lambda: events.append([event(first), event(second)]))
        wait_until_blocked(server)
        mine.append([event(first)])
        connection.commit()
        assert theirs.outcome().versions == {first: 2, second: 2}
    assert [each.version for each in events.read()] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("writer", "kind"), [("_quick", MustWait), ("_patient", leftfold.StoreUnavailable)]
)
def test_neighbours_of_an_append_that_waits_in_vain(server: Any, writer: str, kind: Any) -> None:
    with (
        leftfold.open(f"{server.new_log()}&lock_timeout_s=0.2") as events,
        psycopg.connect(server.url()) as connection,
    ):
        EventStore(events.store.within(connection)).append([event("taken-1")])
        group = [Append((event(name),), ()) for name in ("a-1", "taken-1", "b-1")]
        outcomes = getattr(events.store, writer).writer.commit(group)
    assert [type(each) for each in outcomes] == [Appended, kind, Appended]


def test_a_stream_that_is_held_keeps_only_those_waiting_who_need_it(server: Any) -> None:
    with (
        leftfold.open(f"{server.new_log()}&lock_timeout_s={PATIENCE_S}") as events,
        psycopg.connect(server.url()) as connection,
    ):
        EventStore(events.store.within(connection)).append([event("taken-1")])
        held = [Doing(lambda: events.append([event("taken-1")])) for _ in range(3)]
        wait_until_blocked(server)
        others = [
            Doing(lambda name=f"b-{number}": events.append([event(name) for _ in range(2)]))
            for number in range(20)
        ]
        assert all(isinstance(each.outcome(), Appended) for each in others)
        assert all(each.thread.is_alive() for each in held)
        connection.commit()
        versions = sorted(each.outcome().versions["taken-1"] for each in held)
        assert versions == [2, 3, 4]


def test_one_limit_for_all_that_an_append_waits_for(server: Any, events: EventStore) -> None:
    schema = events.store._options.schema  # type: ignore[attr-defined]
    take = f"SELECT {schema}.take_locks(%s, %s, clock_timestamp() - interval '1 s')"
    with (
        psycopg.connect(server.url()) as connection,
        psycopg.connect(server.url(), options=f"-c statement_timeout={PATIENCE_S}s") as late,
    ):
        connection.execute(take.encode(), [["stream:b"], ["stream:a"]])
        for shared, exclusive in ([], ["stream:b"]), (["stream:a"], []):
            with pytest.raises(psycopg.errors.LockNotAvailable), late.transaction():
                late.execute(take.encode(), [shared, exclusive])
            assert late.execute("SHOW lock_timeout").fetchone() == ("0",)
        late.execute(take.encode(), [["stream:b"], ["stream:c"]])


@pytest.mark.parametrize(
    ("mine", "groups"),
    [
        ({}, [100]),
        ({"tags": [f"{'t' * 200}:{number}" for number in range(32)]}, [80, 20]),
        ({"metadata": Metadata(extra={"x": "y" * 60_000})}, [11] * 9 + [1]),
    ],
    ids=["data", "tags", "metadata"],
)
def test_a_group_fits_into_a_message(mine: Any, groups: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr("leftfold.stores.postgres.writer.APPEND_BYTES_MAX", 700_000)
    appends = [Append((event(**mine),), ()) for _ in range(100)]
    assert [len(group) for group in _groups(appends)] == groups


def test_very_many_names_become_one_lock(server: Any, events: EventStore) -> None:
    with psycopg.connect(server.url()) as connection:
        mine = EventStore(events.store.within(connection))
        mine.append([event(f"a-{number}") for number in range(1500)])
        count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert server.execute(count)[0][0] < 10
        others = Doing(lambda: events.append([event("b-1")]))
        wait_until_blocked(server)
        connection.commit()
        assert isinstance(others.outcome(), Appended)
    assert len(list(events.read())) == 1501


def test_appends_of_one_group_see_those_before_them(events: EventStore) -> None:
    """Each is judged on its own, after those before it, also where they are recorded together."""
    claim = leftfold.NoneMatch(select(tags=["username:ada"]))
    new, at_1 = leftfold.StreamVersion("a-1", 0), leftfold.StreamVersion("a-1", 1)
    once = event("c-1")
    group = [
        Append((event("a-1", tags=("username:ada",)),), (new, claim)),
        Append((event("b-1", tags=("username:ada",)),), (claim,)),
        Append((event("a-1"),), (new,)),
        Append((event("a-1"),), (at_1,)),
        Append((once,), (leftfold.NoneMatch(select(types=["B"])),)),
        Append((once,), ()),
        Append((event("d-1"), once), ()),
        Append((event("e-1"),), (leftfold.NoneMatch(select(category="a")),)),
        Append((event("f-1"),), (leftfold.NoneMatch(select("c-1"), 99),)),
    ]
    outcomes = events.store._quick.writer.commit(group)  # type: ignore[attr-defined]
    assert [type(each).__name__ for each in outcomes] == [
        *("Appended", "AppendConditionFailed", "AppendConditionFailed", "Appended", "Appended"),
        *("Appended", "DuplicateEvent", "AppendConditionFailed", "InvalidInput"),
    ]
    assert outcomes[1].found == outcomes[7].found == outcomes[0].position
    assert outcomes[2].found == 1
    assert (outcomes[5], outcomes[5].is_repeat) == (outcomes[4], True)
    recorded = [(each.stream, each.version) for each in events.read()]
    assert recorded == [("a-1", 1), ("a-1", 2), ("c-1", 1)]


def test_who_holds_readers_back_can_be_seen(server: Any, events: EventStore) -> None:
    schema = events.store._options.schema  # type: ignore[attr-defined]
    with psycopg.connect(server.url(), application_name="slow") as connection:
        mine = EventStore(events.store.within(connection))
        for _ in range(2):
            mine.append([event()])
            events.append([event("b-1")])
        at_work = f"SELECT application_name, state, pid FROM {schema}.at_work"
        assert server.execute(at_work) == [
            ("slow", "idle in transaction", connection.info.backend_pid)
        ]
    assert server.execute(f"SELECT count(*) FROM {schema}.at_work") == [(0,)]


def test_a_prepared_transaction_that_holds_readers_back_can_be_seen() -> None:
    # A server of its own, which may prepare transactions.
    with closing(Server()) as server:
        server.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        server.crash()
        with leftfold.open(server.new_log()) as log, psycopg.connect(server.url()) as connection:
            schema = log.store._options.schema
            EventStore(log.store.within(connection)).append([event()])
            connection.execute("PREPARE TRANSACTION 'forgotten'")
            at_work = f"SELECT pid, role, state, since IS NOT NULL, query FROM {schema}.at_work"
            assert server.execute(at_work) == [
                (None, "postgres", "prepared", True, "PREPARE TRANSACTION 'forgotten'")
            ]
            connection.rollback()
            server.execute("COMMIT PREPARED 'forgotten'")
            assert server.execute(at_work) == []
            assert log.head() == 1
