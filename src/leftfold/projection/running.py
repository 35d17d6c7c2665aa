"""The runner: a consumer for each partition of each build that its code can fold, heartbeats, and
the swap of builds that are complete.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Literal
from uuid import uuid4

from leftfold.drive import Spawned
from leftfold.errors import InvalidInput, StoreClosed
from leftfold.projection.arguments import checked_share, to_run
from leftfold.projection.catalog import (
    LEASE_S,
    Build,
    builds,
    lock,
    progress,
    renew,
    set_hold,
    set_state,
)
from leftfold.projection.consuming import PAUSE_MIN_S, WAIT_S, Consuming
from leftfold.projection.database import Transaction
from leftfold.projection.definition import Consumer, Subscriber
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.replacing import newer_than
from leftfold.projection.swapping import make_build, naming, position_of, swap_in, unmade

LOOK_S = 1.0
"""How often a runner looks for builds, and whether they are complete."""
HOLD_S = 2.0
"""How long what serves waits at most for what is to be swapped in, in seconds."""

BEATS = 4
"""How often leases are renewed in the time that they last."""

Swap = Literal["auto", "manual"]
Share = tuple[int, int]
"""Which partitions: those that, divided by the second number, leave the first as the rest."""

logger = logging.getLogger("leftfold")


class Running:
    """Folds the async projections of an App, and delivers to its consumers, until it is stopped."""

    def __init__(
        self,
        parts: ProjectionParts,
        only: Iterable[str] | None = None,
        swap: Swap = "auto",
        *,
        share: Share | None = None,
    ) -> None:
        if swap not in ("auto", "manual"):
            raise InvalidInput(f"swap is 'auto' or 'manual', found {swap!r}")
        self._rest, self._divisor = (0, 1) if share is None else checked_share(share)
        self._parts = parts
        self._subscribers = to_run(parts, only)
        self._swap = swap
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._consumers: dict[tuple[int, int], tuple[Consuming, Spawned]] = {}
        self._leaving: list[Spawned] = []
        self._supervisor: Spawned | None = None
        # Leases last where consumers keep every other thread busy, and the event loop as well.
        self._heart = threading.Thread(target=self._beat, name="leftfold-leases", daemon=True)
        self._is_over = threading.Event()
        self._goals: dict[int, int] = {}
        """For each build that is being built, the head of the log that it has to reach."""
        self._standing_by: set[str] = set()
        """The names of those that are served by newer code, as far as that was said."""
        self._has_begun = self._stopping = False

    async def start(self) -> None:
        """Make what is missing and begin. Raises StoreUnavailable, ProjectionRefused, and
        InvalidInput for the second time.
        """
        if self._has_begun:
            raise InvalidInput("a runner runs once; make another one with es.running()")
        self._has_begun = True
        self._heart.start()
        try:
            for subscriber in self._subscribers:
                await self._look_at(subscriber)
        except BaseException:
            await self.stop()
            raise
        self._supervisor = self._parts.driver.spawn(self._supervise(), "leftfold-runner")

    async def stop(self) -> None:
        """Let every consumer finish its batch and give up its lease."""
        self._stopping = True
        # Before anything is waited for: that may be cancelled.
        self._let_go()
        try:
            if self._supervisor is not None:
                await self._supervisor.join()
            self._let_go()
            for spawned in [*self._leaving, *(each for _, each in self._consumers.values())]:
                await spawned.join()
        finally:
            self._is_over.set()
        if self._heart.is_alive():
            with suppress(StoreClosed):
                await self._parts.driver.call(self._heart.join)

    def _let_go(self) -> None:
        for consumer, _ in [*self._consumers.values()]:
            consumer.stopping = True

    def _beat(self) -> None:
        while not self._is_over.wait(LEASE_S / BEATS):
            try:
                self._parts.database.write(lambda tx: renew(tx, self._owner))
            except StoreClosed:
                return
            except Exception:
                # It must go on: leases run out without it.
                logger.exception("leases were not renewed; the runner goes on")

    async def _supervise(self) -> None:
        while not self._stopping:
            await self._pause(PAUSE_MIN_S if self._goals else LOOK_S)
            for subscriber in self._subscribers:
                try:
                    await self._look_at(subscriber)
                except StoreClosed:
                    return
                except Exception:
                    # It must neither end this nor hold up others.
                    logger.exception("%s: the runner goes on", subscriber.name)
                    self._parts.look_again()

    async def _pause(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while not self._stopping and (left_s := deadline_s - time.monotonic()) > 0:
            await self._parts.driver.promise().wait(min(left_s, WAIT_S))

    async def _look_at(self, subscriber: Subscriber) -> None:
        found = await self._builds(subscriber)
        self._leave_all_but(subscriber, {build.id for build in found})
        for build in found:
            for partition in range(self._rest, build.partitions, self._divisor):
                self._run(subscriber, build, partition)
            if build.state == "building":
                await self._complete(build)
            else:
                self._goals.pop(build.id, None)

    def _leave_all_but(self, subscriber: Subscriber, builds: set[int]) -> None:
        """Stop the consumers of builds that were dropped."""
        for key, (consumer, spawned) in [*self._consumers.items()]:
            if consumer.build.name == subscriber.name and consumer.build.id not in builds:
                consumer.stopping = True
                del self._consumers[key]
                self._leaving = [each for each in self._leaving if not each.has_ended]
                self._leaving.append(spawned)
                self._goals.pop(consumer.build.id, None)

    async def _builds(self, subscriber: Subscriber) -> list[Build]:
        """Those that this code can fold; one is made where there is none, unless what serves is of
        newer code.
        """
        wanted = unmade(subscriber, self._parts.codec.fingerprint)
        found, newer = await self._parts.read(self._parts.database, partial(_look, wanted))
        if newer is not None:
            self._stand_by(newer)
            return []
        self._standing_by.discard(wanted.name)
        return found or await self._make(subscriber, wanted)

    async def _make(self, subscriber: Subscriber, wanted: Build) -> list[Build]:
        is_late = isinstance(subscriber, Consumer) and subscriber.start == "now"
        after = await self._parts.store.head() if is_late else 0

        def make(tx: Transaction) -> list[Build]:
            lock(tx)
            found, newer = _look(wanted, tx)
            if found or newer is not None:
                return found
            return [make_build(tx, subscriber, wanted, after)]

        with naming(subscriber):
            made = await self._parts.write(self._parts.database, make, durable=True)
        if made and after:
            logger.warning(
                "%s: it begins after position %s: what was recorded before is not delivered, also "
                "where it had begun earlier and its checkpoint was lost",
                subscriber.name,
                after,
            )
        for each in made:
            if each.state == "building":
                logger.warning(
                    "%s: its version or code has changed; build %s is built beside the one that "
                    "serves",
                    each.name,
                    each.id,
                )
        return made

    def _stand_by(self, newer: Build) -> None:
        if newer.name not in self._standing_by:
            self._standing_by.add(newer.name)
            logger.warning(
                "%s: build %s, which serves, is of newer code (version %s), so this code stands by "
                "and makes no build; `leftfold projections rebuild %s` with this code brings it "
                "back",
                newer.name,
                newer.id,
                newer.version,
                newer.name,
            )

    def _run(self, subscriber: Subscriber, build: Build, partition: int) -> None:
        known = self._consumers.get((build.id, partition))
        if self._stopping:
            return
        if known is not None and not known[1].has_ended:
            known[0].build = build
            return
        if known is not None:
            logger.error("%s has ended by itself; it begins again", known[0].place)
        consumer = Consuming(self._parts, subscriber, build, at=(self._owner, partition))
        spawned = self._parts.driver.spawn(consumer.run(), f"leftfold-{build.name}")
        self._consumers[build.id, partition] = consumer, spawned

    async def _complete(self, build: Build) -> None:
        """Swap a build in, or call it ready, once it is as far as the log and what serves."""
        goal = self._goals.get(build.id)
        if goal is None:
            self._goals[build.id] = await self._parts.store.head()
            return
        is_auto = self._swap == "auto"
        if await self._parts.write(
            self._parts.database, lambda tx: _complete(tx, build, goal, is_auto), durable=True
        ):
            del self._goals[build.id]
            logger.info("build %s of %s is complete", build.id, build.name)


def _look(wanted: Build, tx: Transaction) -> tuple[list[Build], Build | None]:
    """The builds of some code, and the one of newer code that it stands by for."""
    found = [each for each in builds(tx, wanted.name) if each.fingerprint == wanted.fingerprint]
    return found, newer_than(tx, wanted.name, wanted.version, wanted.fingerprint)


def _complete(tx: Transaction, build: Build, goal: int, is_auto: bool) -> bool:
    """Whether a build is no longer being built."""
    lock(tx)
    of_name = {each.id: each for each in builds(tx, build.name)}
    if build.id not in of_name or of_name[build.id].state != "building":
        return True
    position = position_of(tx, build)
    if position < goal:
        return False
    serving = next((each for each in of_name.values() if each.state == "serving"), None)
    if not is_auto or (serving is not None and _is_later(serving, build)):
        set_state(tx, build, "ready")
        return True
    # Readers must not see an earlier state than before, of any key.
    shown = progress(tx, serving.id, locked=True) if serving is not None else []
    furthest = max((each.position for each in shown), default=0)
    # What is stopped may be of another log, and the new one never get there.
    if serving is not None and position < furthest and not any(each.failure for each in shown):
        set_hold(tx, serving, furthest, HOLD_S)
        return False
    swap_in(tx, build)
    return True


def _is_later(serving: Build, build: Build) -> bool:
    """Whether what serves is of other code, whose build was begun after this one: slow workers of
    old code would take over from the new.
    """
    return serving.id > build.id and serving.fingerprint != build.fingerprint
