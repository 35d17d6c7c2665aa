"""Flows of those who look after processes: how the instances are; tried again, skipped, cancelled.
What is done is recorded in the stream of the instance, with who did it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from leftfold.errors import DuplicateEvent, InvalidInput, ProjectionBehind, ProjectionRefused
from leftfold.event import Metadata, from_us
from leftfold.limits import check_integer
from leftfold.loading import Parts, load
from leftfold.process.instance import Instance
from leftfold.process.outside import Outside, stream_of
from leftfold.process.rows import InstanceRow
from leftfold.process.stepping import Cancel, Order, Retry, Skip
from leftfold.process.working import Working
from leftfold.projection.finding import ROWS_MAX
from leftfold.projection.managing import Managing
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.viewing import Viewing
from leftfold.projection.waiting import WAIT_S

LIST_INSTANCES = 100
"""Instances that `list` gives, unless told."""
STATUSES = ("running", "compensating", "stuck", "done", "compensated", "cancelled")


class InstanceStatus(Struct, frozen=True, kw_only=True):
    """How an instance of a process is."""

    process: str
    key: str
    """Of the instance; or the stream of an event that waits and could not even be recorded in it.
    """
    status: str
    version: int = 0
    reason: str = ""
    """Why it is stuck, was compensated or cancelled."""
    held: int = 0
    """How much has come in and waits."""
    due_at: datetime | None = None
    """When the first of its timers is due."""
    started_at: datetime | None = None
    updated_at: datetime | None = None


class Repairing:
    """What can be asked and done about the processes of an App."""

    def __init__(
        self, parts: Parts, projecting: ProjectionParts, workings: Sequence[Working]
    ) -> None:
        self._parts = parts
        self._projecting = projecting
        self._managing = Managing(projecting)
        self._workings = {each.name: each for each in workings}

    async def instances(
        self, process: str | None, status: str | None, limit: int
    ) -> list[InstanceStatus]:
        """How instances are, what waits outside of all first."""
        if status not in (None, *STATUSES):
            raise InvalidInput(f"status is one of {', '.join(STATUSES)}, found {status!r}")
        check_integer("limit (instances)", limit, 1, ROWS_MAX)
        found: list[InstanceStatus] = []
        for working in self._chosen(process):
            if status in (None, "stuck"):
                found += await self._waiting(working)
            found += await self._rows(working, status, limit)
        return found[:limit]

    async def show(self, process: str, key: str) -> Instance:
        """An instance, as its stream tells. Raises InvalidInput where there is none."""
        working = self._working(process)
        found = await self._instance(working, key)
        waits = None if found.version else await self._outside(working).of(key)
        if waits is not None:
            return replace(found, stuck=waits.failure.text())
        _check_is_there(process, found)
        return found

    async def retry(self, process: str, key: str, actor: str) -> Instance:
        """Try again what an instance is stuck at, and what waits outside of all by this name."""
        _check_text("actor", actor)
        working = self._working(process)
        outside = self._outside(working)
        waits = await outside.of(key)
        with suppress(*((InvalidInput,) if waits else ())):
            # What waits outside may be all there is.
            await self._order(working, key, Retry(actor), actor)
        if waits is not None:
            with suppress(ProjectionRefused):
                # Somebody else was faster.
                await outside.retry(waits, actor)
        return await self._instance(working, key)

    async def skip(self, process: str, key: str, order: Skip) -> Instance:
        """Go on without a step, or without what an instance is stuck at, or without the first event
        that waits outside of all by this name.
        """
        _check_text("reason", order.reason)
        _check_text("actor", order.actor)
        working = self._working(process)
        outside = self._outside(working)
        waits = None if order.step else await outside.of(key)
        try:
            return await self._order(working, key, order, order.actor)
        except DuplicateEvent:
            found = "was handled meanwhile, and a runner records what it came to; look with show"
            raise InvalidInput(f"the command of step {order.step!r} {found}") from None
        except InvalidInput:
            if waits is None:
                raise
        try:
            await outside.skip(waits, order.reason, order.actor)
        except ProjectionRefused as error:
            raise InvalidInput(f"it waits no more; somebody else was faster: {error}") from None
        return await self._instance(working, key)

    async def cancel(self, process: str, key: str, order: Cancel) -> Instance:
        """End an instance."""
        _check_text("reason", order.reason)
        return await self._order(self._working(process), key, order, order.actor)

    async def _order(self, working: Working, key: str, order: Order, actor: str) -> Instance:
        _check_text("actor", actor)
        before = await self._instance(working, key)
        _check_is_there(working.name, before)
        said = Metadata(actor=actor, correlation_id=before.conversation)
        handled = await working.order(key, order, said)
        state: Instance = handled.state
        return state

    async def _instance(self, working: Working, key: Any) -> Instance:
        """As it is now. A new one has its key as well."""
        if not isinstance(key, str):
            raise InvalidInput(f"the key of an instance is a text, found {key!r}")
        loaded = await load(self._parts, working.decider, key, at=None, as_of=None)
        return replace(loaded.state, key=key)

    async def _rows(self, working: Working, status: str | None, limit: int) -> list[InstanceStatus]:
        viewing = Viewing(self._projecting, working.rows, None)
        where = None if status is None else {"status": status}
        try:
            question = viewing.rows.find(where, limit, None)
            rows = await viewing.ask(question, None, WAIT_S)
        except ProjectionBehind:
            # No runner has begun yet.
            return []
        return [_status(working.name, row) for row in rows]

    async def _waiting(self, working: Working) -> list[InstanceStatus]:
        """What waits outside of its stream: it could not even be recorded."""
        return [
            InstanceStatus(
                process=working.name,
                key=stream_of(each),
                status="stuck",
                reason=each.failure.text(),
                held=each.waiting,
                updated_at=from_us(each.failure.since_us),
            )
            for each in await self._outside(working).waiting()
        ]

    def _outside(self, working: Working) -> Outside:
        return Outside(self._parts, self._managing, working.name)

    def _chosen(self, process: str | None) -> list[Working]:
        return [*self._workings.values()] if process is None else [self._working(process)]

    def _working(self, process: Any) -> Working:
        found = self._workings.get(process) if isinstance(process, str) else None
        if found is None:
            known = ", ".join(map(repr, self._workings)) or "none"
            raise InvalidInput(f"the App has no process {process!r}, it has {known}")
        return found


def _status(process: str, row: InstanceRow) -> InstanceStatus:
    return InstanceStatus(
        process=process,
        key=row.instance,
        status=row.status,
        version=row.version,
        reason=row.stuck or row.reason,
        held=row.held,
        due_at=None if row.due_us is None else from_us(row.due_us),
        started_at=from_us(row.started_us),
        updated_at=from_us(row.updated_us),
    )


def _check_is_there(process: str, instance: Instance) -> None:
    # A stream may hold nothing but what had no meaning for the process.
    if not instance.version:
        raise InvalidInput(f"process {process!r} has no instance {instance.key!r}")


def _check_text(what: str, found: Any) -> None:
    if not isinstance(found, str) or not found.strip():
        raise InvalidInput(f"a repair is recorded with its {what}, a text, found {found!r}")
