"""leftfold at a boundary over tags, in a long log: read, then append on condition that it holds.

The subjects share one opened store, so that each appends to the log that the others leave.
"""

from __future__ import annotations

import random
from pathlib import Path

import leftfold
from bench.core import Subject
from bench.data import ACTOR, BoundaryCommand, LimitChanged, Posted, boundary_commands
from bench.on_leftfold import RELAXED, pragmas, url
from leftfold import Codec, Event, EventStore, Metadata, NoneMatch, select

CODEC = Codec(Posted, LimitChanged)
_CLASSES: dict[str, type[Posted]] = {"Posted": Posted, "LimitChanged": LimitChanged}


def event_of(command: BoundaryCommand) -> Event[Posted]:
    return Event(
        f"account-{command.account}",
        _CLASSES[command.type](**command.posting),
        tags=tuple(command.tags),
        metadata=Metadata(
            correlation_id=command.correlation_id, causation_id=command.causation_id, actor=ACTOR
        ),
    )


class SharedLog:
    """A log of `length` events, filled and opened by whichever subject comes first."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._es: EventStore | None = None

    def open(self, directory: Path) -> EventStore:
        if self._es is None:
            path = directory / "boundary.db"
            with leftfold.open(url(path, RELAXED), CODEC) as es:
                for batch in boundary_commands(self._length, random.Random(1), batch=1000):
                    es.append([event_of(command) for command in batch])
            self._es = leftfold.open(url(path), CODEC)
        return self._es

    def close(self) -> None:
        if self._es is not None:
            self._es.close()


class Unconditional(Subject):
    """Appends only."""

    def __init__(self, name: str, log: SharedLog) -> None:
        super().__init__(name)
        self._log = log
        self._random = random.Random(2)

    def open(self, directory: Path) -> None:
        self._es = self._log.open(directory)

    def settings(self) -> str:
        return pragmas(self._es.store._writer._connection)

    def prepare(self, count: int) -> list[BoundaryCommand]:
        return next(boundary_commands(count, self._random, batch=count))

    def run(self, prepared: list[BoundaryCommand]) -> None:
        for command in prepared:
            self._es.append([event_of(command)])

    def close(self) -> None:
        self._log.close()


class Conditional(Unconditional):
    """Reads the boundary, then appends on the condition that nothing was added to it.

    "Since" is the last event read, so that the writer must look into the log; or, with
    `from_head`, the head of the log before reading, as UmaDB's client gives it.
    """

    def __init__(self, name: str, log: SharedLog, *, from_head: bool = False) -> None:
        super().__init__(name, log)
        self._from_head = from_head

    def run(self, prepared: list[BoundaryCommand]) -> None:
        es = self._es
        for command in prepared:
            query = select(types=[LimitChanged], tags=command.tags)
            seen = es.head() if self._from_head else 0
            for event in es.read(query):
                seen = max(seen, event.position)
            es.append([event_of(command)], conditions=[NoneMatch(query, after=seen)])
