"""Opening a store by URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct

from leftfold.app import App
from leftfold.async_facade import AsyncEventStore
from leftfold.codec import RAW, EventCodec
from leftfold.drive import BlockingDriver, Driver, LoopDriver, run_sync
from leftfold.errors import InvalidInput, MissingExtra
from leftfold.facade import EventStore
from leftfold.projection.database import Database
from leftfold.snapshot import SnapshotStore
from leftfold.store import Store
from leftfold.stores.memory import MemoryStore
from leftfold.stores.memory_snapshots import MemorySnapshots
from leftfold.stores.sqlite import SqliteDatabase, SqliteStore
from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.stores.sqlite.snapshots import SNAPSHOTS_SUFFIX, SqliteSnapshots

if TYPE_CHECKING:
    from leftfold.stores.postgres.options import PostgresOptions

VIEWS_SUFFIX = "-views"
_FORMS = (
    "sqlite:///relative/path.db, sqlite:////absolute/path.db, postgresql://host/database, memory://"
)


class _Opened(Struct, frozen=True, eq=False):
    """What a store URL comes to."""

    store: Store
    snapshots: SnapshotStore
    views: Database
    log_database: Database | None


def open(
    url: str,
    codec: EventCodec | App = RAW,
    *,
    views: str | None = None,
    cached_states_max: int = 0,
) -> EventStore:
    """The store that `url` names, created where needed, for sync code.

    `sqlite:///bank.db` is a file beside the working directory, `sqlite:////var/lib/bank.db` an
    absolute path, `postgresql://host/database` a schema of a PostgreSQL database, `memory://` a new
    empty store in memory. Options follow a question mark. `codec` may be an App, which has one.

    `views` names, with a URL as well, where the read models of projections are kept: left out, in
    a file or schema beside the log, named like it with `-views` or `_views` after it. So many
    states of deciders as `cached_states_max` says are remembered in the process, and a load then
    reads only what is new.

    Where the App has an inline projection that is not built yet, or by other code, opening builds
    it, and takes as long as that takes.
    Raises InvalidInput, IncompatibleStore, StoreUnavailable; for inline projections also
    Unsupported, ProjectionFailed, ProjectionRefused.
    """
    es = open_as_it_is(url, codec, views=views, cached_states_max=cached_states_max)
    run_sync(es._keep_inline())
    return es


def open_as_it_is(
    url: str,
    codec: EventCodec | App = RAW,
    *,
    views: str | None = None,
    cached_states_max: int = 0,
) -> EventStore:
    """As `open`, for those who look after projections: inline ones are not built by opening, and
    appends to a log that has some are refused.
    """
    opened = _open_stores(url, BlockingDriver(), views)
    return EventStore(
        opened.store,
        codec,
        snapshots=opened.snapshots,
        databases=(opened.views, opened.log_database),
        cached_states_max=cached_states_max,
    )


async def aopen(
    url: str,
    codec: EventCodec | App = RAW,
    *,
    views: str | None = None,
    cached_states_max: int = 0,
) -> AsyncEventStore:
    """The store that `url` names, for async code: as `open`, but never blocks the event loop."""
    driver = LoopDriver()
    try:
        opened = await driver.call(_open_stores, url, driver, views)
        es = AsyncEventStore(
            opened.store,
            codec,
            snapshots=opened.snapshots,
            databases=(opened.views, opened.log_database),
            cached_states_max=cached_states_max,
        )
        await es._keep_inline()
        return es
    except BaseException:
        driver.close()
        raise


def _open_stores(url: str, driver: Driver, views: str | None) -> _Opened:
    given = None if views is None else _database(views)
    if "://" not in str(url):
        raise InvalidInput(f"a store URL looks like {_FORMS}; found {url!r}")
    scheme = url.partition("://")[0]
    if scheme in ("postgresql", "postgres"):
        return _postgres(url, driver, given)
    try:
        parts = urlsplit(url, allow_fragments=False)
    except ValueError as error:
        raise InvalidInput(f"the store URL cannot be read: {error}") from None
    if parts.scheme == "memory":
        if url != "memory://":
            raise InvalidInput(f"the memory store takes nothing after memory://, found {url!r}")
        return _Opened(MemoryStore(driver), MemorySnapshots(), given or SqliteDatabase(""), None)
    if parts.scheme == "sqlite":
        path = _sqlite_path(url, parts.netloc, parts.path)
        options = _sqlite_options(parts.query)
        store = SqliteStore(path, options, driver=driver)
        return _Opened(
            store,
            SqliteSnapshots(store.path + SNAPSHOTS_SUFFIX, driver),
            given or SqliteDatabase(store.path + VIEWS_SUFFIX),
            SqliteDatabase(store.path, busy_timeout_s=options.busy_timeout_s),
        )
    raise InvalidInput(f"unknown scheme {scheme!r} in the store URL; it looks like {_FORMS}")


def _postgres(url: str, driver: Driver, given: Database | None) -> _Opened:
    try:
        from leftfold.stores.postgres import PostgresStore
        from leftfold.stores.postgres.options import parse_url
    except ImportError as error:
        raise MissingExtra("postgres", "a store on PostgreSQL") from error
    dsn, options = parse_url(url)
    beside = _postgres_database(dsn, options, options.views_schema)
    store = PostgresStore(dsn, options, driver=driver)
    return _Opened(store, store.snapshots, given or beside, beside)


def _postgres_database(dsn: str, options: PostgresOptions, schema: str) -> Database:
    from leftfold.stores.postgres import PostgresDatabase
    from leftfold.stores.postgres.options import connection_string, place

    options = msgspec.structs.replace(options, schema=schema)
    return PostgresDatabase(
        connection_string(dsn, options),
        schema,
        place=place(dsn, options),
        prepare_threshold=options.prepare_threshold,
    )


def _database(url: str) -> Database:
    """Where read models are kept, by a URL as that of a store."""
    if not isinstance(url, str):
        raise InvalidInput(f"views is a URL, such as sqlite:///views.db, found {url!r}")
    if url == "memory://":
        return SqliteDatabase("")
    parts = urlsplit(url, allow_fragments=False)
    if parts.scheme == "sqlite":
        path = _sqlite_path(url, parts.netloc, parts.path)
        return SqliteDatabase(path, busy_timeout_s=_sqlite_options(parts.query).busy_timeout_s)
    if parts.scheme not in ("postgresql", "postgres"):
        raise InvalidInput(f"unknown scheme in the URL of views {url!r}; it looks like {_FORMS}")
    try:
        from leftfold.stores.postgres.options import parse_url
    except ImportError as error:
        raise MissingExtra("postgres", "read models on PostgreSQL") from error
    dsn, options = parse_url(url)
    return _postgres_database(dsn, options, options.schema)


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
