"""Transfers by the eventsourcing library as its users have them: a system of two process
applications, one of transfers and one of accounts, which follow each other. What a policy makes of
an event is recorded with the tracking of it.

On SQLite each application has a file of its own, as its tables have the same names.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from eventsourcing.application import ProcessingEvent
from eventsourcing.domain import Aggregate, event
from eventsourcing.sqlite import SQLiteFactory
from eventsourcing.system import (
    MultiThreadedRunner,
    ProcessApplication,
    SingleThreadedRunner,
    System,
)
from eventsourcing.utils import get_topic
from psycopg import connect

from bench.core import Subject
from bench.on_eventsourcing import PAGE, pragmas_of, synchronous_connections
from bench.on_postgres import OnEventsourcing
from bench.processing import CENTS
from bench.projecting import ACCOUNTS, WITHIN_S

EVENTS = 3
"""Of each transfer, those of its accounts left out."""
_POLL_S = 0.01
_IDS = UUID("6e5a6e2c-70b7-4b0e-8a51-4c8ab1c3b6b0")


class Transfer(Aggregate):
    """The state of a transfer: the process."""

    @event("Requested")
    def __init__(self, source: UUID, target: UUID, cents: int) -> None:
        self.source = source
        self.target = target
        self.cents = cents
        self.status = "requested"

    @event("Taken")
    def take(self, target: UUID, cents: int) -> None:
        self.status = "taken"

    @event("Ended")
    def end(self, status: str) -> None:
        self.status = status


class Account(Aggregate):
    """An account. `transfer` is on whose behalf."""

    @event("Opened")
    def __init__(self, number: int, cents: int) -> None:
        self.cents = cents

    @staticmethod
    def create_id(number: int) -> UUID:
        return uuid5(_IDS, str(number))

    def withdraw(self, transfer: UUID, cents: int) -> None:
        if cents > self.cents:
            self.refuse(transfer)
        else:
            self._withdraw(transfer, cents)

    @event("Withdrawn")
    def _withdraw(self, transfer: UUID, cents: int) -> None:
        self.cents -= cents

    @event("Refused")
    def refuse(self, transfer: UUID) -> None:
        pass

    @event("Deposited")
    def deposit(self, transfer: UUID, cents: int) -> None:
        self.cents += cents


class _Synchronous(ProcessApplication[UUID]):
    """Whose connections wait for the disk, where they are to a file."""

    log_section_size = pull_section_size = PAGE

    def construct_factory(self, env: Any) -> Any:
        factory = super().construct_factory(env)
        if isinstance(factory, SQLiteFactory):
            synchronous_connections(factory, "FULL")
        return factory


class Transfers(_Synchronous):
    """Follows the accounts, and says what comes next of each transfer."""

    topics = tuple(map(get_topic, (Account.Withdrawn, Account.Refused, Account.Deposited)))

    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        transfer: Transfer = self.repository.get(domain_event.transfer)
        if isinstance(domain_event, Account.Withdrawn):
            transfer.take(transfer.target, transfer.cents)
        else:
            transfer.end("refused" if isinstance(domain_event, Account.Refused) else "done")
        processing_event.collect_events(transfer)


class Accounts(_Synchronous):
    """Follows the transfers, and withdraws and deposits."""

    topics = tuple(map(get_topic, (Transfer.Requested, Transfer.Taken)))

    def policy(self, domain_event: Any, processing_event: ProcessingEvent[UUID]) -> None:
        is_first = isinstance(domain_event, Transfer.Requested)
        id = domain_event.source if is_first else domain_event.target
        account: Account = self.repository.get(id)
        change = account.withdraw if is_first else account.deposit
        change(domain_event.originator_id, domain_event.cents)
        processing_event.collect_events(account)


SYSTEM = System(pipes=[[Transfers, Accounts, Transfers]])


class SagaTransfers(Subject):
    """The same transfers. Its runner does all that is to be done while something is saved, or has a
    thread for each application.
    """

    def __init__(self, name: str, *, is_threaded: bool = False) -> None:
        super().__init__(name)
        self._runner = MultiThreadedRunner if is_threaded else SingleThreadedRunner
        self._numbers = count()

    def _place(self, directory: Path) -> dict[str, str]:
        files = {
            f"{each}_SQLITE_DBNAME": str(directory / f"{self.name}-{each}.db".replace(" ", "-"))
            for each in ("TRANSFERS", "ACCOUNTS")
        }
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", **files}

    def open(self, directory: Path) -> None:
        runner = self._runner(SYSTEM, self._place(directory))
        with ExitStack() as closing:
            closing.enter_context(runner)
            self._transfers, accounts = runner.get(Transfers), runner.get(Accounts)
            accounts.save(*(Account(number, CENTS) for number in range(ACCOUNTS)))
            self._closing = closing.pop_all()

    def settings(self) -> str:
        return pragmas_of(self._transfers)

    def prepare(self, count: int) -> list[Transfer]:
        return [_requested(next(self._numbers)) for _ in range(count)]

    def run(self, prepared: list[Transfer]) -> None:
        recorder = self._transfers.recorder
        last = (recorder.max_notification_id() or 0) + EVENTS * len(prepared)
        self._transfers.save(*prepared)
        deadline = time.monotonic() + WITHIN_S
        while recorder.max_notification_id() < last:
            if time.monotonic() > deadline:
                raise AssertionError("they do not get there")
            time.sleep(_POLL_S)
        ended: Transfer = self._transfers.repository.get(prepared[-1].id)
        if ended.status != "done":
            raise AssertionError(f"the last one is {ended.status}")

    def close(self) -> None:
        self._closing.close()


def _requested(number: int) -> Transfer:
    source, target = (Account.create_id(n % ACCOUNTS) for n in (number, number + 1))
    return Transfer(source, target, 1)


class PostgresSagaTransfers(OnEventsourcing, SagaTransfers):
    """The same on a server."""

    def _place(self, directory: Path) -> dict[str, str]:
        with connect(self._cluster.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {self.schema}")
        return self._environment()
