"""Connections and servers are lost at the worst moment, and callers go on by themselves."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from msgspec import Struct

import leftfold
from leftfold import Codec, Decider, Event, OutcomeUnknown, StoreUnavailable
from leftfold.stores.postgres import pool
from leftfold.stores.postgres.writer import Writer

PATIENCE_S = 60


class Added(Struct, frozen=True):
    pass


# At its commit a transaction waits for a lock of the test.
WAIT_AT_COMMIT = """CREATE FUNCTION {0}.wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON {0}.events
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {0}.wait_at_commit()"""
WAITING = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
KILL_ALL = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE application_name = 'leftfold'"""


def event(stream: str = "a-1") -> Event[bytes]:
    return Event(stream, b"{}", type="A")


class InThread:
    """The outcome of an append that is made in a thread."""

    def __init__(self, events: leftfold.EventStore, *appended: Event[bytes]) -> None:
        self._events = events
        self._appended = appended
        self._outcome: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._events.append(self._appended)
        except Exception as error:
            self._outcome = error

    def outcome(self) -> Any:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self._outcome


def waiting(server: Any) -> int:
    """The backend that waits at its commit."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := server.execute(WAITING)):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return int(found[0][0])


@pytest.fixture
def slow_commits(server: Any) -> Iterator[Any]:
    """The URL of a log in which commits wait, and the connection that they wait for."""
    schema = server.new_schema()
    url = f"{server.url()}?schema={schema}"
    leftfold.open(url).close()
    server.execute(WAIT_AT_COMMIT.format(schema))
    with psycopg.connect(server.url(), autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(4711)")
        yield url, holder


def test_a_connection_that_dies_at_its_commit(server: Any, slow_commits: Any) -> None:
    url, holder = slow_commits
    with leftfold.open(url) as events:
        append = InThread(events, event(), event())
        server.execute("SELECT pg_terminate_backend(%s)", waiting(server))
        waiting(server)  # it has begun again
        holder.execute("SELECT pg_advisory_unlock(4711)")
        assert append.outcome().versions == {"a-1": 2}
        assert [each.version for each in events.read()] == [1, 2]


def test_a_server_that_does_not_come_back(server: Any, slow_commits: Any) -> None:
    url, _ = slow_commits
    with leftfold.open(f"{url}&reconnect_timeout_s=0.2") as events:
        mine = event()
        append = InThread(events, mine)
        waiting(server)
        server.stop()
        try:
            unknown = append.outcome()
            assert isinstance(unknown, OutcomeUnknown), unknown
            assert unknown.event_ids == (mine.id,)
            # This one is never sent.
            with pytest.raises(StoreUnavailable, match="nothing was recorded"):
                events.append([event()])
            with pytest.raises(StoreUnavailable):
                events.head()
        finally:
            server.start()
        assert events.append([mine]).versions == {"a-1": 1}
        assert [each.id for each in events.read()] == [mine.id]


class Proxy:
    """Passes bytes on to a server, until it is told to lose the answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_cutting = threading.Event()
        self.lost = 0
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            self._connections += [client, server]
            for one, other, cut in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(one, other, cut), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, cut: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if cut and self.is_cutting.is_set():
                    # The server has done its work, and its answer is lost.
                    self.is_cutting.clear()
                    self.lost += 1
                    break
                other.sendall(data)
        for each in (one, other):
            shut_down(each)

    def cut(self) -> None:
        """End all connections that there are."""
        for each in self._connections:
            shut_down(each)

    def close(self) -> None:
        self._listener.close()


def shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def test_an_answer_that_is_lost_after_the_commit(server: Any, monkeypatch: Any) -> None:
    # Its answers would be lost in place of those that are meant.
    monkeypatch.setattr("leftfold.stores.postgres.news.News.tell", lambda *_: None)
    schema = server.new_schema()
    proxy = Proxy(server.port)
    url = server.url().replace(str(server.port), str(proxy.port)) + f"?schema={schema}"
    with leftfold.open(url) as events:
        events.append([event("a-0")])  # its kind is known now
        mine = event()
        proxy.is_cutting.set()
        appended = events.append([mine])
        assert proxy.lost == 1
        assert appended.versions == {"a-1": 1}
        assert appended.is_repeat, "it was found by its id"
        assert [each.stream for each in events.read()] == ["a-0", "a-1"]
        proxy.is_cutting.set()
        assert events.head() == appended.position
        assert proxy.lost == 2
    proxy.close()


def test_an_append_that_is_lost_and_still_at_work(server: Any, slow_commits: Any) -> None:
    """It may be recorded yet, so nobody may say that it is not."""
    url, holder = slow_commits
    proxy = Proxy(server.port)
    url = url.replace(str(server.port), str(proxy.port)) + "&lock_timeout_s=0.2"
    with leftfold.open(url) as events:
        mine = event()
        append = InThread(events, mine)
        waiting(server)
        proxy.cut()
        assert isinstance(append.outcome(), OutcomeUnknown), append.outcome()
        assert events.head() == 0
        holder.execute("SELECT pg_advisory_unlock(4711)")
        assert events.append([mine]).is_repeat
        assert [each.id for each in events.read()] == [mine.id]
    proxy.close()


def test_all_connections_are_killed(server: Any) -> None:
    with leftfold.open(server.new_log()) as events:
        for number in range(1, 6):
            assert events.append([event()]).versions == {"a-1": number}
            assert len(list(events.read())) == number
            assert server.execute(KILL_ALL)[0][0] >= 2


def test_a_subscription_outlives_the_server(server: Any) -> None:
    url = server.new_log()
    with leftfold.open(url) as events, leftfold.open(url) as others, events.subscribe() as news:
        for number in range(1, 4):
            others.append([event()])
            assert next(news).version == number
            server.crash()


def test_an_async_subscription_outlives_the_server(server: Any) -> None:
    async def run() -> None:
        url = server.new_log()
        async with (
            await leftfold.aopen(url) as events,
            await leftfold.aopen(url) as others,
            events.subscribe() as news,
        ):
            for number in range(1, 4):
                await others.append([event()])
                assert (await anext(news)).version == number
                await asyncio.to_thread(server.crash)

    asyncio.run(run())


def test_async_reads_take_no_threads(server: Any) -> None:
    async def run() -> None:
        async with await leftfold.aopen(server.new_log()) as events:
            await events.append([event()])
            before = threading.active_count()
            pages = [events.store.read() for _ in range(50)]
            assert all(len(page) == 1 for page in await asyncio.gather(*pages))
            assert threading.active_count() == before

    asyncio.run(run())


def test_a_cancelled_read_frees_its_connection(server: Any) -> None:
    async def run() -> None:
        async with await leftfold.aopen(f"{server.new_log()}&readers_max=1") as events:
            await events.append([event()])
            for _ in range(20):
                task = asyncio.create_task(events.head())
                await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert await events.head() == 1

    asyncio.run(run())


def test_a_cancelled_reader_does_not_stand_in_line(server: Any) -> None:
    async def run() -> None:
        async with await leftfold.aopen(f"{server.new_log()}&readers_max=1") as events:
            pool = events.store._pool
            taken = pool._free.pop()
            task = asyncio.create_task(events.head())
            while not pool._waiting:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert not pool._waiting
            pool._free.append(taken)
            assert await events.head() == 0

    asyncio.run(run())


def interrupted_at(number: int, use: Callable[[], Any]) -> bool:
    """Whether a use was interrupted, before the bytecode of a number in the file `pool.py`."""
    left = number

    def trace(frame: Any, kind: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != pool.__file__:
            return None
        frame.f_trace_opcodes = True
        if kind == "opcode":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        use()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


# Where it is interrupted, Python finds coroutines that nobody runs.
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_an_interrupt_at_every_bytecode_loses_no_place(server: Any) -> None:
    with leftfold.open(f"{server.new_log()}&readers_max=2") as events:
        events.head()
        number = 1
        while interrupted_at(number, events.head):
            assert len(events.store._pool._free) == 2, number  # type: ignore[attr-defined]
            number += 1
        assert number > 100, "hardly any place was found"
        assert events.head() == 0
    gc.collect()


def test_another_log_behind_the_same_url(server: Any) -> None:
    """As after a restore or a failover: what was remembered of the first one is of no use."""
    url = server.new_log()
    schema = url.rpartition("=")[2]
    with leftfold.open(url) as events:
        events.append([Event("a-1", b"{}", type=each) for each in ("One", "Two", "Three")])
        assert len(list(events.read())) == 3
        server.execute(f"DROP SCHEMA {schema} CASCADE")
        with leftfold.open(url) as other:
            other.append([Event("b-1", b"{}", type="Other")])
            mine = "application_name = 'leftfold' AND pid <> pg_backend_pid()"
            server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
            events.append([Event("a-1", b"{}", type="Two")])
            for store in (events, other):
                found = [(each.stream, each.version, each.type) for each in store.read()]
                assert found == [("b-1", 1, "Other"), ("a-1", 1, "Two")]
                assert store.head() == 2


UPGRADE = """DROP VIEW {0}.log;
ALTER TABLE {0}.events ALTER COLUMN actor TYPE varchar, ALTER COLUMN causation_id TYPE varchar"""


def test_what_was_prepared_before_an_upgrade(server: Any) -> None:
    schema = server.new_schema()
    url = f"{server.url()}?schema={schema}"
    with leftfold.open(url) as events:
        events.append([event()])
        for _ in range(4):
            assert len(list(events.read())) == 1
        server.execute(UPGRADE.format(schema))
        for number in range(2, 5):
            assert len(list(events.read())) == number - 1
            assert events.append([event()]).versions == {"a-1": number}

    async def run() -> None:
        async with await leftfold.aopen(url) as log:
            for _ in range(4):
                assert len([each async for each in log.read()]) == 4
            back = "ALTER TABLE {0}.events ALTER COLUMN actor TYPE text"
            server.execute(back.format(schema))
            assert len([each async for each in log.read()]) == 4

    asyncio.run(run())


def test_a_command_without_an_id_whose_answer_is_lost_is_told_what_it_came_to(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing = [True]
    attempt = Writer._attempt

    def lost(self: Any, group: Any, lock_timeout_s: float) -> Any:
        found = attempt(self, group, lock_timeout_s)
        if losing:
            losing.clear()
            raise psycopg.OperationalError("the connection is closed")
        return found

    monkeypatch.setattr(Writer, "_attempt", lost)
    count: Decider[str, int, Added] = Decider(
        "count",
        initial_state=0,
        decide=lambda command, state: [Added(), Added()],
        evolve=lambda state, event: state + 1,
    )
    with leftfold.open(server.new_log(), Codec(Added)) as es:
        handled = es.handle(count, "1", "add")
        assert (handled.state, handled.version, handled.events) == (2, 2, (Added(), Added()))
        assert es.handle(count, "1", "add").version == 4
        assert not losing
