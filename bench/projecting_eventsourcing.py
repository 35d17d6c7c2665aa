"""The projections of the eventsourcing library as its users have them: a tracking recorder with a
table of its own, which writes one event and the tracking of it in one transaction. It has no
batches.

On PostgreSQL its ProjectionRunner runs it. On SQLite its application cannot be subscribed to, so
that a loop reads the log in pages as large as the subscription's, and calls the projection.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment
from psycopg import connect
from psycopg.sql import SQL, Identifier

from bench import on_eventsourcing
from bench.core import Subject
from bench.data import commands
from bench.on_eventsourcing import PAGE, Account, synchronous_connections
from bench.on_postgres import OnEventsourcing
from bench.projecting import ACCOUNTS, WITHIN_S

_BATCH = 10
"""Postings of an account that are saved at once."""


class SQLiteBalances(SQLiteTrackingRecorder):
    """Rows in SQLite."""

    def construct_create_table_statements(self) -> list[str]:
        table = "CREATE TABLE balances (account TEXT PRIMARY KEY, cents INTEGER, postings INTEGER)"
        return [*super().construct_create_table_statements(), f"{table} WITHOUT ROWID"]

    def post(self, account: UUID, cents: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(
                """INSERT INTO balances VALUES (?, ?, 1) ON CONFLICT (account) DO UPDATE
 SET cents = cents + excluded.cents, postings = postings + 1""",
                (account.hex, cents),
            )
            self._insert_tracking(cursor, tracking)


class PostgresBalances(PostgresTrackingRecorder):
    """Rows in PostgreSQL."""

    last = 0
    """The position of the last event."""
    began_s = 0.0
    """When the first was there."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        table = Identifier(self.datastore.schema, "balances")
        columns = SQL("account uuid PRIMARY KEY, cents bigint, postings bigint")
        self.sql_create_statements.append(SQL("CREATE TABLE {} ({})").format(table, columns))
        self._upsert = SQL(
            """INSERT INTO {} AS old VALUES (%s, %s, 1) ON CONFLICT (account) DO UPDATE
 SET cents = old.cents + excluded.cents, postings = old.postings + 1"""
        ).format(table)

    def post(self, account: UUID, cents: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute(self._upsert, (account, cents), prepare=True)
            self._insert_tracking(cursor, tracking)
        self.last = tracking.notification_id
        self.ended_s = time.perf_counter()
        self.began_s = self.began_s or self.ended_s


class Balances(Projection[Any]):
    """Every event but those that open accounts, which are tracked beforehand."""

    name = "balances"

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        event = domain_event
        self.view.post(event.originator_id, event.amount_cents, tracking)


class CatchUp(on_eventsourcing.Writer):
    """Brings a new read model up to a share of the slice, as it has the same rate at any length."""

    def __init__(self, name: str, share: float = 1, *, synchronous: str = "FULL") -> None:
        super().__init__(name, synchronous=synchronous)
        self._share = share
        self._slices = 0

    def open(self, directory: Path) -> None:
        self._directory = directory
        self._bank = self._opened(directory)
        self._accounts = [Account() for _ in range(ACCOUNTS)]
        self._bank.save(*self._accounts)

    def measure(self, count: int) -> float:
        share = int(count * self._share)
        self._fill(share - self._bank.recorder.max_notification_id() + ACCOUNTS)
        self._slices += 1
        with ExitStack() as self._closing:
            return Subject.measure(self, share)

    def _fill(self, missing: int) -> None:
        every = commands(max(0, missing), _BATCH, accounts=range(ACCOUNTS))
        on_eventsourcing.post(self._bank, self._accounts, list(every))

    def prepare(self, count: int) -> int:  # type: ignore[override]
        path = self._directory / f"{self.name}-{self._slices}.db".replace(" ", "-")
        place = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        factory = InfrastructureFactory.construct(Environment(Balances.name, place))
        self._closing.callback(factory.close)
        synchronous_connections(factory, self._synchronous)
        self._projection = Balances(factory.tracking_recorder(SQLiteBalances))
        return ACCOUNTS + count

    def run(self, prepared: int) -> None:  # type: ignore[override]
        bank, process = self._bank, self._projection.process_event
        select, to_domain_event = bank.recorder.select_notifications, bank.mapper.to_domain_event
        start = ACCOUNTS + 1
        while page := select(start, PAGE, prepared):
            for notification in page:
                process(to_domain_event(notification), Tracking(bank.name, notification.id))
            start = page[-1].id + 1


class PostgresCatchUp(OnEventsourcing, CatchUp):
    """On a server, with a new schema in each slice. The time begins with the first event, as its
    runner takes long to start.
    """

    def measure(self, count: int) -> float:
        super().measure(count)
        view = self._view
        return (view.last - ACCOUNTS - 1) / (view.ended_s - view.began_s)

    def prepare(self, count: int) -> int:  # type: ignore[override]
        schema = f"{self.schema}_{self._slices}"
        with connect(self._cluster.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        self._of_slice = {**self._environment(), "BALANCES_POSTGRES_SCHEMA": schema}
        environment = Environment(Balances.name, self._of_slice)
        factory = InfrastructureFactory.construct(environment)
        factory.tracking_recorder(PostgresBalances).insert_tracking(
            Tracking(Application.name, ACCOUNTS)
        )
        factory.close()
        self._of_slice["CREATE_TABLE"] = "no"
        return ACCOUNTS + count

    def run(self, prepared: int) -> None:  # type: ignore[override]
        runner = ProjectionRunner(
            application_class=Application,
            projection_class=Balances,
            view_class=PostgresBalances,
            env=self._of_slice,
        )
        self._closing.enter_context(runner)
        self._view = runner.view
        deadline = time.monotonic() + WITHIN_S
        # Its own wait takes a look every 0.1 to 0.8 s.
        while runner.view.last < prepared:
            if time.monotonic() > deadline or runner.is_interrupted.is_set():
                raise AssertionError("it does not get there")
            time.sleep(0.005)
