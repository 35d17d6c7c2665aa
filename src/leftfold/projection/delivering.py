"""Delivering events to a consumer's function, at least once and in order."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

from leftfold.drive import uncancelled
from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent
from leftfold.projection.applying import Applied, Batch, make_up, moved
from leftfold.projection.catalog import Failure, Progress, add_waiting, advance
from leftfold.projection.database import Database, Transaction
from leftfold.projection.definition import Consumer, Worker
from leftfold.projection.folding import Control, Events, failure_of, key_text
from leftfold.projection.lanes import Lane, Lanes, Pass, Unit
from leftfold.projection.parts import ProjectionParts


class Delivering:
    """Calls the function of a consumer for each event, and moves its checkpoint behind them."""

    def __init__(
        self,
        parts: ProjectionParts,
        consumer: Consumer,
        database: Database,
        is_over: Callable[[], bool],
    ) -> None:
        self._parts = parts
        self._is_over = is_over
        self._consumer = consumer
        self._database = database
        self._passing = consumer.not_of_events if isinstance(consumer, Worker) else ()
        self._lanes = Lanes(consumer)
        self._is_async = inspect.iscoroutinefunction(consumer.handle)
        if self._is_async and parts.driver.may_block:
            raise InvalidInput(
                f"handle of consumer {consumer.name!r} is a coroutine function, which needs "
                "leftfold.aopen and `async with es.running()`"
            )

    async def apply(self, held: Progress, batch: Batch, control: Control) -> Applied:
        """Deliver all, or those before the first that fails or before this is over, and move the
        checkpoint at least each `checkpoint_events` events.
        """
        events = batch.events
        while True:
            count = self._count(events)
            until = batch.until if count == len(events) else events[count - 1].position
            some = Batch(events[:count], until, batch.last)
            applied = await self._some(held, some, control)
            held, events = applied.progress, events[count:]
            if applied.failure is not None or not events or self._is_over():
                return applied

    def _count(self, events: Events) -> int:
        """How many to deliver before the next checkpoint, which is not within one position."""
        count = min(self._consumer.checkpoint_events, len(events))
        while count < len(events) and events[count].position == events[count - 1].position:
            count += 1
        return count

    async def _some(self, held: Progress, batch: Batch, control: Control) -> Applied:
        units = self._lanes.units(batch.events)
        passed = Pass(control, units)
        for lanes in self._lanes.of(units):
            await self._run(lanes, passed)
        failure, until = passed.end(batch.until)
        done = [each for each in batch.events if each.position <= until]
        waiting = Counter(key for position, key in passed.waiting if position <= until)
        end = max(until, held.position)
        to = held if control.only else moved(held, done, end, batch.last)

        def write(tx: Transaction) -> int:
            signal = advance(tx, held, to)
            add_waiting(tx, held.build, waiting)
            if control.only is not None:
                make_up(tx, control.only, until, held.position)
            return signal

        signal = await self._parts.driver.call(self._database.write, write)
        return Applied(to, signal, failure)

    async def _run(self, lanes: list[Lane], passed: Pass) -> None:
        """Deliver the events of each lane in order, of several lanes at a time."""
        left = [*reversed(lanes)]
        spawn, name = self._parts.driver.spawn, f"leftfold-{self._consumer.name}"
        beside = min(self._lanes.at_once, len(lanes)) - 1
        others = [spawn(self._work_beside(left, passed), name) for _ in range(beside)]
        try:
            await self._work(left, passed)
        finally:
            # Where this one was cancelled, nobody begins another lane.
            left.clear()
        for each in others:
            await each.join()
        passed.check()

    async def _work_beside(self, left: list[Lane], passed: Pass) -> None:
        try:
            await self._work(left, passed)
        except BaseException as error:
            # Whoever waits for this does not see how it ended, and not all is delivered.
            passed.errors.append(RuntimeError(f"it was ended: {error!r}"))

    async def _work(self, left: list[Lane], passed: Pass) -> None:
        while left:
            try:
                lane = left.pop()
            except IndexError:
                # Another one has taken the last.
                return
            await self._deliver_lane(lane, passed)

    async def _deliver_lane(self, lane: Lane, passed: Pass) -> None:
        for index, unit in lane:
            if self._is_over() or not passed.may_go_on(unit[0].position):
                return
            try:
                failure = await self._deliver(unit, passed)
            except Exception as error:
                # What passes is raised once all lanes have come to an end.
                passed.errors.append(error)
                return
            if failure is not None:
                passed.failures.append(failure)
                return
            passed.delivered.add(index)

    async def _deliver(self, unit: Unit, passed: Pass) -> Failure | None:
        event, key, control = unit[0], "", passed.control
        try:
            key = self._key(event)
            if key and control.only is None and key in control.waiting:
                passed.waiting.append((event.position, key))
            elif control.is_meant(event.position, key):
                await self._call(unit)
        except self._passing:
            raise
        except (Exception, SystemExit) as error:
            # It may be anything: the functions are the user's.
            return failure_of(event, key, error)
        return None

    def _key(self, event: RecordedEvent[Any]) -> str:
        found = self._consumer.key(event) if self._consumer.key is not None else None
        if found is None:
            return ""
        return key_text(found if isinstance(found, tuple) else (found,))

    async def _call(self, unit: Unit) -> None:
        if self._is_async:
            await uncancelled(self._consumer.handle(*unit))
            return
        outcome = await uncancelled(self._parts.driver.call(self._consumer.handle, *unit))
        if inspect.iscoroutine(outcome):
            outcome.close()
            raise TypeError(
                "handle returned a coroutine; make it a coroutine function, `async def`"
            )
