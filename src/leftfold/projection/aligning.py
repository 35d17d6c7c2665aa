"""Two builds of a projection, brought to one position while something is done with both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from leftfold.projection.catalog import Build, Progress, progress, set_hold
from leftfold.projection.database import Transaction
from leftfold.projection.definition import Subscriber
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.status import first_between, running

T = TypeVar("T")

PAUSE_S = 0.05
"""Between two looks at how far they are, in seconds."""

Transact = Callable[[Callable[[Transaction], T | None]], Awaitable[T | None]]


class Aligning:
    """Holds those who fold two builds of a subscriber at one position, for `timeout_s` seconds at
    most: then they go on, whatever has become of this.

    `may_lead`: the second build may be further than the first.
    """

    def __init__(
        self,
        parts: ProjectionParts,
        subscriber: Subscriber,
        builds: tuple[Build, Build],
        *,
        timeout_s: float,
        may_lead: bool = False,
    ) -> None:
        self._parts = parts
        self._subscriber = subscriber
        self._database = parts.database_of(subscriber)
        self._builds = builds
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._may_lead = may_lead
        self._hold = 0
        self._code = subscriber.fingerprint(parts.codec.fingerprint)
        # Nothing for those who are behind lies between these two positions.
        self._clear: tuple[int, int, Subscriber | None] = (0, 0, None)
        self._gap = (0, 0)
        # Whose query says what those who are behind lack: of other code it is not known.
        self._whose: Subscriber | None = None
        self._is_hopeless = False

    async def run(self, transact: Transact[T], work: Callable[[Transaction], T]) -> T | None:
        """What `work` returns for a transaction in which both builds show the same events. None
        when they do not get there in time, or nobody moves the one that is behind.
        """

        def attempt(tx: Transaction) -> T | None:
            self._look(tx)
            return work(tx) if self._is_aligned() else None

        try:
            while (found := await transact(attempt)) is None:
                if not await self._advance():
                    break
        finally:
            if self._hold:
                await self._parts.write(self._database, lambda tx: self._hold_at(tx, 0))
        return found

    async def _advance(self) -> bool:
        """Make it more likely that they are aligned; whether it is worth another attempt."""
        (low, high), whose = self._gap, self._whose
        if await first_between(self._parts, whose, low, high) is None:
            self._clear = low, high, whose
            return True
        if self._is_hopeless or time.monotonic() >= self._deadline_s:
            return False
        if high > self._hold:
            # Whoever was in the middle of a batch is further by now than it was to be held at.
            self._hold = high
            await self._parts.write(self._database, lambda tx: self._hold_at(tx, high))
        await self._parts.driver.promise().wait(PAUSE_S)
        return True

    def _look(self, tx: Transaction) -> None:
        # Before a swap: what serves must not move on between this look and the end.
        locked = self._may_lead
        first, second = (progress(tx, build.id, locked=locked) for build in self._builds)
        behind = second if self._may_lead else first + second
        ahead = first if self._may_lead else behind
        low = min((each.position for each in behind), default=0)
        high = max((each.position for each in ahead), default=0)
        self._gap = low, high
        own = {build.id for build in self._builds if build.fingerprint == self._code}
        lacking = {each.build for each in behind if each.position < high}
        self._whose = self._subscriber if lacking <= own else None
        last = [each for each in behind if each.position == low]
        self._is_hopeless = not all(_is_moving(each, tx.now_us()) for each in last)

    def _is_aligned(self) -> bool:
        (low, high), (clear_low, clear_high, whose) = self._gap, self._clear
        is_clear = clear_low <= low and high <= clear_high and whose in (None, self._whose)
        return low >= high or is_clear

    def _hold_at(self, tx: Transaction, position: int) -> None:
        for build in self._builds:
            set_hold(tx, build, position, self._timeout_s if position else 0)


def _is_moving(consumer: Progress, now_us: int) -> bool:
    return not consumer.failure and bool(running([consumer], now_us))
