"""init, append, read, tail: what they print, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

import leftfold
from leftfold import Event, Metadata
from leftfold.cli.wire import to_line

ID = "0b4e9a6e-6a0e-4c5e-9d52-1f6a0c5b7e11"


def fill(log, count=5):
    streams = ["account-1", "account-2", "order-1"]
    log.append(
        [
            Event(streams[n % 3], b'{"n":%d}' % n, type="AB"[n % 2], tags=(f"t:{n % 2}",))
            for n in range(count)
        ]
    )


def test_init_creates_a_store_and_then_leaves_it_as_it_is(run, here):
    first = run("init")
    assert "a new store" in first.out
    assert str(here / "log.db") in first.out
    run("append", "account-1", "Opened", "{}")
    again = run("init")
    assert "the store is there already" in again.out
    assert run("init", "--json").json == {
        "store": "sqlite:///log.db",
        "path": str(here / "log.db"),
        "head": 1,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["append", "account-1", "Opened", "{}"],
        ["read"],
        ["tail"],
        ["streams"],
        ["types"],
        ["stat"],
        ["check"],
        ["export"],
        ["export", "out.jsonl"],
        ["backup", "copy.db"],
        ["--app", "bank:app", "state", "account-1"],
        ["--app", "bank:app", "history", "account-1"],
    ],
    ids=lambda each: each[0],
)
def test_other_commands_do_not_make_a_store(run, here, arguments):
    before = set(os.listdir(here)) | {"__pycache__"}
    assert "there is no store at log.db" in run(*arguments, code=2).err
    assert set(os.listdir(here)) <= before
    (here / "log.db").touch()
    assert "log.db is empty" in run(*arguments, code=2).err
    assert (here / "log.db").stat().st_size == 0


def test_a_store_has_to_be_named(run, monkeypatch):
    monkeypatch.delenv("LEFTFOLD_STORE")
    assert "Give --store" in run("read", code=2).err
    assert "memory://" in run("read", "--store", "memory://", code=2).err
    assert "looks like sqlite:///" in run("read", "--store", "log.db", code=2).err


def test_options_of_every_command_stand_before_or_after_its_name(run, monkeypatch, here):
    run("--store", "sqlite:///a.db", "init")
    run("init", "--store", "sqlite:///b.db")
    assert {"a.db", "b.db"} <= set(os.listdir(here))
    assert "log.db" not in os.listdir(here)
    # The nearer one is meant.
    run("--store", "sqlite:///a.db", "append", "x-1", "A", "{}", "--store", "sqlite:///b.db")
    assert run("--json", "stat", "--store", "sqlite:///b.db").json["events"] == 1
    assert run("stat", "--json", "--store", "sqlite:///a.db").json["events"] == 0


def test_append_records_what_it_is_told(run, log):
    done = run(
        *("append", "account-1", "Opened", '{\n "owner": "ada" }', "--json"),
        *("--tag", "owner:ada", "--tag", "vip", "--id", ID, "--actor", "ben"),
        *("--occurred-at", "2026-03-31T18:00:00+02:00", "--correlation-id", "c1"),
        *("--causation-id", "c2", "--command-id", "c3", "--expected-version", "0"),
    )
    assert done.json == {"position": 1, "stream": "account-1", "version": 1, "id": ID}
    [event] = log.read()
    assert event.data == b'{"owner":"ada"}'
    assert (event.stream, event.type, event.tags) == ("account-1", "Opened", ("owner:ada", "vip"))
    assert event.id == UUID(ID)
    assert event.metadata == Metadata("c1", "c2", "c3", "ben")
    assert event.occurred_at == datetime(2026, 3, 31, 16, tzinfo=UTC)


def test_append_takes_data_from_stdin_and_says_where_it_is(run, log):
    assert run("append", "a-1", "A", "-", input='{"n": 1}').rows[:3] == [
        ["position", "1"],
        ["stream", "a-1"],
        ["version", "1"],
    ]
    assert [each.data for each in log.read()] == [b'{"n":1}']


def test_append_with_an_app_checks_the_data_and_adds_the_tags_of_the_class(run, log):
    run("append", "account-1", "Opened", '{"owner": "ada"}', "--app", "bank:app")
    [event] = log.read()
    assert event.tags == ("owner:ada",)
    with_app = ("append", "account-1", "--app", "bank:app")
    assert "Expected `str`" in run(*with_app, "Opened", '{"owner": 1}', code=2).err
    assert "has no field 'ownr'" in run(*with_app, "Opened", '{"ownr": "b"}', code=2).err
    assert "Deposited, Opened" in run(*with_app, "Closed", "{}", code=2).err
    assert log.head() == 1


KINDS = {
    "a pydantic model": "class Paid(BaseModel):\n    to: str = Field(alias='for')\n    amount: int",
    "a dataclass of pydantic": "@pydantic\nclass Paid:\n    amount: int",
    "a dataclass": "@dataclass\nclass Paid:\n    amount: int",
    "an attrs class": "@attrs.frozen\nclass Paid:\n    amount: int",
    "a renamed struct": "class Paid(Struct, rename={'n': 'amount'}, tag='Paid'):\n    n: int",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_event_class_is_checked(run, log, here, kind):
    (here / "kinds.py").write_text(
        "import attrs\nfrom dataclasses import dataclass\nfrom leftfold import Codec\n"
        "from msgspec import Struct\nfrom pydantic import BaseModel, Field\n"
        f"from pydantic.dataclasses import dataclass as pydantic\n{KINDS[kind]}\n"
        "codec = Codec(Paid)\n"
    )
    more = {"a pydantic model": {"for": "ada"}, "a renamed struct": {"type": "Paid"}}.get(kind, {})
    arguments = ("append", "a-1", "Paid", "-", "--app", "kinds:codec")
    run(*arguments, input=json.dumps(more | {"amount": "7"}))
    [event] = log.read()
    assert json.loads(event.data) == more | {"amount": 7}
    assert "no Paid" in run(*arguments, input=json.dumps(more | {"amount": "x"}), code=2).err
    err = run(*arguments, input=json.dumps(more | {"amount": 1, "amuont": 2}), code=2).err
    assert "Paid has no field 'amuont'; it has " in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["A", "{"], "the data is no JSON"),
        (["A", "{} {}"], "the data is no JSON"),
        (["A", "{}", "--id", "7"], "--id is a UUID"),
        (["A", "{}", "--occurred-at", "2026-01-01T00:00"], "has a time zone"),
        (["A", "{}", "--occurred-at", "yesterday"], "ISO 8601"),
        (["A", "{}", "--tag", ""], "tag is not empty"),
        (["", "{}"], "type is not empty"),
        (["A", "{}", "--expected-version", "3"], "is at version 0, expected version 3"),
    ],
)
def test_append_refuses(run, log, arguments, says):
    assert says in run("append", "account-1", *arguments, code=2).err
    assert log.head() == 0


def test_read_prints_a_table_with_aligned_columns(run, log):
    fill(log)
    lines = run("read").out.splitlines()
    assert lines[0].split() == ["position", "recorded_at", "stream", "version", "type", "data"]
    assert len(lines) == 6
    assert len({line.index("{") for line in lines[1:]}) == 1
    assert lines[0].index("data") == lines[1].index("{")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [1, 2, 3, 4, 5]),
        (["--stream", "account-1"], [1, 4]),
        (["--category", "account"], [1, 2, 4, 5]),
        (["--type", "A"], [1, 3, 5]),
        (["--type", "A", "--type", "B"], [1, 2, 3, 4, 5]),
        (["--tag", "t:1"], [2, 4]),
        (["--tag", "t:1", "--tag", "t:0"], []),
        (["--after", "2"], [3, 4, 5]),
        (["--until", "2"], [1, 2]),
        (["--after", "1", "--limit", "2"], [2, 3]),
        (["--backwards", "--limit", "2"], [5, 4]),
        (["--after", "2026-01-01T00:00:00Z"], [1, 2, 3, 4, 5]),
        (["--until", "2020-01-01T00:00:00+01:00"], []),
    ],
)
def test_read_chooses(run, log, arguments, expected):
    fill(log)
    assert [line["position"] for line in run("read", "--json", *arguments).lines] == expected
    assert [int(row[0]) for row in run("read", *arguments).rows[1:]] == expected


def test_a_line_of_json_has_everything(run, log):
    moment = datetime(2020, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    metadata = Metadata(actor="ada", extra={"ip": "::1"})
    log.append(
        [
            Event(
                *("a-1", b'{"n":1.50}'),
                type="A",
                tags=("x", "y"),
                id=UUID(ID),
                metadata=metadata,
                schema_version=3,
                occurred_at=moment,
            )
        ]
    )
    [event] = log.read()
    result = run("read", "--json")
    assert result.json == {
        "position": 1,
        "stream": "a-1",
        "version": 1,
        "type": "A",
        "schema_version": 3,
        "id": ID,
        "recorded_at": event.recorded_at.isoformat(timespec="microseconds")[:-6] + "Z",
        "occurred_at": "2020-01-02T03:04:05.000678Z",
        "tags": ["x", "y"],
        "metadata": {"actor": "ada", "extra": {"ip": "::1"}},
        "data": {"n": 1.5},
    }
    assert '"data":{"n":1.50}' in result.out
    assert result.out.encode() == msgspec.json.encode(to_line(event)) + b"\n"


def test_a_stream_without_events_is_a_failure_of_its_own(run, log):
    fill(log)
    for name in ("read", "tail", "export"):
        result = run(name, "--stream", "account-9", code=1)
        assert (result.out, result.err) == (
            "",
            "leftfold: stream 'account-9' has no events\n",
        )
    # It is there, but nothing in it is of this type.
    assert run("read", "--json", "--stream", "account-1", "--type", "C").out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--after", "soon"], "--after is a moment in ISO 8601"),
        (["--until", "2026-01-01"], "--until has a time zone"),
        (["--stream", "a", "--category", "b"], "a stream is in one category"),
        (["--tag", ""], "tag is not empty"),
        (["--limit", "0"], "--limit"),
        (["--unknown"], "--unknown"),
    ],
)
def test_read_refuses(run, log, arguments, says):
    assert says in run("read", *arguments, code=2).err


def test_names_and_data_do_not_steer_the_terminal(run, log):
    red, tag = "\x1b[31m", "[bold]"
    log.append([Event(f"a-{red}{tag}", f'"{tag}\u202e"'.encode(), type=f"A\n{red}")])
    out = run("read").out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"a-\x1b[31m[bold]" in out
    assert r"A\n\x1b[31m" in out
    assert len(out.splitlines()) == 2


def test_data_that_is_no_json_can_be_read(run, log):
    log.append([Event("a-1", msgspec.msgpack.encode({"n": 1}), type="A")])
    log.append([Event("a-1", b"\xff\x00", type="A")])
    assert [row[-1] for row in run("read").rows[1:]] == ['{"n":1}', "/wA="]


def test_tail_prints_the_last_events_in_log_order(run, log):
    fill(log, 15)
    assert [each["position"] for each in run("tail", "--json").lines] == list(range(6, 16))
    chosen = run("tail", "--json", "-n", "2", "--type", "A").lines
    assert [each["position"] for each in chosen] == [13, 15]
    assert run("tail", "--json", "-n", "0").out == ""


def test_tail_follows_until_interrupted(spawn, log):
    fill(log, 3)
    process = spawn("tail", "-n", "1", "-f", "--json")
    assert msgspec.json.decode(process.stdout.readline())["position"] == 3
    for position in (4, 5):
        log.append([Event("account-1", b"{}", type="A")])
        assert msgspec.json.decode(process.stdout.readline())["position"] == position
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_tail_follows_a_stream_that_is_not_there_yet(run, log, monkeypatch):
    followed = []

    def record_now(store, query, *, after):
        subscription = subscribe(store, query, after=after)
        log.append([Event("order-7", b"{}", type="A")])
        for event in subscription:
            followed.append(event.stream)
            subscription.close()
        return subscription

    subscribe = leftfold.EventStore.subscribe
    monkeypatch.setattr(leftfold.EventStore, "subscribe", record_now)
    run("tail", "-f", "--json", "--stream", "order-7", code=130)
    assert followed == ["order-7"]


@pytest.mark.parametrize("arguments", [["read"], ["read", "--json"], ["export"]])
def test_a_reader_that_has_gone_is_no_error_to_speak_of(spawn, log, arguments):
    for _ in range(4):
        log.append([Event("account-1", b'"%s"' % (b"x" * 100), type="A") for _ in range(2000)])
    process = spawn(*arguments)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


@pytest.mark.parametrize("arguments", [["read"], ["read", "--json"], ["stat"], ["export"]])
def test_a_reader_that_never_was(spawn, log, arguments):
    fill(log)
    reading, writing = os.pipe()
    os.close(reading)
    process = spawn(*arguments, stdout=writing)
    os.close(writing)
    # What is left in the buffer is not tried again at the end, and no success is told.
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_follower_sees_what_was_recorded_while_it_began(spawn, log):
    fill(log, 3)
    process = spawn("tail", "-f", "--json", "-n", "1000")
    for _ in range(50):
        log.append([Event("account-1", b"{}", type="A")])
    seen = [msgspec.json.decode(process.stdout.readline())["position"] for _ in range(53)]
    assert seen == list(range(1, 54))
