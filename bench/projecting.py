"""leftfold's projections as their users have them: balances of accounts, kept by a runner, folded
by a view, or kept inline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from unittest.mock import patch

from msgspec import Struct

import leftfold
from bench import on_leftfold
from bench.core import Subject
from bench.data import Command, Posted, commands
from bench.on_leftfold import CODEC, RELAXED, events_of, url
from bench.on_postgres import OnPostgres
from leftfold import App, Event, Projection, RecordedEvent
from leftfold.projection import pacing

ACCOUNTS = 1000
WITHIN_S = 900.0
"""How long a read model may take."""
_BATCH = 500


class Balance(Struct, frozen=True):
    """The row of an account."""

    account: str
    cents: int = 0
    postings: int = 0


def posted(row: Balance, event: RecordedEvent[Posted]) -> Balance:
    return Balance(row.account, row.cents + event.data.amount_cents, row.postings + 1)


BALANCES = Projection("balances", row=Balance, evolve={Posted: posted})
LIVE = Projection("live", row=Balance, evolve={Posted: posted}, mode="live")
INLINE = Projection("inline", row=Balance, evolve={Posted: posted}, mode="inline")
APP = App(codec=CODEC, projections=[BALANCES, LIVE])
INLINE_APP = App(codec=CODEC, projections=[INLINE])


def fill(place: str, length: int) -> None:
    """Make the log, postings to the accounts in turn, unless it is there."""
    with leftfold.open(place, CODEC) as es:
        if not es.head():
            for batch in _batches(commands(length, accounts=range(ACCOUNTS))):
                es.append(list(batch))


def _batches(every: Iterator[Command]) -> Iterator[Iterator[Event[Posted]]]:
    while batch := list(islice(every, _BATCH)):
        yield chain(*(events_of(command, Posted, tagged=False) for command in batch))


class Projecting(Subject):
    """A subject with a log in a file of `directory`, and others beside it."""

    def _place(self, directory: Path, name: str, durability: str = RELAXED) -> str:
        """The URL of a log, or of read models."""
        return url(directory / f"{name}.db".replace(" ", "-"), durability)


class OnServer(OnPostgres):
    """The same on a server, in schemas. To be mixed in."""

    def _place(self, directory: Path, name: str, durability: str = RELAXED) -> str:
        return f"{self._cluster.url}?schema={name.lower().translate(_NOT_WORDS)}"


_NOT_WORDS = str.maketrans(" -,", "___")


class CatchUp(Projecting):
    """A runner brings a new read model up to the head of the log in each slice.

    With `batch` events in a transaction, or as many as the runner itself finds right. `is_synced`:
    each transaction waits for the disk, which a runner leaves out, as it can fold again.
    """

    def __init__(
        self, name: str, length: int, *, batch: int | None = None, is_synced: bool = False
    ) -> None:
        super().__init__(name)
        self._length = length
        self._batch = batch
        self._is_synced = is_synced
        self._slices = 0

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._directory = directory
        fill(self._place(directory, "projected"), self._length)

    def prepare(self, count: int) -> str:
        self._slices += 1
        views = self._place(self._directory, f"{self.name} {self._slices}")
        self._es = leftfold.open(self._place(self._directory, "projected"), APP, views=views)
        if self._is_synced:
            database = self._es._projecting.database
            database.write = partial(database.write, durable=True)
        self._runner = self._es.running(only=[BALANCES.name])
        return str(count)

    def run(self, prepared: str) -> None:
        with self._paced():
            self._runner.start()
            self._es.view(BALANCES).wait(prepared, timeout_s=WITHIN_S)

    def _paced(self) -> AbstractContextManager[object]:
        if self._batch is None:
            return nullcontext()
        limits = {"BATCH_EVENTS_MIN": self._batch, "BATCH_EVENTS_MAX": self._batch}
        return patch.multiple(pacing, **limits)

    def measure(self, count: int) -> float:
        try:
            return super().measure(count)
        finally:
            self._runner.stop()
            self._es.close()


class PostgresCatchUp(OnServer, CatchUp):
    """The same on a server."""


class Viewer(on_leftfold.Reader):
    """Folds the whole log to be read into rows, in a temporary database: by a view of the live
    projection, or of the one that runners keep as of the last position.
    """

    def __init__(self, name: str, length: int, *, is_live: bool) -> None:
        super().__init__(name, length)
        self._is_live = is_live

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._es.close()
        self._es = leftfold.open(self._url(directory), APP)

    def run(self, prepared: int) -> None:
        es = self._es
        view = es.view(LIVE) if self._is_live else es.view(BALANCES, at=prepared)
        if sum(row.postings for row in view.find(limit=ACCOUNTS)) != prepared:
            raise AssertionError("not the whole log was folded")


class PostgresViewer(OnPostgres, Viewer):
    """The same on a server."""

    schema = "log"


class InlineWriter(on_leftfold.Writer):
    """One writer, with an inline projection."""

    codec = INLINE_APP


class InlineThreads(on_leftfold.Threads):
    """Several threads, with an inline projection."""

    codec = INLINE_APP


class PostgresInlineWriter(OnPostgres, InlineWriter):
    """The same on a server."""


class PostgresInlineThreads(OnPostgres, InlineThreads):
    """The same on a server."""
