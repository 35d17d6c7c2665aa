"""Runners from their start to their end, in both colours."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import projection_worker as bank
import pytest
from projection_worker import eventually
from running_support import Places, places_on, threads_of_runners

import leftfold
from leftfold import Event, InvalidInput, ProjectionRefused, SqlProjection

NOTED = Event("account-1", bank.Noted("one"))


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = threads_of_runners()
    yield
    eventually(lambda: len(threads_of_runners()) <= len(before), "all threads end")


def release_is_seen(places: Places, *names: str) -> None:
    with leftfold.open(places.log, bank.app_of(), views=places.views) as es:
        for name in names:
            assert [each.owner for each in bank.progress_of(es, name)] == [""], name


def test_a_runner_ends_with_its_block(places: Places) -> None:
    app = bank.app_of(bank.totals(), bank.holdings(), bank.ledger(), bank.mail(print))
    with leftfold.open(places.log, app, views=places.views) as es:
        before = threads_of_runners()
        with es.running() as run:
            bank.wait_for_all(es, app)
            assert len(threads_of_runners()) > len(before)
        assert threads_of_runners() == before
        run.stop()
        release_is_seen(places, "totals", "holdings", "ledger", "mail")
        with pytest.raises(InvalidInput, match="runs once"):
            run.start()


def test_an_error_in_the_block_passes_through(places: Places) -> None:
    app = bank.app_of(bank.totals())
    with leftfold.open(places.log, app, views=places.views) as es:
        error = ZeroDivisionError("of the block")
        with pytest.raises(ZeroDivisionError), es.running():
            raise error
        release_is_seen(places, "totals")


def test_a_store_that_is_closed_under_its_runner(places: Places) -> None:
    app = bank.app_of(bank.totals(), bank.holdings(), bank.ledger(), bank.mail(print))
    es = leftfold.open(places.log, app, views=places.views)
    with es.running():
        bank.append_random(es, Random(1), 500)
        es.close()
    with leftfold.open(places.log, app, views=places.views) as again:
        database = again._projecting.database
        database.write(lambda tx: tx.execute("UPDATE leftfold_consumers SET lease_until_us = 0"))
        with again.running():
            bank.wait_for_all(again, app)
        bank.check_rows(again, "totals", "holdings", "ledger")


def test_a_runner_that_cannot_begin_leaves_nothing_behind(tmp_path: Path, request: Any) -> None:
    places = places_on("sqlite", request, tmp_path)

    async def handle(event: Any) -> None: ...

    app = bank.app_of(bank.totals(), bank.mail(handle))
    with leftfold.open(places.log, app, views=places.views) as es:
        with pytest.raises(InvalidInput, match="coroutine function"), es.running():
            pass
        assert not threads_of_runners()
        assert es.projections.status("totals")[0].state == "new"


def test_tables_that_cannot_be_made_are_refused_and_leave_nothing(places: Places) -> None:
    def create(sql: Any) -> None:
        raise ValueError("no table today")

    app = bank.app_of(
        bank.totals(), SqlProjection(name="never", create=create, apply=bank.apply_ledger)
    )
    with leftfold.open(places.log, app, views=places.views) as es:
        with pytest.raises((ValueError, ProjectionRefused), match="no table today"):
            es.running().start()
        assert bank.builds_of(es, "never") == []
        release_is_seen(places, "totals")


def test_only_those_that_are_named(tmp_path: Path, request: Any) -> None:
    places = places_on("sqlite", request, tmp_path)
    app = bank.app_of(bank.totals(), bank.holdings())
    with leftfold.open(places.log, app, views=places.views) as es:
        token = es.append([NOTED]).token
        with es.running(only=["totals"]):
            es.view(bank.totals()).wait(token, timeout_s=bank.STUCK_S)
        assert bank.builds_of(es, "holdings") == []


CTRL_C = """
import os, signal, sys, threading
import projection_worker as bank
import leftfold
# Tests that run in the background, as after nohup, pass on that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
app = bank.app_of(bank.totals(), bank.mail(print))
try:
    with leftfold.open(sys.argv[1], app, views=sys.argv[2]) as es, es.running():
        bank.wait_for_all(es, app)
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        threading.Event().wait(60)
except KeyboardInterrupt:
    left = [each.name for each in threading.enumerate() if each.name.startswith("leftfold")]
    sys.exit(f"left: {left}" if left else 7)
"""
ASYNC_CTRL_C = """
import asyncio, os, signal, sys
import projection_worker as bank
import leftfold
signal.signal(signal.SIGINT, signal.default_int_handler)
app = bank.app_of(bank.totals(), bank.mail(print))
async def main():
    async with await leftfold.aopen(sys.argv[1], app, views=sys.argv[2]) as es, es.running():
        token = (await es.append([leftfold.Event("a-1", bank.Noted("one"))])).token
        await es.view(app.projections[0]).wait(token)
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("program", [CTRL_C, ASYNC_CTRL_C], ids=["sync", "async"])
def test_ctrl_c_ends_it_in_order(tmp_path: Path, request: Any, program: str) -> None:
    places = places_on("sqlite", request, tmp_path)
    command = [sys.executable, "-c", program, places.log, places.views]
    folder = Path(bank.__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 7, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    release_is_seen(places, "totals", "mail")


def test_ctrl_c_while_it_stops_is_no_harm(tmp_path: Path, request: Any) -> None:
    """A slow delivery is waited for, and a second Ctrl-C ends the waiting."""
    places = places_on("sqlite", request, tmp_path)
    let_go, begun = threading.Event(), threading.Event()

    def handle(event: Any) -> None:
        begun.set()
        let_go.wait(bank.STUCK_S)

    app = bank.app_of(bank.mail(handle))
    with leftfold.open(places.log, app, views=places.views) as es:
        es.append([NOTED])
        run = es.running()
        run.start()
        assert begun.wait(bank.STUCK_S)
        threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            run.stop()
        let_go.set()
        eventually(lambda: not threads_of_runners(), "all threads end")


async def wait_for(es: Any, app: Any) -> None:
    token = (await es.append([NOTED])).token
    for each in app.projections:
        await es.view(each).wait(token, timeout_s=bank.STUCK_S)


def test_an_async_runner_ends_with_its_block(places: Places) -> None:
    app = bank.app_of(bank.totals(), bank.holdings(), bank.ledger(), bank.mail(print))

    async def run() -> None:
        async with await leftfold.aopen(places.log, app, views=places.views) as es:
            before = len(asyncio.all_tasks())
            async with es.running() as run:
                await wait_for(es, app)
            assert len(asyncio.all_tasks()) == before
            await run.stop()
            release_is_seen(places, "totals", "holdings", "ledger", "mail")

    asyncio.run(run())


@pytest.mark.parametrize("cancelled", [1, 2])
def test_a_cancelled_task_ends_its_runner(places: Places, cancelled: int) -> None:
    """Also where it is cancelled again, while it stops."""
    app = bank.app_of(bank.totals(), bank.mail(lambda event: let_go.wait(bank.STUCK_S)))
    let_go = threading.Event()

    async def work(es: Any, begun: asyncio.Event) -> None:
        async with es.running():
            await wait_for(es, app)
            begun.set()
            await asyncio.Event().wait()

    async def run() -> None:
        begun = asyncio.Event()
        es = await leftfold.aopen(places.log, app, views=places.views)
        task = asyncio.create_task(work(es, begun))
        await begun.wait()
        task.cancel()
        if cancelled == 2:
            await asyncio.sleep(0.05)
            task.cancel()
        else:
            let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        let_go.set()
        # Those that are left end by themselves: nobody goes on for ever.
        for _ in range(bank.STUCK_S * 100):
            if len(asyncio.all_tasks()) == 1:
                break
            await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1
        await es.close()

    asyncio.run(run())
    if cancelled == 1:
        release_is_seen(places, "totals", "mail")


def test_an_async_store_that_is_closed_under_its_runner(places: Places) -> None:
    app = bank.app_of(bank.totals(), bank.ledger(), bank.mail(print))

    async def run() -> None:
        es = await leftfold.aopen(places.log, app, views=places.views)
        async with es.running():
            await wait_for(es, app)
            await es.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_projections_that_enclose_what_changes_stay_the_same(tmp_path: Path, request: Any) -> None:
    """A cache, say: it is no reason to build a projection again."""
    places = places_on("sqlite", request, tmp_path)
    seen: list[int] = []

    def evolve(row: bank.Total, event: Any) -> bank.Total:
        seen.append(event.position)
        return bank.add_to_total(row, event)

    totals = bank.totals(evolve=evolve)
    app = bank.app_of(totals)
    with leftfold.open(places.log, app, views=places.views) as es:
        for _ in range(2):
            with es.running():
                bank.append_random(es, Random(1), 10)
                bank.wait_for_all(es, app)
        assert len(bank.builds_of(es, "totals")) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_ends_by_itself_begins_again(tmp_path: Path, request: Any) -> None:
    """Nothing stops silently, not even by sys.exit() in a function of the user's."""
    places = places_on("sqlite", request, tmp_path)
    left = [2]

    def handle(event: Any) -> None:
        if left[0]:
            left[0] -= 1
            sys.exit("no more")
        delivered.append(event.position)

    delivered: list[int] = []
    app = bank.app_of(bank.mail(handle))
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        es.append([NOTED])
        eventually(lambda: delivered == [1], "it begins again")
