"""Who waits is rung by those who append, wherever they are. Polling is put off for so long here
that it cannot be what wakes them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

import leftfold
from leftfold import Event, EventStore, StoreClosed
from leftfold.drive import run_sync
from leftfold.stores.postgres import news

PATIENCE_S = 60
NEVER_S = 3600
MINE = "FROM pg_stat_activity WHERE application_name = 'waiter'"


def event(stream: str = "a-1") -> Event[bytes]:
    return Event(stream, b"{}", type="A")


def until(is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


class Waiting:
    """A caller of a store that waits for news in a thread."""

    def __init__(self, store: Any, after: int, timeout_s: float = NEVER_S) -> None:
        self.error: Exception | None = None
        self._store = store
        self._thread = threading.Thread(target=self._wait, args=(after, timeout_s), daemon=True)
        self._thread.start()

    def _wait(self, after: int, timeout_s: float) -> None:
        try:
            run_sync(self._store.wait(after, timeout_s))
        except StoreClosed as error:
            self.error = error

    def until_it_listens(self) -> None:
        until(lambda: self._store._news._is_listening)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def finish(self) -> None:
        self._thread.join(PATIENCE_S)
        assert self.is_over


@pytest.fixture(autouse=True)
def seldom(monkeypatch: Any) -> None:
    monkeypatch.setattr(news, "NOTIFIED_POLL_S", NEVER_S)


@pytest.fixture
def url(server: Any) -> str:
    return str(server.new_log())


@pytest.fixture
def waiter(url: str) -> Iterator[Any]:
    """A store, for somebody to wait in."""
    with leftfold.open(f"{url}&application_name=waiter") as events:
        yield events.store


@pytest.fixture
def events(url: str) -> Iterator[EventStore]:
    """The same log, as other processes see it."""
    with leftfold.open(url) as events:
        yield events


def test_who_waits_is_rung_by_others(waiter: Any, events: EventStore) -> None:
    for number in range(0, 6, 2):
        waiting = [Waiting(waiter, number) for _ in range(3)]
        waiting[0].until_it_listens()
        later = Waiting(waiter, number + 1)
        events.append([event()])
        for each in waiting:
            each.finish()
        assert not later.is_over
        events.append([event()])
        later.finish()


def test_async(server: Any, url: str, events: EventStore) -> None:
    async def run() -> None:
        async with await leftfold.aopen(url) as log:
            for number in range(3):
                waiting = asyncio.create_task(log.store.wait(number, NEVER_S))
                while not log.store._news._is_listening:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(events.append, [event()])
                await asyncio.wait_for(waiting, PATIENCE_S)

    asyncio.run(run())


def test_a_caller_that_is_cancelled_leaves_nothing_behind(url: str) -> None:
    async def run() -> None:
        async with await leftfold.aopen(url) as log:
            waiting = asyncio.create_task(log.store.wait(0, NEVER_S))
            while not log.store._news._waiting:
                await asyncio.sleep(0.005)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert not log.store._news._waiting

    asyncio.run(run())


def test_the_connection_is_killed(server: Any, waiter: Any, events: EventStore) -> None:
    for number in range(3):
        waiting = Waiting(waiter, number)
        waiting.until_it_listens()
        killed = server.execute(f"SELECT pg_terminate_backend(pid) {MINE}")
        assert (True,) in killed
        events.append([event()])
        waiting.finish()


def test_the_server_is_started_again(server: Any, waiter: Any, events: EventStore) -> None:
    for number in range(3):
        waiting = Waiting(waiter, number)
        waiting.until_it_listens()
        server.crash()
        events.append([event()])
        waiting.finish()


def test_the_wait_ends_in_time_without_a_server(server: Any, waiter: Any) -> None:
    waiting = Waiting(waiter, 0)
    waiting.until_it_listens()
    server.stop()
    try:
        Waiting(waiter, 0, 0.05).finish()
        assert not waiting.is_over
    finally:
        server.start()
    leftfold.EventStore(waiter).append([event()])
    waiting.finish()


def test_what_is_settled_late_rings_as_well(server: Any, waiter: Any, events: EventStore) -> None:
    """One that is at work holds the log back, and is rolled back: so it rings nobody itself."""
    waiting = Waiting(waiter, 0)
    waiting.until_it_listens()
    schema = events.store._options.schema  # type: ignore[attr-defined]
    with psycopg.connect(server.url()) as connection:
        connection.execute(f"SELECT {schema}.announce()".encode())
        appended = events.append([event()])
        theirs = events.store._news  # type: ignore[attr-defined]
        until(lambda: theirs._next_ring_s > 0)
        assert theirs._due == appended.position
        assert not waiting.is_over
        connection.rollback()
    waiting.finish()


def test_a_transaction_of_the_callers_rings_when_it_ends(
    server: Any, waiter: Any, events: EventStore
) -> None:
    waiting = Waiting(waiter, 0)
    waiting.until_it_listens()
    with psycopg.connect(server.url()) as connection:
        EventStore(events.store.within(connection)).append([event()])  # type: ignore[attr-defined]
        until(lambda: events.store._news._due > 0)  # type: ignore[attr-defined]
        assert not waiting.is_over
        connection.commit()
    waiting.finish()


def test_nobody_is_rung_for_ever_for_what_a_restored_log_does_not_have(events: EventStore) -> None:
    mine = events.store._news  # type: ignore[attr-defined]
    events.append([event()])
    mine.tell(10**9)
    until(lambda: not mine._told and not mine._due)


def test_what_cannot_be_told_for_long_is_kept_once(
    events: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise psycopg.OperationalError("too many connections")

    mine = events.store._news  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(news, "Line", refuse)
        for _ in range(100):
            last = events.append([event()]).position
        assert len(mine._told) == 1
        assert last in mine._told.values()
    until(lambda: not mine._told and not mine._due)


def test_appends_share_a_notification(server: Any, url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(news, "GAP_S", NEVER_S)
    heard: list[psycopg.Notify] = []
    with psycopg.connect(server.url(), autocommit=True) as listener:
        listener.add_notify_handler(heard.append)
        with leftfold.open(url) as events:
            schema = events.store._options.schema  # type: ignore[attr-defined]
            [(oid,)] = server.execute(f"SELECT '{schema}.events'::regclass::oid::int")
            listener.execute(f"LISTEN leftfold_{oid}".encode())

            def count() -> int:
                listener.execute("SELECT")
                return len(heard)

            for _ in range(20):
                events.append([event()])
            until(lambda: count() > 0)
            for _ in range(20):
                events.append([event()])
            assert count() == 1
        assert count() == 2, "the store that closes does not leave its last appends untold"


def test_the_connection_is_there_while_it_is_needed(
    server: Any, waiter: Any, events: EventStore, monkeypatch: Any
) -> None:
    monkeypatch.setattr(news, "LINGER_S", 0.01)

    def count() -> Any:
        return server.execute(f"SELECT count(*) {MINE}")[0][0]

    run_sync(waiter.append([event()]))
    until(lambda: count() == 1)  # it writes
    for number in range(1, 4):
        waiting = Waiting(waiter, number)
        waiting.until_it_listens()
        assert count() == 2
        events.append([event()])
        waiting.finish()
        until(lambda: count() == 1)


def test_who_appends_and_waits_no_longer_does_not_listen(waiter: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(news, "LINGER_S", 0.5)
    waiting = Waiting(waiter, 0)
    waiting.until_it_listens()
    run_sync(waiter.append([event()]))
    waiting.finish()

    def append_and_look() -> bool:
        run_sync(waiter.append([event()]))
        return not waiter._news._is_listening

    until(append_and_look)


def test_a_store_that_closes_lets_all_go(url: str) -> None:
    events = leftfold.open(url)
    waiting = Waiting(events.store, 0)
    waiting.until_it_listens()
    events.close()
    waiting.finish()
    assert isinstance(waiting.error, StoreClosed)
