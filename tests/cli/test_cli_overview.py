"""streams, types, stat: they say what a count by hand says."""

from __future__ import annotations

from collections import Counter

import pytest

import leftfold
from leftfold import Event
from leftfold.stores.sqlite import SqliteStore


@pytest.fixture
def events(log):
    for n in range(40):
        name = f"{'account' if n % 3 else 'order'}-{n % 7}"
        log.append(
            [
                Event(
                    *(name, b'{"n":1}'),
                    type="ABC"[n % 3],
                    schema_version=1 + n % 2,
                    tags=(f"t:{n % 5}", "all"),
                )
            ]
        )
    return list(log.read())


def iso(moment):
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_streams(run, events):
    expected = Counter(event.stream for event in events)
    rows = run("streams", "--json").lines
    assert {row["stream"]: row["events"] for row in rows} == expected
    assert [row["stream"] for row in rows] == sorted(expected)
    for row in rows:
        of_stream = [event for event in events if event.stream == row["stream"]]
        assert row["first_recorded_at"] == iso(of_stream[0].recorded_at)
        assert row["last_recorded_at"] == iso(of_stream[-1].recorded_at)
    assert [row[:2] for row in run("streams").rows[1:]] == [
        [name, str(expected[name])] for name in sorted(expected)
    ]


@pytest.mark.parametrize(
    ("arguments", "begin"),
    [
        (["--category", "order"], "order-"),
        (["--prefix", "account-1"], "account-1"),
        (["--category", "order", "--prefix", "a"], "none"),
    ],
)
def test_some_streams(run, events, arguments, begin):
    found = [row["stream"] for row in run("streams", "--json", *arguments).lines]
    assert found == sorted({each.stream for each in events if each.stream.startswith(begin)})


def test_types(run, events):
    rows = run("types", "--json").lines
    counts = Counter((event.type, event.schema_version) for event in events)
    assert {(row["type"], row["schema_version"]): row["events"] for row in rows} == counts
    for row in rows:
        positions = [
            event.position
            for event in events
            if (event.type, event.schema_version) == (row["type"], row["schema_version"])
        ]
        assert (row["first_position"], row["last_position"]) == (positions[0], positions[-1])


def test_stat(run, events, here):
    found = run("stat", "--json").json
    sizes = [each.stat().st_size for each in here.glob("log.db*") if each.suffix != ".db-shm"]
    assert found.pop("read_per_second") > 0
    assert found == {
        "store": "sqlite:///log.db",
        "head": 40,
        "events": 40,
        "streams": len({event.stream for event in events}),
        "types": 3,
        "tags": 6,
        "data_bytes": 40 * 7,
        "disk_bytes": sum(sizes),
        "first_recorded_at": iso(events[0].recorded_at),
        "last_recorded_at": iso(events[-1].recorded_at),
        "events_per_day": None,
    }


def test_the_rate_of_a_log_of_several_days(run, here):
    day_us = 86_400_000_000
    days = iter(range(1, 100))
    store = leftfold.EventStore(SqliteStore("log.db", clock=lambda: next(days) * day_us))
    for _ in range(5):
        store.append([Event("a-1", b"{}", type="A")])
    store.close()
    # Five events in four days.
    assert run("stat", "--json").json["events_per_day"] == 1.2
    assert run("stat").out.splitlines()[-2].split() == ["events_per_day", "1.2"]


def test_an_empty_log(run, log):
    assert run("stat", "--json").json["first_recorded_at"] is None
    assert run("streams").rows == [["stream", "events", "first_recorded_at", "last_recorded_at"]]
    assert run("types", "--json").out == ""
