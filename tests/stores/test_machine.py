"""Random operations on every store, compared with the memory store."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from leftfold.drive import run_sync
from leftfold.event import RecordedEvent
from leftfold.query import Query
from leftfold.store import Store
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteOptions, SqliteStore
from leftfold.testing import StoreMachine

SOAK_MINUTES = float(os.environ.get("SOAK_MINUTES", "0"))

STEPS = settings(
    max_examples=max(200, int(1000 * SOAK_MINUTES)),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class MemoryMachine(StoreMachine):
    def open_store(self) -> Store:
        return MemoryStore()


class SqliteMachine(StoreMachine):
    """Two handles on one file take turns, so that neither may trust what it remembers."""

    # The machine is about answers; syncs are tested elsewhere, and there are thousands here.
    options = SqliteOptions(durability="may_lose_latest")

    def open_store(self) -> Store:
        self.directory = Path(tempfile.mkdtemp())
        self.path = str(self.directory / "log.db")
        self.other = SqliteStore(self.path, self.options)
        return SqliteStore(self.path, self.options)

    def reopen_store(self, store: Store) -> Store:
        self.other, other = store, self.other  # type: ignore[assignment]
        return other

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "other"):
            run_sync(self.other.close())
            shutil.rmtree(self.directory)


class ForgetsTags(MemoryStore):
    """A mutant: reads as if a query had one tag at most."""

    async def read(self, query: Query = ..., **bounds: Any) -> list[RecordedEvent[bytes]]:  # type: ignore[assignment, override]
        items = tuple(item for item in query.items if len(item.tags) < 2) or query.items
        return await super().read(Query(items), **bounds)


class MutantMachine(StoreMachine):
    def open_store(self) -> Store:
        return ForgetsTags()


TestMemoryMachine = MemoryMachine.TestCase
# The memory store is compared with itself here, so a rare difference is not to be expected.
TestMemoryMachine.settings = settings(STEPS, max_examples=STEPS.max_examples // 4)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = STEPS


def test_the_machine_catches_a_mutant() -> None:
    # Without shrinking, which takes minutes: that it is caught is all there is to see.
    once = settings(STEPS, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(MutantMachine, settings=once)
