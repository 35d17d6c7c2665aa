"""The memory store: the executable specification. Small and obvious rather than fast; for tests and
examples.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from leftfold.drive import BlockingDriver, Driver
from leftfold.errors import AppendConditionFailed, DuplicateEvent, InvalidInput, StoreClosed
from leftfold.event import Appended, Event, RecordedEvent, now_us, record, to_us
from leftfold.limits import check_append, check_read
from leftfold.query import ALL, Bound, Condition, Query, StreamVersion, Version
from leftfold.store import Capabilities
from leftfold.stores.doorbell import Doorbell


class MemoryStore:
    """Keeps events in a list, for as long as it lives. Keeps G1-G5 and G7-G9; G6 is not its
    business.
    """

    def __init__(self, driver: Driver | None = None, *, clock: Callable[[], int] = now_us) -> None:
        self._driver = driver or BlockingDriver()
        self._clock = clock
        self._mutex = threading.Lock()
        self._log: list[RecordedEvent[bytes]] = []
        self._positions: dict[UUID, int] = {}
        self._versions: dict[str, int] = {}
        self._closed = False
        self._doorbell = Doorbell(self._driver, self._head)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(durable=False)

    async def append(
        self, events: Sequence[Event[bytes]], *, conditions: Sequence[Condition] = ()
    ) -> Appended:
        check_append(events, conditions)
        with self._mutex:
            self._refuse_if_closed()
            if len({event.id for event in events}) < len(events):
                raise InvalidInput("the event ids of an append differ, found one twice")
            known = [event.id for event in events if event.id in self._positions]
            if len(known) == len(events):
                repeated = [self._log[self._positions[id] - 1] for id in known]
                return replace(self._appended(repeated), is_repeat=True)
            if known:
                raise DuplicateEvent(
                    tuple(known), tuple(event.id for event in events if event.id not in known)
                )
            for condition in conditions:
                self._judge(condition)
            appended = self._appended(self._record(events))
        self._doorbell.ring(appended.position)
        return appended

    def _judge(self, condition: Condition) -> None:
        if isinstance(condition, StreamVersion):
            found = self._versions.get(condition.stream, 0)
            if found != condition.version:
                raise AppendConditionFailed(condition, found)
            return
        if condition.after > len(self._log):
            raise InvalidInput(condition.beyond(len(self._log)))
        for event in self._log[condition.after :]:
            if condition.query.matches(event):
                raise AppendConditionFailed(condition, event.position)

    def _record(self, events: Sequence[Event[bytes]]) -> list[RecordedEvent[bytes]]:
        recorded_us = max(self._clock(), self._log[-1].recorded_us if self._log else 0)
        recorded = []
        for event in events:
            version = self._versions[event.stream] = self._versions.get(event.stream, 0) + 1
            self._log.append(record(event, len(self._log) + 1, version, recorded_us))
            self._positions[event.id] = len(self._log)
            recorded.append(self._log[-1])
        return recorded

    @staticmethod
    def _appended(recorded: list[RecordedEvent[bytes]]) -> Appended:
        recorded = sorted(recorded, key=lambda event: event.position)
        versions = {event.stream: event.version for event in recorded}
        return Appended(recorded[0].position, recorded[-1].position, versions)

    async def read(
        self,
        query: Query = ALL,
        *,
        after: Bound = 0,
        until: Bound | None = None,
        limit: int = 1000,
        backwards: bool = False,
    ) -> list[RecordedEvent[bytes]]:
        check_read(query, after, until, limit)
        with self._mutex:
            self._refuse_if_closed()
            start = after if isinstance(after, int) else 0
            log: Any = reversed(self._log) if backwards else islice(self._log, start, None)
            within = (
                event
                for event in log
                if query.matches(event)
                and not _reaches(after, event)
                and (until is None or _reaches(until, event))
            )
            return list(islice(within, limit))

    def now_us(self) -> int:
        """The time by its clock, in microseconds since 1970."""
        return self._clock()

    def _head(self) -> int:
        self._refuse_if_closed()
        return len(self._log)

    async def head(self) -> int:
        return self._head()

    async def wait(self, after: int, timeout_s: float) -> None:
        await self._doorbell.wait(after, timeout_s)

    async def close(self) -> None:
        self._closed = True
        self._doorbell.ring()
        self._driver.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosed("the store is closed")


def _reaches(bound: Bound, event: RecordedEvent[bytes]) -> bool:
    """Whether `event` is at or before `bound`."""
    if isinstance(bound, Version):
        return event.version <= bound.number
    if isinstance(bound, datetime):
        return event.recorded_us <= to_us(bound)
    return event.position <= bound
