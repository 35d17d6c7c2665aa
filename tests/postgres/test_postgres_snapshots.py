"""Snapshots beside a log on PostgreSQL serve all processes, and change nothing else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct

import leftfold
from leftfold import Codec, Decider, EventStore, Snapshots
from leftfold.drive import run_sync
from leftfold.snapshot import Snapshot
from leftfold.stores.postgres.snapshots import KEPT_MAX

PATIENCE_S = 60
EVERY = 10


class Counted(Struct, frozen=True):
    by: int


class Count(Struct, frozen=True):
    by: int


CODEC = Codec(Counted)


def decide(command: Count, state: int) -> list[Counted]:
    return [Counted(command.by)]


def evolve(state: int, event: Counted) -> int:
    return state + event.by


COUNTER: Decider[Count, int, Counted] = Decider(
    category="counter",
    initial_state=0,
    decide=decide,
    evolve=evolve,
    snapshots=Snapshots(every=EVERY),
)


def until(is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def count_reads(events: EventStore) -> list[int]:
    """The sizes of the pages that are read from now on."""
    pages: list[int] = []
    read = events.store.read

    async def counted(*args: Any, **more: Any) -> Any:
        page = await read(*args, **more)
        pages.append(len(page))
        return page

    events.store.read = counted  # type: ignore[method-assign]
    return pages


@pytest.fixture
def schema(server: Any) -> str:
    return str(server.new_schema())


def test_another_process_loads_from_it(server: Any, schema: str) -> None:
    url = f"{server.url()}?schema={schema}"
    with leftfold.open(url, CODEC) as events:
        events.append_to_stream("counter-1", [Counted(1)] * 25)
        assert events.load(COUNTER, "1").state == 25
    with leftfold.open(url, CODEC) as events:
        pages = count_reads(events)
        loaded = events.load(COUNTER, "1")
        assert (loaded.state, loaded.version) == (25, 25)
        assert sum(pages) < EVERY
        assert events.handle(COUNTER, "1", Count(5)).state == 30


def test_as_many_are_kept_as_is_said(server: Any, schema: str) -> None:
    with leftfold.open(f"{server.url()}?schema={schema}", CODEC) as events:
        keep = events.store.snapshots.keep
        for version in range(1, KEPT_MAX + 21):
            taken = Snapshot("key" * 2000, "f", version, 1, b"id", 1, b"data")
            keep(taken.key, lambda taken=taken: taken)
        kept = f"SELECT min(version), max(version), count(*) FROM {schema}.snapshots"
        until(lambda: server.execute(kept) == [(21, KEPT_MAX + 20, KEPT_MAX)])
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'leftfold'"
        )
        lost = Snapshot("other", "f", 1, 1, b"id", 1, b"data")
        for _ in range(2):  # the first one finds out
            keep("other", lambda: lost)
        until(lambda: server.execute(f"SELECT count(*) FROM {schema}.snapshots")[0][0] > KEPT_MAX)


def test_where_there_is_no_right_there_are_no_snapshots(
    server: Any, schema: str, caplog: Any
) -> None:
    caplog.set_level(logging.WARNING)
    url = f"{server.url()}?schema={schema}"
    with leftfold.open(url, CODEC) as events:
        events.append_to_stream("counter-1", [Counted(1)] * 25)
    server.execute(f"DROP FUNCTION {schema}.keep_snapshot; DROP TABLE {schema}.snapshots")
    with leftfold.open(url, CODEC) as events:
        assert events.load(COUNTER, "1").state == 25
    assert "no snapshots" in caplog.text
    assert "no snapshot of" in caplog.text


def test_async(server: Any, schema: str) -> None:
    url = f"{server.url()}?schema={schema}"

    async def run() -> None:
        for _ in range(2):
            async with await leftfold.aopen(url, CODEC) as events:
                await events.append_to_stream("counter-1", [Counted(1)] * 25)
                loaded = await events.load(COUNTER, "1")
                assert loaded.state == loaded.version

    asyncio.run(run())
    assert server.execute(f"SELECT count(*) > 0 FROM {schema}.snapshots") == [(True,)]


def test_an_application_may_keep_and_drop_them(server: Any, schema: str) -> None:
    leftfold.open(f"{server.url()}?schema={schema}").close()
    server.execute(f"""
        CREATE ROLE keeper LOGIN PASSWORD 'secret';
        GRANT USAGE ON SCHEMA {schema} TO keeper;
        GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO keeper;
        GRANT EXECUTE ON FUNCTION {schema}.keep_snapshot, {schema}.drop_snapshot TO keeper
    """)
    try:
        with leftfold.open(f"{server.url(user='keeper:secret')}?schema={schema}") as events:
            snapshots = events.store.snapshots
            kept = [Snapshot("key", "f", version, 1, b"id", 1, b"data") for version in (1, 2)]
            for each in kept:
                snapshots.keep("key", lambda each=each: each)
            snapshots._background.close()
            for expected in (kept[1], kept[0], None):
                find = snapshots.find("key", "f", version_max=9, recorded_us_max=9)
                assert run_sync(find) == expected
                if expected:
                    run_sync(snapshots.drop(expected))
    finally:
        server.execute("DROP OWNED BY keeper; DROP ROLE keeper")
