"""Opening a store by URL."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from leftfold.app import App
from leftfold.codec import RAW, EventCodec
from leftfold.drive import BlockingDriver, Driver, LoopDriver
from leftfold.errors import InvalidInput, MissingExtra
from leftfold.facade import AsyncEventStore, EventStore
from leftfold.snapshot import SnapshotStore
from leftfold.store import Store
from leftfold.stores.memory import MemoryStore
from leftfold.stores.memory_snapshots import MemorySnapshots
from leftfold.stores.sqlite import SqliteStore
from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.stores.sqlite.snapshots import SNAPSHOTS_SUFFIX, SqliteSnapshots

_FORMS = (
    "sqlite:///relative/path.db, sqlite:////absolute/path.db, postgresql://host/database, memory://"
)


def open(url: str, codec: EventCodec | App = RAW, *, cached_states_max: int = 0) -> EventStore:
    """The store that `url` names, created where needed, for sync code.

    `sqlite:///bank.db` is a file beside the working directory, `sqlite:////var/lib/bank.db` an
    absolute path, `postgresql://host/database` a schema of a PostgreSQL database, `memory://` a new
    empty store in memory. Options follow a question mark. `codec` may be an App, which has one. So
    many states of deciders as `cached_states_max` says are remembered in the process, and a load
    then reads only what is new.
    Raises InvalidInput, IncompatibleStore, StoreUnavailable.
    """
    store, snapshots = _open_stores(url, BlockingDriver())
    return EventStore(store, codec, snapshots=snapshots, cached_states_max=cached_states_max)


async def aopen(
    url: str, codec: EventCodec | App = RAW, *, cached_states_max: int = 0
) -> AsyncEventStore:
    """The store that `url` names, for async code: as `open`, but never blocks the event loop."""
    driver = LoopDriver()
    try:
        store, snapshots = await driver.call(_open_stores, url, driver)
        return AsyncEventStore(
            store, codec, snapshots=snapshots, cached_states_max=cached_states_max
        )
    except BaseException:
        driver.close()
        raise


def _open_stores(url: str, driver: Driver) -> tuple[Store, SnapshotStore]:
    if "://" not in str(url):
        raise InvalidInput(f"a store URL looks like {_FORMS}; found {url!r}")
    scheme = url.partition("://")[0]
    if scheme in ("postgresql", "postgres"):
        return _postgres_stores(url, driver)
    try:
        parts = urlsplit(url, allow_fragments=False)
    except ValueError as error:
        raise InvalidInput(f"the store URL cannot be read: {error}") from None
    if parts.scheme == "memory":
        if url != "memory://":
            raise InvalidInput(f"the memory store takes nothing after memory://, found {url!r}")
        return MemoryStore(driver), MemorySnapshots()
    if parts.scheme == "sqlite":
        path = _sqlite_path(url, parts.netloc, parts.path)
        store = SqliteStore(path, _sqlite_options(parts.query), driver=driver)
        return store, SqliteSnapshots(store.path + SNAPSHOTS_SUFFIX, driver)
    raise InvalidInput(f"unknown scheme {scheme!r} in the store URL; it looks like {_FORMS}")


def _postgres_stores(url: str, driver: Driver) -> tuple[Store, SnapshotStore]:
    try:
        from leftfold.stores.postgres import PostgresStore
        from leftfold.stores.postgres.options import parse_url
    except ImportError as error:
        raise MissingExtra("postgres", "a store on PostgreSQL") from error
    dsn, options = parse_url(url)
    store = PostgresStore(dsn, options, driver=driver)
    return store, store.snapshots


def _sqlite_path(url: str, netloc: str, path: str) -> str:
    if netloc or len(path) < 2:
        raise InvalidInput(
            f"an SQLite URL is sqlite:///relative.db or sqlite:////absolute/path.db, found {url!r}"
        )
    return unquote(path[1:])


def _sqlite_options(query: str) -> SqliteOptions:
    try:
        return msgspec.convert(
            dict(parse_qsl(query, strict_parsing=bool(query))), SqliteOptions, strict=False
        )
    except ValueError as error:
        raise InvalidInput(f"unusable options ?{query} in the store URL: {error}") from None
