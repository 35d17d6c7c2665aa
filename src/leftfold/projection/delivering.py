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
        self._refuse_several = consumer.refuse_several if isinstance(consumer, Worker) else None
        self._several: frozenset[tuple[int, str]] = frozenset()
        """Positions and types that several events of a batch have: upcasters made them of one."""
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
        waiting: dict[str, int] = {}
        done: list[RecordedEvent[Any]] = []
        failure, until = None, batch.until
        if self._refuse_several is not None:
            at = Counter((each.position, each.type) for each in batch.events)
            self._several = frozenset(each for each, count in at.items() if count > 1)
        for event in batch.events:
            if self._is_over():
                until = event.position - 1
                break
            failure = await self._deliver(event, control, waiting)
            if failure is not None:
                until = failure.position - 1
                break
            done.append(event)
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

    async def _deliver(
        self, event: RecordedEvent[Any], control: Control, waiting: dict[str, int]
    ) -> Failure | None:
        key = ""
        try:
            key = self._key(event)
            if key and control.only is None and key in control.waiting:
                waiting[key] = waiting.get(key, 0) + 1
            elif control.is_meant(event.position, key):
                self._check_is_one(event)
                await self._call(event)
        except self._passing:
            raise
        except Exception as error:
            # It may be anything: the functions are the user's.
            return failure_of(event, key, error)
        return None

    def _check_is_one(self, event: RecordedEvent[Any]) -> None:
        if self._refuse_several is not None and (event.position, event.type) in self._several:
            self._refuse_several(event)

    def _key(self, event: RecordedEvent[Any]) -> str:
        found = self._consumer.key(event) if self._consumer.key is not None else None
        if found is None:
            return ""
        return key_text(found if isinstance(found, tuple) else (found,))

    async def _call(self, event: RecordedEvent[Any]) -> None:
        if self._is_async:
            await uncancelled(self._consumer.handle(event))
            return
        outcome = await self._parts.driver.call(self._consumer.handle, event)
        if inspect.iscoroutine(outcome):
            outcome.close()
            raise TypeError(
                "handle returned a coroutine; make it a coroutine function, `async def`"
            )
