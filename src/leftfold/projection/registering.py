"""Flows that bring inline projections up to date with the log, and see to it that they stay so."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import uuid4

import msgspec

from leftfold.errors import ProjectionFailed
from leftfold.projection.applying import Batch, make_tables, work_of
from leftfold.projection.catalog import (
    LEASE_S,
    Build,
    LeaseLost,
    Progress,
    add_build,
    advance,
    builds,
    claim,
    lock,
    progress,
    release,
    renew,
    skips,
)
from leftfold.projection.database import Transaction
from leftfold.projection.folding import Control
from leftfold.projection.inline import Inline, InlineKeeper, Keeping, inline_log, inline_of
from leftfold.projection.keeping import InlineLog
from leftfold.projection.marking import is_marked, last_at
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.swapping import drop_build, naming, position_of, swap_in, unmade
from leftfold.reading import Decoding

T = TypeVar("T")

PAGE_EVENTS = 1000
"""Events that are applied in one transaction while nobody has to wait."""
REST_EVENTS_MAX = 500
"""Events that are applied at first while all appends wait. Where there are more, the limit is
doubled and the rest is tried again: so it comes to an end, also when it is as slow as the writers.
"""
REST_EVENTS_LIMIT = 1_000_000
"""How far that limit is doubled: so many events are in memory at once."""
PAUSE_S = 0.1
"""Between two looks at what another process builds."""
SAY_S = 5.0
"""How often the log of the program is told how far it is."""

logger = logging.getLogger("leftfold")


async def register(parts: ProjectionParts) -> None:
    """Build what is missing of the inline projections of the App, and let each append of its store
    keep them from now on. Every other append to the log is refused from then on.

    Takes as long as the events take that are not in them yet. Raises ProjectionFailed,
    ProjectionRefused, Unsupported, StoreUnavailable: then those that were built before stay.
    """
    projections = inline_of(parts)
    for each in projections:
        await Registering(parts, each).run()
    if projections:
        inline_log(parts, projections[0]).keep_with(InlineKeeper(parts, projections))


async def rebuild(parts: ProjectionParts, projection: Inline) -> Build:
    """Build an inline projection from the log again, beside the one that is kept, and swap it in.
    Appends go on, but for a moment at the end. Raises what `register` raises.
    """
    return await Registering(parts, projection, is_afresh=True).run()


def lift(log: InlineLog, tx: Transaction, name: str) -> None:
    """Let everybody append, from the end of the transaction on, without keeping a projection."""
    demanded = log.demanded(tx)
    if name in demanded:
        log.hold(tx)
        log.demand(tx, {each: build for each, build in demanded.items() if each != name})


class Registering:
    """Makes the build that appends are to keep, where there is none."""

    def __init__(
        self, parts: ProjectionParts, projection: Inline, *, is_afresh: bool = False
    ) -> None:
        self._parts = parts
        self._log = inline_log(parts, projection)
        self._projection = projection
        self._name = projection.name
        self._database = parts.database_of(projection)
        self._decoding = Decoding(parts.codec, projection.events)
        self._wanted = unmade(projection, parts.codec.fingerprint)
        self._is_afresh = is_afresh
        self._made = 0
        """The id of the build that is made afresh."""
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._renewed_s = self._said_s = 0.0

    async def run(self) -> Build:
        """The build that every append keeps from now on."""
        rest_max = REST_EVENTS_MAX
        while self._is_afresh or (kept := await self._read(self._kept)) is None:
            with naming(self._projection):
                claimed = await self._write(self._claimed)
            if claimed is None:
                await self._wait_for_others()
                continue
            try:
                done = await self._attempt(claimed, rest_max)
            except LeaseLost:
                continue
            if done is not None:
                logger.info("%s: build %s is kept with every append", self._name, done.id)
                return done
            rest_max = min(2 * rest_max, REST_EVENTS_LIMIT)
        return kept

    async def _wait_for_others(self) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s > SAY_S:
            self._said_s = now_s
            owners = ", ".join(await self._read(self._owners)) or "another process"
            logger.info("%s: %s builds it, and is waited for", self._name, owners)
        await self._parts.driver.promise().wait(PAUSE_S)

    def _owners(self, tx: Transaction) -> list[str]:
        found = [each for build in builds(tx, self._name) for each in progress(tx, build.id)]
        return [each.owner for each in found if each.owner and each.lease_until_us > tx.now_us()]

    async def _attempt(self, claimed: tuple[Build, Progress], rest_max: int) -> Build | None:
        """What is kept from now on; None where it has to be tried again."""
        build, held = claimed
        self._renewed_s = self._said_s = time.monotonic()
        try:
            control = Control(skips=frozenset(await self._read(lambda tx: skips(tx, build))))
            held = await self._catch_up(build, held, control)
            return await self._write(lambda tx: self._finish(tx, (build, held), control, rest_max))
        finally:
            await self._write(lambda tx: release(tx, held))

    def _kept(self, tx: Transaction) -> Build | None:
        """The build of this code, where it serves, is complete, and is demanded of everybody."""
        id = self._log.demanded(tx).get(self._name)
        for each in builds(tx, self._name):
            if each.id == id and each.state == "serving" and self._is_mine(tx, each):
                return None if self._log.tail(tx, position_of(tx, each), 1) else each
        return None

    def _is_mine(self, tx: Transaction, build: Build) -> bool:
        """Whether it is of this code, and of the log as it is: that may have been restored."""
        if build.fingerprint != self._wanted.fingerprint or build.partitions != 1:
            return False
        (held,) = progress(tx, build.id)
        at = held.event_position
        return is_marked(held, self._log.tail(tx, at - 1, 1)) if at else not held.position

    def _claimed(self, tx: Transaction) -> tuple[Build, Progress] | None:
        """A build to go on with, which serves already or is new, and how far it is. None where
        somebody else has it.
        """
        lock(tx)
        mine = [each for each in builds(tx, self._name) if self._is_mine(tx, each)]
        if self._is_afresh:
            mine = [each for each in mine if each.id == self._made]
        mine = [each for each in mine if each.state in ("building", "serving")]
        serving = [each for each in mine if each.state == "serving"]
        if mine:
            build = (serving or mine)[-1]
        else:
            # Not even the first one serves before it is complete: an inline projection never lags.
            build = add_build(tx, self._wanted)
            make_tables(tx, build, self._projection)
            self._made = build.id
        held = claim(tx, build.id, 0, self._owner)
        return (build, held) if held is not None else None

    async def _catch_up(self, build: Build, held: Progress, control: Control) -> Progress:
        """Apply page after page, up to the head of the log as it was found."""
        parts, work = self._parts, work_of(self._projection, build, self._database)
        page_end = PAGE_EVENTS
        while page_end == PAGE_EVENTS:
            await self._stay_owner(held)
            head = await parts.store.head()
            page = await parts.store.read(
                self._decoding.query, after=held.position, limit=PAGE_EVENTS
            )
            page_end = len(page)
            last = page[-1].position if page else 0
            until = last if page_end == PAGE_EVENTS else max(head, last, held.position)
            last_event = await last_at(parts.store, page, until)
            # One that cannot be decoded may be passed over as well.
            page = [each for each in page if (each.position, "") not in control.skips]
            events = await parts.driver.call(self._decoding.page, page)
            batch = Batch(events, until, last_event)
            applied = await parts.driver.call(work.apply, held, batch, control)
            if applied.failure is not None:
                found = applied.failure
                recorded = (found.position, found.stream, found.version, found.type)
                raise ProjectionFailed(self._name, recorded, found.error, key=found.key)
            held = applied.progress
        return held

    async def _stay_owner(self, held: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._renewed_s > LEASE_S / 4:
            self._renewed_s = now_s
            await self._write(lambda tx: renew(tx, self._owner))
        if now_s - self._said_s > SAY_S:
            self._said_s = now_s
            logger.info("%s is built: it is at position %s", self._name, held.position)

    def _finish(
        self, tx: Transaction, claimed: tuple[Build, Progress], control: Control, rest_max: int
    ) -> Build | None:
        """Apply the rest and let the build serve, in place of all others, while nobody appends;
        None where that is too much to let them wait for.
        """
        build, held = claimed
        self._log.hold(tx)
        lock(tx)
        advance(tx, held, held)
        rest = self._log.tail(tx, held.position, rest_max + 1)
        if len(rest) > rest_max:
            return None
        if rest:
            keeping = Keeping(self._projection, build, self._decoding, self._database)
            keeping.apply(tx, rest, control)
        swap_in(tx, build)
        for each in builds(tx, self._name):
            # What nobody keeps would be read as if it were.
            if each.id != build.id:
                drop_build(tx, each)
        self._log.demand(tx, {**self._log.demanded(tx), self._name: build.id})
        return msgspec.structs.replace(build, state="serving")

    async def _read(self, work: Callable[[Transaction], T]) -> T:
        return await self._parts.read(self._database, work)

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        return await self._parts.write(self._database, work, durable=True)
