"""Rows do not depend on where batches end, and transactions are ended by nobody but their owner."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import projection_worker as bank
import pytest
from msgspec import Struct, field
from msgspec.structs import replace
from projection_worker import eventually
from running_support import Places, places_on, shorten

import leftfold
from leftfold import App, Codec, Event, Projection, ProjectionFailed, RecordedEvent, SqlProjection
from leftfold.errors import InvalidInput
from leftfold.projection import consuming
from leftfold.projection.database import refuse_control


class Seen(Struct, frozen=True):
    at: datetime
    number: int = 1


class Day(Struct, frozen=True):
    key: str
    last: datetime | None = None
    days: int = 0
    ratio: float = 0.0
    classes: str = ""
    recent: dict[str, int] = {}
    pairs: Any = None


class Count(Struct):
    key: str
    number: int = 0


class Listed(Struct, frozen=True):
    key: str
    numbers: list[int] = field(default_factory=list)


def see(row: Day, event: RecordedEvent[Any]) -> Day:
    at = event.data.at
    is_new = row.last is None or row.last.date() != at.date()
    recent = {f"{'x' * (9 - event.version)}{event.version}": event.version, **row.recent}
    return replace(
        row,
        last=at,
        days=row.days + is_new,
        ratio=event.version,
        classes=f"{row.classes} {type(row.ratio).__name__} {type(row.pairs).__name__}",
        recent=dict(list(recent.items())[:3]),
        pairs=(1, 2),
    )


def count(row: Count, event: RecordedEvent[Any]) -> Count:
    row.number += event.data.number
    return row


def note(row: Listed, event: RecordedEvent[Any]) -> Listed:
    number = event.data.number
    if number > 0:
        row.numbers.append(number)
    else:
        row.numbers.remove(-number)
    return row


def projections() -> list[Projection[Any]]:
    kinds: list[Any] = [(Day, see), (Count, count), (Listed, note)]
    return [
        Projection(
            name=f"{row.__name__.lower()}_{mode}",
            row=row,
            key=lambda event: "k",
            evolve={Seen: evolve},
            mode=mode,
        )
        for row, evolve in kinds
        for mode in ("async", "inline", "live")
    ]


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PAUSE_MIN_S", 0.01)
    shorten(monkeypatch, batch=100)


def test_one_batch_and_many_come_to_the_same(places: Places) -> None:
    zone = timezone(timedelta(hours=2))
    times = [datetime(2026, 1, 2, 0, minute, tzinfo=zone) for minute in (0, 10, 20, 30)]
    every = projections()
    app = App(codec=Codec(Seen), projections=every)
    with leftfold.open(places.log, app, views=places.log) as es:
        for number, at in zip((5, -5, 3, -3), times, strict=True):
            es.append([Event("s", Seen(at, number))])
        with es.running():
            for each in every:
                if each.mode == "async":
                    es.view(each).wait(str(es.head()), timeout_s=bank.STUCK_S)
        found = [es.view(each).get("k") for each in every]
        texts = [repr(each) for each in found]
        for start in (0, 3, 6):
            assert len({*texts[start : start + 3]}) == 1, texts[start : start + 3]
        assert found[0] is not None
        assert found[0].last.tzinfo == UTC
        assert found[3] == Count("k", 0)


def create(sql: Any) -> None:
    sql.execute(f"CREATE TABLE {sql.table} (id bigint, n bigint)")


CONTROLS = [
    "COMMIT",
    "  -- a comment\n /* and /* another */ */ ; rollback",
    "SAVEPOINT s",
    "BEGIN",
    "END",
]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("mode", ["async", "inline"])
@pytest.mark.parametrize("is_many", [False, True])
def test_sql_does_not_end_its_transaction(
    places: Places, control: str, mode: Any, is_many: bool
) -> None:
    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        for each in events:
            sql.execute(f"INSERT INTO {sql.table} VALUES (?, ?)", (each.position, 1))
        if is_many:
            sql.execute_many(control, [()])
        else:
            sql.execute(control)

    check_refused(places, SqlProjection(name="q", create=create, apply=apply, mode=mode))


@pytest.mark.parametrize("is_many", [False, True])
def test_a_second_statement_does_not_end_it(places: Places, is_many: bool) -> None:
    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        sql.execute(f"INSERT INTO {sql.table} VALUES (?, ?)", (events[0].position, 1))
        text = f"DELETE FROM {sql.table} WHERE id = -1; COMMIT"
        if is_many:
            sql.execute_many(text, [()])
        else:
            sql.execute(text)

    check_refused(places, SqlProjection(name="q", create=create, apply=apply))


def test_a_conflict_that_ends_the_transaction_on_sqlite(tmp_path: Path) -> None:
    def make(sql: Any) -> None:
        sql.execute(f"CREATE TABLE {sql.table} (id bigint PRIMARY KEY)")

    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        for _ in range(2):
            try:
                sql.execute(f"INSERT OR ROLLBACK INTO {sql.table} VALUES (1)")
            except Exception:
                sql.execute(f"INSERT INTO {sql.table} VALUES (2)")

    url = f"sqlite:///{tmp_path}/log.db"
    check_refused(Places(url, url), SqlProjection(name="q", create=make, apply=apply))


def check_refused(places: Places, projection: SqlProjection) -> None:
    app = App(codec=Codec(Seen), projections=[projection])
    event = Event("s", Seen(datetime(2026, 1, 1, tzinfo=UTC)))
    with leftfold.open(places.log, app, views=places.log) as es:
        if projection.mode == "inline":
            with pytest.raises(ProjectionFailed):
                es.append([event])
            assert not list(es.read())
            return
        es.append([event])
        with es.running():
            eventually(lambda: bank.progress_of(es, "q")[0].failure)
        assert bank.progress_of(es, "q")[0].position == 0
        assert es.view(projection).sql("SELECT * FROM q") == []


@pytest.mark.parametrize("sql", ["SELECT 1; COMMIT", "INSERT INTO t VALUES ('COMMIT')", "ENDING"])
def test_what_only_has_such_words_is_not_refused_for_its_beginning(sql: str) -> None:
    refuse_control(sql)


def test_what_is_refused_is_named() -> None:
    with pytest.raises(InvalidInput, match="COMMIT is not for a projection"):
        refuse_control("/* a */ commit")


def test_fingerprints_are_those_of_every_process() -> None:
    script = """
from dataclasses import dataclass
from leftfold.fingerprint import code
@dataclass(frozen=True)
class Kinds:
    names: frozenset
def make(groups):
    return lambda: groups
def given(kinds=({"a", "b", "c"}, [{"x": {"red", "green", "blue"}}], Kinds(frozenset("abc")))):
    pass
print(code(make({"x": {"red", "green", "blue"}})), code(given))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(found) == 1
