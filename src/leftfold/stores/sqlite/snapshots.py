"""Snapshots in an SQLite file of their own beside the log: writing them never holds up the log's
writer, and the file may be deleted at any time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import apsw
import msgspec

from leftfold.drive import Driver
from leftfold.errors import StoreClosed
from leftfold.snapshot import KEPT_MAX, Snapshot
from leftfold.stores.background import Background

SNAPSHOTS_SUFFIX = "-snapshots"
_BUSY_MS = 100
_APPLICATION_ID = 0x1EF7F02E
_TABLES = f"""
CREATE TABLE IF NOT EXISTS snapshots (
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  version INTEGER NOT NULL,
  position INTEGER NOT NULL,
  event_id BLOB NOT NULL,
  recorded_at INTEGER NOT NULL, -- microseconds since 1970
  data BLOB NOT NULL,
  PRIMARY KEY (key, fingerprint, version)
) STRICT;
PRAGMA application_id = {_APPLICATION_ID};
"""
_FIND = """SELECT key, fingerprint, version, position, event_id, recorded_at, data FROM snapshots
 WHERE key = ? AND fingerprint = ? AND version <= ? AND recorded_at <= ?
 ORDER BY version DESC LIMIT 1"""
_INSERT = "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)"
# The latest version stays: looks at the past may take many others.
_THIN_OUT = """DELETE FROM snapshots WHERE key = ?1 AND rowid <= (
 SELECT rowid FROM snapshots WHERE key = ?1 ORDER BY rowid DESC LIMIT 1 OFFSET ?2)
 AND version < (SELECT max(version) FROM snapshots WHERE key = ?1)"""
_DROP = "DELETE FROM snapshots WHERE key = ? AND fingerprint = ? AND version = ?"

_logger = logging.getLogger("leftfold")


class SqliteSnapshots:
    """Keeps snapshots in the file `path`, made when it is first needed. A failure is logged, and
    means that there are no snapshots any more.
    """

    def __init__(self, path: str, driver: Driver) -> None:
        self._path = path
        self._driver = driver
        self._pid = os.getpid()
        self._background = Background("leftfold-snapshots")
        self._mutex = threading.RLock()  # a signal handler may come in between
        self._connection: apsw.Connection | None = None
        self._is_usable = True
        self._is_closed = False

    async def find(
        self, key: str, fingerprint: str, *, version_max: int, recorded_us_max: int
    ) -> Snapshot | None:
        wanted = (key, fingerprint, version_max, recorded_us_max)
        return await self._driver.call(self._find, wanted)

    def _find(self, wanted: tuple[str, str, int, int]) -> Snapshot | None:
        row: Any = self._execute(_FIND, wanted)
        return Snapshot(*row) if row else None

    def keep(self, key: str, make: Callable[[], Snapshot | None]) -> None:
        def job() -> None:
            snapshot = make()
            if snapshot is not None:
                self._execute(_INSERT, msgspec.structs.astuple(snapshot))
                self._execute(_THIN_OUT, (key, KEPT_MAX))

        self._background.offer(job)

    async def drop(self, snapshot: Snapshot) -> None:
        key = (snapshot.key, snapshot.fingerprint, snapshot.version)
        await self._driver.call(self._execute, _DROP, key)

    def _execute(self, sql: str, values: tuple[Any, ...]) -> Any:
        # An SQLite connection does not survive a fork.
        if os.getpid() != self._pid:
            return None
        with self._mutex:
            if not self._is_usable:
                return None
            try:
                return self._opened().execute(sql, values).get
            except (apsw.BusyError, apsw.LockedError):
                return None
            except apsw.Error as error:
                self._is_usable = False
                _logger.warning("no snapshots: %s: %s; it may be deleted", self._path, error)
                return None

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            connection = apsw.Connection(self._path)
            connection.set_busy_timeout(_BUSY_MS)
            connection.pragma("journal_mode", "wal")
            # A power cut may lose the latest snapshots, and damages none.
            connection.pragma("synchronous", "normal")
            if connection.pragma("application_id") != _APPLICATION_ID:
                connection.execute(_TABLES)
            self._connection = connection
        return self._connection

    async def close(self) -> None:
        if os.getpid() == self._pid and not self._is_closed:
            self._is_closed = True
            try:
                await self._driver.call(self._close)
            except StoreClosed:  # the store was closed first, and its driver with it
                self._close()

    def _close(self) -> None:
        self._background.close()
        with self._mutex:
            self._is_usable = False
            if self._connection is not None:
                self._connection.close()
