"""What can be set in the URL of a PostgreSQL store."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
import psycopg
from msgspec import Meta, Struct
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from leftfold.errors import InvalidInput

_KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""A server that is gone without a word is noticed after 25 seconds, not after hours. The last one
is for what was sent and not acknowledged, in milliseconds.
"""


class PostgresOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be set in the query part of a store URL, beside the options of libpq:
    `postgresql://localhost/app?schema=bank&sslmode=require`.
    """

    schema: str = "leftfold"
    """Where the log is. A database may have several logs, each in a schema of its own."""
    connect_timeout_s: Annotated[int, Meta(ge=2, le=3600)] = 10
    """How long to wait for a server that does not answer, for each of its addresses."""
    lock_timeout_s: Annotated[float, Meta(ge=0.001, le=3600)] = 10.0
    """How long an append waits for another transaction that writes to the same streams or tags."""
    reconnect_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """How long calls wait for a server that was lost, such as one that is restarted."""
    prepared_statements: bool = True
    """False behind a pooler that gives each transaction another session, such as pgbouncer."""
    readers_max: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Connections that read at the same time. One more writes."""
    reader_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    """How long to wait for one of them."""

    @property
    def schema_sql(self) -> str:
        """The schema as SQL names it: it may be a word of SQL."""
        return f'"{self.schema}"'

    @property
    def views_schema(self) -> str:
        """Where the read models are that are kept beside the log."""
        return f"{self.schema}_views"

    @property
    def prepare_threshold(self) -> int | None:
        """After so many runs psycopg prepares a statement; None: never."""
        return 2 if self.prepared_statements else None

    def __post_init__(self) -> None:
        # As in names that need no quotes: nobody has to quote them by hand either.
        if not re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", self.schema):
            raise ValueError(
                "a schema is named with a-z, 0-9 and _, not beginning with a digit or pg_, "
                f"found {self.schema!r}"
            )


def parse_url(url: str) -> tuple[str, PostgresOptions]:
    """What libpq is to know, and our options. Raises InvalidInput."""
    base, _, query = url.partition("?")
    ours = {field.name for field in msgspec.structs.fields(PostgresOptions)}
    mine: dict[str, str] = {}
    # What is not ours stays as it is, for libpq has its own rules.
    rest: list[str] = []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name in ours:
            mine[name] = unquote(value)
        else:
            rest.append(pair)
    try:
        options = msgspec.convert(mine, PostgresOptions, strict=False)
    except ValueError as error:
        raise InvalidInput(f"unusable options in the store URL: {error}") from None
    dsn = "?".join([base, "&".join(rest)] if rest else [base])
    _parsed(base)
    try:
        _parsed(dsn)
    except InvalidInput:
        names = [pair.partition("=")[0] for pair in rest]
        # What looks like no name may be part of a password.
        told = ", ".join(name for name in names if re.fullmatch("[a-z_]+", name))
        raise InvalidInput(f"unusable options in the store URL, one of: {told}") from None
    return dsn, options


def _parsed(dsn: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:
        # What libpq says may quote a password.
        raise InvalidInput(
            "the PostgreSQL URL cannot be read; in a password, special characters are written "
            "with a percent sign, such as %25 for %"
        ) from None


def connection_string(dsn: str, options: PostgresOptions) -> str:
    """What to connect with: `dsn`, and what it leaves open."""
    given = _parsed(dsn)
    defaults: dict[str, str | int] = {
        "application_name": "leftfold",
        "connect_timeout": options.connect_timeout_s,
        **_KEEPALIVES,
    }
    left_open = {name: value for name, value in defaults.items() if name not in given}
    return make_conninfo(dsn, **left_open, client_encoding="utf8")


def place(dsn: str, options: PostgresOptions) -> str:
    """Where the log is, for messages: without the password."""
    given = conninfo_to_dict(dsn)
    host = given.get("host") or given.get("hostaddr") or "the local socket"
    port = f":{given['port']}" if "port" in given else ""
    return f"schema {options.schema} of database {given.get('dbname', '')!r} on {host}{port}"
