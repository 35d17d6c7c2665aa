"""The eventsourcing library as its users have it: an application on its SQLite module, and an
aggregate.

Its pragmas are its own (WAL, the defaults of Python's sqlite3), but for `synchronous`, which is set
to what the row asks for. The aggregate stays in memory: it is never loaded, which favours it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import Notification
from eventsourcing.system import NotificationLogReader

from bench.core import Subject
from bench.data import ACCOUNTS, ACTOR, Command, commands
from bench.on_leftfold import settled_size

_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
PAGE = 500


class Account(Aggregate):
    """An account that counts its balance, with what leftfold keeps as metadata among its fields."""

    balance_cents = 0

    class Posted(Aggregate.Event):
        posting: str
        amount_cents: int
        currency: str
        counterparty: str
        text: str
        correlation_id: str
        causation_id: str
        actor: str

        def apply(self, aggregate: Account) -> None:
            aggregate.balance_cents += self.amount_cents

    def post(self, command: Command) -> None:
        """Post everything of a command."""
        for fields in command.postings:
            self.trigger_event(
                self.Posted,
                **fields,
                correlation_id=command.correlation_id,
                causation_id=command.causation_id,
                actor=ACTOR,
            )


def synchronous_connections(factory: Any, synchronous: str) -> None:
    """Let all connections of a factory have the wanted `synchronous`."""
    create = factory.datastore.pool._create_connection

    def create_configured():
        connection = create()
        connection.cursor().execute(f"PRAGMA synchronous={synchronous}")
        return connection

    factory.datastore.pool._create_connection = create_configured


class Bank(Application):
    """An application whose connections all have the wanted `synchronous`."""

    def __init__(self, path: Path, synchronous: str, **options: str) -> None:
        self._synchronous = synchronous
        place = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        super().__init__({**place, **options})

    def construct_factory(self, env):
        factory = super().construct_factory(env)
        synchronous_connections(factory, self._synchronous)
        return factory

    def pragmas(self) -> str:
        return pragmas_of(self)


def pragmas_of(application: Application) -> str:
    """What the connections of an application on SQLite say."""
    found = []
    with application.factory.datastore.get_connection(commit=False) as connection:
        for name in ("journal_mode", "synchronous"):
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA {name}")
            found.append(cursor.fetchone()[0])
    return f"journal_mode={found[0]}, synchronous={_SYNCHRONOUS[found[1]]}"


def post(bank: Application, accounts: list[Account], prepared: list[Command]) -> None:
    """Do the commands: post everything of one, then save the account."""
    for command in prepared:
        account = accounts[command.account]
        account.post(command)
        bank.save(account)


class Writer(Subject):
    """One writer: `save` after each posting, or after a batch of them."""

    def __init__(self, name: str, *, batch: int = 1, synchronous: str = "FULL") -> None:
        super().__init__(name)
        self._batch = batch
        self._synchronous = synchronous

    def _opened(self, directory: Path) -> Application:
        return Bank(directory / f"{self.name}.db".replace(" ", "-"), self._synchronous)

    def open(self, directory: Path) -> None:
        self._bank = self._opened(directory)
        self._accounts = [Account() for _ in range(ACCOUNTS)]
        self._bank.save(*self._accounts)

    def settings(self) -> str:
        return self._bank.pragmas()

    def prepare(self, count: int) -> list[Command]:
        return list(commands(count, self._batch))

    def run(self, prepared: list[Command]) -> None:
        post(self._bank, self._accounts, prepared)

    def close(self) -> None:
        self._bank.close()


class Threads(Writer):
    """Several threads that share one application, each on an aggregate of its own."""

    def __init__(self, name: str, writers: int) -> None:
        super().__init__(name)
        self._writers = writers

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._threads = ThreadPoolExecutor(self._writers)

    def prepare(self, count: int) -> list[list[Command]]:
        each = count // self._writers
        return [list(commands(each, accounts=[n])) for n in range(self._writers)]

    def run(self, prepared: list[list[Command]]) -> None:
        list(self._threads.map(super().run, prepared))

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        super().close()


class Reader(Subject):
    """Selects all notifications, and maps each to its domain event.

    In pages as large as leftfold's, or with its own log reader, which takes sections of 10.
    """

    def __init__(self, name: str, length: int, *, own_reader: bool = False) -> None:
        super().__init__(name)
        self._length = length
        self._own_reader = own_reader

    def _opened(self, directory: Path) -> Application:
        return Bank(directory / "eventsourcing-log.db", "FULL")

    def open(self, directory: Path) -> None:
        self._bank = self._opened(directory)
        if not self._bank.recorder.max_notification_id():
            accounts = [Account() for _ in range(ACCOUNTS)]
            self._bank.save(*accounts)
            post(self._bank, accounts, list(commands(self._length, 100)))

    def run(self, prepared: int) -> None:
        total, to_domain_event = 0, self._bank.mapper.to_domain_event
        pages = self._sections if self._own_reader else self._pages
        for page in pages(ACCOUNTS + 1, ACCOUNTS + prepared):
            for notification in page:
                total += to_domain_event(notification).amount_cents

    def _pages(self, start: int, stop: int) -> Iterator[Sequence[Notification]]:
        while page := self._bank.recorder.select_notifications(start, PAGE, stop):
            yield page
            start = page[-1].id + 1

    def _sections(self, start: int, stop: int) -> Iterator[Sequence[Notification]]:
        return NotificationLogReader(self._bank.notification_log).select(start=start, stop=stop)

    def close(self) -> None:
        self._bank.close()


class Size(Subject):
    """The bytes that an event takes in the file."""

    def open(self, directory: Path) -> None:
        self._path = directory / "eventsourcing.db"

    def measure(self, count: int) -> float:
        bank = Bank(self._path, "NORMAL")
        accounts = [Account() for _ in range(ACCOUNTS)]
        bank.save(*accounts)
        post(bank, accounts, list(commands(count, 10)))
        bank.close()
        return settled_size(self._path) / (count + ACCOUNTS)
