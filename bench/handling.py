"""Whole commands: load an account, decide, append one event. Each subject has a file of its own."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import msgspec

import leftfold
from bench.core import Subject
from bench.data import ACTOR, Command, commands
from bench.loading import (
    BareSelect,
    NumberedAccount,
    Shape,
    decider,
    fill_eventsourcing,
    fill_leftfold,
)
from bench.on_eventsourcing import Bank
from bench.on_leftfold import CODEC, FULL, pragmas, url
from bench.on_raw import INSERT_EVENT
from leftfold import Metadata, new_id
from leftfold.stores.sqlite.connection import SqliteOptions, connect


class Handler(Subject):
    """`EventStore.handle` on accounts at random."""

    def __init__(
        self, name: str, shape: Shape, *, durability: str = FULL, is_cached: bool = False
    ) -> None:
        super().__init__(name)
        self._shape = shape
        self._durability = durability
        self._cached = shape.accounts if is_cached else 0
        self._random = Random(1)

    def open(self, directory: Path) -> None:
        path = directory / f"{self.name}.db".replace(" ", "-")
        fill_leftfold(path, self._shape)
        self._decider = decider()
        self._es = leftfold.open(url(path, self._durability), CODEC, cached_states_max=self._cached)

    def settings(self) -> str:
        return pragmas(self._es.store._writer._connection)

    def prepare(self, count: int) -> list[Command]:
        numbers = [self._random.randrange(self._shape.accounts) for _ in range(count)]
        return list(commands(count, accounts=numbers))

    def run(self, prepared: list[Command]) -> None:
        handle, account = self._es.handle, self._decider
        for command in prepared:
            metadata = Metadata(
                correlation_id=command.correlation_id,
                causation_id=command.causation_id,
                actor=ACTOR,
            )
            handle(account, command.account, command, metadata=metadata)

    def close(self) -> None:
        self._es.close()


class EventsourcingHandler(Handler):
    """`Repository.get`, a method of the aggregate, `save`."""

    def open(self, directory: Path) -> None:
        path = directory / f"{self.name}.db".replace(" ", "-")
        fill_eventsourcing(path, self._shape)
        options = {"AGGREGATE_CACHE_MAXSIZE": str(self._cached)} if self._cached else {}
        synchronous = "FULL" if self._durability == FULL else "NORMAL"
        self._bank = Bank(path, synchronous, **options)

    def settings(self) -> str:
        return self._bank.pragmas()

    def prepare(self, count: int) -> list[tuple[UUID, Command]]:  # type: ignore[override]
        return [
            (NumberedAccount.create_id(command.account), command)
            for command in super().prepare(count)
        ]

    def run(self, prepared: list[tuple[UUID, Command]]) -> None:  # type: ignore[override]
        bank = self._bank
        for id, command in prepared:
            account: NumberedAccount = bank.repository.get(id)
            if account.balance_cents < 0:
                raise ValueError("the account is overdrawn")
            account.post(command)
            bank.save(account)

    def close(self) -> None:
        self._bank.close()


class RawHandler(Handler):
    """The rows of the account are selected and one is inserted, in one transaction; nothing is
    decoded, and all of the row but its place is made off the clock.
    """

    def open(self, directory: Path) -> None:
        path = directory / f"{self.name}.db".replace(" ", "-")
        fill_leftfold(path, self._shape)
        self._connection = connect(str(path), SqliteOptions(durability=self._durability))

    def settings(self) -> str:
        return pragmas(self._connection)

    def prepare(self, count: int) -> list[tuple[str, tuple[Any, ...]]]:  # type: ignore[override]
        return [(f"account-{command.account}", _row(command)) for command in super().prepare(count)]

    def run(self, prepared: list[tuple[str, tuple[Any, ...]]]) -> None:  # type: ignore[override]
        execute = self._connection.cursor().execute
        for stream, row in prepared:
            execute("BEGIN IMMEDIATE")
            head = execute("SELECT max(position) FROM events").get
            last = execute(BareSelect.SQL, (stream,)).fetchall()[-1]
            execute(INSERT_EVENT, (head + 1, last[1], last[2] + 1, last[3], *row))
            execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


def _row(command: Command) -> tuple[Any, ...]:
    """What is inserted, but for its place: that is found on the clock."""
    ids = (
        bytes.fromhex(text.replace("-", ""))
        for text in (command.correlation_id, command.causation_id)
    )
    data = msgspec.json.encode(command.postings[0]).decode()
    now_us = time.time_ns() // 1000
    return (new_id().bytes, now_us, None, *ids, new_id().bytes, ACTOR, None, None, data)
