"""leftfold as its users have it: an opened store with a codec, and its public methods."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

import leftfold
from bench.core import Subject
from bench.data import ACTOR, Command, Posted, commands, tags_of
from leftfold import RAW, App, Codec, Event, Metadata

CODEC = Codec(Posted)
FULL, RELAXED = "full", "may_lose_latest"
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


def url(path: Path, durability: str = FULL) -> str:
    return f"sqlite:///{path}?durability={durability}"


def pragmas(connection: apsw.Connection) -> str:
    journal, synchronous = connection.pragma("journal_mode"), connection.pragma("synchronous")
    return f"journal_mode={journal}, synchronous={_SYNCHRONOUS[synchronous]}"


def events_of(command: Command, cls: type[Posted], tagged: bool) -> list[Event[Posted]]:
    metadata = Metadata(
        correlation_id=command.correlation_id, causation_id=command.causation_id, actor=ACTOR
    )
    stream = f"account-{command.account}"
    tags = tags_of(command.account) if tagged else ()
    return [
        Event(stream, cls(**fields), metadata=metadata, tags=tags) for fields in command.postings
    ]


class Writer(Subject):
    """One writer: `EventStore.append` with `batch` events each."""

    codec: Codec | App = CODEC

    def __init__(
        self, name: str, *, batch: int = 1, tagged: bool = False, durability: str = FULL
    ) -> None:
        super().__init__(name)
        self._batch = batch
        self._tagged = tagged
        self._durability = durability

    def _url(self, directory: Path) -> str:
        return url(directory / f"{self.name}.db".replace(" ", "-"), self._durability)

    def open(self, directory: Path) -> None:
        self._es = leftfold.open(self._url(directory), self.codec)

    def settings(self) -> str:
        return pragmas(self._es.store._writer._connection)

    def prepare(self, count: int) -> list[Command]:
        return list(commands(count, self._batch))

    def run(self, prepared: list[Command]) -> None:
        append, tagged = self._es.append, self._tagged
        for command in prepared:
            append(events_of(command, Posted, tagged))

    def close(self) -> None:
        self._es.close()


class Threads(Writer):
    """Several threads that share one store, each on a stream of its own. `first` is the account of
    the first one.
    """

    def __init__(self, name: str, writers: int, *, first: int = 0) -> None:
        super().__init__(name)
        self._writers = writers
        self._first = first

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._threads = ThreadPoolExecutor(self._writers)

    def prepare(self, count: int) -> list[list[Command]]:
        each = count // self._writers
        accounts = range(self._first, self._first + self._writers)
        return [list(commands(each, accounts=[n])) for n in accounts]

    def run(self, prepared: list[list[Command]]) -> None:
        list(self._threads.map(super().run, prepared))

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        super().close()


class Tasks(Threads):
    """Several tasks of one event loop, each on a stream of its own."""

    def open(self, directory: Path) -> None:
        self._runner = asyncio.Runner()
        self._es = self._runner.run(leftfold.aopen(self._url(directory), CODEC))

    def run(self, prepared: list[list[Command]]) -> None:
        self._runner.run(self._all(prepared))

    async def _all(self, prepared: list[list[Command]]) -> None:
        await asyncio.gather(*map(self._one, prepared))

    async def _one(self, prepared: list[Command]) -> None:
        append = self._es.append
        for command in prepared:
            await append(events_of(command, Posted, tagged=False))

    def close(self) -> None:
        self._runner.run(self._es.close())
        self._runner.close()


class Reader(Subject):
    """Reads the log to be read, from its start, and looks into each event."""

    def __init__(self, name: str, length: int, *, decoded: bool = True) -> None:
        super().__init__(name)
        self._length = length
        self._decoded = decoded

    def _url(self, directory: Path, durability: str = FULL) -> str:
        return url(directory / "log.db", durability)

    def open(self, directory: Path) -> None:
        with leftfold.open(self._url(directory, RELAXED), CODEC) as es:
            # Whoever comes first fills it.
            for command in commands(0 if es.head() else self._length, 100):
                es.append(events_of(command, Posted, tagged=False))
        self._es = leftfold.open(self._url(directory), CODEC if self._decoded else RAW)

    def run(self, prepared: int) -> None:
        total = 0
        if self._decoded:
            for event in self._es.read(limit=prepared):
                total += event.data.amount_cents
        else:
            for event in self._es.read(limit=prepared):
                total += event.position

    def close(self) -> None:
        self._es.close()


class ReaderMemory(Reader):
    """How much memory a reader takes at most, in KiB, for a share of the log."""

    def __init__(self, name: str, length: int, share: float) -> None:
        super().__init__(name, length)
        self._share = share

    def measure(self, count: int) -> float:
        self.run(100)
        tracemalloc.start()
        try:
            self.run(int(count * self._share))
            return tracemalloc.get_traced_memory()[1] / 1024
        finally:
            tracemalloc.stop()


class Size(Subject):
    """The bytes that an event takes in the file."""

    def __init__(self, name: str, cls: type[Posted], format: str, *, tagged: bool = False) -> None:
        super().__init__(name)
        self._cls = cls
        self._codec = Codec(cls, format=format)
        self._tagged = tagged

    def open(self, directory: Path) -> None:
        self._path = directory / f"{self.name}.db".replace(" ", "-")

    def measure(self, count: int) -> float:
        with leftfold.open(url(self._path, RELAXED), self._codec) as es:
            for command in commands(count, 10):
                es.append(events_of(command, self._cls, self._tagged))
        return settled_size(self._path) / count


def settled_size(path: Path) -> int:
    """The size of an SQLite file once its write-ahead log is empty."""
    connection = apsw.Connection(str(path))
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    return os.path.getsize(path)
