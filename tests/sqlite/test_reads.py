"""How reads get at their events: in one snapshot, and past what they do not want."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from leftfold.drive import run_sync
from leftfold.errors import AppendConditionFailed, StoreClosed
from leftfold.query import ALL, NoneMatch, Query, Version, select
from leftfold.stores.sqlite import SqliteOptions, SqliteStore
from leftfold.stores.sqlite.pool import READERS_MAX
from leftfold.stores.sqlite.reader import Reader
from leftfold.testing.faults import seeds
from leftfold.testing.log import PATIENCE_S, Log, event

FAST = SqliteOptions(durability="may_lose_latest")
STEPS_COUNTED = 100
"""SQLite tells of every so many steps of its virtual machine."""
FUTURE = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    log = Log(lambda: SqliteStore(str(path), FAST))
    yield log
    log.close()


def readers(log: Log) -> list[Reader]:
    """The readers that a store has opened."""
    store: Any = log.store
    return [store._warm_reader, *(each._reader for each in store._readers._places if each._reader)]


def steps_of(log: Log, action: Callable[[], Any]) -> int:
    """How many steps SQLite takes for an action on a store that nobody else uses."""
    counted = 0

    def count() -> bool:
        nonlocal counted
        counted += STEPS_COUNTED
        return False

    action()  # learns names, and opens what it needs
    connections = [reader.connection for reader in readers(log)]
    for connection in connections:
        connection.set_progress_handler(count, STEPS_COUNTED)
    action()
    for connection in connections:
        connection.set_progress_handler(None)
    return counted


@pytest.mark.parametrize("query", [ALL, select("a-1"), select(tags=["t:1"])])
@pytest.mark.parametrize("bounds", [{"after": FUTURE}, {"until": FUTURE}])
def test_a_moment_and_the_page_are_one_snapshot(
    log: Log, path: Path, monkeypatch: pytest.MonkeyPatch, query: Query, bounds: dict[str, Any]
) -> None:
    """An event that comes in between would be returned after a moment in the future."""
    log.append(event("a-1", "A", tags=("t:1",)))
    other = Log(lambda: SqliteStore(str(path), FAST))
    position_at = Reader._position_at

    def meanwhile(reader: Reader, us: int) -> int:
        position = position_at(reader, us)
        other.append(event("a-1", "B", tags=("t:1",)))
        return position

    monkeypatch.setattr(Reader, "_position_at", meanwhile)
    assert log.types(query, **bounds) == ("" if "after" in bounds else "A")
    assert not any(reader.connection.in_transaction for reader in readers(log))
    monkeypatch.undo()
    assert log.types(query, until=FUTURE) == "AB"
    other.close()


def test_plain_reads_are_one_statement(log: Log) -> None:
    log.append(event("a-1"), event("a-1"))
    executed: list[str] = []
    log.read()
    for reader in readers(log):
        reader._cursor.exec_trace = lambda cursor, sql, values: executed.append(sql) or True
    log.read(after=1, until=2)
    log.read(select("a-1"), after=1, until=2)
    log.read(select("a-1"), after=Version(1), backwards=True)
    assert len(executed) == 3, executed


def two_long_streams(log: Log) -> None:
    """Odd positions are those of a-1, even ones those of b-1."""
    for _ in range(20):
        log.append(*(event(stream) for _ in range(200) for stream in ("a-1", "b-1")))


@pytest.mark.parametrize(
    ("query", "step"), [(select("a-1") | select("b-1"), 1), (select("a-1"), 2)], ids=["two", "one"]
)
def test_a_page_of_long_streams_does_not_walk_along_them(log: Log, query: Query, step: int) -> None:
    two_long_streams(log)
    forwards: dict[str, Any] = {"after": 4000, "limit": 10}
    backwards: dict[str, Any] = {"until": 4001, "limit": 10, "backwards": True}
    places = [each.position for each in log.read(query, **forwards)]
    assert places == [4001 + step * number for number in range(10)]
    places = [each.position for each in log.read(query, **backwards)]
    assert places == [4001 - step * number for number in range(10)]
    assert steps_of(log, lambda: log.read(query, **forwards)) < 3000
    assert steps_of(log, lambda: log.read(query, **backwards)) < 3000
    assert steps_of(log, lambda: log.read(query, limit=10)) < 3000


def many_kinds(log: Log, kinds: int) -> None:
    """Streams without a dash: each is a category of its own."""
    for number in range(10):
        events = (event(f"user{place % kinds}", "Often") for place in range(500))
        log.append(*events, event(f"user{number}", "Seldom"))


@pytest.mark.parametrize("kinds", [100, 500])
def test_a_page_of_many_kinds_costs_what_it_returns(log: Log, kinds: int) -> None:
    many_kinds(log, kinds)
    often = select(types=["Often"])
    steps_max = 1000 + 3 * kinds  # kinds are counted
    assert len(log.read(often, limit=10)) == 10
    assert steps_of(log, lambda: log.read(often, limit=10)) < steps_max
    assert steps_of(log, lambda: log.read(often, limit=10, backwards=True)) < steps_max
    assert steps_of(log, lambda: log.read(often, after=5000)) < steps_max


def test_what_is_rare_is_found_without_looking_at_all(log: Log) -> None:
    for _ in range(20):
        log.append(*(event(type="Often") for _ in range(1000)))
    log.append(*(event(f"user{number}", "Seldom") for number in range(420)))
    seldom = select(types=["Seldom"])
    found = log.read(seldom, limit=10)
    assert [each.stream for each in found] == [f"user{number}" for number in range(10)]
    assert steps_of(log, lambda: log.read(seldom, limit=10)) < 20_000
    assert steps_of(log, lambda: log.read(seldom, limit=10, until=20_000)) < 20_000


def test_kinds_are_found_across_gaps_and_in_order(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SPAN_MIN", "SPAN_GROWTH", "SPAN_PER_KIND_MIN"):
        monkeypatch.setattr(f"leftfold.stores.sqlite.kinds.{name}", 2)
    for seed in seeds(20):
        rng = random.Random(seed)
        start = log.head()
        for _ in range(rng.randrange(1, 8)):  # runs of one type, so that others have gaps
            type = rng.choice("ABCD")
            log.append(*(event(f"s{rng.randrange(4)}", type) for _ in range(rng.randrange(1, 60))))
        everything = log.read(after=start)
        for _ in range(30):
            query = select(types=rng.sample("ABCDE", rng.randrange(1, 4)))
            if rng.random() < 0.3:
                query |= select(category=f"s{rng.randrange(5)}")
            after, until = (start + rng.randrange(len(everything) + 2) for _ in range(2))
            matching = [each for each in everything if query.matches(each)]
            expected = [each for each in matching if after < each.position <= until]
            limit = rng.randrange(1, 12)
            for backwards in (False, True):
                found = log.read(query, after=after, until=until, limit=limit, backwards=backwards)
                assert found == expected[:: -1 if backwards else 1][:limit]
            expected = [each for each in matching if after < each.position]
            assert log.read(query, after=after, limit=limit) == expected[:limit]
            if expected:
                with pytest.raises(AppendConditionFailed) as caught:
                    log.append(event("none-1"), conditions=[NoneMatch(query, after)])
                assert caught.value.found == expected[0].position


def test_names_in_memory_are_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("writer", "reader"):
        monkeypatch.setattr(f"leftfold.stores.sqlite.{module}.NAMES_CACHED_MAX", 10)
    for number in range(100):
        log.append(event(f"user{number}", tags=(f"user:{number}",)))
        assert log.read(after=number)[0].stream == f"user{number}"
    store: Any = log.store
    caches = {"kinds": store._writer._kinds, "streams": store._writer._streams}
    caches |= {f"read {name}": getattr(store._names, name) for name in ("kinds", "streams", "tags")}
    assert {name: len(cache) for name, cache in caches.items() if len(cache) > 12} == {}
    assert [each.stream for each in log.read()] == [f"user{number}" for number in range(100)]


def test_a_reader_that_waited_for_a_closed_store_is_refused(log: Log) -> None:
    log.append(event())
    places = log.store._readers._places  # type: ignore[attr-defined]
    busy = threading.Barrier(READERS_MAX + 1)
    go_on = threading.Event()

    def read_slowly(place: Any) -> None:
        place.mutex.call(lambda: (busy.wait(PATIENCE_S), go_on.wait(PATIENCE_S)))

    outcomes: list[object] = []

    def read() -> None:
        try:
            outcomes.append(log.read())
        except StoreClosed as error:
            outcomes.append(error)

    threads = [threading.Thread(target=read_slowly, args=(place,)) for place in places]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    busy.wait(PATIENCE_S)
    log.close()
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [type(each) for each in outcomes] == [StoreClosed]
    assert len(readers(log)) == 1


def test_the_callers_list_may_change_while_it_waits(log: Log) -> None:
    events = [event(type="A"), event(type="B")]
    store: Any = log.store
    store._group._expected = 2  # as if others had been waiting: so this one waits as well
    commit = store._group._commit
    appending = threading.Thread(target=run_sync, args=(store.append(events),))

    def clear_and_commit(appends: Any) -> Any:
        events.clear()
        return commit(appends)

    store._group._commit = clear_and_commit
    appending.start()
    appending.join(PATIENCE_S)
    assert log.types() == "AB"
