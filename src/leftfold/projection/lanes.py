"""Which events a worker may be given at the same time, and what came of them. Without I/O."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from leftfold.event import RecordedEvent
from leftfold.projection.catalog import Failure
from leftfold.projection.definition import Consumer, Worker
from leftfold.projection.folding import Control, Events

Unit = tuple[RecordedEvent[Any], ...]
"""What is delivered as one: an event; to a worker, all that upcasters make of a stored one."""
Lane = list[tuple[int, Unit]]
"""What is to be delivered in order, with its places in a batch."""


class Lanes:
    """Divides events among lanes. Those of a plain consumer are all in one, each by itself."""

    def __init__(self, consumer: Consumer) -> None:
        self._lane_of = consumer.lane if isinstance(consumer, Worker) else None
        self._is_whole = isinstance(consumer, Worker)
        self.at_once = consumer.lanes_max if isinstance(consumer, Worker) else 1

    def units(self, events: Events) -> list[Unit]:
        """What is to be delivered, in order."""
        if not self._is_whole:
            return [(each,) for each in events]
        return [tuple(group) for _, group in groupby(events, lambda each: each.position)]

    def of(self, units: list[Unit]) -> Iterator[list[Lane]]:
        """Lanes that are independent of each other, after those before them."""
        lanes: dict[str, Lane] = {}
        for index, unit in enumerate(units):
            name = "" if self._lane_of is None or self.at_once == 1 else self._lane_of(unit)
            if name is not None:
                lanes.setdefault(name, []).append((index, unit))
                continue
            yield [*lanes.values()]
            yield [[(index, unit)]]
            lanes = {}
        yield [*lanes.values()]


class Pass:
    """What came of what was to be delivered. Any thread may add to it."""

    def __init__(self, control: Control, units: list[Unit]) -> None:
        self.control = control
        self._units = units
        self.waiting: list[tuple[int, str]] = []
        """The positions and keys of events that wait."""
        self.delivered: set[int] = set()
        self.failures: list[Failure] = []
        self.errors: list[Exception] = []
        """What is not of events."""

    def may_go_on(self, position: int) -> bool:
        """Whether an event is still to be delivered: all before the first failure are, so that it
        counts as it does where one is delivered after the other.
        """
        return not self.errors and all(each.position > position for each in self.failures)

    def check(self) -> None:
        """Raise what is not of events."""
        if self.errors:
            raise self.errors[0]

    def end(self, until: int) -> tuple[Failure | None, int]:
        """The first failure, and the position up to which all was delivered: at most `until`."""
        missing = (i for i in range(len(self._units)) if i not in self.delivered)
        first = next(missing, None)
        if first is None:
            return None, until
        position = self._units[first][0].position
        failed = min(self.failures, key=lambda each: each.position, default=None)
        is_first = failed is not None and failed.position == position
        return failed if is_first else None, position - 1
