"""The conformance suite on PostgreSQL, in both colours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Server

from leftfold.drive import LoopDriver
from leftfold.store import Store
from leftfold.stores.postgres import PostgresOptions, PostgresStore
from leftfold.testing import StoreConformance

OLDEST = Path("/usr/lib/postgresql/15/bin")


class OnPostgres(StoreConformance):
    @pytest.fixture(autouse=True)
    def place(self, server: Any) -> None:
        self.dsn = server.url()
        self.options = PostgresOptions(schema=server.new_schema())


class TestPostgres(OnPostgres):
    def open_store(self, directory: Path) -> Store:
        return PostgresStore(self.dsn, self.options)


@pytest.fixture(scope="module")
def oldest() -> Iterator[Server]:
    server = Server(OLDEST)
    yield server
    server.close()


if OLDEST.is_dir():

    class TestOldestPostgres(TestPostgres):
        """On the oldest release that is supported, where the machine has it."""

        @pytest.fixture
        def server(self, oldest: Server) -> Server:
            return oldest


class TestPostgresOnLoop(OnPostgres):
    @pytest.fixture(autouse=True)
    def loop(self) -> Iterator[None]:
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        yield
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def open_store(self, directory: Path) -> Store:
        async def make() -> LoopDriver:
            return LoopDriver()

        return PostgresStore(self.dsn, self.options, driver=self.run(make()))
