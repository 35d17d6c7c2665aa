"""The tables and functions of the PostgreSQL store, as numbered migrations, and the check that a
schema is one of ours.

Each file of `sql/` is one migration and makes one object. Released ones never change.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from leftfold.errors import IncompatibleStore, StoreUnavailable

MIGRATIONS = sorted(
    (each.name, each.read_text())
    for each in files("leftfold.stores.postgres").joinpath("sql").iterdir()
    if each.name.endswith(".sql")
)
"""Name and text. Number n, counted from 1, brings a schema from version n - 1 to n."""

MIGRATION_WAIT_S = 60
"""How long to wait for another process that brings the schema up to date."""

_INSPECT = """SELECT pg_is_in_recovery(), current_setting('server_encoding'),
 to_regclass(%(schema)s || '.leftfold_migrations') IS NOT NULL,
 (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(%(schema)s))"""


def migrate(connection: psycopg.Connection[Any], schema: str, place: str) -> None:
    """Bring the schema to the newest version in one transaction. Raises IncompatibleStore and
    changes nothing, or psycopg.Error.
    """
    if check_identity(connection, schema, place) == len(MIGRATIONS):
        return
    name = sql.Identifier(schema)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{MIGRATION_WAIT_S}s'")
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('leftfold ' || %s, 0))"
        connection.execute(lock, [schema])
        if connection.execute("SELECT to_regnamespace(%s)", [schema]).fetchone() == (None,):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        connection.execute(sql.SQL("SET LOCAL search_path TO {}, pg_temp").format(name))
        # Looked at again: another process may have migrated while this one waited for the lock.
        version = check_identity(connection, schema, place)
        for number, (file, text) in enumerate(MIGRATIONS[version:], version + 1):
            connection.execute(text.encode())
            note = "INSERT INTO leftfold_migrations (number, name) VALUES (%s, %s)"
            connection.execute(note, [number, file])


def check_identity(connection: psycopg.Connection[Any], schema: str, place: str) -> int:
    """The version of the schema, 0 where it is empty or not there. Raises IncompatibleStore for
    what is not ours, or newer, and StoreUnavailable for a server that cannot be written to.
    """
    (found,) = connection.execute(_INSPECT, {"schema": schema}).fetchall()
    is_standby, encoding, is_ours, objects = found
    if is_standby:
        raise StoreUnavailable(f"{place}: the server is a standby; connect to the primary")
    if encoding != "UTF8":
        raise IncompatibleStore(f"{place}: the database is encoded in {encoding}, expected UTF8")
    if not is_ours:
        if objects:
            raise IncompatibleStore(
                f"{place} has tables of another program; choose another with ?schema=NAME"
            )
        return 0
    newest = sql.SQL("SELECT max(number) FROM {}").format(
        sql.Identifier(schema, "leftfold_migrations")
    )
    ((version,),) = connection.execute(newest).fetchall()
    if version > len(MIGRATIONS):
        raise IncompatibleStore(
            f"{place} has version {version}, this release of leftfold knows up to "
            f"{len(MIGRATIONS)}; upgrade leftfold"
        )
    return int(version or 0)
