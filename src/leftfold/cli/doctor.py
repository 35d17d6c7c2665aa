"""The command `doctor`: what is wrong with a store and around it, and what to do about it.

It looks past the store and changes nothing. What cannot be seen from here is None.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import apsw
import msgspec
from msgspec import Struct

from leftfold.cli.output import Output, cell
from leftfold.cli.session import PROBLEMS, Session, path_of
from leftfold.cli.times import iso
from leftfold.errors import InvalidInput, MissingExtra
from leftfold.stores.sqlite.connection import Durability, SqliteOptions, translate
from leftfold.stores.sqlite.schema import MIGRATIONS, check_identity
from leftfold.stores.sqlite.snapshots import SNAPSHOTS_SUFFIX

if TYPE_CHECKING:
    # psycopg is optional.
    import psycopg

HELD_S_MAX = 1.0
"""A transaction that has appended and is older holds readers back for too long."""
CONNECTIONS_USED_MAX = 0.9
"""The part of a server's connections above which they may soon be used up."""
VERSION_MIN = 15
"""The oldest PostgreSQL that is tested."""
WAL_BYTES_MAX = 256 * 1024**2
"""Of a write-ahead log: it is folded in after 4 MiB, where no read keeps it from that."""
FREE_BYTES_MIN = 512 * 1024**2
"""Of a disk."""
QUERY_CHARACTERS_MAX = 100
_PASSWORDS = ("password", "sslpassword")


class Finding(Struct, frozen=True):
    """Something that is wrong, and what to do."""

    found: str
    advice: str


class AtWork(Struct, frozen=True):
    """A transaction on PostgreSQL that has appended and has not ended. Null: not visible."""

    pid: int | None
    application: str | None
    role: str | None
    client: str | None
    state: str | None
    since: str | None
    """When the transaction began; its append may be later."""
    held_s: float | None
    behind: int
    """Positions that were handed out since its append, its own among them: readers wait for it."""
    query: str | None


class PostgresFacts(Struct, frozen=True):
    """What can be seen of a log on PostgreSQL."""

    server_version: str
    schema_version: int
    connections_used: int
    connections_max: int
    disk_bytes: int
    settings: dict[str, str]
    at_work: list[AtWork]


Doing = Literal["open", "reads", "writes"]
"""From the least to the most, also in the order of the alphabet."""


class Holder(Struct, frozen=True):
    """Another process that has an SQLite file open."""

    pid: int
    does: Doing


class SqliteFacts(Struct, frozen=True):
    """What can be seen of a log in an SQLite file."""

    schema_version: int
    file_bytes: int
    wal_bytes: int
    snapshots_bytes: int | None
    disk_free_bytes: int
    durability: Durability
    processes: list[Holder] | None
    """None: locks cannot be seen here."""


class Diagnosis(Struct, frozen=True):
    """What `doctor` has seen."""

    store: str
    findings: list[Finding]
    facts: PostgresFacts | SqliteFacts


def doctor(session: Session) -> int:
    """Say what is wrong with a store, and what to do. The exit code is 1 if there is anything."""
    url = session.url
    facts: PostgresFacts | SqliteFacts
    is_postgres = url.startswith(("postgresql:", "postgres:"))
    facts, findings = _of_postgres(url) if is_postgres else _of_sqlite(session)
    diagnosis = Diagnosis(without_password(url), findings, facts)
    _report(session.output, diagnosis)
    return PROBLEMS if findings else 0


def _report(output: Output, diagnosis: Diagnosis) -> None:
    if output.is_json:
        output.document(diagnosis)
        return
    facts = msgspec.structs.asdict(diagnosis.facts)
    rows: Any = facts.pop("at_work", None) or facts.pop("processes", None) or []
    shown = {name: value for name, value in facts.items() if value not in (None, [])}
    output.values({"store": diagnosis.store, **shown.pop("settings", {}), **shown})
    if rows:
        output.rows(rows, lambda each: each, type(rows[0]))
    for finding in diagnosis.findings:
        output.text(f"\n- {cell(finding.found)}\n  {cell(finding.advice)}")
    count = len(diagnosis.findings)
    output.text(f"\n{count} found" if count else "\nnothing is wrong, as far as can be seen")


def without_password(url: str) -> str:
    """The URL of a store, for output."""
    if not url.startswith(("postgresql:", "postgres:")):
        return url
    base, _, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    user, at, host = rest.rpartition("@")
    pairs = [each for each in query.split("&") if each.partition("=")[0] not in _PASSWORDS]
    shown = f"{scheme}://{user.partition(':')[0]}{at}{host}"
    return f"{shown}?{'&'.join(pairs)}" if query else shown


_REFUSED = "appends are refused"
_DAMAGE = "a crash of the machine may damage the log"
_SET = "ALTER ROLE or ALTER DATABASE ... SET {name} = {right}, and connect again"
_SET_SERVER = "set {name} = {right} in the server's configuration, and reload it"
_COMMITS = ("on", "local", "remote_write", "remote_apply")
_SETTINGS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "synchronous_commit": (_COMMITS, _REFUSED, _SET),
    "default_transaction_isolation": (("'read committed'",), _REFUSED, _SET),
    "default_transaction_read_only": (("off",), _REFUSED, _SET),
    "fsync": (("on",), _DAMAGE, _SET_SERVER),
    "full_page_writes": (("on",), _DAMAGE, _SET_SERVER),
    "autovacuum": (("on",), "tables are not analyzed, and reading becomes slow", _SET_SERVER),
    "track_counts": (("on",), "autovacuum does nothing without it", _SET_SERVER),
}
"""What settings are to be, what follows if they are not, and how to change them."""
_SHOWN_SETTINGS = (*_SETTINGS, "idle_in_transaction_session_timeout")

# From the locks, not from the view: that has a row for each append of a transaction, and none for
# transactions that are prepared.
_AT_WORK = """SELECT l.pid, a.application_name, a.usename::text, host(a.client_addr), a.state,
 (extract(epoch FROM a.xact_start) * 1000000)::bigint,
 round(extract(epoch FROM clock_timestamp() - a.xact_start), 3)::float8,
 max((p.last_value - l.objid::bigint) & 4294967295), a.query
 FROM {schema}.positions p, pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.objsubid = 2
 AND l.classid = '{schema}.events'::regclass::oid
 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 GROUP BY l.virtualtransaction, l.pid, a.application_name, a.usename, a.client_addr, a.state,
 a.xact_start, a.query ORDER BY a.xact_start"""
# Of other roles' connections the kind may not be visible.
_NUMBERS = """SELECT current_setting('server_version'),
 (SELECT max(number) FROM {schema}.leftfold_migrations),
 (SELECT count(*) FROM pg_stat_activity
 WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'),
 current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
 - coalesce(current_setting('reserved_connections', true), '0')::int,
 (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
 WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r')"""


class Server:
    """A look at the server that holds a log, past the store. Its methods raise psycopg.Error."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._connection = connection
        self._schema = schema

    def fetch(self, statement: str, *values: object) -> list[Any]:
        """The rows of a statement."""
        return self._connection.execute(statement.encode(), values or None).fetchall()

    def at_work(self) -> list[AtWork]:
        """The transactions that hold readers back, the oldest first."""
        return [_at_work(row) for row in self.fetch(_AT_WORK.format(schema=self._schema))]

    def facts(self) -> PostgresFacts:
        """All there is to see."""
        settings = "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name"
        ((*numbers,),) = self.fetch(_NUMBERS.format(schema=self._schema), self._schema)
        shown = dict(self.fetch(settings, list(_SHOWN_SETTINGS)))
        return PostgresFacts(*[*numbers, shown, self.at_work()])


def _at_work(row: list[Any]) -> AtWork:
    pid, application, role, client, state, since_us, held_s, behind, query = row
    text = query and " ".join(query.split())[:QUERY_CHARACTERS_MAX]
    since = None if since_us is None else iso(since_us)
    return AtWork(pid, application, role, client, state, since, held_s, behind, text)


@contextmanager
def server_of(url: str) -> Iterator[Server]:
    """The server that holds a log. Raises InvalidInput, StoreUnavailable, MissingExtra."""
    try:
        # It is optional, so nothing that needs it may be imported before it is needed.
        import psycopg  # noqa: PLC0415

        from leftfold.cli.postgres_schema import has_log  # noqa: PLC0415
        from leftfold.stores.postgres.connection import translate as meant  # noqa: PLC0415
        from leftfold.stores.postgres.options import connection_string, parse_url  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("postgres", "a store on PostgreSQL") from error
    place, is_there = has_log(url)
    if not is_there:
        raise InvalidInput(f"there is no store in {place}; `leftfold init` makes one")
    dsn, options = parse_url(url)
    try:
        # Behind a pooler a statement may be prepared in another session.
        conninfo, more = connection_string(dsn, options), {"prepare_threshold": None}
        with psycopg.connect(conninfo, autocommit=True, **more) as connection:
            yield Server(connection, options.schema_sql)
    except psycopg.Error as error:
        raise meant(error, place) from error


def _of_postgres(url: str) -> tuple[PostgresFacts, list[Finding]]:
    with server_of(url) as server:
        facts = server.facts()
    # It is there: the server was reached.
    from leftfold.stores.postgres.schema import MIGRATIONS as NEWEST  # noqa: PLC0415

    findings = [*_held_back(facts.at_work), *_wrong_settings(facts.settings)]
    if int(facts.server_version.partition(".")[0]) < VERSION_MIN:
        found = f"PostgreSQL {facts.server_version} is older than any that is tested"
        findings.append(Finding(found, f"upgrade the server to {VERSION_MIN} or newer"))
    findings += _old_schema(facts.schema_version, len(NEWEST))
    used, most = facts.connections_used, facts.connections_max
    if used > CONNECTIONS_USED_MAX * most:
        advice = "share store objects, lower readers_max, use pgbouncer, or raise max_connections"
        findings.append(Finding(f"{used} of {most} connections are used", advice))
    return facts, findings


def _held_back(at_work: list[AtWork]) -> Iterator[Finding]:
    for each in at_work:
        behind = f"holds back readers, who are up to {each.behind} positions behind"
        if each.pid is None:
            found = f"a prepared transaction {behind}"
            yield Finding(found, "COMMIT PREPARED or ROLLBACK PREPARED; see pg_prepared_xacts")
        elif each.held_s is not None and each.held_s > HELD_S_MAX:
            found = f"process {each.pid}, {each.state}, {behind}: it began {each.held_s} s ago"
            end = f"SELECT pg_terminate_backend({each.pid})"
            more = "idle_in_transaction_session_timeout ends those that forget to"
            yield Finding(found, f"end its transaction; if it is stuck, {end}. {more}")
        elif each.role and each.state is None:
            found = f"process {each.pid} {behind}; for how long, this role may not see"
            yield Finding(found, "run doctor as a role that has pg_read_all_stats")


def _wrong_settings(settings: dict[str, str]) -> Iterator[Finding]:
    for name, (right, effect, how) in _SETTINGS.items():
        if settings[name] not in {each.strip("'") for each in right}:
            advice = how.format(name=name, right=right[0])
            yield Finding(f"{name} is {settings[name]}: {effect}", advice)


def _old_schema(version: int, newest: int) -> Iterator[Finding]:
    if version < newest:
        found = f"the log has schema version {version}, this release of leftfold {newest}"
        yield Finding(found, "`leftfold init`, as the owner, brings it up to date")


def _of_sqlite(session: Session) -> tuple[SqliteFacts, list[Finding]]:
    given = path_of(session.url)
    if not given or not _size(given):
        # That says what is wrong with it.
        session.open().close()
    path, options = os.path.abspath(given or ""), _options(session.url)
    wal_bytes = _size(f"{path}-wal") or 0
    try:
        writes = apsw.SQLITE_OPEN_READWRITE
        with closing(apsw.Connection(path, flags=writes, vfs=options.vfs or None)) as connection:
            # What somebody has left in the write-ahead log is left there.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(wal_bytes > 0))
            connection.set_busy_timeout(int(options.busy_timeout_s * 1000))
            version = check_identity(connection, path)
            connection.execute("BEGIN; SELECT count(*) FROM sqlite_schema")
            holders = _holders(path)
            connection.execute("ROLLBACK")
            is_locked = _is_locked(connection)
    except apsw.Error as error:
        raise translate(error, path) from error
    facts = SqliteFacts(
        version,
        _size(path) or 0,
        wal_bytes,
        _size(path + SNAPSHOTS_SUFFIX),
        shutil.disk_usage(os.path.dirname(path)).free,
        options.durability,
        holders,
    )
    findings = [*_old_schema(version, len(MIGRATIONS)), *_file_findings(facts)]
    if is_locked:
        writers = ", ".join(str(each.pid) for each in holders or () if each.does == "writes")
        who = f"by process {writers}" if writers else "by another connection"
        found = f"the log is locked {who}: nobody else could write for {options.busy_timeout_s} s"
        findings.insert(0, Finding(found, "let it commit; if it is stuck, end it: nothing is lost"))
    return facts, findings


def _options(url: str) -> SqliteOptions:
    query = urlsplit(url, allow_fragments=False).query
    given = dict(parse_qsl(query, strict_parsing=bool(query)))
    try:
        return msgspec.convert(given, SqliteOptions, strict=False)
    except ValueError as error:
        raise InvalidInput(f"unusable options ?{query} in the store URL: {error}") from None


def _size(path: str) -> int | None:
    return os.path.getsize(path) if os.path.exists(path) else None


def _is_locked(connection: apsw.Connection) -> bool:
    """Whether it was in vain to wait for the lock of writers."""
    try:
        if not connection.readonly("main"):
            connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    except apsw.BusyError:
        return True
    return False


def _file_findings(facts: SqliteFacts) -> Iterator[Finding]:
    if facts.wal_bytes > WAL_BYTES_MAX:
        found = f"the write-ahead log has {facts.wal_bytes:,} bytes: one read may be open for long"
        yield Finding(found, "end reads that stay open; once all have closed, it is gone")
    if facts.disk_free_bytes < FREE_BYTES_MIN:
        found = f"only {facts.disk_free_bytes:,} bytes are free on the disk of the log"
        yield Finding(found, "free some space: appends are refused when there is none")
    if facts.durability != "full":
        found = f"durability={facts.durability}: a power cut may lose the latest appends"
        yield Finding(found, "leave it out of the URL, if that is not meant")


# Where SQLite locks what in the file -shm, by its file format.
_WRITE_LOCK, _READ_LOCKS = 120, range(123, 128)
_LOCK_TABLE = Path("/proc/locks")


def _holders(path: str) -> list[Holder] | None:
    """The other processes that have the log open; None where the system does not show locks, which
    is known by those of this process itself.
    """
    if not _LOCK_TABLE.exists():
        return None
    does: dict[int, set[Doing]] = {}
    files = {_in_table(each): each for each in (path, f"{path}-shm") if os.path.exists(each)}
    for line in _LOCK_TABLE.read_text().splitlines():
        fields = line.split()
        if "->" in fields or fields[5] not in files:
            continue
        mode, pid, start = fields[3], int(fields[4]), int(fields[6])
        is_shm = files[fields[5]] != path
        what: Doing = "open"
        if is_shm and mode == "WRITE" and start == _WRITE_LOCK:
            what = "writes"
        elif is_shm and mode == "READ" and start in _READ_LOCKS:
            what = "reads"
        does.setdefault(pid, set()).add(what)
    if does.pop(os.getpid(), None) is None:
        return None
    return [Holder(pid, max(does[pid])) for pid in sorted(does) if pid > 0]


def _in_table(path: str) -> str:
    """How the table of locks names a file."""
    found = os.stat(path)
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
