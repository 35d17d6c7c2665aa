"""copy: the same log in another store, however often it is stopped, and nothing else in it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import apsw
import msgspec
import pytest
from cli_support import wait_for

import leftfold
from leftfold import Event, Metadata
from leftfold.cli import copy
from leftfold.facade import EventStore
from leftfold.stores.sqlite import SqliteStore

SOURCE, TARGET = "sqlite:///log.db", "sqlite:///copy.db"
COPY = ("copy", SOURCE, TARGET)
COUNT = 1000


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(copy, "BATCH_EVENTS_MAX", 10)


@pytest.fixture
def copied():
    """The target, for the test itself."""
    with leftfold.open(TARGET) as store:
        yield store


def fill(log, count=COUNT, first=0):
    events = [Event(f"a-{n % 7}", b'{"n":%d}' % n, type="A") for n in range(first, first + count)]
    log.append(events)


def again(event, **other):
    values = {
        "type": event.type,
        "tags": event.tags,
        "id": event.id,
        "metadata": event.metadata,
        "occurred_at": event.occurred_at,
    }
    return Event(event.stream, event.data, **(values | other))


def fact(event):
    """What a copy keeps."""
    place = (event.position, event.stream, event.version, event.id)
    content = (event.type, event.schema_version, event.data, event.tags)
    return *place, *content, repr(event.metadata), event.occurred_at


def facts(store):
    return [fact(event) for event in store.read()]


def alter(name, *statements):
    """Change a file past leftfold, as nobody should."""
    connection = apsw.Connection(name)
    kept = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall()
    for trigger, _ in kept:
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        connection.execute(statement)
    for _, sql in kept:
        connection.execute(sql)
    connection.close()


def of_all_kinds():
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


def test_a_copy_is_equal_event_by_event(run, log, copied):
    for event in of_all_kinds():
        log.append([event])
    fill(log)
    done = run(*COPY, "--json").json
    assert facts(copied) == facts(log)
    assert len(facts(log)) == COUNT + 6
    assert done.keys() == {
        *("copied", "already_there", "head", "positions_same"),
        *("seconds", "events_per_second", "verified"),
    }
    numbers = {name: done[name] for name in done if "second" not in name}
    assert numbers == {
        "copied": COUNT + 6,
        "already_there": 0,
        "head": COUNT + 6,
        "positions_same": True,
        "verified": True,
    }


def test_the_time_in_the_world_survives(run, log, copied):
    fill(log, 1)
    wait_for(lambda: datetime.now(UTC) > log.read().__next__().recorded_at)
    run(*COPY)
    [here], [there] = log.read(), copied.read()
    assert here.occurred_us is None
    assert there.occurred_at == here.recorded_at < there.recorded_at


def test_an_empty_log_makes_an_empty_store(run, log, here):
    done = run(*COPY, "--json").json
    assert (done["copied"], done["head"], done["verified"]) == (0, 0, True)
    assert (here / "copy.db").stat().st_size > 0


def test_for_people(run, log):
    fill(log, 3)
    rows = run(*COPY).rows
    assert ["copied", "3"] in rows
    assert ["verified", "True"] in rows
    assert ["verified", "False"] in run(*COPY, "--no-verify").rows


def test_an_append_may_be_of_as_many_streams_as_it_has_events(run, log, copied):
    log.append([Event(f"a-{n}", b"{}", type="A") for n in range(2500)])
    run(*COPY)
    assert facts(copied) == facts(log)


def test_batches_are_bounded_in_bytes(run, log, copied, monkeypatch):
    monkeypatch.setattr(copy, "BATCH_BYTES_MAX", 1000)
    sizes = []
    append = EventStore.append

    def noted(self, events, **conditions):
        events = list(events)
        sizes.append(sum(len(event.data) for event in events))
        return append(self, events, **conditions)

    log.append([Event("a-1", bytes(size), type="A") for size in [300] * 10 + [5000, 1, 999, 1]])
    monkeypatch.setattr(EventStore, "append", noted)
    run(*COPY)
    assert sizes == [900, 900, 900, 300, 5000, 1000, 1]
    assert facts(copied) == facts(log)


def test_twice_adds_nothing_and_a_third_time_what_is_new(run, log, copied):
    fill(log)
    run(*COPY)
    before = list(copied.read())
    done = run(*COPY, "--json").json
    assert (done["copied"], done["already_there"], done["verified"]) == (0, COUNT, True)
    assert list(copied.read()) == before
    fill(log, 5, COUNT)
    done = run(*COPY, "--json").json
    assert (done["copied"], done["already_there"], done["head"]) == (5, COUNT, COUNT + 5)
    assert facts(copied) == facts(log)


def test_going_on_reads_and_sends_only_what_is_new(run, log, copied, monkeypatch):
    fill(log)
    run(*COPY)
    fill(log, 5, COUNT)
    counts = []
    read = SqliteStore.read

    async def counted(self, *arguments, **options):
        page = await read(self, *arguments, **options)
        counts.append(len(page))
        return page

    monkeypatch.setattr(SqliteStore, "read", counted)
    assert run(*COPY, "--json", "--no-verify").json["copied"] == 5
    assert sum(counts) == 7, "one here, one there, and the new ones"


def test_what_is_recorded_meanwhile_is_for_the_next_time(run, log, copied, monkeypatch):
    fill(log)
    run_ = copy.Copying.run

    def late(self):
        fill(log, 5, COUNT)
        run_(self)

    with monkeypatch.context() as patched:
        patched.setattr(copy.Copying, "run", late)
        assert run(*COPY, "--json").json["head"] == copied.head() == COUNT
    assert run(*COPY, "--json").json["copied"] == 5
    assert facts(copied) == facts(log)


def test_where_the_source_has_gaps_positions_differ(run, log, copied, small_batches):
    fill(log, 50)
    log.append([Event("gone", b"{}", type="A")])
    fill(log, 50, 50)
    alter("log.db", "DELETE FROM events WHERE position = 51")
    done = run(*COPY, "--json").json
    assert (done["copied"], done["head"], done["positions_same"]) == (100, 101, False)
    assert [fact(event)[1:] for event in copied.read()] == [fact(event)[1:] for event in log.read()]
    fill(log, 5, 100)
    for options in ([], ["--no-verify"]):
        done = run(*COPY, "--json", *options).json
        assert (done["copied"] + done["already_there"], done["positions_same"]) == (105, False)
    assert copied.head() == 105


# A copy in small batches, which waits for ever after some of them.
HELD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from leftfold.cli import copy, main
copy.BATCH_EVENTS_MAX = 10
batches = copy._batches
def held(events):
    for count, batch in enumerate(batches(events)):
        while count == {count}:
            time.sleep(0.01)
        yield batch
copy._batches = held
main()
"""


@pytest.fixture
def start(here):
    """Starts a copy as a process, and lets none outlive its test."""
    started = []

    def start(batches_max):
        code = HELD.format(count=batches_max)
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-W", "error", "-c", code, *COPY, "--json"]
        started.append(subprocess.Popen(command, cwd=here, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_copy_that_is_killed_at_any_place_goes_on(run, log, copied, start):
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    fill(log)
    for _ in range(4):
        left = COUNT - copied.head()
        # It cannot come further than half of what is left, however late it is killed.
        process = start(batches_max=left // 20)
        enough = copied.head() + rng.randrange(left // 4)
        wait_for(lambda enough=enough: copied.head() > enough)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        assert facts(copied) == facts(log)[: copied.head()]
    before = copied.head()
    assert 0 < before < COUNT
    done = run(*COPY, "--json").json
    assert (done["copied"], done["already_there"]) == (COUNT - before, before)
    assert facts(copied) == facts(log)


def test_ctrl_c_says_that_it_can_go_on(run, log, copied, start):
    fill(log)
    process = start(batches_max=5)
    wait_for(lambda: copied.head() == 50)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"run it again, and it goes on" in err
    assert b"Traceback" not in err
    assert run(*COPY, "--json").json["already_there"] == 50
    assert facts(copied) == facts(log)


def test_ctrl_c_does_not_break_a_batch(run, log, copied, small_batches, monkeypatch):
    fill(log)
    append = EventStore.append

    def interrupted(self, events, **conditions):
        os.kill(os.getpid(), signal.SIGINT)
        return append(self, events, **conditions)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patched:
        patched.setattr(EventStore, "append", interrupted)
        err = run(*COPY, code=130).err
    signal.signal(signal.SIGINT, before)
    assert "goes on where it stopped" in err
    assert copied.head() == 10
    run(*COPY)
    assert facts(copied) == facts(log)


def test_two_copies_at_the_same_time_come_to_one(run, log, copied, start):
    fill(log)
    # Neither waits: there are fewer batches.
    processes = [start(batches_max=COUNT) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 2)
        assert b"Traceback" not in err
        assert (b"run the same copy again" in err) == (process.returncode == 2)
    run(*COPY)
    assert facts(copied) == facts(log)


def test_a_target_that_holds_something_else_is_refused(run, log, copied):
    fill(log)
    copied.append([Event("a-1", b"{}", type="A")])
    before = facts(copied)
    err = run(*COPY, code=2).err
    assert "no copy of the source" in err
    assert f"where the source has event {log.read().__next__().id} at position 1," in err
    assert f"it has event {before[0][3]} at position 1, version 1 of stream 'a-1'" in err
    assert facts(copied) == before


def test_events_that_are_only_alike_are_not_taken_for_the_same(run, log, copied):
    fill(log)
    fill(copied, 5)
    before = facts(copied)
    err = run(*COPY, code=2).err
    assert f"it has event {before[0][3]} at position 1, version 1 of stream 'a-0'" in err
    assert facts(copied) == before


@pytest.mark.parametrize("place", ["in the middle", "at the end"])
def test_a_foreign_event_among_those_of_the_source_is_named(run, log, copied, place):
    fill(log)
    events = list(log.read(limit=20))
    foreign = Event("foreign", b"{}", type="A")
    copied.append([again(event) for event in events[:12]])
    copied.append([foreign])
    if place == "in the middle":
        copied.append([again(event) for event in events[12:]])
    before = facts(copied)
    err = run(*COPY, code=2).err
    assert f"where the source has event {events[12].id} at position 13," in err
    assert f"it has event {foreign.id} at position 13, version 1 of stream 'foreign'" in err
    assert facts(copied) == before


def test_a_target_that_lacks_an_event_in_the_middle_is_refused(run, log, copied):
    log.append([Event("b", b"{}", type="A")])
    fill(log, 20)
    copied.append([again(event) for event in log.read(after=1, limit=5)])
    before = facts(copied)
    assert "where the source has event" in run(*COPY, code=2).err
    assert facts(copied) == before


def test_a_target_that_has_more_than_the_source_is_refused(run, log, copied):
    fill(log, 10)
    run(*COPY)
    fill(copied, 1)
    before = facts(copied)
    err = run(*COPY, code=2).err
    assert f"where the source ends, it has event {before[-1][3]} at position 11" in err
    assert facts(copied) == before


@pytest.mark.parametrize("stream", ["foreign", "a-0"])
def test_a_writer_on_the_target_is_found_out(run, log, copied, small_batches, monkeypatch, stream):
    fill(log)
    foreign = Event(stream, b"{}", type="A")
    append = copy.Copying._append

    def disturbed(self, batch):
        append(self, batch)
        if self.copied == 30:
            copied.append([foreign])

    monkeypatch.setattr(copy.Copying, "_append", disturbed)
    err = run(*COPY, code=2).err
    assert f"did not write: it has event {foreign.id} at position 31," in err
    assert copied.head() == 31
    err = run(*COPY, code=2).err
    assert f"it has event {foreign.id}" in err
    assert copied.head() == 31


def test_an_id_that_the_target_has_elsewhere_is_an_error(run, log, copied, small_batches):
    # A look at the last event finds nothing wrong: somebody has tampered with the target.
    fill(log, 30)
    stolen = list(log.read())[25].id.bytes
    copied.append([again(event) for event in log.read(limit=20)])
    alter("copy.db", f"UPDATE events SET id = x'{stolen.hex()}' WHERE position = 5")
    assert "ids are recorded already" in run(*COPY, code=2).err
    assert copied.head() == 20


def test_a_stream_that_is_not_where_it_should_be_is_an_error(run, log, copied):
    # Nor does it find that an event before it is gone; but versions would differ then.
    fill(log, 30)
    copied.append([again(event) for event in log.read(limit=20)])
    alter("copy.db", "DELETE FROM events WHERE position = 15")
    assert "stream 'a-0' is at version 2, expected version 3" in run(*COPY, code=2).err
    assert copied.head() == 20


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("data = x'7b7d'", "data is b'{\"n\":4}' in the source, b'{}' in the target"),
        ("occurred_at = occurred_at + 1", "occurred_at is datetime"),
        ("occurred_at = NULL", "occurred_at is datetime"),
        ("metadata = '{\"a\":1}'", "metadata is"),
        ("actor = 'eve'", "metadata is"),
        ("tag_ids = NULL", "tags is ('t', 'u')"),
        ("tag_ids = '[2,1]'", "tags is ('t', 'u') in the source, ('u', 't') in the target"),
        ("kind_id = 2", "type is 'A' in the source, 'B' in the target"),
        ("kind_id = 3", "schema_version is 1 in the source, 2 in the target"),
        ("id = randomblob(16)", "id is UUID"),
    ],
)
def test_what_was_changed_in_the_target_is_found(run, log, here, change, named):
    fill(log, 4)
    values = {"type": "A", "tags": ("t", "u"), "metadata": Metadata(extra={"a": True})}
    log.append([Event("a-9", b'{"n":4}', **values)])
    log.append([Event("a-9", b"{}", type="B"), Event("a-9", b"{}", type="A", schema_version=2)])
    assert run(*COPY, "--json").json["verified"]
    alter("copy.db", f"UPDATE events SET {change} WHERE position = 5")
    found = run(*COPY, "--json", code=1)
    assert not found.json["verified"]
    assert "the copy is not equal: event " in found.err
    assert "at position 5, version 1 of stream 'a-9': " in found.err
    assert named in found.err
    assert run(*COPY, "--json", "--no-verify").err == ""


def test_an_event_that_is_gone_from_the_target_is_found(run, log, here):
    fill(log, 20)
    run(*COPY)
    alter("copy.db", "DELETE FROM events WHERE position = 5")
    err = run(*COPY, code=1).err
    assert "id is" in err
    assert "at position 5, version 1 of stream 'a-4'" in err


@pytest.mark.parametrize(("name", "which"), [("copy.db", "source"), ("log.db", "target")])
def test_a_log_that_loses_its_end_meanwhile_is_found(run, log, here, monkeypatch, name, which):
    fill(log, 20)
    last = list(log.read())[-1].id
    compare = copy.Copying.first_difference

    def late(self):
        alter(name, "DELETE FROM events WHERE position = 20")
        return compare(self)

    monkeypatch.setattr(copy.Copying, "first_difference", late)
    assert f"only the {which} has event {last} at position 20" in run(*COPY, code=1).err


def test_positions_between_are_compared_too(run, log, here):
    fill(log, 2)
    log.append([Event("gone", b"{}", type="A")])
    fill(log, 8, 2)
    alter("log.db", "DELETE FROM events WHERE position = 3")
    run(*COPY)
    move = "UPDATE events SET position = {} WHERE position {}"
    alter("copy.db", move.format("-position - 1", ">= 7"), move.format("-position", "< 0"))
    done = run(*COPY, "--json").json
    assert (done["already_there"], done["positions_same"], done["verified"]) == (10, False, True)
    # Not looked at: the last one is where it should be.
    done = run(*COPY, "--json", "--no-verify").json
    assert (done["already_there"], done["positions_same"]) == (11, True)


def test_a_log_is_not_copied_into_itself(run, log, here):
    fill(log, 1)
    os.link("log.db", "other.db")
    names = ("log.db", "./log.db", "other.db", str(here / "log.db"), "log.db?busy_timeout_s=1")
    for name in names:
        err = run("copy", SOURCE, f"sqlite:///{name}", code=2).err
        assert "the same store" in err
    assert log.head() == 1


def test_places_that_cannot_be(run, log, here):
    fill(log, 1)
    for other in ("sqlite:///no/copy.db", "log.db", "ftp://copy", "sqlite:///copy.db?no=1"):
        run("copy", SOURCE, other, code=2)
    for pair in (("memory://", TARGET), (SOURCE, "memory://")):
        assert "memory:// is empty" in run("copy", *pair, code=2).err
    assert "there is no store at no.db" in run("copy", "sqlite:///no.db", TARGET, code=2).err
    (here / "file").write_bytes(b"x" * 10_000)
    run("copy", SOURCE, "sqlite:///file", code=2)
    run("copy", "sqlite:///file", TARGET, code=2)
    assert {each.name for each in here.glob("*.db")} == {"log.db"}
    assert (here / "file").read_bytes() == b"x" * 10_000


def test_what_is_missing_for_postgresql_is_said(run, log, monkeypatch):
    for name in ("leftfold.cli.postgres_schema", "leftfold.stores.postgres"):
        monkeypatch.setitem(sys.modules, name, None)
    for pair in (("postgresql://host/log", TARGET), (SOURCE, "postgresql://host/log")):
        assert "pip install 'leftfold[postgres]'" in run("copy", *pair, code=2).err


def test_a_target_that_is_locked_can_be_copied_to_later(run, log, copied):
    fill(log)
    other = apsw.Connection("copy.db")
    other.execute("BEGIN IMMEDIATE")
    err = run("copy", SOURCE, f"{TARGET}?busy_timeout_s=0.05", code=2).err
    assert "locked by another process" in err
    assert "run it again" in err
    other.execute("ROLLBACK")
    other.close()
    run(*COPY)
    assert facts(copied) == facts(log)
