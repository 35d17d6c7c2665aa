"""export: what it writes comes back, and a file with its name is whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
from datetime import UTC, datetime

import apsw
import msgspec
import pytest

import leftfold
from leftfold import Event, Metadata, select

DATA = [
    b'{"n":1.50}',
    b"null",
    b'"\xc3\xa4\xe2\x80\xa8\xc2\x85"',
    b'{\n  "pretty": 1\n}',
    b' {"blank": 1}',
    b'{"a":1}\r',
    b"",
    b"not JSON",
    b"\xff\xfe\x00",
    b'"\xff"',
    b'{"a":1}{"b":2}',
    b"[" * 5000,
    msgspec.msgpack.encode({"n": [1, 2]}),
    b'{"big":123456789012345678901234567890}',
]


def facts(event):
    return (
        *(event.stream, event.version, event.type, event.schema_version, event.data),
        *(event.tags, event.id, event.metadata, event.occurred_at),
    )


@pytest.fixture
def events(log):
    for n, data in enumerate(DATA):
        log.append(
            [
                Event(
                    *(f"account-{n % 3}ä", data),
                    type="ABC"[n % 3],
                    schema_version=1 + n % 2,
                    tags=(f"t:{n % 2}", 'a "b", c')[: n % 3],
                    metadata=Metadata(actor="ada", extra={"n": [n, None]}) if n % 2 else Metadata(),
                    occurred_at=datetime(2020, 1, 1, 0, 0, n, n, tzinfo=UTC) if n % 4 else None,
                )
            ]
        )
    return list(log.read())


@pytest.mark.parametrize("file", ["log.jsonl", "log.jsonl.gz"])
def test_what_is_exported_and_imported_is_equal(run, events, file):
    done = run("export", file, "--json").json
    assert (done["file"], done["events"]) == (file, len(events))
    run("import", file, "--store", "sqlite:///other.db")
    with leftfold.open("sqlite:///other.db") as other:
        assert [facts(each) for each in other.read()] == [facts(each) for each in events]


def test_each_line_is_json_of_one_event(run, events, here):
    run("export", "log.jsonl")
    lines = [json.loads(line) for line in (here / "log.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [each["position"] for each in lines] == [each.position for each in events]
    assert all(("data" in each) != ("data_base64" in each) for each in lines)
    assert [each.get("data") for each in lines[:3]] == [{"n": 1.5}, None, "ä\u2028\x85"]
    assert (here / "log.jsonl").read_text() == run("read", "--json").out


def test_export_to_stdout(run, events):
    result = run("export")
    assert result.out == run("read", "--json").out
    assert f"leftfold: {len(events)} events" in result.err
    assert run("export", "-").out == result.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stream", "account-1ä"],
        ["--type", "C", "--tag", "t:0"],
        ["--after", "3", "--until", "8"],
        ["--limit", "4", "--backwards"],
    ],
)
def test_some_events(run, events, arguments):
    assert run("export", *arguments).out == run("read", "--json", *arguments).out != ""


def test_csv(run, log, here):
    data = b'{"amount":"5.50","note":"a, \\"b\\"\\nc","n":[1,2],"none":null}'
    metadata = Metadata("c1", "c2", "c3", "ada", {"ip": "::1"})
    log.append(
        [
            Event("a-1", data, type="A", tags=("x", "y"), metadata=metadata),
            Event("a-1", b"\xff", type="B", tags=("x",)),
        ]
    )
    [first, second] = log.read()
    run("export", "log.csv", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO((here / "log.csv").read_bytes().decode(), newline="")))
    assert len(rows) == 2
    assert rows[0] == {
        "position": "1",
        "stream": "a-1",
        "version": "1",
        "type": "A",
        "schema_version": "1",
        "id": str(first.id),
        "recorded_at": rows[0]["occurred_at"],
        "occurred_at": first.occurred_at.isoformat(timespec="microseconds")[:-6] + "Z",
        "tags": '["x","y"]',
        "correlation_id": "c1",
        "causation_id": "c2",
        "command_id": "c3",
        "actor": "ada",
        "extra": '{"ip":"::1"}',
        "data": data.decode(),
    }
    assert rows[1]["data"] == "/w=="
    fields = [f"--field={name}" for name in ("amount", "note", "n", "none", "missing")]
    out = run("export", "--format", "csv", *fields).out
    [first, second] = csv.DictReader(io.StringIO(out, newline=""))
    assert "data" not in first
    assert first["amount"] == "5.50"
    assert first["note"] == 'a, "b"\nc'
    assert first["n"] == "[1,2]"
    assert (first["none"], first["missing"], second["amount"]) == ("", "", "")


def test_fields_are_for_csv(run, log):
    assert "--field is for --format csv" in run("export", "--field", "a", code=2).err


def test_an_empty_log(run, log, here):
    run("export", "log.jsonl")
    assert (here / "log.jsonl").read_bytes() == b""
    assert len(run("export", "--format", "csv").out.splitlines()) == 1


def many(log, count=3000):
    for _ in range(count // 1000):
        log.append([Event("a-1", b'{"n":1}', type="A") for _ in range(1000)])


@pytest.mark.parametrize("file", ["log.jsonl", "log.jsonl.gz"])
def test_an_export_that_breaks_off_leaves_what_was_there(run, log, here, file):
    many(log)
    (here / file).write_bytes(b"the old one")
    connection = apsw.Connection("log.db")
    connection.execute("PRAGMA foreign_keys = off; DROP TRIGGER events_are_not_updated")
    connection.execute("UPDATE events SET kind_id = 99 WHERE position = 2500")
    connection.close()
    assert "is damaged" in run("export", file, code=2).err
    assert (here / file).read_bytes() == b"the old one"
    assert [name for name in os.listdir(here) if "partial" in name] == []


def test_an_export_that_is_killed_leaves_what_was_there(spawn, log, here, monkeypatch):
    many(log)
    (here / "out.jsonl").write_bytes(b"the old one")
    # It cannot get beyond this: an export waits for a reader of its pipe.
    os.mkfifo(here / "pipe")
    process = spawn("export", "pipe")
    with (here / "pipe").open("rb") as pipe:
        assert pipe.readline()
        process.kill()
    assert process.wait(60) == -9
    assert (here / "out.jsonl").read_bytes() == b"the old one"
    assert (here / "pipe").is_fifo()


def test_an_export_replaces_an_older_one_as_a_whole(run, log, here):
    many(log)
    (here / "log.jsonl").write_bytes(b"the old one\n" * 100_000)
    run("export", "log.jsonl")
    assert len((here / "log.jsonl").read_bytes().splitlines()) == 3000


def test_the_same_events_make_the_same_file(run, log, here):
    many(log)
    run("export", "a.jsonl.gz")
    run("export", "b.jsonl.gz")
    assert (here / "a.jsonl.gz").read_bytes() == (here / "b.jsonl.gz").read_bytes()
    assert (here / "a.jsonl.gz").read_bytes()[4:8] == bytes(4)  # the time, in a gzip file
    assert len(gzip.decompress((here / "a.jsonl.gz").read_bytes()).splitlines()) == 3000


def test_a_place_that_cannot_be_written(run, log, here):
    assert "No such file or directory" in run("export", "no/log.jsonl", code=2).err
    (here / "folder").mkdir()
    assert "Is a directory" in run("export", "folder", code=2).err


def test_a_full_disk_is_no_success(spawn, log):
    many(log)
    process = spawn("export", "/dev/full", stdout=subprocess.DEVNULL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"No space left on device" in err
    assert b"Traceback" not in err


def test_the_query_is_that_of_the_library(run, log):
    many(log, 1000)
    log.append([Event("b-1", b"{}", type="B")])
    [line] = run("export", "--category", "b").lines
    assert line["position"] == next(iter(log.read(select(category="b")))).position
