"""What no event may do: keep its projection trying for ever, or take others with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import projection_worker as bank
import pytest
from msgspec import Struct
from msgspec.structs import replace
from projection_worker import eventually
from running_support import Places, places_on, shorten

import leftfold
from leftfold import App, Codec, Event, Projection, ProjectionFailed, SqlProjection
from leftfold.errors import StoreClosed, StoreUnavailable
from leftfold.event import RecordedEvent
from leftfold.projection import consuming, folding, pacing
from leftfold.projection.catalog import Failure, LeaseLost
from leftfold.projection.pacing import BATCH_EVENTS_MIN, Pace
from leftfold.stores.postgres import database as postgres_database


class Put(Struct, frozen=True):
    key: str
    text: str = ""
    number: int = 1


class Row(Struct, frozen=True):
    key: str
    text: str = ""
    number: int = 0


def put(row: Row, event: RecordedEvent[Any]) -> Row:
    return replace(row, text=event.data.text, number=row.number + event.data.number)


def rows(**changes: Any) -> Projection[Row]:
    defaults: dict[str, Any] = {"evolve": {Put: put}, "key": lambda event: event.data.key}
    return Projection(**({"name": "rows", "row": Row, "attempts_max": 2} | defaults | changes))


def app_of(*projections: Any) -> App:
    return App(codec=Codec(Put), projections=projections)


# Compressed, it would fit.
LONG = "".join(Random(1).choices([chr(each) for each in range(33, 0x2000)], k=9000))


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on("postgresql", request, tmp_path)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PAUSE_MIN_S", 0.01)
    shorten(monkeypatch, batch=100)


def stopped(es: Any, name: str) -> Failure:
    def failure() -> Failure | None:
        return next((f for each in bank.progress_of(es, name) if (f := failure_in(each))), None)

    found: Failure = eventually(failure)
    return found


def failure_in(progress: Any) -> Failure | None:
    return (
        consuming.msgspec.json.decode(progress.failure, type=Failure) if progress.failure else None
    )


def append_around(es: Any, bad: Put) -> int:
    es.append([Event("s", Put("good")), Event("s", Put("good"))])
    position: int = es.append([Event("s", bad)]).position
    es.append([Event("s", Put("good"))])
    return position


@pytest.mark.parametrize("on_failure", ["stop", "quarantine"])
def test_a_row_that_the_database_refuses(postgres: Places, on_failure: Any) -> None:
    """Text that is too long for an index of PostgreSQL."""
    projection = rows(indexes=["text"], on_failure=on_failure)
    with leftfold.open(postgres.log, app_of(projection)) as es, es.running():
        bad = append_around(es, Put("bad", LONG))
        if on_failure == "stop":
            failure = stopped(es, "rows")
            assert [each.number for each in es.view(projection).find()] == [2]
        else:
            failure = eventually(lambda: es.projections.quarantine("rows"))[0].failure
            es.view(projection).get("good", after=str(es.head()), timeout_s=bank.STUCK_S)
            assert [each.number for each in es.view(projection).find()] == [3]
        assert (failure.position, failure.key, failure.attempts) == (bad, '["bad"]', 2)
        assert "index" in failure.error


def test_of_several_rows_of_an_event_the_refused_one_waits(postgres: Places) -> None:
    def change(row: Row, event: RecordedEvent[Any]) -> Row:
        done = put(row, event)
        return replace(done, text=LONG) if row.key == "bad" else done

    projection = rows(
        key=lambda event: event.data.key.split(),
        evolve={Put: change},
        indexes=["text"],
        on_failure="quarantine",
    )
    with leftfold.open(postgres.log, app_of(projection)) as es, es.running():
        append_around(es, Put("good bad"))
        (waits,) = eventually(lambda: es.projections.quarantine("rows"))
        assert waits.key == '["bad"]'
        es.view(projection).get("good", after=str(es.head()), timeout_s=bank.STUCK_S)
        assert [(each.key, each.number) for each in es.view(projection).find()] == [("good", 4)]


def test_a_key_too_long_to_be_set_apart_stops_it(postgres: Places) -> None:
    projection = rows(on_failure="quarantine")
    with leftfold.open(postgres.log, app_of(projection)) as es, es.running():
        bad = append_around(es, Put(LONG))
        assert stopped(es, "rows").position == bad


class Strange:
    """No key at all."""


@pytest.mark.parametrize("found", [Strange(), "a \udc80", (1, 2), True, 1.0])
@pytest.mark.parametrize("on_failure", ["stop", "quarantine"])
@pytest.mark.parametrize("partitions", [1, 2])
def test_a_key_that_is_none(
    tmp_path: Path, found: object, on_failure: Any, partitions: int
) -> None:
    projection = rows(
        key=lambda event: found if event.data.key == "bad" else event.data.key,
        on_failure=on_failure,
    )
    with leftfold.open(f"sqlite:///{tmp_path}/log.db", app_of(projection)) as es:
        if partitions > 1:
            es.projections.rebuild("rows", partitions=partitions)
        with es.running():
            bad = append_around(es, Put("bad"))
            assert stopped(es, "rows").position == bad


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


RAISED = [
    ValueError("cannot take \udc80 nor \0"),
    Unprintable(),
    StoreClosed("another store is closed"),
    StoreUnavailable("another store is away"),
    LeaseLost("of something else"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("is_sql", [False, True])
def test_whatever_functions_raise_is_a_failure_of_the_event(
    places: Places, error: Exception, is_sql: bool
) -> None:
    def check(event: RecordedEvent[Any]) -> None:
        if event.data.key == "bad":
            raise error

    def change(row: Row, event: RecordedEvent[Any]) -> Row:
        check(event)
        return put(row, event)

    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        def values() -> Any:
            for each in events:
                check(each)
                yield (each.position,)

        sql.execute_many(f"INSERT INTO {sql.table} VALUES (?)", values())

    projection = counted(apply) if is_sql else rows(evolve={Put: change})
    with leftfold.open(places.log, app_of(projection), views=places.views) as es, es.running():
        bad = append_around(es, Put("bad"))
        failure = stopped(es, "rows")
        assert (failure.position, failure.attempts) == (bad, 2)
        assert failure.error.startswith(type(error).__name__)
        assert bank.progress_of(es, "rows")[0].position == bad - 1


def create(sql: Any) -> None:
    sql.execute(f"CREATE TABLE {sql.table} (id bigint PRIMARY KEY)")


def counted(apply: Any, **changes: Any) -> SqlProjection:
    return SqlProjection(
        **({"name": "rows", "create": create, "apply": apply} | changes | {"attempts_max": 2})
    )


def insert(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
    sql.execute_many(f"INSERT INTO {sql.table} VALUES (?)", [(each.position,) for each in events])


def test_an_sql_error_that_is_passed_over_on_postgresql(postgres: Places) -> None:
    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        insert(sql, events)
        for each in events:
            if each.data.key == "bad":
                with suppress(Exception):
                    sql.execute(f"INSERT INTO {sql.table} VALUES ({each.position})")

    with leftfold.open(postgres.log, app_of(counted(apply))) as es, es.running():
        bad = append_around(es, Put("bad"))
        assert stopped(es, "rows").position == bad
        assert "rows" in stopped(es, "rows").error
        assert "duplicate" in stopped(es, "rows").error


def test_a_connection_that_dies_is_no_failure_whatever_functions_make_of_it(
    postgres: Places,
) -> None:
    died: list[int] = []

    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        insert(sql, events)
        if len(died) < 5:
            died.append(1)
            try:
                sql.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            except Exception as error:
                raise RuntimeError("something") from error

    projection = counted(apply)
    with leftfold.open(postgres.log, app_of(projection)) as es, es.running():
        append_around(es, Put("good"))
        es.view(projection).wait(str(es.head()), timeout_s=bank.STUCK_S)
        assert [each["id"] for each in es.view(projection).sql("SELECT id FROM rows")] == [
            each.position for each in es.read()
        ]


def test_batches_shrink_where_the_database_does_not_wait_for_them(
    postgres: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the proportions of what they are: batches that pass are no reason for longer ones.
    monkeypatch.setattr(postgres_database, "IDLE_S", 0.2)
    monkeypatch.setattr(pacing, "BATCH_S", 0.08)
    defaults = postgres_database.PostgresDatabase.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "patience_s", 0.1)

    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        time.sleep(0.04 * len(events))
        insert(sql, events)

    projection = counted(apply)
    with leftfold.open(postgres.log, app_of(projection)) as es:
        es.append([Event("s", Put("good")) for _ in range(20)])
        with es.running():
            es.view(projection).wait(str(es.head()), timeout_s=bank.STUCK_S)


def test_a_pace_that_shrinks() -> None:
    pace = Pace()
    found = []
    for _ in range(4):
        pace.shrink()
        found.append(pace.limit)
    assert found == [BATCH_EVENTS_MIN, 5, 2, 1]


def test_each_key_that_fails_at_one_event_has_its_own_attempts(tmp_path: Path) -> None:
    def change(row: Row, event: RecordedEvent[Any]) -> Row:
        if row.key in event.data.text:
            raise ValueError("no")
        return put(row, event)

    projection = rows(
        key=lambda event: event.data.key.split(),
        evolve={Put: change},
        on_failure="quarantine",
        attempts_max=3,
    )
    with leftfold.open(f"sqlite:///{tmp_path}/log.db", app_of(projection)) as es, es.running():
        append_around(es, Put("good a b", "a b"))
        eventually(lambda: len(es.projections.quarantine("rows")) == 2)
        waits = es.projections.quarantine("rows")
        assert [(each.key, each.failure.attempts) for each in waits] == [('["a"]', 3), ('["b"]', 3)]


@pytest.mark.parametrize("bad", ["key", "row", "closed"])
def test_neighbours_of_what_an_inline_projection_cannot_take(places: Places, bad: str) -> None:
    """Many appends are one transaction; each is judged on its own."""
    strange: Any = Strange()

    def change(row: Row, event: RecordedEvent[Any]) -> Row:
        if event.data.key == "bad" and bad == "closed":
            raise StoreClosed("another store")
        return put(row, event)

    projection = rows(
        key=lambda event: strange if bad == "key" and event.data.key == "bad" else event.data.key,
        evolve={Put: change},
        mode="inline",
        indexes=["text"],
    )
    if bad == "row" and "sqlite" in places.log:
        projection = refused_on_sqlite()
    outcomes: list[Any] = []
    with leftfold.open(places.log, app_of(projection), views=places.log) as es:

        def append(number: int) -> None:
            data = Put("bad", LONG) if number % 10 == 5 else Put(f"good-{number}")
            try:
                outcomes.append(es.append([Event(f"s-{number}", data)]))
            except Exception as error:
                outcomes.append(error)

        threads = [threading.Thread(target=append, args=(each,)) for each in range(40)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(bank.STUCK_S)
        failed = [each for each in outcomes if isinstance(each, Exception)]
        assert [type(each) for each in failed] == [ProjectionFailed] * 4, failed
        assert len(list(es.read())) == 36


def refused_on_sqlite() -> SqlProjection:
    def make(sql: Any) -> None:
        sql.execute(f"CREATE TABLE {sql.table} (id bigint, key text CHECK (key <> 'bad'))")

    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        values = [(each.position, each.data.key) for each in events]
        sql.execute_many(f"INSERT INTO {sql.table} VALUES (?, ?)", values)

    return counted(apply, create=make, mode="inline")


def test_reasons_are_text_that_any_database_takes() -> None:
    for error in RAISED:
        text = folding.reason_of(error)
        assert text == text.encode().decode()
        assert "\0" not in text
