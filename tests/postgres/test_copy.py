"""copy: a log moves from SQLite to PostgreSQL and back, and is the same log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from typer.testing import CliRunner

import leftfold
from leftfold import Event, EventStore, Metadata
from leftfold.cli import copy
from leftfold.cli.program import program

COUNT = 200
KILL_ALL = """SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity
 WHERE application_name = 'leftfold'"""


@pytest.fixture(autouse=True)
def small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(copy, "BATCH_EVENTS_MAX", 10)


@pytest.fixture
def log(small_batches: None) -> Iterator[EventStore]:
    with leftfold.open("sqlite:///log.db") as store:
        fill(store)
        yield store


def run(*arguments: object, code: int = 0) -> Any:
    """The JSON of a command, or where `code` is 2, what it complains of."""
    found = CliRunner().invoke(program, ["--json", *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, (found.stdout, found.stderr)
    assert "Traceback" not in found.stderr
    assert "postgres:postgres" not in found.stderr, "a password"
    return msgspec.json.decode(found.stdout) if code == 0 else found.stderr


def fill(store: EventStore, count: int = COUNT) -> None:
    store.append([Event(f"a-{n % 7}", b'{"n":%d}' % n, type="A") for n in range(count)])


def of_all_kinds() -> list[Event[bytes]]:
    metadata = Metadata(
        str(uuid4()), "cause", str(uuid4()).upper(), "ada", {"b": [1, 1.0, True, None], "a": {}}
    )
    east = datetime(2001, 2, 3, 4, 5, 6, 789012, timezone(timedelta(hours=5, minutes=30)))
    return [
        Event("a-1", b'{"n": 1.10}', type="A"),
        Event("a-1", msgspec.msgpack.encode({"n": [1, b"\xff"]}), type="A", schema_version=7),
        Event("b", b"", type="Größe", tags=("z", "a:ü", "m")),
        Event("a-1", bytes(range(256)), type="B", metadata=metadata, occurred_at=east),
        Event("c-c-c", b"\n", type="A", occurred_at=datetime(9998, 1, 1, tzinfo=UTC)),
        Event("b", b"0", type="A", id=UUID(int=0), tags=tuple(f"t:{n}" for n in range(32))),
    ]


def facts(store: EventStore) -> list[tuple[object, ...]]:
    """What a copy keeps, but for positions."""
    return [
        (
            *(event.stream, event.version, event.id, event.type, event.schema_version),
            *(event.data, event.tags, repr(event.metadata), event.occurred_at),
        )
        for event in store.read()
    ]


def test_there_and_back(server: Any, log: EventStore) -> None:
    for event in of_all_kinds():
        log.append([event])
    url = server.new_log()
    for source, target in (("sqlite:///log.db", url), (url, "sqlite:///back.db")):
        done = run("copy", source, target)
        assert (done["copied"], done["already_there"]) == (COUNT + 6, 0)
        assert done["verified"]
        assert done["positions_same"]
        assert run("copy", source, target)["already_there"] == COUNT + 6
    with leftfold.open(url) as there, leftfold.open("sqlite:///back.db") as back:
        assert facts(there) == facts(back) == facts(log)
        assert len(facts(log)) == COUNT + 6


def test_a_log_with_gaps(server: Any, log: EventStore) -> None:
    url = server.new_log()
    with leftfold.open(url) as source:
        for _ in range(3):
            fill(source, 25)
            server.execute(f"SELECT {url.rpartition('=')[2]}.alloc(5)")
        done = run("copy", url, "sqlite:///copy.db")
        assert (done["copied"], done["head"], done["positions_same"]) == (75, 85, False)
        fill(source, 5)
        done = run("copy", url, "sqlite:///copy.db")
        assert (done["copied"], done["already_there"], done["verified"]) == (5, 75, True)
        with leftfold.open("sqlite:///copy.db") as there:
            assert facts(there) == facts(source)


def test_a_source_that_is_not_there_is_not_made(server: Any) -> None:
    url = server.new_log()
    schema = url.rpartition("=")[2]
    complaint = run("copy", url, "sqlite:///copy.db", code=2)
    assert f"there is no store in schema {schema} of database 'postgres'" in complaint
    assert "there is no store" in run("read", "--store", url, code=2)
    assert server.execute("SELECT to_regnamespace(%s)", schema) == [(None,)]
    assert not Path("copy.db").exists()


def test_a_server_that_refuses(server: Any, log: EventStore) -> None:
    wrong = server.url(user="postgres:wrong")
    for pair in ((wrong, "sqlite:///copy.db"), ("sqlite:///log.db", wrong)):
        assert "password" in run("copy", *pair, code=2)
    assert "unusable options" in run("copy", f"{server.url()}?schema=PG", "x://", code=2)


def test_a_log_is_not_copied_into_itself(server: Any) -> None:
    url = server.new_log()
    assert "the same store" in run("copy", url, url, code=2)


def test_a_writer_on_the_target_is_found_out(
    server: Any, log: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = copy.Copying._append
    url = server.new_log()

    def disturbed(self: Any, batch: Any) -> None:
        append(self, batch)
        if self.copied == 30:
            with leftfold.open(url) as other:
                other.append([Event("foreign", b"{}", type="A")])

    monkeypatch.setattr(copy.Copying, "_append", disturbed)
    for complaint in ("this copy did not write: it has event", "is no copy of the source"):
        assert complaint in run("copy", "sqlite:///log.db", url, code=2)
        with leftfold.open(url) as there:
            assert facts(there)[:30] == facts(log)[:30]
            assert [event.stream for event in there.read(after=30)] == ["foreign"]


@pytest.mark.parametrize("options", ["", "&reconnect_timeout_s=0"])
def test_a_lost_connection(
    server: Any, log: EventStore, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    append = copy.Copying._append
    url = server.new_log() + options

    def lost(self: Any, batch: Any) -> None:
        if self.copied in (30, 100):
            server.execute(KILL_ALL)
        append(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(copy.Copying, "_append", lost)
        if options:
            for _ in range(2):
                assert "run it again" in run("copy", "sqlite:///log.db", url, code=2)
        else:
            assert run("copy", "sqlite:///log.db", url)["copied"] == COUNT
    done = run("copy", "sqlite:///log.db", url)
    assert done["already_there"] == (2 * 30 if options else COUNT)
    with leftfold.open(url) as there:
        assert facts(there) == facts(log)
