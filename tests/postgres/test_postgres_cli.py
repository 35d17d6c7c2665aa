"""Every command on a log on PostgreSQL; and `doctor`, there and on SQLite."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import psycopg
import pytest
from postgres_server import Server
from typer.testing import CliRunner

import leftfold
from leftfold import Event, EventStore
from leftfold.cli import doctor
from leftfold.cli.program import program
from leftfold.stores.postgres.schema import MIGRATIONS

COUNT = 30
BANK = """
    from leftfold import App, Codec, Decider
    from msgspec import Struct


    class Deposited(Struct, frozen=True):
        amount: int


    accounts = Decider(
        "account", initial_state=0, decide=lambda command, state: [],
        evolve=lambda state, event: state + event.amount,
    )
    app = App(codec=Codec(Deposited), deciders=[accounts])
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "postgres_bank.py").write_text(textwrap.dedent(BANK))
    # --app puts the working directory there.
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("postgres_bank", None)


@pytest.fixture
def url(server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a log that is not there yet."""
    url: str = server.new_log()
    monkeypatch.setenv("LEFTFOLD_STORE", url)
    monkeypatch.delenv("LEFTFOLD_APP", raising=False)
    return url


@pytest.fixture
def log(url: str) -> Iterator[EventStore]:
    """A log of `COUNT` events in 3 streams: account-0 to account-2."""
    with leftfold.open(url) as store:
        for n in range(COUNT):
            data = b'{"amount":%d}' % n
            tags = (f"t:{n % 2}",)
            store.append([Event(f"account-{n % 3}", data, type="Deposited", tags=tags)])
        yield store


def run(*arguments: object, code: int = 0) -> Any:
    """How a command ended that is to end so."""
    found = CliRunner().invoke(program, [*map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, (found.stdout, found.stderr)
    assert "Traceback" not in found.stderr
    assert "postgres:postgres" not in found.stderr, "a password"
    return found


def documents(*arguments: object, code: int = 0) -> list[Any]:
    """What a command prints as JSON."""
    lines = run("--json", *arguments, code=code).stdout.splitlines()
    return [msgspec.json.decode(line) for line in lines]


def document(*arguments: object, code: int = 0) -> Any:
    [found] = documents(*arguments, code=code)
    return found


def test_init_makes_the_log_once(url: str, server: Any) -> None:
    schema = url.rpartition("=")[2]
    for _ in range(2):
        found = document("init")
        assert (found["path"], found["head"]) == (None, 0)
        assert server.execute("SELECT to_regnamespace(%s) IS NOT NULL", schema) == [(True,)]
    run("append", "a-1", "A", "{}")
    assert document("init")["head"] == 1


def test_append_and_read(url: str) -> None:
    run("init")
    data = '{"n": 1.10}'
    found = document("append", "a-1", "A", data, "--tag", "x", "--actor", "ada")
    assert (found["position"], found["stream"], found["version"]) == (1, "a-1", 1)
    again = document("append", "a-1", "A", data, "--tag", "x", "--id", found["id"])
    assert again == found
    run("append", "a-1", "A", data, "--expected-version", "1")
    assert "a-1" in run("append", "a-1", "A", data, "--expected-version", "1", code=2).stderr
    first, second = documents("read")
    assert (first["id"], first["tags"]) == (found["id"], ["x"])
    assert first["metadata"] == {"actor": "ada"}
    assert (second["position"], second["version"]) == (2, 2)
    assert '"data":{"n":1.10}' in run("--json", "read").stdout
    assert run("read", "--stream", "a-2", code=1).stdout == ""


def test_parts_of_the_log(log: EventStore) -> None:
    def positions(*arguments: object) -> list[int]:
        return [line["position"] for line in documents(*arguments)]

    assert positions("read") == list(range(1, COUNT + 1))
    assert positions("read", "--stream", "account-1") == list(range(2, COUNT + 1, 3))
    assert positions("read", "--tag", "t:1", "--after", 20) == [22, 24, 26, 28, 30]
    assert positions("read", "--until", 9, "--limit", 2, "--backwards") == [9, 8]
    assert positions("read", "--category", "account", "--type", "Deposited", "--until", 1) == [1]
    assert positions("tail", "-n", 4) == [27, 28, 29, 30]
    assert positions("tail", "-n", 2, "--stream", "account-0") == [25, 28]
    assert positions("tail", "-n", 0) == []


def test_streams_and_types(log: EventStore) -> None:
    rows = documents("streams")
    assert [(row["stream"], row["events"]) for row in rows] == [
        (f"account-{n}", COUNT // 3) for n in range(3)
    ]
    expected = {"type": "Deposited", "schema_version": 1, "events": COUNT}
    assert document("types") == expected | {"first_position": 1, "last_position": COUNT}


def test_state_and_history(log: EventStore) -> None:
    app = ("--app", "postgres_bank:app")
    amounts = range(0, COUNT, 3)
    found = document("state", "account-0", *app)
    assert (found["version"], found["state"]) == (COUNT // 3, sum(amounts))
    assert document("state", "account-0", "--at", 3, *app)["state"] == 0 + 3 + 6
    steps = documents("history", "account-0", *app)
    assert [step["data"]["amount"] for step in steps] == list(amounts)
    assert steps[2]["changes"] == [{"field": "state", "before": 3, "after": 9}]
    run("state", "account-9", *app, code=1)


def test_stat(url: str, log: EventStore, server: Any) -> None:
    schema = url.rpartition("=")[2]
    sizes = f"""SELECT sum(pg_total_relation_size(('{schema}.' || name)::regclass))::bigint
        FROM unnest(%s::text[]) AS name"""
    tables = ["events", "event_tags", "kinds", "snapshots", "inline_builds", "leftfold_migrations"]
    # The server may tidy up meanwhile.
    [(before,)] = server.execute(sizes, tables)
    found = document("stat")
    [(after,)] = server.execute(sizes, tables)
    assert before <= found["disk_bytes"] <= after
    assert (found["head"], found["events"], found["streams"]) == (COUNT, COUNT, 3)
    assert (found["types"], found["tags"]) == (1, 2)
    assert found["data_bytes"] == sum(len(event.data) for event in log.read())
    assert (found["at_work"], found["oldest_at_work_s"]) == (0, None)
    assert found["store"] == url.replace(":postgres@", "@")
    assert "at_work" in run("stat").stdout


def test_stat_counts_transactions_at_work(log: EventStore, server: Any) -> None:
    with psycopg.connect(server.url()) as one, psycopg.connect(server.url()) as other:
        for connection in (one, other):
            mine = EventStore(log.store.within(connection))
            for n in range(2):
                mine.append([Event(f"held-{id(connection)}", b"%d" % n, type="A")])
        sql = "SELECT extract(epoch FROM clock_timestamp() - now())::float8"
        [(at_least_s,)] = one.execute(sql).fetchall()
        found = document("stat")
        assert (found["at_work"], found["events"]) == (2, COUNT)
        assert found["oldest_at_work_s"] >= round(at_least_s, 3)
    assert document("stat")["at_work"] == 0


def test_check_finds_nothing_in_a_log_of_ours(log: EventStore) -> None:
    found = document("check", "--app", "postgres_bank:app")
    assert (found["problem_count"], found["events"], found["folded_streams"]) == (0, COUNT, 3)
    assert "postgres:postgres" not in found["store"]
    assert f"0 problems in {COUNT} events in 3 streams" in run("check").stdout


DAMAGES = {
    "version": ("UPDATE events SET version = 99 WHERE position = 4", 4),
    "recorded_at": ("UPDATE events SET recorded_at = 5 WHERE position = 7", 7),
    "metadata": ("UPDATE events SET metadata = '{' WHERE position = 8", 8),
    "tag": ("DELETE FROM event_tags WHERE position = 9", 9),
    "decode": ("UPDATE events SET data = '{}' WHERE position = 10", 10),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_check_finds_damage(url: str, log: EventStore, server: Any, kind: str) -> None:
    damage, position = DAMAGES[kind]
    schema = url.rpartition("=")[2]
    set_up = f"SET search_path TO {schema}; SET session_replication_role TO replica"
    server.execute(f"{set_up}; {damage}")
    found = document("check", "--app", "postgres_bank:app", code=1)
    assert (kind, position) in [(each["kind"], each["position"]) for each in found["problems"]]


def test_export_and_import(log: EventStore, server: Any) -> None:
    exported = document("export", "log.jsonl.gz")
    assert exported["events"] == COUNT
    assert gzip.decompress(Path("log.jsonl.gz").read_bytes()).count(b"\n") == COUNT
    there = ("--store", server.new_log())
    for expected in ((COUNT, 0), (0, COUNT)):
        found = document("import", "log.jsonl.gz", *there)
        assert (found["appended"], found["already_there"]) == expected
        assert found["complete"]
    with leftfold.open(there[1]) as copied:
        assert [(each.id, each.stream, each.data) for each in copied.read()] == [
            (each.id, each.stream, each.data) for each in log.read()
        ]
    run("export", "log.csv", "--format", "csv", "--field", "amount")
    assert len(Path("log.csv").read_text().splitlines()) == COUNT + 1


def test_backup_names_the_tool_for_it(log: EventStore) -> None:
    assert "pg_dump" in run("backup", "copy.db", code=2).stderr
    assert list(Path().glob("*copy.db*")) == []


def test_doctor_finds_nothing(url: str, log: EventStore) -> None:
    found = document("doctor")
    assert found["findings"] == []
    assert found["store"] == url.replace(":postgres@", "@")
    facts = found["facts"]
    assert facts["at_work"] == []
    assert facts["server_version"].startswith("18")
    assert facts["settings"]["synchronous_commit"] == "on"
    # The server reserves 3 of 100 for superusers. This store has one, and doctor is one itself.
    assert 2 <= facts["connections_used"] < facts["connections_max"] == 97
    shown = run("doctor").stdout
    assert "nothing is wrong" in shown
    assert "postgres:postgres" not in shown


def test_doctor_names_who_holds_readers_back(
    log: EventStore, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "HELD_S_MAX", 0.0)
    with psycopg.connect(server.url(), application_name="forgetful") as connection:
        mine = EventStore(log.store.within(connection))
        mine.append([Event("held-1", b"{}", type="A")])
        mine.append([Event("held-1", b"{}", type="A")])
        log.append([Event("b-1", b"{}", type="A")])
        connection.execute("SELECT 1 AS " + 200 * "x")
        pid = connection.info.backend_pid
        found = document("doctor", code=1)
        [at_work] = found["facts"]["at_work"]
        since, held_s = at_work.pop("since"), at_work.pop("held_s")
        assert since.endswith("Z")
        assert held_s > 0
        assert at_work.pop("query") == ("SELECT 1 AS " + 200 * "x")[:100]
        assert at_work == {
            "pid": pid,
            "application": "forgetful",
            "role": "postgres",
            "client": "127.0.0.1",
            "state": "idle in transaction",
            "behind": 3,
        }
        [finding] = found["findings"]
        assert f"process {pid}, idle in transaction, holds back readers" in finding["found"]
        assert f"pg_terminate_backend({pid})" in finding["advice"]
        shown = run("doctor", code=1).stdout
        assert "forgetful" in shown
        assert f"pg_terminate_backend({pid})" in shown
        # What holds back the readers of one log is nothing to those of another.
        monkeypatch.setenv("LEFTFOLD_STORE", server.new_log())
        run("init")
        assert document("doctor")["findings"] == []


def test_doctor_says_what_it_may_not_see(url: str, log: EventStore, server: Any) -> None:
    schema = url.rpartition("=")[2]
    server.execute("DROP ROLE IF EXISTS onlooker")
    server.execute("CREATE ROLE onlooker LOGIN PASSWORD 'secret'")
    server.execute(f"GRANT USAGE ON SCHEMA {schema} TO onlooker")
    onlooker = ("--store", url.replace("postgres:postgres", "onlooker:secret"))
    assert "lacks a privilege" in run("doctor", *onlooker, code=2).stderr
    server.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO onlooker")
    server.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO onlooker")
    try:
        assert document("doctor", *onlooker)["findings"] == []
        with psycopg.connect(server.url()) as connection:
            mine = EventStore(log.store.within(connection))
            mine.append([Event("held-1", b"{}", type="A")])
            found = document("doctor", *onlooker, code=1)
            [at_work] = found["facts"]["at_work"]
            assert (at_work["since"], at_work["held_s"], at_work["behind"]) == (None, None, 1)
            assert at_work["pid"] == connection.info.backend_pid
            [finding] = found["findings"]
            assert "this role may not see" in finding["found"]
    finally:
        server.execute("DROP OWNED BY onlooker; DROP ROLE onlooker")


def test_doctor_finds_prepared_transactions() -> None:
    # A server of its own, which may prepare transactions.
    with closing(Server()) as server:
        server.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
        server.crash()
        at = ("--store", server.new_log())
        with leftfold.open(at[1]) as log, psycopg.connect(server.url()) as connection:
            mine = EventStore(log.store.within(connection))
            mine.append([Event("held-1", b"{}", type="A")])
            connection.execute("PREPARE TRANSACTION 'forgotten'")
        found = document("doctor", *at, code=1)
        assert [each["pid"] for each in found["facts"]["at_work"]] == [None]
        [finding] = found["findings"]
        assert "a prepared transaction holds back readers" in finding["found"]
        server.execute("ROLLBACK PREPARED 'forgotten'")
        assert document("doctor", *at)["findings"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("synchronous_commit", "off"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_read_only", "on"),
        ("track_counts", "off"),
    ],
)
def test_doctor_finds_wrong_settings(url: str, log: EventStore, name: str, value: str) -> None:
    found = document("doctor", "--store", f"{url}&options=-c{name}%3D{value}", code=1)
    [finding] = found["findings"]
    assert finding["found"].startswith(f"{name} is {value}: ")
    assert f"{name} = " in finding["advice"]


def test_doctor_finds_an_old_schema_and_changes_nothing(
    url: str, log: EventStore, server: Any
) -> None:
    table = f"{url.rpartition('=')[2]}.leftfold_migrations"
    before = len(MIGRATIONS) - 1
    server.execute(f"DELETE FROM {table} WHERE number > {before}")
    for _ in range(2):
        [finding] = document("doctor", code=1)["findings"]
        assert f"schema version {before}" in finding["found"]
        assert "leftfold init" in finding["advice"]


def test_doctor_on_a_schema_named_by_a_word_of_sql(server: Any) -> None:
    at = ("--store", f"{server.url()}?schema=order")
    leftfold.open(at[1]).close()
    assert document("doctor", *at)["findings"] == []
    assert document("stat", *at)["events"] == 0
    server.execute('DROP SCHEMA "order" CASCADE')


def test_doctor_finds_servers_at_their_limits(
    log: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CONNECTIONS_USED_MAX", 0.0)
    monkeypatch.setattr(doctor, "VERSION_MIN", 99)
    old, used = document("doctor", code=1)["findings"]
    assert "older than any" in old["found"]
    assert "connections are used" in used["found"]


COMMANDS = {
    "append": ("a-1", "A", "{}"),
    "read": (),
    "tail": (),
    "streams": (),
    "types": (),
    "stat": (),
    "check": (),
    "doctor": (),
    "state": ("account-1", "--app", "postgres_bank:app"),
    "history": ("account-1", "--app", "postgres_bank:app"),
    "export": (),
    "backup": ("copy.db",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_schema_that_is_not_there_is_not_made(url: str, server: Any, name: str) -> None:
    schema = url.rpartition("=")[2]
    found = run(name, *COMMANDS[name], code=2)
    assert f"there is no store in schema {schema}" in found.stderr
    assert found.stdout == ""
    assert server.execute("SELECT to_regnamespace(%s)", schema) == [(None,)]


@pytest.mark.parametrize("name", [*COMMANDS, "init", "import"])
def test_a_server_that_refuses_or_is_not_there(url: str, name: str) -> None:
    Path("in.jsonl").touch()
    arguments = COMMANDS.get(name, ("in.jsonl",) if name == "import" else ())
    wrong = url.replace("postgres:postgres", "postgres:wrong")
    complaint = run(name, *arguments, "--store", wrong, code=2).stderr
    assert "password authentication failed" in complaint
    with socket.socket() as nobody:
        # Bound, and not listening: nobody else gets the port meanwhile.
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        there = f"postgresql://postgres:postgres@127.0.0.1:{port}/postgres"
        complaint = run(name, *arguments, "--store", there, code=2).stderr
        assert "refused" in complaint
        assert str(port) in complaint


def test_doctor_on_sqlite() -> None:
    run("--store", "sqlite:///log.db", "init")
    at = ("--store", "sqlite:///log.db")
    found = document("doctor", *at)
    assert (found["store"], found["findings"]) == ("sqlite:///log.db", [])
    facts = found["facts"]
    assert facts["file_bytes"] == Path("log.db").stat().st_size
    assert (facts["wal_bytes"], facts["snapshots_bytes"]) == (0, None)
    assert facts["durability"] == "full"
    assert "nothing is wrong" in run("doctor", *at).stdout
    Path("log.db-snapshots").write_bytes(b"12345")
    with leftfold.open("sqlite:///log.db") as log:
        log.append([Event("a-1", b"{}", type="A")])
        wal_bytes = Path("log.db-wal").stat().st_size
        assert wal_bytes > 0
        facts = document("doctor", *at)["facts"]
    assert (facts["wal_bytes"], facts["snapshots_bytes"]) == (wal_bytes, 5)


def test_doctor_finds_what_is_wrong_with_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    at = "sqlite:///log.db?durability=may_lose_latest"
    run("--store", at, "init")
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 1 << 62)
    monkeypatch.setattr(doctor, "WAL_BYTES_MAX", 0)
    with leftfold.open(at) as log:
        log.append([Event("a-1", b"{}", type="A")])
        found = document("doctor", "--store", at, code=1)
    wal, disk, durability = (each["found"] for each in found["findings"])
    assert "write-ahead log" in wal
    assert "bytes are free" in disk
    assert "durability=may_lose_latest" in durability


WRITE = """
import apsw
connection = apsw.Connection("log.db")
connection.execute({statement!r})
print(flush=True)
input()
"""


@pytest.mark.parametrize(
    ("does", "statement"),
    [("writes", "BEGIN IMMEDIATE"), ("reads", "BEGIN; SELECT count(*) FROM events")],
)
def test_doctor_names_other_processes_that_have_the_file_open(does: str, statement: str) -> None:
    at = "sqlite:///log.db?busy_timeout_s=0"
    run("--store", at, "init")
    command = [sys.executable, "-c", WRITE.format(statement=statement)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin
        assert other.stdout
        try:
            assert other.stdout.readline()
            found = document("doctor", "--store", at, code=int(does == "writes"))
        finally:
            other.stdin.close()
    processes = found["facts"]["processes"]
    if processes is not None:
        assert processes == [{"pid": other.pid, "does": does}]
    for finding in found["findings"]:
        assert "the log is locked by " in finding["found"]
        assert processes is None or f"process {other.pid}" in finding["found"]


def test_doctor_leaves_what_a_crash_has_left() -> None:
    crash = """
import os, leftfold
store = leftfold.open("sqlite:///log.db")
store.append([leftfold.Event("a-1", b"{}", type="A")])
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", crash], check=True)
    left = Path("log.db-wal").read_bytes()
    for _ in range(2):
        facts = document("doctor", "--store", "sqlite:///log.db")["facts"]
        assert facts["wal_bytes"] == len(left) > 0
    assert Path("log.db-wal").read_bytes() == left


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///no.db", "there is no store at no.db"),
        ("sqlite:///empty.db", "empty.db is empty"),
        ("sqlite:///text.db", "not an SQLite database"),
        ("sqlite:///other.db", "of another program"),
        ("sqlite:///", "an SQLite URL is"),
        ("memory://", "a command needs a file"),
        ("mysql://x/y", "unknown scheme"),
        ("sqlite:///log.db?x=1", "unusable options"),
    ],
)
def test_doctor_refuses_what_is_no_store(url: str, says: str) -> None:
    run("init", "--store", "sqlite:///log.db")
    Path("empty.db").touch()
    with closing(apsw.Connection("other.db")) as connection:
        connection.execute("CREATE TABLE other (a)")
    Path("text.db").write_text(100 * "this is text. ")
    assert says in run("doctor", "--store", url, code=2).stderr
    assert not Path("no.db").exists()
