"""The flows of a process at work: react to what comes in, deliver what was asked for, fire timers.

Each step here may come twice, or after a crash; each is one append under an id that is derived from
what caused it, so it has its effect once.
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from leftfold.app import App
from leftfold.cache import StateCache
from leftfold.command import Handled, Handling, Order
from leftfold.drive import run_sync, uncancelled
from leftfold.errors import (
    Contention,
    InvalidInput,
    LeftfoldError,
    OutcomeUnknown,
    ProjectionBehind,
    StoreClosed,
    StoreUnavailable,
    UnknownEventType,
)
from leftfold.event import Event, Metadata, RecordedEvent
from leftfold.loading import Parts, load
from leftfold.process import events as log
from leftfold.process import stepping
from leftfold.process.addressing import given_of, keys_of
from leftfold.process.definition import ProcessManager
from leftfold.process.outputs import Declined
from leftfold.process.rows import DueTimer, rows_of
from leftfold.process.wire import command_id, first_id, unpack_command
from leftfold.projection.catalog import LeaseLost
from leftfold.projection.definition import Subscriber, Worker
from leftfold.projection.finding import ROWS_MAX
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.viewing import Viewing
from leftfold.query import Query, Version, category_of, select
from leftfold.turns import Turns

TIMERS_AT_ONCE = 100
"""Instances whose timers are fired before anything else is looked at."""
EARLY_PAUSE_S = 0.5
"""Before a timer is tried again that could not fire yet."""
FAILED_PAUSE_S = 60.0
"""Before a timer is tried again whose instance could not take it."""
STATES_KEPT = 1_000
"""States that are remembered: of instances, and of what they send commands to."""
NOT_OF_EVENTS = (StoreUnavailable, StoreClosed, OutcomeUnknown, Contention, LeaseLost)
"""Errors that pass: the same is tried again for as long as they last."""

_Taken = TypeVar("_Taken", stepping.React, stepping.Answer, stepping.Fire)

logger = logging.getLogger("leftfold")


class Working:
    """One process of an App at work."""

    def __init__(self, app: App, process: ProcessManager[Any]) -> None:
        self.name = process.name
        self._process = process
        self._deciders = {each.category: each for each in app.deciders}
        self.decider = stepping.decider_of(process, self._deciders)
        self.rows = rows_of(process)
        self._again_s: dict[tuple[str, int], float] = {}
        """When to look at a timer again that the read model may show for a while."""

    @property
    def subscribers(self) -> tuple[Subscriber, ...]:
        """What a runner has to run for it. The functions are those of `begin`."""
        worker = Worker(
            self.name,
            handle=self._handle,
            query=self._followed,
            start=self._process.start,
            key=_stream,
            on_failure="quarantine",
            tick=self._tick,
            lane=self._lane,
            lanes_max=self._process.concurrency,
            not_of_events=NOT_OF_EVENTS,
        )
        return worker, self.rows

    @property
    def _followed(self) -> Query:
        mine = select(category=self.name, types=[log.type_name(log.StepSent)])
        return self._process.followed | mine

    def begin(self, parts: Parts, turns: Turns, projecting: ProjectionParts) -> None:
        """Work on this store."""
        self._parts = self._kept = parts
        if parts.cache is None and getattr(parts.store, "appends_are_final", True):
            # Without it, each event of an instance would have its whole stream read again, and each
            # command that of its target.
            self._kept = replace(parts, cache=StateCache(STATES_KEPT))
        self._turns = turns
        self._projecting = projecting
        self._calling = projecting.beside()
        """Its calls to the outside take long. No reader of views waits for them."""
        self._viewing = Viewing(projecting, self.rows, None)

    def end(self) -> None:
        """Free what its calls need."""
        self._calling.driver.close()

    def _handle(self, *events: RecordedEvent[Any]) -> Any:
        return run_sync(self.deliver(*events))

    def _tick(self, position: int) -> Any:
        return run_sync(self.tick(position))

    def _lane(self, events: Sequence[RecordedEvent[Any]]) -> str | None:
        """What one instance is given comes one after the other, what several are by itself."""
        stream = events[0].stream
        if category_of(stream) == self.name:
            return stream.removeprefix(f"{self.name}-")
        try:
            keys = {key for each in events for key in keys_of(self._process.in_use, each)} or {""}
        except Exception:
            # It may be anything: the function is the user's. It is called again, and fails there.
            return None
        return keys.pop() if len(keys) == 1 else None

    async def deliver(self, *events: RecordedEvent[Any]) -> None:
        """React to the events that upcasters make of a stored one, which mostly is one; or deliver
        the command that one of its own asks for.
        """
        event = events[0]
        if category_of(event.stream) != self.name:
            await self._react(events)
        elif isinstance(event.data, log.StepSent):
            await self._send(event, event.data)

    async def _react(self, events: Sequence[RecordedEvent[Any]]) -> None:
        id, given = str(events[0].id), events[0].metadata
        metadata = Metadata(
            correlation_id=given.correlation_id or id,
            causation_id=id,
            # What it is called, and how many events are made of it, may change with upcasters.
            command_id=f"{self.name}:{id}",
            actor=given.actor,
        )
        newest, taken = self._process.version, set[int]()
        for key, some in (await given_of(self._parts, self._process, events)).items():
            order, *others = [each.order(key, newest, taken) for each in some]
            order = replace(order, others=tuple(others))
            handled = await self._order_or_refuse(key, order, metadata)
            taken |= {each.number for each in some if handled.state.version in each.versions}

    async def _order_or_refuse(self, key: str, order: _Taken, metadata: Metadata) -> Handled[Any]:
        try:
            return await self.order(key, order, metadata)
        except NOT_OF_EVENTS:
            raise
        except LeftfoldError as error:
            # What was made of it cannot be recorded. That it came in is.
            return await self.order(key, replace(order, refused=str(error)), metadata)

    async def order(self, key: str, order: stepping.Order, metadata: Metadata) -> Handled[Any]:
        """Let the instance of a key do something, once for each command id."""
        done = Order(order, None, metadata)
        handling = Handling(self._kept, self._turns, self.decider, boundary=key, order=done)
        handled = await handling.run()
        for each in handled.events:
            if isinstance(each, log.Quarantined):
                logger.warning("%s-%s waits to be repaired: %s", self.name, key, each.reason)
            elif isinstance(each, log.CallFailed):
                logger.warning("%s-%s: call of step %r: %s", self.name, key, each.step, each.reason)
        return handled

    async def _send(self, event: RecordedEvent[Any], sent: log.StepSent) -> None:
        """Carry out a step that is still to be: what was answered, skipped or cancelled is not."""
        key = event.stream.removeprefix(f"{self.name}-")
        loaded = await load(self._kept, self.decider, key, at=None, as_of=None)
        step = loaded.state.step(sent.step)
        is_sent = step is not None and (step.status, step.sent.attempt) == ("sent", sent.attempt)
        if is_sent and loaded.state.phase != "cancelled":
            answer = await self._answer(event, sent)
            await self._order_or_refuse(key, answer, _caused(event, f"{event.id}:answer"))

    async def _answer(self, event: RecordedEvent[Any], sent: log.StepSent) -> stepping.Answer:
        """What a step comes to."""
        outcome: Any = "done"
        reason = ""
        is_call = sent.work.id is None
        try:
            await (self._call(event, sent) if is_call else self._command(event, sent))
        except NOT_OF_EVENTS:
            raise
        except _NotAccepted as error:
            outcome, reason = error.rejected.outcome, error.rejected.reason
        except LeftfoldError as error:
            outcome, reason = "failed", f"{type(error).__name__}: {error}"
        except (Exception, SystemExit) as error:
            # It may be anything: what a decider raises is a rejection, and what a call raises that
            # the outside was not reached, unless it says that it was.
            is_unreached = is_call and not isinstance(error, Declined)
            outcome = "unreached" if is_unreached else "rejected"
            reason = f"{type(error).__name__}: {error}"
        if outcome != "done" and not is_call:
            outcome, reason = await self._reject(event, sent, outcome=outcome, reason=reason)
        return stepping.Answer(sent.step, sent.attempt, outcome, reason)

    async def _command(self, event: RecordedEvent[Any], sent: log.StepSent) -> None:
        """Have a decider handle the command of a step, once."""
        work = sent.work
        decider = self._deciders.get(work.to)
        if decider is None:
            raise InvalidInput(f"the App has no decider of category {work.to!r}")
        command = self._unpacked(work)
        metadata = _caused(event, command_id(event.stream, sent))
        to, order = work.id or "", Order(command, None, metadata)
        handled = await Handling(self._kept, self._turns, decider, boundary=to, order=order).run()
        for found in handled.events:
            if isinstance(found, log.CommandRejected):
                raise _NotAccepted(found)

    async def _reject(
        self, event: RecordedEvent[Any], sent: log.StepSent, *, outcome: Any, reason: str
    ) -> tuple[Any, str]:
        """See to it that a command that was not accepted never will be, and say what it came to.

        A rejection leaves no trace. Another worker may deliver the same command at the same time,
        and decide on another state. Only one of them can record the id of its first event.
        """
        rejected = log.CommandRejected(sent.step, outcome, reason)
        metadata = _caused(event, command_id(event.stream, sent))
        id = first_id(event.stream, sent)
        made = Event(event.stream, rejected, id=id, metadata=metadata)
        appended = await self._parts.store.append([self._parts.codec.encode(made)])
        if event.stream not in appended.versions:
            return "done", ""
        query, version = select(event.stream), appended.versions[event.stream]
        [first] = await self._parts.store.read(query, after=Version(version - 1), limit=1)
        [known] = self._parts.codec.decode_page([first])
        return known.data.outcome, known.data.reason

    def _unpacked(self, work: log.Work) -> Any:
        for rules in (self._process, *self._process.earlier):
            with suppress(UnknownEventType):
                return unpack_command(rules, work)
        # None knows it, as the newest says.
        return unpack_command(self._process, work)

    async def _call(self, event: RecordedEvent[Any], sent: log.StepSent) -> None:
        """Call the outside world. The key is the same at each attempt."""
        work = sent.work
        request, once = self._unpacked(work), f"{event.stream}:{sent.step}"
        known = (self._process, *self._process.earlier)
        calls = [each.calls[work.to] for each in known if work.to in each.calls]
        if not calls:
            raise InvalidInput(f"process {self.name!r} has no call {work.to!r}")
        function: Callable[[Any, str], Any] = calls[0]
        driver = self._calling.driver
        if inspect.iscoroutinefunction(function) and not driver.may_block:
            await uncancelled(function(request, once))
            return
        outcome = await uncancelled(driver.call(function, request, once))
        if inspect.iscoroutine(outcome):
            outcome.close()
            raise InvalidInput(
                f"call {work.to!r} is a coroutine function, which needs leftfold.aopen"
            )

    async def tick(self, position: int) -> bool:
        """Fire timers that are due, in the order in which they are. What was recorded before one is
        due comes before it; all up to `position` was delivered. Returns whether there may be more.
        """
        now_us = await self._now_us()
        limit, until_us, more, fired = TIMERS_AT_ONCE, 0, True, False
        try:
            while more and not fired and limit <= ROWS_MAX:
                rows = await self._rows_due(now_us, limit)
                # After the clock was read: what is recorded from now on is later than what is due.
                until_us = until_us or (await self._until_us(position, now_us) if rows else 0)
                more = len(rows) == limit
                # Those that are due later may not be the next ones of all.
                next_us = rows[-1]["due_us"] if more else until_us
                fired = await self._fire_some(rows, min(until_us, next_us))
                # Those that are shown may have fired already. Others are behind them.
                limit *= 2
        except ProjectionBehind:
            # It is not built yet. Its timers are due a little later.
            return False
        if not fired:
            shown = {(timer.id, timer.number) for each in rows for timer in _timers(each).values()}
            self._again_s = {at: s for at, s in self._again_s.items() if at in shown}
        return fired and more

    async def _fire_some(self, rows: list[dict[str, Any]], until_us: int) -> bool:
        """Whether any was fired of the timers of these instances."""
        due = [
            (timer.due_us, timer.number, name, row["instance"], timer)
            for row in rows
            for name, timer in _timers(row).items()
            if timer.due_us <= until_us
        ]
        fired = False
        for _, number, name, key, timer in sorted(due, key=lambda each: each[:4]):
            if self._again_s.get((timer.id, number), 0) <= time.monotonic():
                pause_s = await self._try(key, name, timer)
                self._again_s[timer.id, number] = time.monotonic() + pause_s
                fired = fired or pause_s == math.inf
        return fired

    async def _try(self, key: str, name: str, timer: DueTimer) -> float:
        """Let a timer fire; for how many seconds not to try it again."""
        try:
            handled = await self.fire(key, name, timer)
        except NOT_OF_EVENTS:
            raise
        except Exception:
            # It may be anything: the functions are the user's. It must not hold up others.
            logger.exception("timer %r of %s-%s did not fire", name, self.name, key)
            return FAILED_PAUSE_S
        left = None if handled.events else handled.state.timer(name)
        is_set = left is not None and left.number == timer.number
        return EARLY_PAUSE_S if is_set else math.inf

    async def fire(self, key: str, name: str, timer: DueTimer) -> Handled[Any]:
        """Let a timer fire, if it is still set."""
        metadata = Metadata(
            correlation_id=timer.correlation_id,
            causation_id=timer.id,
            command_id=f"{timer.id}:fire",
        )
        return await self._order_or_refuse(key, stepping.Fire(name, timer.number), metadata)

    async def _until_us(self, position: int, now_us: int) -> int:
        """Up to when timers may fire now: not beyond what is next to be delivered."""
        query = self._parts.codec.resolve(self._followed)
        page = await self._parts.store.read(query, after=position, limit=1)
        return min([now_us, *(each.recorded_us - 1 for each in page)])

    async def _rows_due(self, now_us: int, limit: int) -> list[dict[str, Any]]:
        sql = (
            f"SELECT instance, timers, due_us FROM {self.rows.name} WHERE due_us <= {now_us} "
            f"ORDER BY due_us, instance LIMIT {limit}"
        )
        return await self._viewing.sql(sql, ())

    async def _now_us(self) -> int:
        """The clock by which the log is recorded: the store's own where it can be asked, or that of
        its database.
        """
        clock: Callable[[], int] | None = getattr(self._parts.store, "now_us", None)
        if clock is not None:
            return clock()
        database = self._projecting.log_database or self._projecting.database
        return await self._projecting.driver.call(database.read, lambda tx: tx.now_us())


def _timers(row: dict[str, Any]) -> dict[str, DueTimer]:
    return msgspec.json.decode(row["timers"], type=dict[str, DueTimer])


class _NotAccepted(Exception):
    """A command that had been delivered before was not accepted then."""

    def __init__(self, rejected: log.CommandRejected) -> None:
        super().__init__(rejected.reason)
        self.rejected = rejected


def _caused(event: RecordedEvent[Any], command_id: str) -> Metadata:
    given = event.metadata
    return Metadata(
        correlation_id=given.correlation_id,
        causation_id=str(event.id),
        command_id=command_id,
        actor=given.actor,
    )


def _stream(event: RecordedEvent[Any]) -> str:
    # By what events wait that could not even be recorded as held. Their instance may be what cannot
    # be had, and once it can, they must still be found.
    return event.stream


class AsyncWorking(Working):
    """The same for an event loop."""

    async def _handle(self, *events: RecordedEvent[Any]) -> None:
        await self.deliver(*events)

    async def _tick(self, position: int) -> bool:
        return await self.tick(position)
