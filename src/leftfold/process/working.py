"""The flows of a process at work: react to what comes in, deliver what was asked for, fire timers.

Each step here may come twice, or after a crash; each is one append under an id that is derived from
what caused it, so it has its effect once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from leftfold.app import App
from leftfold.command import Handled, Handling, Order, derived_id
from leftfold.decider import Decider
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
from leftfold.loading import Parts
from leftfold.process import events as log
from leftfold.process import stepping
from leftfold.process.definition import ProcessManager
from leftfold.process.outputs import Declined
from leftfold.process.rows import DueTimer, rows_of
from leftfold.process.wire import unpack_command
from leftfold.projection.catalog import LeaseLost
from leftfold.projection.definition import Subscriber, Worker
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.viewing import Viewing
from leftfold.query import Version, category_of, select
from leftfold.turns import Turns

TIMERS_AT_ONCE = 100
"""Instances whose timers are fired before anything else is looked at."""
NOT_OF_EVENTS = (StoreUnavailable, StoreClosed, OutcomeUnknown, Contention, LeaseLost)
"""Errors that pass: the same is tried again for as long as they last."""


class Working:
    """One process of an App at work."""

    def __init__(self, app: App, process: ProcessManager[Any]) -> None:
        self.name = process.name
        self._process = process
        self._deciders = {each.category: each for each in app.deciders}
        self.decider = stepping.decider_of(process, self._deciders)
        self.rows = rows_of(process)
        self._last: tuple[int, str, Any] = (0, "", None)
        self._fired: set[tuple[str, int]] = set()

    @property
    def subscribers(self) -> tuple[Subscriber, ...]:
        """What a runner has to run for it. The functions are those of `begin`."""
        mine = select(category=self.name, types=[log.type_name(log.StepSent)])
        worker = Worker(
            self.name,
            handle=self._handle,
            query=self._process.query | mine,
            start=self._process.start,
            key=_stream,
            on_failure="quarantine",
            tick=self._tick,
            not_of_events=NOT_OF_EVENTS,
        )
        return worker, self.rows

    def begin(self, parts: Parts, turns: Turns, projecting: ProjectionParts) -> None:
        """Work on this store."""
        self._parts = parts
        self._turns = turns
        self._projecting = projecting
        self._viewing = Viewing(projecting, self.rows, None)

    def _handle(self, event: RecordedEvent[Any]) -> Any:
        return run_sync(self.deliver(event))

    def _tick(self) -> Any:
        return run_sync(self.tick())

    def key(self, event: RecordedEvent[Any]) -> str | None:
        """Which instance an event belongs to. Raises InvalidInput, and what `key` raises."""
        if category_of(event.stream) == self.name:
            return event.stream.removeprefix(f"{self.name}-")
        found: Any = self._process.key(event)
        if found is None:
            return None
        if not isinstance(found, str | int | UUID) or isinstance(found, bool) or found == "":
            raise InvalidInput(
                f"key of process {self.name!r} is a str, an int, a UUID or None, found {found!r} "
                f"for {event.type!r}"
            )
        return str(found)

    async def deliver(self, event: RecordedEvent[Any]) -> None:
        """React to an event, or deliver the command that one of its own asks for."""
        key = self.key(event)
        if category_of(event.stream) == self.name:
            if isinstance(event.data, log.StepSent):
                await self._send(event, event.data)
        elif key is not None:
            await self._react(key, event)

    async def _react(self, key: str, event: RecordedEvent[Any]) -> None:
        self._check_is_one(event)
        given = event.metadata
        metadata = Metadata(
            correlation_id=given.correlation_id or str(event.id),
            causation_id=str(event.id),
            command_id=f"{self.name}:{event.id}:{event.type}",
            actor=given.actor,
        )
        try:
            await self.order(key, stepping.React(key, event), metadata)
        except NOT_OF_EVENTS:
            raise
        except LeftfoldError as error:
            # What was made of it cannot be recorded. That it came in is.
            await self.order(key, stepping.React(key, event, refused=str(error)), metadata)

    def _check_is_one(self, event: RecordedEvent[Any]) -> None:
        last, self._last = self._last, (event.position, event.type, event.data)
        if last[:2] == self._last[:2] and last[2] != event.data:
            raise InvalidInput(
                f"an upcaster makes several {event.type!r} of the event at position "
                f"{event.position}; process {self.name!r} cannot tell them apart"
            )

    async def order(self, key: str, order: stepping.Order, metadata: Metadata) -> Handled[Any]:
        """Let the instance of a key do something, once for each command id."""
        return await self._run(self.decider, key, Order(order, None, metadata))

    async def _run(
        self, decider: Decider[Any, Any, Any], id: str, order: Order[Any]
    ) -> Handled[Any]:
        return await Handling(self._parts, self._turns, decider, boundary=id, order=order).run()

    async def _send(self, event: RecordedEvent[Any], sent: log.StepSent) -> None:
        key = event.stream.removeprefix(f"{self.name}-")
        answer = await self._answer(event, sent)
        await self.order(key, answer, _caused(event, f"{event.id}:answer"))

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
        except Exception as error:
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
        metadata = _caused(event, _command_id(event, sent))
        handled = await self._run(decider, work.id or "", Order(command, None, metadata))
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
        command_id = _command_id(event, sent)
        id = derived_id(f"{sent.work.to}-{sent.work.id}", command_id, 0)
        made = Event(event.stream, rejected, id=id, metadata=_caused(event, command_id))
        appended = await self._parts.store.append([self._parts.codec.encode(made)])
        if event.stream not in appended.versions:
            return "done", ""
        query, version = select(event.stream), appended.versions[event.stream]
        [first] = await self._parts.store.read(query, after=Version(version - 1), limit=1)
        [known] = self._parts.codec.decode_page([first])
        return known.data.outcome, known.data.reason

    def _unpacked(self, work: log.Work) -> Any:
        error: Exception | None = None
        for rules in (self._process, *self._process.earlier):
            try:
                return unpack_command(rules, work)
            except UnknownEventType as unknown:
                error = error or unknown
        raise error or InvalidInput(f"no command {work.type!r}")

    async def _call(self, event: RecordedEvent[Any], sent: log.StepSent) -> None:
        """Call the outside world. The key is the same at each attempt."""
        work = sent.work
        request, once = self._unpacked(work), f"{event.stream}:{sent.step}"
        known = (self._process, *self._process.earlier)
        calls = [each.calls[work.to] for each in known if work.to in each.calls]
        if not calls:
            raise InvalidInput(f"process {self.name!r} has no call {work.to!r}")
        function: Callable[[Any, str], Any] = calls[0]
        driver = self._projecting.driver
        if inspect.iscoroutinefunction(function) and not driver.may_block:
            await uncancelled(function(request, once))
            return
        outcome = await driver.call(function, request, once)
        if inspect.iscoroutine(outcome):
            outcome.close()
            raise InvalidInput(
                f"call {work.to!r} is a coroutine function, which needs leftfold.aopen"
            )

    async def tick(self) -> None:
        """Fire the timers that are due, in the order in which they are."""
        try:
            rows = await self._due()
        except ProjectionBehind:
            # It is not built yet. Its timers are due a little later.
            return
        due = sorted(
            ((timer.due_us, timer.number, name, key, timer) for key, name, timer in rows),
            key=lambda each: each[:4],
        )
        self._fired &= {(timer.id, number) for _, number, _, _, timer in due}
        for _, number, name, key, timer in due:
            if (timer.id, number) not in self._fired:
                await self.fire(key, name, timer)
                # The read model may show it for a while.
                self._fired.add((timer.id, number))

    async def fire(self, key: str, name: str, timer: DueTimer) -> None:
        """Let a timer fire, if it is still set."""
        metadata = Metadata(
            correlation_id=timer.correlation_id,
            causation_id=timer.id,
            command_id=f"{timer.id}:fire",
        )
        await self.order(key, stepping.Fire(name, timer.number), metadata)

    async def _due(self) -> list[tuple[str, str, DueTimer]]:
        now_us = await self._now_us()
        sql = (
            f"SELECT instance, timers FROM {self.rows.name} WHERE due_us <= {now_us} "
            f"ORDER BY due_us LIMIT {TIMERS_AT_ONCE}"
        )
        found = []
        for row in await self._viewing.sql(sql, ()):
            timers = msgspec.json.decode(row["timers"], type=dict[str, DueTimer])
            found += [
                (row["instance"], name, timer)
                for name, timer in timers.items()
                if timer.due_us <= now_us
            ]
        return found

    async def _now_us(self) -> int:
        """The store's clock: its own where it has one that can be asked, or the database's."""
        clock = getattr(self._parts.store, "now_us", None)
        if clock is not None:
            now: int = clock()
            return now
        return await self._projecting.read(self._projecting.database, lambda tx: tx.now_us())


class _NotAccepted(Exception):
    """A command that had been delivered before was not accepted then."""

    def __init__(self, rejected: log.CommandRejected) -> None:
        super().__init__(rejected.reason)
        self.rejected = rejected


def _command_id(event: RecordedEvent[Any], sent: log.StepSent) -> str:
    """Of the command of a step: one that was rejected is another command when it is repaired."""
    return f"{event.stream}:{sent.step}" + (f":{sent.attempt}" if sent.attempt > 1 else "")


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

    async def _handle(self, event: RecordedEvent[Any]) -> None:
        await self.deliver(event)

    async def _tick(self) -> None:
        await self.tick()
