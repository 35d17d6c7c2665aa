"""`check` finds every kind of damage, and nothing where there is none."""

from __future__ import annotations

import apsw
import pytest

import leftfold
from leftfold import Event, Metadata
from leftfold.cli.scan import Scan

TRIGGERS = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"


@pytest.fixture
def filled(run, here):
    with leftfold.open("sqlite:///log.db") as log:
        for n in range(1, 7):
            data = b'{"amount":"%d"}' % n
            metadata = Metadata(actor="ada", extra={"n": n})
            stream, tags = f"account-{n % 2}", ("all", f"t:{n % 2}")
            log.append([Event(stream, data, type="Deposited", tags=tags, metadata=metadata)])
    return here / "log.db"


def damage(path, sql):
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA foreign_keys = off")
    for (trigger,) in connection.execute(TRIGGERS).fetchall():
        connection.execute(f"DROP TRIGGER {trigger}")
    connection.execute(sql)
    connection.close()


def test_nothing_is_wrong_with_a_log_of_ours(run, filled):
    result = run("check", "--json").json
    assert (result["problem_count"], result["problems"]) == (0, [])
    assert (result["head"], result["events"], result["streams"]) == (6, 6, 2)
    assert (result["decoded"], result["folded_streams"]) == (False, 0)
    with_app = run("check", "--json", "--app", "bank:app").json
    assert (with_app["problem_count"], with_app["decoded"]) == (0, True)
    assert with_app["folded_streams"] == 2
    assert run("check", "--json", "--app", "bank:codec").json["folded_streams"] == 0
    assert "0 problems in 6 events in 2 streams" in run("check").out


def test_an_empty_log(run, log):
    assert run("check", "--json").json["problem_count"] == 0


KINDS = {
    "version": (
        "UPDATE events SET version = 7 WHERE position = 3",
        [(3, "account-1", 7, "version 7, expected 2"), (5, "account-1", 3, "expected 8")],
    ),
    "recorded_at": (
        "UPDATE events SET recorded_at = 5 WHERE position = 4",
        [(4, "account-0", 2, "recorded at 1970-01-01T00:00:00.000005Z, after 20")],
    ),
    "id": (
        """DROP INDEX events_by_id;
        UPDATE events SET id = (SELECT id FROM events WHERE position = 2) WHERE position = 5""",
        [(2, None, None, "2 events have the id")],
    ),
    "metadata": (
        "UPDATE events SET metadata = '{' WHERE position = 4",
        [(4, "account-0", 2, "cannot be read")],
    ),
    "category": (
        "UPDATE kinds SET category = 'order'",
        [(2, "account-0", None, "'order'"), (1, "account-1", None, "'order'")],
    ),
    "reference": (
        "UPDATE event_tags SET tag_id = 99 WHERE position = 3 AND tag_id = 1",
        [(None, None, None, "a row of event_tags refers to no row of tags")],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_damage(run, filled, kind):
    sql, expected = KINDS[kind]
    damage(filled, sql)
    result = run("check", "--json", code=1).json
    found = [each for each in result["problems"] if each["kind"] == kind]
    assert len(found) == len(expected)
    assert result["problem_count"] == len(result["problems"])
    for problem, (position, stream, version, says) in zip(
        sorted(found, key=lambda each: (each["stream"] or "", each["position"] or 0)),
        sorted(expected, key=lambda each: (each[1] or "", each[0] or 0)),
        strict=True,
    ):
        assert (problem["position"], problem["stream"]) == (position, stream)
        assert problem["version"] == version
        assert says in problem["message"]


def test_a_schema_that_is_not_ours(run, filled):
    damage(filled, "DROP INDEX events_by_kind; CREATE INDEX events_by_kind ON events (version)")
    problems = run("check", "--json", code=1).json["problems"]
    messages = [each["message"] for each in problems if each["kind"] == "schema"]
    assert "the trigger events_are_not_updated is missing" in messages
    assert "the index events_by_kind is not as this release makes it" in messages
    assert len(messages) == len(problems)
    run("init", "--store", "sqlite:///new.db")
    damage(filled.with_name("new.db"), "CREATE INDEX of_the_user ON events (actor)")
    others = run("check", "--json", "--store", "sqlite:///new.db", code=1).json["problems"]
    assert not [each for each in others if "of_the_user" in each["message"]]


TAGS = {
    "not in the index": (
        "DELETE FROM event_tags WHERE position = 3 AND tag_id = 1",
        (3, "tag 'all': position 3 has it, but is not found by it"),
    ),
    "the last is not in the index": (
        "DELETE FROM event_tags WHERE position = 6 AND tag_id = 1",
        (6, "tag 'all': position 6 has it, but is not found by it"),
    ),
    "more in the index": (
        "INSERT INTO event_tags VALUES (2, 4, 1)",
        (4, "tag 't:1': position 4 is found by it, but does not have it"),
    ),
    "a tag that no event has": (
        "INSERT INTO tags VALUES (50, 'x'); INSERT INTO event_tags VALUES (50, 2, 1)",
        (2, "tag 'x': position 2 is found by it, but does not have it"),
    ),
    "of another kind": (
        """INSERT INTO kinds VALUES (9, 'account', 'Other', 1);
        UPDATE event_tags SET kind_id = 9 WHERE position = 5 AND tag_id = 1""",
        (5, "the index by tag has another type for it"),
    ),
}


@pytest.mark.parametrize("case", TAGS)
def test_damage_to_the_index_by_tag(run, filled, case):
    sql, (position, says) = TAGS[case]
    damage(filled, sql)
    problems = run("check", "--json", code=1).json["problems"]
    [problem] = [each for each in problems if each["kind"] == "tag"]
    assert (problem["position"], problem["message"]) == (position, says)


def test_an_id_that_is_none(run, filled):
    damage(filled, "UPDATE events SET id = x'01' WHERE position = 4")
    problems = run("check", "--json", code=1).json["problems"]
    [problem] = [each for each in problems if each["kind"] == "id"]
    assert (problem["position"], problem["message"]) == (4, "its id has 1 bytes, expected 16")


def test_a_time_beyond_the_calendar(run, filled):
    damage(filled, f"UPDATE events SET recorded_at = {2**62} WHERE position = 4")
    problems = run("check", "--json", code=1).json["problems"]
    kinds = [each["kind"] for each in problems if each["position"]]
    assert kinds == ["metadata", "recorded_at", "recorded_at"]


def test_positions_that_do_not_increase():
    # SQLite cannot be brought to it: a position is the key of its table.
    with leftfold.open("memory://") as log:
        log.append([Event("a-1", b"{}", type="A"), Event("a-1", b"{}", type="A")])
        first, second = log.read()
    scan = Scan()
    assert list(scan.look(second)) != []  # its version
    scan = Scan()
    assert list(scan.look(first)) == []
    assert list(scan.look(second)) == []
    kinds = [each.kind for each in scan.look(second)]
    assert kinds == ["position", "version"]
    scan.close()


def test_an_event_of_an_unknown_kind_ends_the_scan(run, filled):
    damage(filled, "UPDATE events SET kind_id = 99 WHERE position = 3")
    problems = run("check", "--json", code=1).json["problems"]
    kinds = {each["kind"] for each in problems}
    assert {"reference", "unreadable"} <= kinds
    [reference] = [each for each in problems if each["kind"] == "reference"]
    assert reference["position"] == 3


def test_a_damaged_page(run, filled):
    with leftfold.open("sqlite:///log.db") as log:
        for _ in range(200):
            log.append([Event("big-1", b'"%s"' % (b"x" * 500), type="A")])
    damaged = bytearray(filled.read_bytes())
    damaged[-3 * 4096 :] = b"\xab" * (3 * 4096)
    filled.write_bytes(damaged)
    problems = run("check", "--json", code=1).json["problems"]
    assert {each["kind"] for each in problems} & {"integrity", "unreadable"}


def test_an_index_that_does_not_fit_its_table(run, filled):
    connection = apsw.Connection(str(filled))
    root = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'events_by_kind'"
    ).get
    connection.close()
    pages = bytearray(filled.read_bytes())
    start = (root - 1) * 4096
    # The number of entries in the index: two bytes at three of a page's header.
    pages[start + 3 : start + 5] = (5).to_bytes(2)
    filled.write_bytes(pages)
    problems = run("check", "--json", code=1).json["problems"]
    assert "integrity" in {each["kind"] for each in problems}


def test_an_event_that_the_app_cannot_decode(run, filled):
    damage(filled, """UPDATE events SET data = '{"amount":"x"}' WHERE position = 4""")
    without = run("check", "--json", code=1).json["problems"]
    assert {each["kind"] for each in without} == {"schema"}
    problems = run("check", "--app", "bank:app", "--json", code=1).json["problems"]
    [problem] = [each for each in problems if each["kind"] not in ("schema",)]
    assert (problem["kind"], problem["position"]) == ("decode", 4)
    assert (problem["stream"], problem["version"]) == ("account-0", 2)
    assert "Deposited" in problem["message"]


def test_an_event_that_evolve_cannot_take(run, filled):
    run("append", "account-0", "Deposited", '{"amount": 13}')
    assert run("check", "--json").json["problem_count"] == 0
    assert run("check", "--json", "--app", "bank:codec").json["problem_count"] == 0
    result = run("check", "--json", "--app", "bank:app", code=1).json
    [problem] = result["problems"]
    assert (problem["kind"], problem["position"]) == ("evolve", 7)
    assert (problem["stream"], problem["version"]) == ("account-0", 4)
    assert "thirteen" in problem["message"]


def test_a_stream_without_an_id_is_no_decider_s(run, filled):
    for stream in ("account", "account-", "other-1"):
        run("append", stream, "Deposited", '{"amount": 13}')
    result = run("check", "--json", "--app", "bank:app").json
    assert (result["streams"], result["folded_streams"]) == (5, 2)


def test_the_first_problems_are_printed_and_all_are_counted(run, filled):
    damage(filled, "UPDATE events SET recorded_at = 9 - position")
    everything = run("check", "--json", code=1).json
    count = everything["problem_count"]
    assert count == len(everything["problems"]) > 5
    result = run("check", "--json", "--limit", "3", code=1).json
    assert result["problems"] == everything["problems"][:3]
    assert result["problem_count"] == count
    out = run("check", "--limit", "3", code=1).out
    assert f"... and {count - 3} more" in out
    assert f"{count} problems in 6 events" in out
    assert out.splitlines()[0].split() == ["kind", "position", "stream", "version", "message"]


def test_ids_and_tags_of_a_log_larger_than_what_is_held_in_memory(run, filled, monkeypatch):
    monkeypatch.setattr("leftfold.cli.scan.BATCH_ROWS", 2)
    assert run("check", "--json").json["problem_count"] == 0
    damage(
        filled,
        """DROP INDEX events_by_id; DELETE FROM event_tags WHERE position = 1 AND tag_id = 1;
        UPDATE events SET id = (SELECT id FROM events WHERE position = 1) WHERE position = 6""",
    )
    problems = run("check", "--json", code=1).json["problems"]
    assert {each["kind"] for each in problems} == {"schema", "id", "tag"}
