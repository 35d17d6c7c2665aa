"""Snapshots in a table beside the log, for all processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import psycopg

from leftfold.drive import Driver, run_sync
from leftfold.errors import StoreClosed, StoreUnavailable
from leftfold.snapshot import KEPT_MAX, Snapshot
from leftfold.stores.background import Background
from leftfold.stores.postgres.connection import Link, SyncLink
from leftfold.stores.postgres.pool import LinkPool

_logger = logging.getLogger("leftfold")


class PostgresSnapshots:
    """Keeps snapshots in the schema of a log. A failure is logged, and means that there is no
    snapshot. They are written on a connection of their own, off the callers' path.
    """

    def __init__(self, pool: LinkPool, dsn: str, driver: Driver) -> None:
        self._pool = pool
        self._dsn = dsn
        self._driver = driver
        self._pid = os.getpid()
        self._background = Background("leftfold-snapshots")
        self._link: SyncLink | None = None
        schema = pool.options.schema_sql
        self._find = f"""SELECT key, fingerprint, version, position, event_id, recorded_at, data
 FROM {schema}.snapshots WHERE key_hash = md5(%s::text)::uuid AND key = %s AND fingerprint = %s
 AND version <= %s AND recorded_at <= %s ORDER BY version DESC LIMIT 1"""
        self._drop = f"SELECT {schema}.drop_snapshot(%s, %s, %s::bigint)"
        self._keep = f"""SELECT {schema}.keep_snapshot(%s, %s, %s::bigint, %s::bigint, %s::bytea,
 %s::bigint, %s::bytea, {KEPT_MAX})"""

    async def find(
        self, key: str, fingerprint: str, *, version_max: int, recorded_us_max: int
    ) -> Snapshot | None:
        async def fetch(link: Link) -> list[Any]:
            values = (key, key, fingerprint, version_max, recorded_us_max)
            return await link.fetch(self._find, values)

        try:
            rows = await self._pool.call(fetch)
        except (StoreUnavailable, StoreClosed) as error:
            _logger.warning("no snapshots: %s", error)
            return None
        return Snapshot(*rows[0]) if rows else None

    def keep(self, key: str, make: Callable[[], Snapshot | None]) -> None:
        def job() -> None:
            snapshot = make()
            if snapshot is not None:
                self._write(snapshot)

        if os.getpid() == self._pid:  # the thread does not survive a fork
            self._background.offer(job)

    async def drop(self, snapshot: Snapshot) -> None:
        async def delete(link: Link) -> list[Any]:
            values = (snapshot.key, snapshot.fingerprint, snapshot.version)
            return await link.fetch(self._drop, values)

        with suppress(StoreUnavailable, StoreClosed):
            await self._pool.call(delete)

    def _write(self, snapshot: Snapshot) -> None:
        try:
            if self._link is None or not self._link.is_usable:
                self._close_link()
                threshold = self._pool.options.prepare_threshold
                self._link = run_sync(SyncLink.open(self._dsn, threshold))
            run_sync(self._link.fetch(self._keep, msgspec.structs.astuple(snapshot)))
        except psycopg.Error as error:
            _logger.warning("no snapshot of %s is kept: %s", snapshot.key, error)

    def _close_link(self) -> None:
        if self._link is not None:
            run_sync(self._link.close())
            self._link = None

    async def close(self) -> None:
        if os.getpid() == self._pid:
            await self._driver.call(self._close)

    def _close(self) -> None:
        self._background.close()
        self._close_link()
