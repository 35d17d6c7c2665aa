"""What commands do with a PostgreSQL database itself, past the store. It needs psycopg."""

from __future__ import annotations

import psycopg

from leftfold.stores.postgres.connection import translate
from leftfold.stores.postgres.options import connection_string, parse_url, place
from leftfold.stores.postgres.schema import check_identity


def has_log(url: str) -> tuple[str, bool]:
    """Where the log that `url` names would be, for messages, and whether it is there. Makes
    nothing.

    Raises InvalidInput, IncompatibleStore, StoreUnavailable.
    """
    dsn, options = parse_url(url)
    where = place(dsn, options)
    try:
        with psycopg.connect(connection_string(dsn, options), autocommit=True) as connection:
            return where, check_identity(connection, options.schema, where) > 0
    except psycopg.Error as error:
        raise translate(error, where) from error
