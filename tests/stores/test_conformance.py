"""The conformance suite on every store, in both colours, and on a store that honours nothing."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leftfold.drive import LoopDriver
from leftfold.errors import Unsupported
from leftfold.limits import check_append
from leftfold.query import NoneMatch
from leftfold.store import Capabilities, Store
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteStore
from leftfold.testing import HonoursNothing, StoreConformance
from leftfold.testing.log import Log


class TestMemory(StoreConformance):
    def open_store(self, directory: Path) -> Store:
        return MemoryStore()


class TestSqlite(StoreConformance):
    def open_store(self, directory: Path) -> Store:
        return SqliteStore(str(directory / "log.db"))


class OnLoop(StoreConformance):
    """Runs the store on an event loop in a thread of its own."""

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

    def driver(self) -> LoopDriver:
        async def make() -> LoopDriver:
            return LoopDriver()

        return self.run(make())


class TestMemoryOnLoop(OnLoop):
    def open_store(self, directory: Path) -> Store:
        return MemoryStore(self.driver())


class TestSqliteOnLoop(OnLoop):
    def open_store(self, directory: Path) -> Store:
        return SqliteStore(str(directory / "log.db"), driver=self.driver())


class OneStreamAtATime(MemoryStore):
    """Has to refuse what it cannot do, and does."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(multi_stream_appends=False, query_conditions=False, durable=False)

    async def append(self, events: Any, *, conditions: Any = ()) -> Any:
        check_append(events, conditions)
        if len({event.stream for event in events}) > 1:
            raise Unsupported("an append to several streams")
        if any(isinstance(condition, NoneMatch) for condition in conditions):
            raise Unsupported("a condition over a query")
        return await super().append(events, conditions=conditions)


class TestOneStreamAtATime(StoreConformance):
    def open_store(self, directory: Path) -> Store:
        return OneStreamAtATime()


TESTS = [name for name in dir(StoreConformance) if name.startswith("test_")]


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("able", [True, False])
def test_every_test_fails_on_a_store_that_honours_nothing(name: str, able: bool) -> None:
    capabilities = Capabilities(able, able, able)
    log = Log(lambda: HonoursNothing(capabilities))
    with pytest.raises((AssertionError, pytest.fail.Exception, IndexError, ValueError)):
        getattr(StoreConformance(), name)(log)


def test_no_test_can_be_skipped() -> None:
    for cls in StoreConformance.__mro__[:-1]:
        source = inspect.getsource(inspect.getmodule(cls))  # type: ignore[arg-type]
        for way_out in ("skip", "xfail", "importorskip"):
            assert way_out not in source.replace("Nothing is ever skipped", "")


def test_each_guarantee_of_the_protocol_has_a_class() -> None:
    promised = {f"G{number}" for number in range(1, 10)}
    documented = {
        word for word in (Store.__doc__ or "").replace("*", " ").split() if word in promised
    }
    tested = {cls.__name__[:2] for cls in StoreConformance.__mro__ if cls.__name__[:2] in promised}
    assert documented == tested == promised
