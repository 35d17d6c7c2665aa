"""Each consumer has one owner, and a paused one that comes back writes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import projection_worker as bank
import pytest
from projection_worker import Options, eventually
from running_support import Places, Told, places_on, shorten

import leftfold
from leftfold import Event
from leftfold.projection import catalog
from leftfold.projection.catalog import Progress

LEASE_S = 0.5
NAMES = ("totals", "holdings", "ledger")


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    catalog_logger = bank.logging.getLogger("leftfold")
    catalog_logger.addHandler(told)
    yield told
    catalog_logger.removeHandler(told)


def impatient(url: str) -> str:
    return f"{url}?busy_timeout_s=0.2" if url.startswith("sqlite") else url


def leases(es: Any, name: str) -> Progress:
    (found,) = bank.progress_of(es, name)
    return found


def test_a_paused_owner_that_comes_back_applies_nothing_twice(
    places: Places, capfd: pytest.CaptureFixture[str]
) -> None:
    options = Options(lease_s=LEASE_S, batch_events=10)
    app = bank.app_of(bank.totals(), bank.holdings(), bank.ledger(), bank.mail(print))
    with leftfold.open(places.log, app, views=impatient(places.views)) as es:
        random = Random(1)
        bank.append_random(es, random, 300)
        with bank.workers(places.log, places.views, options) as (first,):
            eventually(lambda: all(leases(es, each).events for each in NAMES), "the first begins")
            pause(es, first.pid)
            fences = {each: leases(es, each).fence for each in NAMES}
            bank.append_random(es, random, 300)
            with bank.workers(places.log, places.views, options) as (second,):
                pid = f":{second.pid}:"
                eventually(lambda: all(pid in leases(es, each).owner for each in NAMES))
                os.kill(first.pid, signal.SIGCONT)
                bank.append_random(es, random, 300)
                bank.wait_for_all(es, app)
                # The first goes on as a candidate.
                second.stop()
            pid = f":{first.pid}:"
            eventually(lambda: all(pid in leases(es, each).owner for each in NAMES))
            bank.append_random(es, random, 100)
            bank.wait_for_all(es, app)
            first.stop()
        bank.check_rows(es, *NAMES)
        assert all(leases(es, each).fence > fences[each] + 1 for each in NAMES)
    logged = capfd.readouterr().err
    assert logged.count(f"{first.pid} ") >= len(NAMES)
    assert logged.count("another worker owns it now") >= len(NAMES)


def pause(es: Any, pid: int) -> None:
    """Pause a process, but not while it holds a lock: nobody can break the one of an SQLite file,
    and PostgreSQL forgets its idle timeout after several statements that were sent at once.
    """
    database = es._projecting.database
    every = free = "SELECT build, partition FROM leftfold_consumers"
    if database.dialect.name == "postgresql":
        free += " FOR UPDATE SKIP LOCKED"

    def paused() -> bool:
        os.kill(pid, signal.SIGSTOP)
        # What it was in the middle of when it was told may have been to take a lock.
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        with suppress(leftfold.StoreUnavailable):
            if database.write(lambda tx: len(tx.execute(free)) == len(tx.execute(every))):
                return True
        os.kill(pid, signal.SIGCONT)
        return False

    eventually(paused, "it is paused")


def test_a_lost_lease_is_noticed_in_the_middle_of_a_batch(places: Places, told: Told) -> None:
    """The other takes over between what an owner reads and what it writes."""
    app = bank.app_of(bank.totals())
    stolen = threading.Event()

    def steal(row: bank.Total, event: Any) -> bank.Total:
        if event.data == bank.Noted("steal") and not stolen.is_set():
            stolen.set()
            database = other._projecting.database
            (build,) = bank.builds_of(other, "totals")

            def take(tx: Any) -> None:
                tx.execute("UPDATE leftfold_consumers SET lease_until_us = 0")
                held = catalog.claim(tx, build.id, 0, "somebody else")
                assert held is not None
                catalog.release(tx, held)

            database.write(take)
        return bank.add_to_total(row, event)

    with leftfold.open(places.log, app, views=places.views) as other:
        stealing = bank.app_of(bank.totals(evolve=steal))
        with leftfold.open(places.log, stealing, views=places.views) as es:
            bank.append_random(es, Random(2), 50)
            es.append([Event("account-1", bank.Noted("steal"))])
            with es.running():
                bank.wait_for_all(es, stealing)
                assert stolen.is_set()
                assert told.has("another worker owns it now")
            log = list(es.read())
            rows = es.view(stealing.projections[0]).find(limit=10_000)  # type: ignore[arg-type]
            found = {each.stream: (each.amount, each.events) for each in rows}
            assert found == bank.expected_totals(log)
            assert leases(es, "totals").events == len(log)


def test_whoever_stops_gives_up_its_lease_at_once(places: Places) -> None:
    app = bank.app_of(bank.totals(), bank.ledger())
    with leftfold.open(places.log, app, views=places.views) as es:
        with es.running():
            bank.wait_for_all(es, app)
            assert leases(es, "totals").lease_until_us > 0
        for name in ("totals", "ledger"):
            assert (leases(es, name).owner, leases(es, name).lease_until_us) == ("", 0)
        with es.running():  # with leases of 30 s it would wait for that long
            bank.wait_for_all(es, app)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_slow_functions_do_not_lose_the_leases_of_a_process_that_lives(
    engine: str, request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, lease_s=0.3)
    places = places_on(engine, request, tmp_path)
    let_go, calls = threading.Event(), []

    def slow(event: Any) -> None:
        calls.append(event.position)
        assert let_go.wait(bank.STUCK_S)

    consumers = [bank.mail(slow, name=f"slow{number}") for number in range(9)]
    app = bank.app_of(bank.totals(), *consumers)
    with leftfold.open(places.log, app, views=places.views) as es:
        es.append([Event("account-1", bank.Noted("one"))])
        with es.running():
            check_leases_last(es, [each.name for each in consumers], calls)
            let_go.set()
            bank.wait_for_all(es, app)
        assert len(calls) >= len(consumers)


def check_leases_last(es: Any, names: list[str], calls: list[int]) -> None:
    """All are at work, and stay the owners for several leases."""
    eventually(lambda: len(calls) == len(names), "all are at work")
    fences = [leases(es, each).fence for each in names]
    until_us = max(leases(es, each).lease_until_us for each in names)
    # As long as other workers are kept away, it does not matter how fast the renewals come.
    eventually(
        lambda: all(leases(es, each).lease_until_us > until_us + 900_000 for each in names),
        "leases are renewed",
    )
    assert [leases(es, each).fence for each in names] == fences


@pytest.mark.parametrize("kind", ["a plain function", "one that blocks the loop"])
def test_slow_functions_under_async(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    """More consumers than threads of a driver, or an event loop that stands still."""
    shorten(monkeypatch, lease_s=0.3)
    places = places_on("sqlite", request, tmp_path)
    let_go, calls = threading.Event(), []

    def slow(event: Any) -> None:
        calls.append(event.position)
        assert let_go.wait(bank.STUCK_S)

    async def blocking(event: Any) -> None:
        slow(event)

    is_plain = kind == "a plain function"
    consumers = [
        bank.mail(slow if is_plain else blocking, name=f"slow{number}")
        for number in range(9 if is_plain else 1)
    ]
    app = bank.app_of(bank.totals(), *consumers)
    names = [each.name for each in consumers]

    async def run() -> None:
        async with await leftfold.aopen(places.log, app, views=places.views) as es:
            appended = await es.append([Event("account-1", bank.Noted("one"))])
            async with es.running():
                await asyncio.to_thread(finished.wait, bank.STUCK_S)
                # Those that are slow hold up no others.
                await es.view(bank.totals()).wait(appended.token, timeout_s=bank.STUCK_S)
                let_go.set()
            assert len(calls) == len(consumers)

    finished = threading.Event()
    with leftfold.open(places.log, app, views=places.views) as seen:
        thread = threading.Thread(target=asyncio.run, args=[run()])
        thread.start()
        check_leases_last(seen, names, calls)
        finished.set()
        if not is_plain:
            let_go.set()
        thread.join(bank.STUCK_S)
        assert not thread.is_alive()


def test_an_sql_projection_that_is_slower_than_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    """Its transaction locks its lease, but not those of others."""
    shorten(monkeypatch, lease_s=0.3)
    places = places_on("postgresql", request, tmp_path)
    let_go, begun = threading.Event(), threading.Event()
    plain = bank.ledger()

    def slow(sql: Any, events: Any) -> None:
        plain.apply(sql, events)
        begun.set()
        assert let_go.wait(bank.STUCK_S)

    ledger = leftfold.SqlProjection(name="ledger", create=plain.create, apply=slow)
    app = bank.app_of(bank.totals(), ledger)
    with leftfold.open(places.log, app, views=places.views) as es:
        es.append([Event("account-1", bank.Noted("one"))])
        with es.running():
            assert begun.wait(bank.STUCK_S)
            check_leases_last(es, ["totals"], [1])
            # Whoever would take over goes away and comes again.
            (build,) = bank.builds_of(es, "ledger")
            claimed = es._projecting.database.write(
                lambda tx: catalog.claim(tx, build.id, 0, "somebody else")
            )
            assert claimed is None
            let_go.set()
            bank.wait_for_all(es, app)
        assert leases(es, "ledger").fence == 1
        bank.check_rows(es, "totals", "ledger")


def test_a_held_build_waits_and_a_forgotten_hold_expires(places: Places) -> None:
    app = bank.app_of(bank.totals())
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        bank.append_random(es, Random(3), 10)
        bank.wait_for_all(es, app)
        database = es._projecting.database
        (build,) = bank.builds_of(es, "totals")
        hold = int(es.head()) + 3

        def set_hold(seconds: float) -> None:
            database.write(lambda tx: catalog.set_hold(tx, build, hold, seconds))

        set_hold(3600)
        # With the next batch it sees that something is wanted.
        bank.wait_for_all(es, app)
        bank.append_random(es, Random(4), 50)
        eventually(lambda: leases(es, "totals").position == hold, "it goes up to there")
        deadline_s = time.monotonic() + 1.0
        while time.monotonic() < deadline_s:
            assert leases(es, "totals").position <= hold
        set_hold(0.2)  # nobody takes it back
        bank.wait_for_all(es, app)
        bank.check_rows(es, "totals")
