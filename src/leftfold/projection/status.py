"""How projections are: flows that look at every build, and at what waits in quarantine."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import Struct

from leftfold.event import RecordedEvent, now_us
from leftfold.projection import catalog
from leftfold.projection.catalog import Build, Failure, Progress, builds, progress, quarantined
from leftfold.projection.database import Database, Transaction
from leftfold.projection.definition import Projection, SqlProjection, Subscriber
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.replacing import newer_than
from leftfold.query import ALL

Kind = Literal["projection", "sql", "consumer"]


class ProjectionStatus(Struct, frozen=True, kw_only=True):
    """How one build of a projection or consumer is."""

    name: str
    kind: Kind
    mode: str | None
    """None: the App has no such projection any more."""
    build: int | None
    """None where nothing is kept: of live ones, and before the first run."""
    version: int
    state: Literal["building", "ready", "serving", "retired", "live", "new"]
    """`live`: folded when it is read; `new`: never run; the others: see `Build`."""
    is_current: bool
    """Whether it is made by the code of the App; otherwise the code, or the version, changed."""
    stands_by: bool
    """Whether the code of the App makes no build by itself, for this one, which serves, is of newer
    code: of a higher version, or it has replaced that of the App. `rebuild` brings it back.
    """
    partitions: int
    position: int
    """All matching events up to here are applied, or wait in quarantine."""
    head: int
    events_behind: int
    """At most so many are still to come; 0: none is."""
    seconds_behind: float
    """How long ago the first of them was recorded."""
    events: int
    """How many were applied; of several partitions, which all see each event: by the furthest."""
    owners: list[str]
    """Who folds it now."""
    failure: str | None
    """Why it is stopped, if it is."""
    quarantined: int
    """Keys whose events wait."""
    waiting: int
    """The events that wait."""
    updated_us: int
    """When it last moved, in microseconds since 1970; 0: never."""


class QuarantinedKey(Struct, frozen=True, kw_only=True):
    """A key whose events wait, from the one that failed on."""

    name: str
    build: int
    key: str
    """As JSON."""
    failure: Failure
    waiting: int
    """Events that wait, that one included."""
    is_due: bool
    """Whether it is about to be tried again."""


class _Seen(Struct, frozen=True):
    """What a database knows of a build."""

    build: Build
    consumers: list[Progress]
    owners: list[str]
    quarantined: int
    waiting: int
    is_newer: bool
    """Than the code of the App, which stands by."""

    @property
    def position(self) -> int:
        return min(each.position for each in self.consumers)

    @property
    def failure(self) -> str | None:
        stopped = (each.stopped for each in self.consumers)
        return next((each.text() for each in stopped if each), None)


async def databases(parts: ProjectionParts) -> list[Database]:
    """Where there are builds, each once. Nothing is made where there are none."""
    both = {id(each): each for each in (parts.database, parts.log_database) if each is not None}
    return [
        each for each in both.values() if await parts.driver.call(each.read, catalog.is_prepared)
    ]


async def first_between(
    parts: ProjectionParts, subscriber: Subscriber | None, after: int, until: int
) -> RecordedEvent[bytes] | None:
    """The first event for a subscriber after `after`, up to and with `until`; for None: of any."""
    if after >= until:
        return None
    query = parts.codec.resolve(subscriber.events) if subscriber else ALL
    page = await parts.store.read(query, after=after, until=until, limit=1)
    return page[0] if page else None


async def status(parts: ProjectionParts, name: str | None = None) -> list[ProjectionStatus]:
    """How each build is, of all or of one name: those of the App in its order, then what else is
    kept. Raises InvalidInput for a name that nobody has.
    """
    found: list[tuple[Subscriber | None, _Seen]] = []
    for database in await databases(parts):
        seen = await parts.read(database, partial(_look, parts, database, name))
        found += [(_subscriber(parts, database, each.build.name), each) for each in seen]
    head = await parts.store.head()
    statuses = []
    for subscriber in parts.subscribers:
        own = [seen for owner, seen in found if owner is subscriber]
        if name not in (None, subscriber.name):
            continue
        statuses += [await _of_build(parts, subscriber, seen, head) for seen in own]
        if not own:
            statuses.append(await _without_build(parts, subscriber, head))
    others = [seen for owner, seen in found if owner is None]
    statuses += [await _of_build(parts, None, seen, head) for seen in others]
    if name is not None and not statuses:
        parts.subscriber(name)
    return statuses


async def quarantine(parts: ProjectionParts, name: str) -> list[QuarantinedKey]:
    """The keys of a projection whose events wait. Raises InvalidInput for unknown names."""
    subscriber = parts.subscriber(name)
    if subscriber.mode == "live":
        return []

    def look(tx: Transaction) -> list[QuarantinedKey]:
        return [
            QuarantinedKey(
                name=name,
                build=build.id,
                key=each.key,
                failure=msgspec.json.decode(each.failure, type=Failure),
                waiting=each.waiting,
                is_due=bool(each.is_due),
            )
            for build in builds(tx, name)
            for each in quarantined(tx, build.id)
        ]

    return await parts.read(parts.database_of(subscriber), look)


def running(consumers: Iterable[Progress], now_us: int) -> list[str]:
    """Who holds a lease that has not run out."""
    owners = (each.owner for each in consumers if each.owner and each.lease_until_us > now_us)
    return list(dict.fromkeys(owners))


def _look(
    parts: ProjectionParts, database: Database, name: str | None, tx: Transaction
) -> list[_Seen]:
    now = tx.now_us()
    found = []
    for build in builds(tx, name):
        consumers = progress(tx, build.id)
        sql = "SELECT count(*), sum(waiting) FROM leftfold_quarantine WHERE build = ?"
        ((keys, waiting),) = tx.execute(sql, [build.id])
        newer = _newer(parts, _subscriber(parts, database, build.name), tx)
        found.append(
            _Seen(
                build,
                consumers,
                running(consumers, now),
                quarantined=keys,
                waiting=int(waiting or 0),
                is_newer=newer is not None and newer.id == build.id,
            )
        )
    return found


def _newer(parts: ProjectionParts, subscriber: Subscriber | None, tx: Transaction) -> Build | None:
    """The build that runners of a subscriber stand by for."""
    # Inline ones are built at opening, by whatever code it is that appends.
    if subscriber is None or subscriber.mode != "async":
        return None
    fingerprint = subscriber.fingerprint(parts.codec.fingerprint)
    return newer_than(tx, subscriber.name, subscriber.version, fingerprint)


def _subscriber(parts: ProjectionParts, database: Database, name: str) -> Subscriber | None:
    """Whose builds of that name there are in a database."""
    for each in parts.subscribers:
        if each.name == name and each.mode != "live" and parts.database_of(each) is database:
            return each
    return None


async def _behind(
    parts: ProjectionParts, subscriber: Subscriber | None, position: int, head: int
) -> dict[str, Any]:
    first = await first_between(parts, subscriber, position, head)
    age_us = 0 if first is None else max(now_us() - first.recorded_us, 0)
    return {
        "position": position,
        "head": head,
        "events_behind": 0 if first is None else head - first.position + 1,
        "seconds_behind": age_us / 1_000_000,
    }


async def _of_build(
    parts: ProjectionParts, subscriber: Subscriber | None, seen: _Seen, head: int
) -> ProjectionStatus:
    build = seen.build
    code = subscriber.fingerprint(parts.codec.fingerprint) if subscriber else None
    return ProjectionStatus(
        name=build.name,
        # Only consumers have no fingerprint, and only rows of a type have a shape.
        kind="projection" if build.shape else "sql" if build.fingerprint else "consumer",
        mode=subscriber.mode if subscriber else None,
        build=build.id,
        version=build.version,
        state=build.state,
        is_current=build.fingerprint == code,
        stands_by=seen.is_newer,
        partitions=build.partitions,
        events=max(each.events for each in seen.consumers),
        owners=seen.owners,
        failure=seen.failure,
        quarantined=seen.quarantined,
        waiting=seen.waiting,
        updated_us=max(each.updated_us for each in seen.consumers),
        **await _behind(parts, subscriber, seen.position, head),
    )


async def _without_build(
    parts: ProjectionParts, subscriber: Subscriber, head: int
) -> ProjectionStatus:
    is_live = subscriber.mode == "live"
    kinds: dict[type, Kind] = {Projection: "projection", SqlProjection: "sql"}
    return ProjectionStatus(
        name=subscriber.name,
        kind=kinds.get(type(subscriber), "consumer"),
        mode=subscriber.mode,
        build=None,
        version=subscriber.version,
        state="live" if is_live else "new",
        is_current=True,
        stands_by=False,
        partitions=0,
        events=0,
        owners=[],
        failure=None,
        quarantined=0,
        waiting=0,
        updated_us=0,
        **await _behind(parts, subscriber, head if is_live else 0, head),
    )
