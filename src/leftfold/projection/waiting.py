"""Reading the read models that runners keep, and waiting until they show what was appended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from leftfold.errors import InvalidInput, ProjectionBehind
from leftfold.limits import POSITION_MAX, check_integer
from leftfold.projection.catalog import Build, Failure, builds, progress
from leftfold.projection.database import Rows, Transaction
from leftfold.projection.definition import Consumer, Projection, SqlProjection
from leftfold.projection.finding import Question
from leftfold.projection.folding import partition_of
from leftfold.projection.parts import ProjectionParts

T = TypeVar("T")

Readable = Projection[Any] | SqlProjection
"""What has a read model."""

WAIT_S = 5.0
"""How long a reader waits for an append to show, in seconds, unless told."""
WAIT_S_MAX = 3600.0
PAUSE_S = 0.001
PAUSE_S_MAX = 0.05
"""Pauses between two looks, in seconds: each is twice as long as the one before, up to this."""


class Wish(Struct, frozen=True):
    """That an append shows, within a time."""

    position: int
    timeout_s: float
    key: str = ""
    """The key, as JSON, for which it has to show; empty: for all."""
    is_strict: bool = False
    """Whether events of no key may wait in quarantine, where it has to show for all."""


NO_WISH = Wish(0, 0)


def wish_of(token: object, timeout_s: object, key: str = "") -> Wish:
    """What a caller wishes. Raises InvalidInput for what is no token, or no time to wait."""
    # No comparison holds of a number that is none.
    if not isinstance(timeout_s, int | float) or not 0 <= timeout_s <= WAIT_S_MAX:
        raise InvalidInput(f"timeout_s is from 0 to {WAIT_S_MAX:.0f}, found {timeout_s!r}")
    if token is None:
        return NO_WISH
    is_number = isinstance(token, str) and token.isascii() and token.isdigit()
    # Python makes no int of a text of thousands of digits.
    if not isinstance(token, str) or not is_number or len(token) > len(str(POSITION_MAX)):
        raise InvalidInput(f"a token is the text that a reply carries, found {token!r:.60}")
    position = int(token)
    check_integer("a token", position, 0, POSITION_MAX)
    return Wish(position, timeout_s, key)


def no_question(tx: Transaction, build: Build) -> None:
    """For those who only want to know that it shows."""


class _Lack(Struct, frozen=True):
    """Why a read model gives no answer."""

    reason: str
    position: int
    """How far it is, where that matters."""
    is_final: bool = False
    """Whether it is of no use to wait."""


class _Answer(Generic[T]):
    """What a build says."""

    def __init__(self, rows: T, build: Build) -> None:
        self.rows = rows
        self.build = build


class _Waiting:
    """What is waited for, and for how much longer."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.needed = wish.position
        self.is_exact = not wish.position
        """Whether `needed` is the position of an event that matches, or of the last before."""
        self._deadline = time.monotonic() + wish.timeout_s
        self._pause_s = PAUSE_S

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def next_pause_s(self) -> float:
        """How long to pause now."""
        pause_s = min(self._pause_s, max(0.0, self._deadline - time.monotonic()))
        self._pause_s = min(PAUSE_S_MAX, self._pause_s * 2)
        return pause_s

    def behind(self, name: str, lack: _Lack) -> ProjectionBehind:
        """What to raise when the time is over."""
        reason = lack.reason
        if not self.is_exact:
            reason += f"; the log has not reached position {self.wish.position} yet"
        return ProjectionBehind(name, lack.position, reason)


class Stored:
    """The read model of a projection as runners keep it."""

    def __init__(self, parts: ProjectionParts, projection: Readable) -> None:
        self._parts = parts
        self._name = projection.name
        self._database = parts.database_of(projection)
        self.dialect = self._database.dialect
        self._query = parts.codec.resolve(projection.events)
        # What tables of one's own look like, only one's own SQL knows.
        self._shape = projection.columns.shape if isinstance(projection, Projection) else ""

    async def read(self, question: Question[T], wish: Wish = NO_WISH) -> T:
        """The answer of a build in which what is wished shows. Raises ProjectionBehind."""
        waiting = _Waiting(wish)

        def look(tx: Transaction) -> _Answer[T] | _Lack:
            return self._look(tx, question, waiting)

        while True:
            seen = await self._parts.read(self._database, look)
            if isinstance(seen, _Answer):
                await self._check_is_of_this_log(seen.build)
                return seen.rows
            if not waiting.is_exact and await self._make_exact(waiting, seen.position):
                continue
            if seen.is_final or waiting.is_over:
                raise waiting.behind(self._name, seen)
            await self._parts.driver.promise().wait(waiting.next_pause_s())

    async def query(self, sql: str, values: Sequence[Any], *, limit: int) -> tuple[list[str], Rows]:
        """The columns and the rows of a SELECT. Raises ProjectionBehind where nothing is there."""
        await self.read(no_question)
        return await self._parts.driver.call(lambda: self._database.query(sql, values, limit=limit))

    async def _check_is_of_this_log(self, build: Build) -> None:
        # In this order: what is folded was in the log before.
        if not build.log or build.log == await self._parts.log_id():
            return
        reason = (
            f"the read models in {self._database.place} are of another log; keep those of this one "
            "elsewhere (`views`), or rebuild it here"
        )
        raise ProjectionBehind(self._name, 0, reason)

    async def _make_exact(self, waiting: _Waiting, position: int) -> bool:
        """Find out which event has to be applied. Checkpoints move over others, but not at once."""
        wish, store = waiting.wish, self._parts.store
        # Only below its head has a log told everything.
        if await store.head() < wish.position:
            return False
        last = await store.read(
            self._query, after=position, until=wish.position, limit=1, backwards=True
        )
        waiting.needed = last[0].position if last else position
        waiting.is_exact = True
        return True

    def _look(
        self, tx: Transaction, question: Question[T], waiting: _Waiting
    ) -> _Answer[T] | _Lack:
        build = self._build(tx)
        if isinstance(build, _Lack):
            return build
        lack = _lack(tx, build, waiting) if waiting.wish.position else None
        return lack or _Answer(question(tx, build), build)

    def _build(self, tx: Transaction) -> Build | _Lack:
        """The build to read: what serves, or where its rows are others, the newest of ours."""
        found = builds(tx, self._name)
        mine = [each for each in found if each.shape == self._shape]
        complete = [each for each in mine if each.state != "building"]
        serving = [each for each in complete if each.state == "serving"]
        if complete:
            return (serving or complete)[-1]
        if mine:
            position = min(each.position for each in progress(tx, mine[-1].id))
            return _Lack(f"its build {mine[-1].id} is not complete yet", position)
        rows = " since its rows have changed" if found else ""
        return _Lack(f"nobody has run it yet{rows}; use `leftfold run` or es.running()", 0)


def _lack(tx: Transaction, build: Build, waiting: _Waiting) -> _Lack | None:
    """Why a build does not show what is waited for; None: it does."""
    wish, needed = waiting.wish, waiting.needed
    every = progress(tx, build.id)
    asked = [every[partition_of(wish.key, build.partitions)]] if wish.key else every
    position = min(each.position for each in asked)
    for each in every:
        stopped = each.stopped
        if stopped is None:
            continue
        # What is of no event is of the log: positions of another one say nothing.
        if not stopped.version or (each in asked and each.position < needed):
            return _Lack(f"it is stopped by {stopped.text()}", position, is_final=True)
    if position < needed:
        return _Lack(f"it does not show position {wish.position} yet", position)
    if failure := _quarantined(tx, build, wish):
        which = "the key" if wish.key else "a key"
        return _Lack(f"{which} is in quarantine by {failure.text()}", position, is_final=True)
    return None


def _quarantined(tx: Transaction, build: Build, wish: Wish) -> Failure | None:
    """Why the key in question waits, or the first of all, if it has done so since before the
    append.
    """
    which, values = ("", []) if wish.is_strict else (" AND key = ?", [wish.key])
    rows = tx.execute(
        f"""SELECT failure FROM leftfold_quarantine WHERE build = ? AND position <= ?{which}
 ORDER BY position LIMIT 1""",
        [build.id, wish.position, *values],
    )
    return msgspec.json.decode(rows[0][0], type=Failure) if rows else None


def check_is_readable(found: object) -> Readable:
    """The projection itself. Raises InvalidInput for what has no read model."""
    if isinstance(found, Consumer):
        raise InvalidInput(f"{found.name!r} is a consumer, which has no rows to read")
    if not isinstance(found, Projection | SqlProjection):
        raise InvalidInput(f"a view is of a projection, the object itself, found {found!r}")
    return found


def to_wait_for(parts: ProjectionParts, names: Sequence[str] | None) -> list[Readable]:
    """The projections of these names, None: all async ones of the App, without those that are
    folded when they are read. Raises InvalidInput for names that are none of theirs.
    """
    if isinstance(names, str):
        raise InvalidInput(f"names is a list, found {names!r}; put it in brackets")
    if names is None:
        found = [each for each in parts.subscribers if not isinstance(each, Consumer)]
        return [each for each in found if each.mode == "async"]
    named = [check_is_readable(parts.subscriber(name)) for name in names]
    return [each for each in named if each.mode != "live"]


async def wait_for(
    parts: ProjectionParts, projections: Sequence[Readable], position: int, timeout_s: float
) -> None:
    """Return when the append at `position` shows in all, for all keys. Raises ProjectionBehind for
    the first in which it does not within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    for each in projections:
        wish = Wish(position, max(0.0, deadline - time.monotonic()), is_strict=True)
        await Stored(parts, each).read(no_question, wish)
