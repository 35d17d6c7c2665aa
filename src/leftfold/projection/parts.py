"""What the flows of projections work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TypeVar

from leftfold.codec import EventCodec
from leftfold.drive import Driver
from leftfold.errors import InvalidInput, Unsupported
from leftfold.projection.catalog import prepare
from leftfold.projection.database import Database, Transaction
from leftfold.projection.definition import Subscriber
from leftfold.projection.keeping import InlineLog
from leftfold.query import ALL
from leftfold.store import Store

T = TypeVar("T")


class ProjectionParts:
    """The log, the codec, what there is to project, and where its read models are kept.

    `log_database` is where the log itself is, for inline projections: None where a store has none.
    """

    def __init__(
        self,
        store: Store,
        codec: EventCodec,
        subscribers: Sequence[Subscriber],
        *,
        databases: tuple[Database, Database | None],
        make_driver: Callable[[], Driver],
    ) -> None:
        self.store = store
        self.codec = codec
        self.subscribers = subscribers
        self.database, self.log_database = databases
        # Not of the protocol: a store can do without.
        self.inline_log: InlineLog | None = getattr(store, "inline_log", None)
        self._make_driver = make_driver
        self._driver: Driver | None = None
        self._prepared: list[Database] = []
        self._log_id = ""

    @property
    def driver(self) -> Driver:
        """How its flows wait: made when it is first needed."""
        if self._driver is None:
            self._driver = self._make_driver()
        return self._driver

    def subscriber(self, name: str) -> Subscriber:
        """The one of a name. Raises InvalidInput, which names those there are."""
        for each in self.subscribers:
            if each.name == name:
                return each
        known = ", ".join(repr(each.name) for each in self.subscribers) or "none"
        raise InvalidInput(f"the App has no projection or consumer {name!r}, it has {known}")

    def database_of(self, subscriber: Subscriber) -> Database:
        """Where its read model is kept. Raises Unsupported for inline ones where the store has no
        transactions to be in.
        """
        if subscriber.mode != "inline":
            return self.database
        if self.log_database is None:
            raise Unsupported(
                f"projection {subscriber.name!r} is inline, which this store cannot do: it has no "
                "transaction to share; use mode='async' or 'live'"
            )
        return self.log_database

    def beside(self) -> ProjectionParts:
        """The same, with a driver of its own: nobody waits for what keeps that one busy."""
        parts = copy(self)
        parts._driver = None
        return parts

    def look_again(self) -> None:
        """See anew whether the catalogs are there, and which log: either may have been lost."""
        self._prepared.clear()
        self._log_id = ""

    async def log_id(self) -> str:
        """What tells this log from all others: the id of its first event. Empty: it has none."""
        if not self._log_id:
            first = await self.store.read(ALL, limit=1)
            self._log_id = first[0].id_bytes.hex() if first else ""
        return self._log_id

    async def read(self, database: Database, work: Callable[[Transaction], T]) -> T:
        """What `work` returns for a transaction that cannot write."""
        return await self.driver.call(self._prepare_and, database, database.read, work)

    async def write(
        self, database: Database, work: Callable[[Transaction], T], *, durable: bool = False
    ) -> T:
        """What `work` returns for a transaction that writes."""

        def write(work: Callable[[Transaction], T]) -> T:
            return database.write(work, durable=durable)

        return await self.driver.call(self._prepare_and, database, write, work)

    def _prepare_and(
        self,
        database: Database,
        call: Callable[[Callable[[Transaction], T]], T],
        work: Callable[[Transaction], T],
    ) -> T:
        if not any(each is database for each in self._prepared):
            prepare(database)
            self._prepared.append(database)
        return call(work)

    async def close(self) -> None:
        """Free everything but the store."""
        if self._driver is not None:
            await self._driver.call(self._close)
            self._driver.close()
        else:
            self._close()

    def _close(self) -> None:
        for each in {
            id(each): each for each in (self.database, self.log_database) if each
        }.values():
            each.close()
