"""The flow of one consumer: it claims a partition of a build, then reads, applies and moves the
checkpoint, for ever. Catch-up and live are the same loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from leftfold.errors import InvalidInput, StoreClosed, UndecodableEvent
from leftfold.event import RecordedEvent, now_us
from leftfold.projection.applying import Applied, Batch, moved, work_of
from leftfold.projection.catalog import (
    HOLD_S_MAX,
    Build,
    Failure,
    LeaseLost,
    Progress,
    Quarantined,
    advance,
    claim,
    identify,
    progress,
    put_in_quarantine,
    quarantined,
    release,
    skips,
)
from leftfold.projection.database import Transaction
from leftfold.projection.definition import Consumer, Projection, Subscriber, Worker
from leftfold.projection.delivering import Delivering
from leftfold.projection.folding import Control, Events, Partition, failure_of, partition_of
from leftfold.projection.marking import holds, last_at
from leftfold.projection.pacing import Pace
from leftfold.projection.parts import ProjectionParts
from leftfold.reading import Decoding

WAIT_S = 0.25
"""How long a consumer takes at most to see that it is to stop, or to do something else."""
TICK_S = 0.1
"""How often what is not of events is looked after, in seconds."""
IDLE_CHECKPOINT_S = 1.0
"""How often a checkpoint moves over events that do not match."""
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 30.0
"""Pauses between attempts double from the one to the other, in seconds."""

Page = list[RecordedEvent[bytes]]
Apply = Callable[[Progress, Batch, Control], Awaitable[Applied]]

logger = logging.getLogger("leftfold")


class Consuming:
    """One consumer of a subscriber: of a build, and of one of its partitions. `at` is the name of
    the owner and the partition.
    """

    def __init__(
        self, parts: ProjectionParts, subscriber: Subscriber, build: Build, *, at: tuple[str, int]
    ) -> None:
        self._parts = parts = parts.beside()
        self._subscriber = subscriber
        self._owner, self._partition = at
        self._mine = Partition(self._partition, build.partitions)
        is_by_stream = isinstance(subscriber, Projection) and subscriber.key is None
        self._is_known_undecoded = is_by_stream and not self._mine.is_all
        self._database = parts.database_of(subscriber)
        self._decoding = Decoding(parts.codec, subscriber.events)
        self._apply = _applying(parts, subscriber, build, lambda: self.stopping)
        self._pace = Pace()
        self._control = Control()
        self._failed: tuple[object, int] = (0, 0)
        """The position and the key of what failed last, and at how many attempts."""
        self._written_s = self._looked_s = self._held_until_s = self._ticked_s = 0.0
        self._has_more = False
        """Whether the subscriber has more to do, also without events."""
        self.build = build
        self._is_identified = False
        """Whether the build is known to be of this log. It is not while that has no events."""
        self._lease: Progress | None = None
        """What it claimed last, unless another one has it."""
        self.held: Progress | None = None
        """How far it is, as long as it is the owner."""
        self.stopping = False
        self.place = f"{subscriber.name} (build {build.id}, partition {self._partition})"

    async def run(self) -> None:
        """Go on until `stopping`, or until the store is closed. Errors pause it and end nothing."""
        try:
            await self._run()
        finally:
            self._parts.driver.close()

    async def _run(self) -> None:
        pause_s = PAUSE_MIN_S
        while not self.stopping:
            is_owner = self.held is not None
            try:
                await self._round()
                # A claim proves nothing: what comes next may fail again and again.
                pause_s = PAUSE_MIN_S if is_owner else pause_s
                continue
            except StoreClosed:
                break
            except LeaseLost:
                logger.warning("%s: another worker owns it now", self.place)
                self._lease = None
            except Exception:
                # Whatever it is, it must neither end this consumer nor hold up others.
                logger.exception("%s: it goes on in %s s", self.place, pause_s)
                self._pace.shrink()
                self._parts.look_again()
            self.held = None
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        await self._release()

    async def _round(self) -> None:
        if self.held is None:
            await self._claim()
        elif self.held.failure or self._is_on_hold(self.held):
            await self._pause(WAIT_S)
            await self._look(self.held)
        else:
            await self._tick(self.held.position)
            await self._go_on(self.held)

    async def _tick(self, position: int) -> None:
        if not isinstance(self._subscriber, Worker):
            return
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._ticked_s = time.monotonic()
            more: Any = await self._parts.driver.call(self._subscriber.tick, position)
            self._has_more = await more if isinstance(more, Awaitable) else more
            self._ticked_s = 0.0 if self._has_more else self._ticked_s

    async def _claim(self) -> None:
        owner, partition, build = self._owner, self._partition, self.build.id
        held = await self._parts.write(
            self._database, lambda tx: claim(tx, build, partition, owner)
        )
        if held is None:
            await self._pause(WAIT_S)
            return
        self._lease = held
        self._failed = (0, 0)
        self._is_identified = False
        await self._look(held)
        head = await self._parts.store.head()
        if held.position > head or not await self._is_of_this_log(held):
            await self._stop_at_other_log(held)
        elif held.position and not held.event_position:
            await self._mark(held)

    async def _is_of_this_log(self, held: Progress) -> bool:
        """Whether this is still the log that was folded: it may have been restored from a backup,
        or a server have taken over that lacks events. To be asked before a checkpoint moves, and
        after what it moves over was read.
        """
        is_of = self._is_identified or await self._identify()
        return is_of and await holds(self._parts.store, held)

    async def _identify(self) -> bool:
        """Whether the build is of this log. One that was never folded is from now on."""
        log, build = await self._parts.log_id(), self.build.id
        found = await self._parts.write(self._database, lambda tx: identify(tx, build, log))
        if found and not log:
            # Somebody may just have folded the first event.
            log = await self._parts.log_id()
        self._is_identified = found == log != ""
        return found == log

    async def _stop_at_other_log(self, held: Progress) -> None:
        reason = "this is another log than before: it does not hold what was applied; rebuild"
        failure = Failure(held.event_position, "", 0, "", "", reason, 1, now_us())
        await self._stop(held, failure)

    async def _mark(self, held: Progress) -> None:
        """Keep which event the checkpoint is at, where that was not known when it was moved."""
        last = await last_at(self._parts.store, [], held.position)
        if last is not None and last.position != held.event_position:
            await self._move(held, moved(held, [], held.position, last))

    async def _look(self, held: Progress) -> None:
        """See what is wanted: to go on after a failure, to hold, to try a key again, or to pass
        over an event.
        """

        found, waiting, skipped, now_us = await self._parts.read(self._database, self._wanted)
        now = next((each for each in found if each.partition == self._partition), None)
        if now is None or (now.fence, now.position) != (held.fence, held.position):
            raise LeaseLost(self.place)
        if held.failure and not now.failure:
            self._failed = (0, 0)
        due = (each for each in waiting if each.is_due and self._is_mine(each.key))
        keys = frozenset(each.key for each in waiting)
        self._control = Control(keys, frozenset(skipped), next(due, None))
        self._looked_s = time.monotonic()
        # By the database's clock: this machine's may be another.
        hold_s = (now.hold_until_us - now_us) / 1_000_000
        self._held_until_s = self._looked_s + (hold_s if hold_s <= HOLD_S_MAX else 0)
        self.held = now

    def _wanted(
        self, tx: Transaction
    ) -> tuple[list[Progress], list[Quarantined], set[tuple[int, str]], int]:
        id = self.build.id
        return progress(tx, id), quarantined(tx, id), skips(tx, self.build), tx.now_us()

    def _is_mine(self, key: str) -> bool:
        return partition_of(key, self.build.partitions) == self._partition

    def _bound(self, held: Progress) -> int | None:
        """The position not to go beyond for now."""
        return held.hold_position if time.monotonic() < self._held_until_s else None

    def _is_on_hold(self, held: Progress) -> bool:
        bound = self._bound(held)
        return bound is not None and held.position >= bound

    async def _go_on(self, held: Progress) -> None:
        """Apply what comes next: for all keys, or for one that is to make up for what it missed."""
        self._pace.begin()
        only = self._control.only
        head = await self._parts.store.head()
        after = only.position - 1 if only else held.position
        until = held.position if only else self._bound(held)
        page = await self._parts.store.read(
            self._decoding.query, after=after, until=until, limit=self._pace.limit
        )
        if head < held.position:
            await self._stop_at_other_log(held)
            return
        end = head if until is None else min(head, until)
        if len(page) == self._pace.limit:
            end = page[-1].position
        elif only:
            end = held.position
        else:
            end = max(end, held.position, page[-1].position if page else 0)
        if page or only:
            await self._apply_page(held, page, end)
        else:
            await self._wait(held, end)

    async def _apply_page(self, held: Progress, page: Page, until: int) -> None:
        events, failure = await self._parts.driver.call(self._decode, self._theirs_left_out(page))
        only = self._control.only
        last = None if only else await last_at(self._parts.store, page, until)
        if not await self._is_of_this_log(held):
            await self._stop_at_other_log(held)
            return
        end = until if failure is None else max(failure.position - 1, 0 if only else held.position)
        applied = await self._apply(held, Batch(events, end, last), self._control)
        self.held = msgspec.structs.replace(applied.progress, signal=applied.signal)
        self._written_s = time.monotonic()
        failure = applied.failure or failure
        if failure is not None and only is not None:
            failure = msgspec.structs.replace(failure, key=only.key)
        pause_s = self._pace.end(self.build, page, failed=failure is not None)
        if failure is not None:
            await self._mark(self.held)
            await self._fail(self.held, failure)
        if applied.signal != held.signal or only is not None:
            await self._look(self.held)
        await self._pause(pause_s)

    def _theirs_left_out(self, page: Page) -> Page:
        """What is not another partition's, as far as can be told without decoding."""
        if not self._is_known_undecoded:
            return page
        return [each for each in page if self._mine.has((each.stream,))]

    def _decode(self, page: Page) -> tuple[Events, Failure | None]:
        """The events, or those before the first that cannot be decoded."""
        skips = self._control.skips
        page = [each for each in page if (each.position, "") not in skips] if skips else page
        try:
            return self._decoding.page(page), None
        except UndecodableEvent as error:
            bad = next(each for each in page if each.position == error.position)
            before = [each for each in page if each.position < error.position]
            return self._decoding.page(before), failure_of(bad, "", error)

    async def _fail(self, held: Progress, failure: Failure) -> None:
        """Try again after a pause; then stop, or let that key alone wait."""
        last, attempts = self._failed
        at = failure.position, failure.key
        attempts = attempts + 1 if last == at else 1
        self._failed = (at, attempts)
        failure = msgspec.structs.replace(failure, attempts=attempts)
        logger.warning("%s: %s", self.place, failure.text())
        only = self._control.only
        if only is not None:
            await self._quarantine(held, failure, waiting=only.waiting)
        elif attempts < self._subscriber.attempts_max:
            await self._pause(min(PAUSE_MIN_S * 2 ** (attempts - 1), PAUSE_MAX_S))
        elif self._subscriber.on_failure == "quarantine" and failure.key:
            try:
                await self._quarantine(held, failure, waiting=0)
            except InvalidInput:
                # A key that is too long for this database, say.
                await self._stop(held, failure)
        else:
            await self._stop(held, failure)

    async def _quarantine(self, held: Progress, failure: Failure, *, waiting: int) -> None:
        text = msgspec.json.encode(failure).decode()
        each = Quarantined(held.build, failure.key, failure.position, text, waiting, 0)

        def write(tx: Transaction) -> None:
            advance(tx, held, held)
            put_in_quarantine(tx, each)

        await self._parts.write(self._database, write, durable=True)
        await self._look(held)

    async def _stop(self, held: Progress, failure: Failure) -> None:
        stopped = msgspec.structs.replace(held, failure=msgspec.json.encode(failure).decode())
        logger.error("%s is stopped: %s", self.place, failure.text())
        await self._move(held, stopped)

    async def _move(self, held: Progress, to: Progress) -> None:
        signal = await self._parts.write(self._database, lambda tx: advance(tx, held, to))
        self.held = msgspec.structs.replace(to, signal=signal)
        self._written_s = time.monotonic()
        if signal != held.signal:
            await self._look(self.held)

    async def _wait(self, held: Progress, end: int) -> None:
        """Nothing is there to be applied up to `end`: move on, and wait for more."""
        is_late = time.monotonic() - self._written_s >= IDLE_CHECKPOINT_S
        if end > held.position and (is_late or self.build.state == "building"):
            last = await last_at(self._parts.store, [], end)
            if not await self._is_of_this_log(held):
                await self._stop_at_other_log(held)
                return
            await self._move(held, moved(held, [], end, last))
        await self._parts.store.wait(end, 0 if self._has_more else WAIT_S)
        if self.held is not None and time.monotonic() - self._looked_s >= WAIT_S:
            await self._look(self.held)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but for as long as nobody wants this to stop."""
        deadline_s = time.monotonic() + seconds
        while not self.stopping and (left_s := deadline_s - time.monotonic()) > 0:
            await self._parts.driver.promise().wait(min(left_s, WAIT_S))

    async def _release(self) -> None:
        held, self.held = self._lease, None
        if held is None:
            return
        try:
            await self._parts.write(self._database, lambda tx: release(tx, held))
        except Exception as error:
            # The lease runs out by itself.
            logger.warning("%s: its lease was not given up: %s", self.place, error)


def _applying(
    parts: ProjectionParts, subscriber: Subscriber, build: Build, is_over: Callable[[], bool]
) -> Apply:
    database = parts.database_of(subscriber)
    if isinstance(subscriber, Consumer):
        return Delivering(parts, subscriber, database, is_over).apply
    work = work_of(subscriber, build, database)

    async def apply(held: Progress, batch: Batch, control: Control) -> Applied:
        return await parts.driver.call(work.apply, held, batch, control)

    return apply
