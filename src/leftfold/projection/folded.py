"""Reading what is folded on demand: live projections, and any projection as of an earlier time."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from msgspec import Struct

from leftfold.errors import InvalidInput, ProjectionBehind, ProjectionFailed
from leftfold.event import RecordedEvent
from leftfold.limits import POSITION_MAX, check_integer, check_moment
from leftfold.projection.applying import Batch, Work, work_of
from leftfold.projection.catalog import (
    Build,
    Failure,
    Progress,
    builds,
    prepare,
    progress,
    skips,
)
from leftfold.projection.database import Rows, Transaction
from leftfold.projection.finding import Question
from leftfold.projection.folding import Control
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.swapping import make_build, naming, unmade
from leftfold.projection.waiting import NO_WISH, WAIT_S, Readable, Wish, no_question
from leftfold.query import ALL
from leftfold.reading import PAGE_EVENTS, Decoding
from leftfold.stores.mutex import Mutex
from leftfold.stores.sqlite.database import SqliteDatabase

T = TypeVar("T")

Moment = int | datetime
"""A position of the log, or a moment of recording with a time zone."""


_Page = tuple[list[RecordedEvent[bytes]], int]
"""Events, and the position up to which they are all."""


class _Made(Struct, frozen=True, eq=False):
    """The tables, and what folds into them."""

    build: Build
    work: Work


class Folded:
    """A read model in a temporary database of its own, up to the head of the log, or up to `at`.

    It is brought up to that each time it is read, by what is new.
    """

    def __init__(self, parts: ProjectionParts, projection: Readable, at: Moment | None) -> None:
        if isinstance(at, datetime):
            check_moment("at", at)
        elif at is not None:
            check_integer("at (a position, or a datetime)", at, 0, POSITION_MAX)
        self._parts = parts
        self._projection = projection
        self._at = at
        self._decoding = Decoding(parts.codec, projection.events)
        self._control = Control()
        self._made: _Made | None = None
        self._mutex = Mutex()
        self._database = SqliteDatabase("")
        self.dialect = self._database.dialect
        # Nobody closes a view: the file goes with it.
        weakref.finalize(self, self._database.close)

    async def read(self, question: Question[T], wish: Wish = NO_WISH) -> T:
        """The answer, with everything up to the head or to `at`. Raises ProjectionFailed,
        UndecodableEvent, and ProjectionBehind where the log itself is not there yet.
        """
        made = await self._prepared()
        until = await self._until(wish)
        while await self._fold_page(made, until):
            pass
        call = self._parts.driver.call
        return await call(self._database.read, lambda tx: question(tx, made.build))

    async def query(self, sql: str, values: Sequence[Any], *, limit: int) -> tuple[list[str], Rows]:
        """The columns and the rows of a SELECT. Raises what `read` raises."""
        await self.read(no_question)
        return await self._parts.driver.call(lambda: self._database.query(sql, values, limit=limit))

    async def _until(self, wish: Wish) -> int:
        """The position to fold up to. Raises InvalidInput where what is wished is after `at`."""
        at, store = self._at, self._parts.store
        if isinstance(at, int):
            await self._head(at, wish.timeout_s if wish.position else WAIT_S)
        else:
            head = await self._head(wish.position, wish.timeout_s)
        if isinstance(at, datetime):
            last = await store.read(ALL, until=at, limit=1, backwards=True)
            at = last[0].position if last else 0
        if at is None:
            return head
        if at < wish.position:
            raise InvalidInput(
                f"the view is as of position {at}, which cannot show the append at position "
                f"{wish.position}"
            )
        return at

    async def _head(self, least: int, timeout_s: float) -> int:
        """The head of the log, once it is at `least`."""
        store = self._parts.store
        deadline = time.monotonic() + timeout_s
        while (head := await store.head()) < least:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                reason = f"the log has not reached position {least} yet"
                raise ProjectionBehind(self._projection.name, head, reason)
            await store.wait(head, left_s)
        return head

    async def _prepared(self) -> _Made:
        if self._made is None:
            projection = self._projection
            build = unmade(projection, self._parts.codec.fingerprint)
            if projection.mode != "live":
                # What its runners pass over is no part of it at any time.
                kept = self._parts.database_of(projection)
                skipped = await self._parts.read(kept, lambda tx: skips(tx, build))
                self._control = Control(skips=frozenset(skipped))
            return await self._parts.driver.call(self._mutex.call, self._make, build)
        return self._made

    def _make(self, build: Build) -> _Made:
        def make(tx: Transaction) -> Build:
            # Another caller may have been first, or was interrupted.
            return (builds(tx) or [make_build(tx, self._projection, build)])[0]

        if self._made is None:
            prepare(self._database)
            with naming(self._projection):
                made = self._database.write(make)
            self._made = _Made(made, work_of(self._projection, made, self._database))
        return self._made

    async def _fold_page(self, made: _Made, until: int) -> bool:
        """Fold the next events; False: all up to `until` are folded."""
        call, query = self._parts.driver.call, self._decoding.query
        held = await call(self._held, made)
        if held.position >= until:
            return False
        page = await self._parts.store.read(
            query, after=held.position, until=until, limit=PAGE_EVENTS
        )
        end = page[-1].position if len(page) == PAGE_EVENTS else until
        meant = [each for each in page if self._control.is_meant(each.position, "")]
        failure = await call(self._mutex.call, self._apply, made, held, (meant, end))
        if failure is not None:
            facts = (failure.position, failure.stream, failure.version, failure.type)
            raise ProjectionFailed(self._projection.name, facts, failure.error, key=failure.key)
        return True

    def _held(self, made: _Made) -> Progress:
        return self._database.read(lambda tx: progress(tx, made.build.id))[0]

    def _apply(self, made: _Made, held: Progress, page: _Page) -> Failure | None:
        if self._held(made).position != held.position:
            return None  # another caller has just folded these
        events, until = page
        batch = Batch(self._decoding.page(events), until)
        return made.work.apply(held, batch, self._control).failure
