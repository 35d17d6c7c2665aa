"""Random operations on PostgreSQL, compared with the memory store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from leftfold.drive import run_sync
from leftfold.store import Store
from leftfold.stores.postgres import PostgresOptions, PostgresStore
from leftfold.testing import StoreMachine

SOAK_MINUTES = float(os.environ.get("SOAK_MINUTES", "0"))
STEPS = settings(
    max_examples=max(60, int(300 * SOAK_MINUTES)),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# To make a schema for each example would take most of the time.
EMPTY = """SET session_replication_role = replica;
TRUNCATE machine.events, machine.event_tags, machine.kinds;
SELECT setval('machine.positions', 0)"""


@pytest.fixture
def beside(server: Any) -> Iterator[Any]:
    """A connection beside the log `machine`."""
    run_sync(PostgresStore(server.url(), PostgresOptions(schema="machine")).close())
    with psycopg.connect(server.url(), autocommit=True) as connection:
        yield connection


def test_random_operations(server: Any, beside: Any) -> None:
    options = PostgresOptions(schema="machine")

    class PostgresMachine(StoreMachine):
        """Two handles on one log take turns, so that neither may trust what it remembers."""

        def open_store(self) -> Store:
            beside.execute(EMPTY)
            self.other = PostgresStore(server.url(), options)
            return PostgresStore(server.url(), options)

        def reopen_store(self, store: Store) -> Store:
            beside.execute("SELECT machine.alloc(7)")  # positions that nobody will use
            self.other, other = store, self.other  # type: ignore[assignment]
            return other

        def teardown(self) -> None:
            super().teardown()
            if hasattr(self, "other"):
                run_sync(self.other.close())

    run_state_machine_as_test(PostgresMachine, settings=STEPS)
