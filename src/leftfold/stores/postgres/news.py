"""News between processes: who waits is rung when events appear, by NOTIFY, with polling behind it.

A thread for each store object does both ends of it, on one connection that is there only while it
is needed. Appends never wait for it: to notify in their transactions would let the commits of the
whole server take turns.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from contextlib import closing, suppress
from selectors import EVENT_READ, PollSelector
from typing import Any

import psycopg
from psycopg import sql

from leftfold.drive import Driver, run_sync
from leftfold.errors import StoreClosed
from leftfold.stores.doorbell import POLL_S
from leftfold.stores.postgres.connection import Retry, SyncLink
from leftfold.stores.postgres.options import PostgresOptions

NOTIFIED_POLL_S = 1.0
"""How often the thread looks by itself where notifications arrive. Elsewhere it is `POLL_S`."""
GAP_S = 0.005
"""From one notification of a store to its next one: appends in between share it."""
LINGER_S = 10.0
"""How long the connection stays when nobody needs it."""
CLOSING_S = 5.0
"""How long closing waits for the thread, which may be connecting to a server that is gone."""

_logger = logging.getLogger("leftfold")


class News:
    """Lets callers wait until the log goes beyond a position, and tells others of appends.

    Callers may be interrupted (Ctrl-C) at any place. So they touch nothing but dicts and a socket,
    in single steps. A server that is lost is no news: nobody waits longer for it.
    """

    def __init__(self, dsn: str, options: PostgresOptions, driver: Driver) -> None:
        self._dsn = dsn
        self._options = options
        self._driver = driver
        self._waiting: dict[Any, int] = {}
        """Promises to callers, and the position that each of them knows."""
        self._told: dict[int, int] = {}
        """The last position that each thread has told of, as far as no note was taken of it: no
        more of them, as nobody may take note for long where no connection can be had.
        """
        self._due = 0
        """A position that others are rung for until the log is settled up to there."""
        self._next_ring_s = 0.0
        self._waited_s = 0.0
        """When somebody was seen to wait."""
        self._will_look = False
        """Whether the thread looks at `_told` soon, without being woken."""
        self._retry = Retry(math.inf)
        self._is_listening = False
        self._closed = False
        self._is_at_work = threading.Lock()
        """Held by the one thread that is at work."""
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)

    async def wait(self, after: int, timeout_s: float) -> None:
        """Return when the head is above `after`, or after `timeout_s` seconds."""
        promise = self._driver.promise()
        self._waiting[promise] = after
        try:
            self._wake()
            if not self._closed:
                await promise.wait(timeout_s)
        finally:
            self._waiting.pop(promise, None)
        if self._closed:
            raise StoreClosed("the store is closed")

    def tell(self, position: int) -> None:
        """Ring all who wait, here and elsewhere, now and once the log is settled up to there."""
        if position:
            mine = threading.get_ident()
            # If note is taken in between, it is taken again, which does no harm.
            self._told[mine] = max(position, self._told.get(mine, 0))
        if self._waiting or not self._will_look:
            self._wake()

    def _wake(self) -> None:
        if not self._is_at_work.locked():
            thread = threading.Thread(target=self._run, name="leftfold-news", daemon=True)
            # Where no thread can be had, as at the end of the interpreter, there is no news.
            with suppress(RuntimeError):
                thread.start()
        # A buffer that is full has woken the thread already, a closed socket has ended it.
        with suppress(OSError):
            self._mouth.send(b"!")

    def close(self) -> None:
        """Let all go who wait, and ring others for the last time. May be called again."""
        self._closed = True
        self._settle(None)
        with suppress(OSError):
            self._mouth.send(b"!")
        if self._is_at_work.acquire(timeout=CLOSING_S):
            try:
                if self._is_needed():
                    self._connect()
            finally:
                self._ear.close()
                self._mouth.close()
                self._is_at_work.release()

    def _settle(self, head: int | None) -> None:
        """Let all go who wait for less than `head`; None: all."""
        reached = [
            promise
            for promise, after in self._waiting.copy().items()
            if head is None or head > after
        ]
        # A caller who has left took its promise along, and each is settled once.
        mine = [each for each in reached if self._waiting.pop(each, None) is not None]
        if mine:
            self._driver.settle((promise, True) for promise in mine)

    def _run(self) -> None:
        # Callers who come at the same time may have started several.
        if not self._is_at_work.acquire(blocking=False):
            return
        try:
            while not self._closed:
                if self._is_needed():
                    self._connect()
                else:
                    self._sleep(None, None)
        finally:
            self._is_at_work.release()

    def _is_needed(self) -> bool:
        return bool(self._waiting or self._told or self._due)

    def _connect(self) -> None:
        """Serve on a connection until nobody needs it, or it is lost."""
        try:
            with closing(Line(self._dsn, self._options)) as line:
                self._retry = Retry(math.inf)
                self._serve(line)
        except psycopg.Error as error:
            _logger.debug("no news: %s", error)
            if not self._closed:
                time.sleep(self._retry.pause_s())
        finally:
            self._is_listening = self._will_look = False

    def _serve(self, line: Line) -> None:
        is_wanted = True
        while is_wanted:
            is_last = self._closed
            pause_s = self._round(line)
            if is_last:
                self._due = 0
                return
            is_woken = not pause_s or self._sleep(line, pause_s)
            is_wanted = is_woken or self._is_needed()
            if line.was_asked and time.monotonic() > self._waited_s + LINGER_S:
                is_wanted = bool(self._waiting)

    def _round(self, line: Line) -> float:
        """Ring and look, where it is time to. How long to sleep then, if nobody wakes the thread
        earlier.
        """
        while self._told:
            _, position = self._told.popitem()
            self._due = max(self._due, position)
        if self._waiting:
            self._waited_s = time.monotonic()
            if not line.was_asked:
                self._is_listening = line.listen()
        line.has_heard = False
        # Otherwise a look finds out whether the connection is still there.
        must_look = not self._due
        to_ring_s = self._next_ring_s - time.monotonic()
        if self._due and (to_ring_s <= 0 or self._closed):
            if line.ring(self._due):
                self._due = 0
            self._next_ring_s = time.monotonic() + GAP_S
            to_ring_s = POLL_S
        if self._waiting or must_look:
            self._settle(line.head())
        self._will_look = bool(self._due)
        if line.has_heard or self._told:
            return 0
        look_s = NOTIFIED_POLL_S if self._is_listening else POLL_S
        pause_s = look_s if self._waiting else LINGER_S
        return min(pause_s, to_ring_s) if self._due else pause_s

    def _sleep(self, line: Line | None, pause_s: float | None) -> bool:
        """Whether something has happened meanwhile."""
        with PollSelector() as selector:
            selector.register(self._ear, EVENT_READ)
            if line is not None:
                selector.register(line.fileno(), EVENT_READ)
            happened = selector.select(pause_s)
        with suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass
        return bool(happened)


class Line:
    """A connection for news. Its methods raise psycopg.Error."""

    def __init__(self, dsn: str, options: PostgresOptions) -> None:
        threshold = options.prepare_threshold
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=threshold)
        self._connection.add_notify_handler(self._hear)
        self._link = SyncLink(self._connection)
        self._schema = options.schema_sql
        channel = f"'leftfold_' || '{self._schema}.events'::regclass::oid"
        self._identify = f"SELECT pg_backend_pid(), {channel}"
        self._gate = f"""SELECT handed_out, settled,
 CASE WHEN settled <> %s THEN pg_notify({channel}, '')::text END FROM {self._schema}.gate()"""
        self._rung_at = -1
        """Up to where the log was settled at the last notification."""
        self.was_asked = False
        """Whether the server was asked for notifications."""
        self.has_heard = False

    def _hear(self, notification: psycopg.Notify) -> None:
        self.has_heard = True

    def _fetch(self, statement: str, *values: Any) -> Any:
        (row,) = run_sync(self._link.fetch(statement, values))
        return row

    def listen(self) -> bool:
        """Ask for notifications. Whether they arrive.

        They do not where a pooler gives each transaction another session. It is known by the
        number of the process that serves this one, which is not what it said at first.
        """
        self.was_asked = True
        pid, channel = self._fetch(self._identify)
        if pid != self._connection.info.backend_pid:
            return False
        self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        return True

    def head(self) -> int:
        """The position of the last event that is settled."""
        (head,) = self._fetch(f"SELECT {self._schema}.head()")
        return int(head)

    def ring(self, due: int) -> bool:
        """Notify all who listen, if the log is settled further than the last time. Whether it is
        settled up to `due`, or will never be, for it is another log by now.
        """
        handed_out, settled, _ = self._fetch(self._gate, self._rung_at)
        self._rung_at = settled
        return bool(settled >= min(due, handed_out))

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()
