"""Flows of those who look after projections: how they are, built again, compared, swapped, rolled
back, tried again, dropped. Each change is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import date, datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from leftfold.errors import InvalidInput, ProjectionRefused
from leftfold.limits import POSITION_MAX, check_integer
from leftfold.projection import mending, registering, status
from leftfold.projection.aligning import Aligning
from leftfold.projection.arguments import check_is_reason, check_is_time, checked_name
from leftfold.projection.catalog import Build, State, builds, lock, progress, signal
from leftfold.projection.comparing import Comparison, compare_builds
from leftfold.projection.database import Database, Transaction
from leftfold.projection.definition import Consumer, Projection, SqlProjection, Subscriber
from leftfold.projection.folding import key_text
from leftfold.projection.keeping import InlineLog
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.replacing import forget, remember
from leftfold.projection.status import ProjectionStatus, QuarantinedKey, first_between
from leftfold.projection.swapping import (
    drop_build,
    make_build,
    naming,
    position_of,
    swap_in,
    unmade,
)

T = TypeVar("T")

PARTITIONS_MAX = 64
COMPARE_S = 10.0
"""How long builds are brought to one position before they are compared, in seconds, unless told."""
COMPARE_S_MAX = 3600.0
SWAP_S = 10.0
"""How long a build may take to be as far as the one that it replaces, in seconds."""

_UNFINISHED: tuple[State, ...] = ("building", "ready")
_WRITTEN_AS_TEXT = {"datetime": datetime, "date": date, "uuid": UUID}
"""Columns of a key whose values are texts in JSON."""


class Managing:
    """What can be asked and done about the projections and consumers of an App, and about what is
    kept of those that it no longer has.
    """

    def __init__(self, parts: ProjectionParts) -> None:
        self._parts = parts

    async def status(self, name: str | None = None) -> list[ProjectionStatus]:
        """How each build is, of all projections and consumers or of one. Raises InvalidInput for
        unknown names.
        """
        return await status.status(self._parts, None if name is None else checked_name(name))

    async def quarantine(self, name: str) -> list[QuarantinedKey]:
        """The keys whose events wait, and why. Raises InvalidInput for unknown names."""
        return await status.quarantine(self._parts, checked_name(name))

    async def rebuild(self, name: str, *, partitions: int = 1, events_per_s_max: int = 0) -> Build:
        """Begin a build beside the one that serves, for runners to fold.

        Each of its `partitions` has an owner, so as many workers can share it; `events_per_s_max`
        throttles each, 0 does not. An inline projection is built, and swapped in, before this
        returns. Raises InvalidInput for what has no rows of its own or no keys to be divided by,
        ProjectionRefused while there is one already, ProjectionFailed for inline ones.
        """
        check_integer("partitions", partitions, 1, PARTITIONS_MAX)
        check_integer("events_per_s_max", events_per_s_max, 0, POSITION_MAX)
        subscriber = self._projection(name)
        if partitions > 1 and not isinstance(subscriber, Projection):
            raise InvalidInput(f"{name!r} has no keys to be divided by; use partitions=1")
        if subscriber.mode == "inline":
            if (partitions, events_per_s_max) != (1, 0):
                raise InvalidInput(f"{name!r} is inline: it is rebuilt at once, as one")
            return await registering.rebuild(self._parts, subscriber)
        build = unmade(subscriber, self._parts.codec.fingerprint)
        build = replace(build, partitions=partitions, rate_max=events_per_s_max)

        def make(tx: Transaction) -> Build:
            lock(tx)
            for each in builds(tx, name):
                if each.state in _UNFINISHED and each.fingerprint == build.fingerprint:
                    raise ProjectionRefused(
                        f"{_how_far(tx, each)}; let a runner finish it and swap it in, or drop it "
                        f"with build={each.id}"
                    )
                signal(tx, each.id)
            # This is how code comes back that was replaced.
            forget(tx, name, build.fingerprint)
            return make_build(tx, subscriber, build)

        with naming(subscriber):
            return await self._write(self._parts.database_of(subscriber), make)

    async def compare(self, name: str, *, timeout_s: float = COMPARE_S) -> Comparison:
        """What differs between the build that serves and the one to be swapped in, or else the one
        that a rollback would bring back.

        Both are held at one position meanwhile, if their owners get there within `timeout_s`
        seconds; `is_aligned` says so. Raises InvalidInput, and ProjectionRefused where there is
        only one build.
        """
        check_is_time("timeout_s", timeout_s, COMPARE_S_MAX)
        subscriber = self._projection(name)
        database = self._parts.database_of(subscriber)
        pair = await self._pair(subscriber, (*_UNFINISHED, "retired"))

        def read(work: Callable[[Transaction], T]) -> Coroutine[Any, Any, T]:
            return self._parts.read(database, work)

        aligning = Aligning(self._parts, subscriber, pair, timeout_s=timeout_s)
        found = await aligning.run(read, lambda tx: compare_builds(tx, *pair, is_aligned=True))
        if found is not None:
            return found
        return await self._parts.read(
            database, lambda tx: compare_builds(tx, *pair, is_aligned=False)
        )

    async def swap(self, name: str) -> Build:
        """Let the build that is complete serve, in place of the one that does, which is kept for a
        rollback. Readers see no moment without rows, nor older ones.

        Raises InvalidInput, and ProjectionRefused where no build is complete.
        """
        subscriber = self._swappable(name)
        database = self._parts.database_of(subscriber)
        serving, build = await self._pair(subscriber, _UNFINISHED)
        reason = await self._parts.read(database, lambda tx: _how_far(tx, build))
        if build.state == "building" and await self._lacks_events(subscriber, build):
            raise ProjectionRefused(f"{reason}: it is not complete")

        def swap(tx: Transaction) -> Build:
            swap_in(tx, build)
            return _of_id(tx, build)

        def write(work: Callable[[Transaction], T]) -> Coroutine[Any, Any, T]:
            return self._write(database, work)

        aligning = Aligning(
            self._parts, subscriber, (serving, build), timeout_s=SWAP_S, may_lead=True
        )
        swapped = await aligning.run(write, swap)
        if swapped is None:
            raise ProjectionRefused(
                f"{reason}: it lags behind build {serving.id}, which serves, and did not get as "
                f"far within {SWAP_S:.0f} s; is a runner at work?"
            )
        return swapped

    async def rollback(self, name: str) -> Build:
        """Let the build serve again that did before the last swap. While somebody folds it, readers
        see no older rows than before; otherwise it serves however far it is.

        Raises InvalidInput, and ProjectionRefused where there is none.
        """
        subscriber = self._swappable(name)
        database = self._parts.database_of(subscriber)
        pair = await self._pair(subscriber, ("retired",))

        def back(tx: Transaction) -> Build:
            lock(tx)
            _, build = _pair(tx, name, ("retired",), "")
            swap_in(tx, build)
            return _of_id(tx, build)

        def write(work: Callable[[Transaction], T]) -> Coroutine[Any, Any, T]:
            return self._write(database, work)

        aligning = Aligning(self._parts, subscriber, pair, timeout_s=SWAP_S, may_lead=True)
        done = await aligning.run(write, back)
        return done if done is not None else await write(back)

    async def retry(self, name: str, *, key: Any = None) -> int:
        """Let what is stopped or in quarantine be tried again, or one key only: a value, or a
        tuple. Returns how many go on. Raises InvalidInput, and ProjectionRefused where none is.
        """
        text = _key(self._parts.subscriber(name), key)
        return await self._write(self._kept(name), lambda tx: mending.retry(tx, name, key=text))

    async def skip(self, name: str, position: int, *, reason: str, key: Any = None) -> int:
        """Pass over the event at `position` for the keys that it failed for, or for one of them,
        now and whenever this version is built again. The reason is recorded.

        Returns how many go on. Raises InvalidInput, and ProjectionRefused where no event failed
        there.
        """
        check_integer("position", position, 1, POSITION_MAX)
        check_is_reason(reason)
        text = _key(self._parts.subscriber(name), key)
        return await self._write(
            self._kept(name),
            lambda tx: mending.skip(tx, name, position, key=text, reason=reason),
        )

    async def drop(self, name: str, *, build: int | None = None) -> list[Build]:
        """Delete one build that does not serve; or all there is of a name, checkpoints included,
        also where the App no longer has it. Returns what was dropped.

        Raises InvalidInput for unknown ones, and ProjectionRefused for the build that serves.
        """
        checked_name(name)
        dropped: list[Build] = []
        for database in await status.databases(self._parts):
            log = self._parts.inline_log if database is self._parts.log_database else None
            dropped += await self._write(database, partial(_drop, log, name, build))
        if dropped:
            return dropped
        if build is None:
            raise InvalidInput(f"nothing is kept of {name!r}")
        raise InvalidInput(f"{name!r} has no build {build!r}; `status` shows those that it has")

    def _projection(self, name: str) -> Projection[Any] | SqlProjection:
        """What has builds. Raises InvalidInput."""
        found = self._parts.subscriber(name)
        if isinstance(found, Consumer):
            raise InvalidInput(f"{name!r} is a consumer, which has no rows that could be built")
        if found.mode == "live":
            raise InvalidInput(f"{name!r} is live: it is folded when it is read, and never built")
        return found

    def _swappable(self, name: str) -> Projection[Any] | SqlProjection:
        """What has builds that are swapped by themselves. Raises InvalidInput."""
        found = self._projection(name)
        if found.mode == "inline":
            # Every append is to keep the one that serves, and the log demands it of all.
            raise InvalidInput(
                f"{name!r} is inline: `rebuild` builds it and swaps it in, at once; no other build "
                "is kept up to date"
            )
        return found

    def _kept(self, name: str) -> Database:
        return self._parts.database_of(self._parts.subscriber(name))

    async def _write(self, database: Database, work: Callable[[Transaction], T]) -> T:
        return await self._parts.write(database, work, durable=True)

    async def _pair(self, subscriber: Subscriber, states: tuple[State, ...]) -> tuple[Build, Build]:
        code = subscriber.fingerprint(self._parts.codec.fingerprint)
        return await self._parts.read(
            self._parts.database_of(subscriber),
            lambda tx: _pair(tx, subscriber.name, states, code),
        )

    async def _lacks_events(self, subscriber: Subscriber, build: Build) -> bool:
        database, head = self._parts.database_of(subscriber), await self._parts.store.head()
        position = await self._parts.read(database, lambda tx: position_of(tx, build))
        # What other code selects is not known here.
        is_own = build.fingerprint == subscriber.fingerprint(self._parts.codec.fingerprint)
        whose = subscriber if is_own else None
        return await first_between(self._parts, whose, position, head) is not None


def _pair(
    tx: Transaction, name: str, states: tuple[State, ...], fingerprint: str
) -> tuple[Build, Build]:
    """The build that serves, and the newest of the first of these states that there is; one of the
    fingerprint before others.
    """
    found = builds(tx, name)
    serving = [each for each in found if each.state == "serving"]
    others = [each for each in found if each.state in states]
    if not serving or not others:
        known = ", ".join(f"{each.id} ({each.state})" for each in found) or "none"
        raise ProjectionRefused(
            f"{name!r} has no build that is {' or '.join(states)} beside one that serves; its "
            f"builds: {known}"
        )

    def rank(each: Build) -> tuple[bool, bool, int]:
        return each.state != "retired", each.fingerprint == fingerprint, each.id

    return serving[0], max(others, key=rank)


def _how_far(tx: Transaction, build: Build) -> str:
    stopped = [each.stopped.text() for each in progress(tx, build.id) if each.stopped]
    why = f", stopped by {stopped[0]}" if stopped else ""
    return (
        f"build {build.id} of {build.name!r} is {build.state}, at position "
        f"{position_of(tx, build)}{why}"
    )


def _of_id(tx: Transaction, build: Build) -> Build:
    (found,) = (each for each in builds(tx, build.name) if each.id == build.id)
    return found


def _drop(log: InlineLog | None, name: str, id: int | None, tx: Transaction) -> list[Build]:
    if log is not None and id is None:
        registering.lift(log, tx, name)
    lock(tx)
    dropped = [each for each in builds(tx, name) if id in (None, each.id)]
    for each in dropped:
        if id is not None and each.state == "serving":
            raise ProjectionRefused(
                f"build {id} of {name!r} serves; swap another one in first, or drop all of {name!r}"
            )
        if each.state == "retired":
            remember(tx, each)
        drop_build(tx, each)
    if id is None:
        tx.execute("DELETE FROM leftfold_skips WHERE name = ?", [name])
        forget(tx, name)
    return dropped


def _key(subscriber: Subscriber, key: Any) -> str | None:
    """A key as JSON, in the form that it has where it failed; None for all."""
    if key is None:
        return None
    values = key if isinstance(key, tuple) else (key,)
    try:
        if isinstance(subscriber, Projection):
            kinds = [each.kind for each in subscriber.columns.key]
            if len(kinds) == len(values):
                # The shell has no times and UUIDs, only texts.
                values = tuple(map(_from_text, kinds, values))
            values = subscriber.columns.key_of(values)
        return key_text(values)
    except (TypeError, ValueError, msgspec.ValidationError) as error:
        raise InvalidInput(f"a key is a value or a tuple of values: {error}") from None


def _from_text(kind: str, value: Any) -> Any:
    wanted = _WRITTEN_AS_TEXT.get(kind)
    return value if wanted is None else msgspec.convert(value, wanted)
