"""Loading the state of accounts, from all their events or from a snapshot.

The subjects of a row share one log for each engine, which whoever comes first fills. It has the
events of all accounts in turn, so that those of one account lie apart, as they do in a bank.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from random import Random
from uuid import UUID, uuid5

from msgspec import Struct

import leftfold
from bench.core import Subject
from bench.data import Command, Posted, commands
from bench.on_eventsourcing import Account, Bank
from bench.on_leftfold import CODEC, RELAXED, Reader, events_of, url
from leftfold import ALL, Decider, EventStore, Snapshots
from leftfold.stores.sqlite.connection import SqliteOptions, connect

SNAPSHOT_EVERY = 100
_BATCH = 500
_ES_IDS = UUID("0f4bb0f3-7f39-4e9b-8c8c-2f6b4f6f5a1c")

Batches = list[list[Command]]


class Shape(Struct, frozen=True):
    """A log to load from: so many accounts with so many events each."""

    accounts: int
    events_each: int
    after_snapshot: int | None = None
    """How many events of each account came after its snapshot; None: there are no snapshots."""

    def batches(self) -> tuple[Batches, Batches]:
        """The commands of the log in batches, those up to the snapshots and those after."""
        every = list(commands(self.accounts * self.events_each, accounts=range(self.accounts)))
        before = len(every) - self.accounts * (self.after_snapshot or 0)
        return _batches(every[:before]), _batches(every[before:])


def _batches(every: list[Command]) -> Batches:
    return [every[start : start + _BATCH] for start in range(0, len(every), _BATCH)]


class Balance(Struct, frozen=True):
    """The state that everyone folds."""

    cents: int = 0


def decide(command: Command, state: Balance) -> list[Posted]:
    if state.cents < 0:
        raise ValueError("the account is overdrawn")
    return [Posted(**fields) for fields in command.postings]


def evolve(state: Balance, event: Posted) -> Balance:
    return Balance(state.cents + event.amount_cents)


def decider(*, has_snapshots: bool = False) -> Decider[Command, Balance, Posted]:
    return Decider(
        "account",
        initial_state=Balance(),
        decide=decide,
        evolve=evolve,
        snapshots=Snapshots(every=SNAPSHOT_EVERY) if has_snapshots else None,
    )


def fill_leftfold(path: Path, shape: Shape) -> None:
    """Make the log, unless it is there."""
    if path.exists():
        return
    before, after = shape.batches()
    # Closing it writes the snapshots that the loads have taken.
    with leftfold.open(url(path, RELAXED), CODEC) as es:
        _append(es, before)
        if shape.after_snapshot is not None:
            keeping = decider(has_snapshots=True)
            for number in range(shape.accounts):
                es.load(keeping, number)
        _append(es, after)


def _append(es: EventStore, batches: Batches) -> None:
    for batch in batches:
        es.append(list(chain(*(events_of(each, Posted, tagged=False) for each in batch))))


class NumberedAccount(Account):
    """An account whose id comes from its number."""

    def __init__(self, number: int) -> None:
        pass

    @staticmethod
    def create_id(number: int) -> UUID:
        return uuid5(_ES_IDS, str(number))


def fill_eventsourcing(path: Path, shape: Shape) -> None:
    """Make the log, unless it is there. What opens an account stands for its first posting."""
    if path.exists():
        return
    bank = Bank(path, "NORMAL", IS_SNAPSHOTTING_ENABLED="y")
    opened = [NumberedAccount(number) for number in range(shape.accounts)]
    bank.save(*opened)
    before, after = shape.batches()
    _save(bank, opened, _batches(list(chain(*before))[shape.accounts :]))
    if shape.after_snapshot is not None:
        for account in opened:
            bank.take_snapshot(account.id)
    _save(bank, opened, after)
    bank.close()


def _save(bank: Bank, opened: list[NumberedAccount], batches: Batches) -> None:
    for batch in batches:
        for command in batch:
            opened[command.account].post(command)
        # Together, in one transaction, as leftfold does.
        bank.save(*(opened[number] for number in dict.fromkeys(each.account for each in batch)))


class Loader(Subject):
    """`EventStore.load` of accounts at random."""

    def __init__(self, name: str, shape: Shape, *, is_cached: bool = False) -> None:
        super().__init__(name)
        self._shape = shape
        self._decider = decider(has_snapshots=shape.after_snapshot is not None)
        self._cached = shape.accounts if is_cached else 0
        self._random = Random(1)

    def open(self, directory: Path) -> None:
        path = directory / "loading.db"
        fill_leftfold(path, self._shape)
        self._es = leftfold.open(url(path), CODEC, cached_states_max=self._cached)

    def prepare(self, count: int) -> list[int]:
        return [self._random.randrange(self._shape.accounts) for _ in range(count)]

    def run(self, prepared: list[int]) -> None:
        load, account = self._es.load, self._decider
        for number in prepared:
            if load(account, number).version != self._shape.events_each:
                raise AssertionError("not the whole account was loaded")

    def close(self) -> None:
        self._es.close()


class BareSelect(Loader):
    """The rows of an account, all columns that leftfold reads, found by the stream's name."""

    SQL = """SELECT position, stream_id, version, kind_id, data, tag_ids, id, recorded_at,
 occurred_at, correlation_id, causation_id, command_id, actor, metadata
 FROM events WHERE stream_id = (SELECT id FROM streams WHERE name = ?) ORDER BY version"""

    def open(self, directory: Path) -> None:
        path = directory / "loading.db"
        fill_leftfold(path, self._shape)
        self._connection = connect(str(path), SqliteOptions())

    def run(self, prepared: list[int]) -> None:
        cursor = self._connection.cursor()
        for number in prepared:
            version = 0
            # Row by row, as a list of 10,000 rows takes longer.
            for row in cursor.execute(self.SQL, (f"account-{number}",)):
                version = row[2]
            if version != self._shape.events_each:
                raise AssertionError("not the whole account was loaded")

    def close(self) -> None:
        self._connection.close()


class EventsourcingLoader(Loader):
    """`Repository.get` of accounts at random."""

    def open(self, directory: Path) -> None:
        path = directory / "eventsourcing-loading.db"
        fill_eventsourcing(path, self._shape)
        options = {"AGGREGATE_CACHE_MAXSIZE": str(self._cached)} if self._cached else {}
        if self._shape.after_snapshot is not None:
            options["IS_SNAPSHOTTING_ENABLED"] = "y"
        self._bank = Bank(path, "FULL", **options)

    def prepare(self, count: int) -> list[UUID]:  # type: ignore[override]
        return list(map(NumberedAccount.create_id, super().prepare(count)))

    def run(self, prepared: list[UUID]) -> None:  # type: ignore[override]
        get = self._bank.repository.get
        for id in prepared:
            if get(id).version != self._shape.events_each:
                raise AssertionError("not the whole account was loaded")

    def close(self) -> None:
        self._bank.close()


class Folder(Reader):
    """The whole log to be read as one state: `EventStore.load` of the query for everything."""

    def run(self, prepared: int) -> None:
        loaded = self._es.load(decider(), ALL)
        if loaded.version != prepared:
            raise AssertionError("not the whole log was folded")


class Fixed(Subject):
    """A number to compare with."""

    def __init__(self, name: str, per_second: float) -> None:
        super().__init__(name)
        self._per_second = per_second

    def measure(self, count: int) -> float:
        return self._per_second
