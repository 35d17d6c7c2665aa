"""Appends that are part of a transaction of the caller's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import leftfold
from leftfold import (
    AppendConditionFailed,
    AsyncEventStore,
    Event,
    EventStore,
    InvalidInput,
    StoreUnavailable,
    StreamVersion,
    select,
)


def event(stream: str = "a-1", **more: Any) -> Event[bytes]:
    return Event(stream, b"{}", type="A", **more)


@pytest.fixture
def events(server: Any) -> Iterator[EventStore]:
    server.execute("CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, cents int)")
    server.execute("DELETE FROM accounts")
    with leftfold.open(server.new_log()) as events:
        yield events


INSERT = "INSERT INTO accounts VALUES ('ada', 100)"
COUNT = "SELECT count(*) FROM accounts"


def test_tables_and_events_change_together_or_not(server: Any, events: EventStore) -> None:
    # The caller's own settings of the connection do not matter.
    with psycopg.connect(server.url(), row_factory=dict_row) as connection:
        mine = EventStore(events.store.within(connection))
        for is_wanted in (False, True):
            connection.execute(INSERT)
            mine.append([event(), event("b-1")], conditions=[StreamVersion("a-1", 0)])
            assert list(events.read()) == []
            if is_wanted:
                connection.commit()
            else:
                connection.rollback()
            assert server.execute(COUNT) == [(int(is_wanted),)]
            assert len(list(events.read())) == 2 * is_wanted


def test_a_conflict_leaves_the_transaction_usable(server: Any, events: EventStore) -> None:
    events.append([event()])
    with psycopg.connect(server.url()) as connection:
        mine = EventStore(events.store.within(connection))
        connection.execute(INSERT)
        with pytest.raises(AppendConditionFailed):
            mine.append([event()], conditions=[StreamVersion("a-1", 0)])
        mine.append([event()], conditions=[StreamVersion("a-1", 1)])
        mine.append([event()], conditions=[StreamVersion("a-1", 2)])
    assert [each.version for each in events.read(select("a-1"))] == [1, 2, 3]
    assert server.execute(COUNT) == [(1,)]


def test_a_repeat_is_known_before_the_commit(server: Any, events: EventStore) -> None:
    once = event()
    with psycopg.connect(server.url()) as connection:
        mine = EventStore(events.store.within(connection))
        first = mine.append([once])
        assert mine.append([once]) == first
    assert events.append([once]) == first
    assert len(list(events.read())) == 1


def test_what_was_appended_later_waits_for_it(server: Any, events: EventStore) -> None:
    with psycopg.connect(server.url()) as connection:
        EventStore(events.store.within(connection)).append([event("slow-1")])
        events.append([event("quick-1")])
        assert list(events.read()) == [], "or the slow one would arrive late"
    assert [each.stream for each in events.read()] == ["slow-1", "quick-1"]


def test_a_moment_is_not_answered_while_it_may_change(
    server: Any, events: EventStore, monkeypatch: Any
) -> None:
    monkeypatch.setattr("leftfold.stores.postgres.reader.MOMENT_WAIT_S", 0.1)
    events.append([event("early-1")])
    with psycopg.connect(server.url()) as connection:
        EventStore(events.store.within(connection)).append([event("slow-1")])
        at = datetime.now(UTC)
        with pytest.raises(leftfold.StoreUnavailable, match="recorded by then"):
            list(events.read(until=at))
    assert [each.stream for each in events.read(until=at)] == ["early-1", "slow-1"]


def test_a_transaction_is_needed(server: Any, events: EventStore) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        mine = EventStore(events.store.within(connection))
        with pytest.raises(InvalidInput, match="transaction"):
            mine.append([event()])
        with connection.transaction():
            mine.append([event()])
    assert len(list(events.read())) == 1


def test_a_connection_to_another_log_is_refused(server: Any, events: EventStore) -> None:
    schema = events.store._options.schema
    server.execute("DROP DATABASE IF EXISTS other")
    server.execute("CREATE DATABASE other")
    with leftfold.open(f"{server.url('other')}?schema={schema}") as others:
        with psycopg.connect(server.url("other")) as connection:
            mine = EventStore(events.store.within(connection))
            with pytest.raises(InvalidInput, match="the connection is not to"):
                mine.append([event()])
        assert others.head() == events.head() == 0


def test_async(server: Any, events: EventStore) -> None:
    url = f"{server.url()}?schema={events.store._options.schema}"

    async def run() -> None:
        async with (
            await leftfold.aopen(url) as log,
            await psycopg.AsyncConnection.connect(server.url()) as connection,
        ):
            mine = AsyncEventStore(log.store.within(connection))
            await mine.append([event()])
            await connection.rollback()
            await mine.append([event()])
            await connection.commit()
            assert [each.version async for each in log.read()] == [1]

    asyncio.run(run())


def test_cursors_of_the_connection_may_be_of_any_kind(server: Any, events: EventStore) -> None:
    for number, kind in enumerate((psycopg.ClientCursor, psycopg.RawCursor)):
        with psycopg.connect(server.url(), cursor_factory=kind) as connection:
            EventStore(events.store.within(connection)).append([event(f"k-{number}")])
    assert events.head() == 2


def test_no_states_are_cached_of_what_may_be_rolled_back(server: Any, events: EventStore) -> None:
    with psycopg.connect(server.url()) as connection:
        mine = events.store.within(connection)
        with pytest.raises(InvalidInput, match="cached_states_max"):
            EventStore(mine, cached_states_max=10)
        EventStore(mine)


def test_a_connection_of_the_other_colour(server: Any, events: EventStore) -> None:
    async def main() -> None:
        connection = await psycopg.AsyncConnection.connect(server.url())
        with pytest.raises(InvalidInput, match="found AsyncConnection"):
            events.store.within(connection)
        await connection.close()

    asyncio.run(main())


def test_waiting_for_an_event_id_has_an_end(server: Any) -> None:
    twice = event("a-1")
    with (
        leftfold.open(f"{server.new_log()}&lock_timeout_s=0.2") as events,
        psycopg.connect(server.url()) as connection,
    ):
        EventStore(events.store.within(connection)).append([twice])
        with pytest.raises(StoreUnavailable, match="does not end"):
            events.append([Event("b-1", b"{}", type="A", id=twice.id)])
        connection.rollback()
        events.append([twice])
