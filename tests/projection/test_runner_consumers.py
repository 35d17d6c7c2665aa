"""Consumers deliver at least once and in order, and remember how far they are."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from random import Random
from typing import Any

import projection_worker as bank
import pytest
from projection_worker import eventually
from running_support import Places, places_on

import leftfold
from leftfold import Consumer, Event, InvalidInput
from leftfold.projection import consuming


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture
def on_sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on("sqlite", request, tmp_path)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PAUSE_MIN_S", 0.01)


def noted(text: object = "", stream: str = "account-1") -> Event[Any]:
    return Event(stream, bank.Noted(str(text)))


def test_each_event_is_delivered_once_where_nothing_fails(places: Places) -> None:
    delivered: list[int] = []
    app = bank.app_of(bank.mail(lambda event: delivered.append(event.position)))
    with leftfold.open(places.log, app, views=places.views) as es:
        for _ in range(2):
            bank.append_random(es, Random(1), 300)
            with es.running():
                eventually(lambda: delivered[-1:] == [es.head()])
        assert delivered == [each.position for each in es.read()]


@pytest.mark.parametrize("checkpoint_events", [1, 7])
def test_so_many_come_again_at_most(on_sqlite: Places, checkpoint_events: int) -> None:
    """When it is over in the middle of a batch, without a chance to say so."""
    delivered: list[int] = []

    def handle(event: Any) -> None:
        delivered.append(event.position)
        if len(delivered) == 30:
            es.close()

    app = bank.app_of(bank.mail(handle, checkpoint_events=checkpoint_events))
    es = leftfold.open(on_sqlite.log, app, views=on_sqlite.views)
    es.append([noted(number) for number in range(100)])
    run = es.running()
    run.start()
    eventually(lambda: len(delivered) >= 30)
    run.stop()
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as again:
        again._projecting.database.write(
            lambda tx: tx.execute("UPDATE leftfold_consumers SET lease_until_us = 0")
        )
        with again.running():
            eventually(lambda: delivered[-1] == 100)
        bank.check_delivered(list(again.read()), delivered)
    assert 100 <= len(delivered) <= 100 + checkpoint_events


def test_a_slow_one_stops_between_two_events(on_sqlite: Places) -> None:
    delivered: list[int] = []
    let_go = threading.Event()

    def handle(event: Any) -> None:
        delivered.append(event.position)
        assert let_go.wait(bank.STUCK_S)

    app = bank.app_of(bank.mail(handle))
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as es:
        es.append([noted(number) for number in range(50)])
        with es.running() as run:
            eventually(lambda: delivered == [1])
            stopping = threading.Thread(target=run.stop)
            stopping.start()
            eventually(lambda: run._running._stopping)
            let_go.set()
            stopping.join(bank.STUCK_S)
        assert delivered == [1]
        with es.running():
            eventually(lambda: delivered[-1] == 50)
        assert delivered == list(range(1, 51))


def test_from_now_on(places: Places) -> None:
    delivered: list[int] = []
    app = bank.app_of(bank.mail(lambda event: delivered.append(event.position), start="now"))
    with leftfold.open(places.log, app, views=places.views) as es:
        es.append([noted("before")])
        with es.running():
            first = es.append([noted("after")]).position
            eventually(lambda: delivered == [first])
        second = es.append([noted("while nobody runs")]).position
        with es.running():
            eventually(lambda: delivered == [first, second])


def test_an_async_function_is_for_async_stores(places: Places) -> None:
    delivered: list[int] = []

    async def handle(event: Any) -> None:
        await asyncio.sleep(0)
        delivered.append(event.position)

    app = bank.app_of(bank.mail(handle))
    with leftfold.open(places.log, app, views=places.views) as es:
        with pytest.raises(InvalidInput, match="coroutine function"):
            es.running().start()
        es.append([noted(number) for number in range(50)])

    async def run() -> None:
        opened = await leftfold.aopen(places.log, app, views=places.views)
        async with opened as es, es.running():
            while len(delivered) < 50:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), bank.STUCK_S))
    assert delivered == list(range(1, 51))


def test_a_function_that_is_cancelled_has_failed(on_sqlite: Places) -> None:
    async def handle(event: Any) -> None:
        raise asyncio.CancelledError

    app = bank.app_of(bank.mail(handle, attempts_max=2))

    async def run() -> str:
        opened = await leftfold.aopen(on_sqlite.log, app, views=on_sqlite.views)
        async with opened as es, es.running():
            await es.append([noted()])
            while not (failure := (await es.projections.status("mail"))[0].failure):
                await asyncio.sleep(0.01)
            return failure

    assert "it was cancelled" in asyncio.run(asyncio.wait_for(run(), bank.STUCK_S))


def test_a_coroutine_from_a_plain_function_is_refused(on_sqlite: Places) -> None:
    async def later() -> None: ...

    app = bank.app_of(bank.mail(lambda event: later(), attempts_max=1))
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as es, es.running():
        es.append([noted()])
        (found,) = eventually(
            lambda: [each for each in bank.progress_of(es, "mail") if each.stopped]
        )
        assert "make it a coroutine function" in found.failure


@pytest.mark.parametrize("on_failure", ["stop", "quarantine"])
def test_what_cannot_be_delivered(places: Places, on_failure: Any) -> None:
    delivered: list[Any] = []
    is_bad = [True]

    def handle(event: Any) -> None:
        if is_bad[0] and event.data.text == "bad":
            raise ConnectionError("nobody answers")
        delivered.append((event.stream, event.data.text))

    mail = Consumer(
        name="mail", handle=handle, key=lambda event: event.stream, on_failure=on_failure
    )
    app = bank.app_of(mail)
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        bad = es.append([noted(1, "a-1"), noted("bad", "a-1")]).position
        es.append([noted(2, "b-1"), noted(3, "a-1"), noted(4, "b-1")])
        if on_failure == "stop":
            (found,) = eventually(
                lambda: [each for each in bank.progress_of(es, "mail") if each.stopped]
            )
            assert found.stopped is not None
            assert found.stopped.position == bad
            assert delivered == [("a-1", "1")]
        else:
            eventually(lambda: delivered[-1:] == [("b-1", "4")], "others are not held up")
            eventually(lambda: [each.waiting for each in es.projections.quarantine("mail")] == [2])
        is_bad[0] = False
        es.projections.retry("mail")
        eventually(lambda: len(delivered) == 5, "it makes up for it")
        for stream in ("a-1", "b-1"):
            mine = [text for at, text in delivered if at == stream]
            assert mine == [each.data.text for each in es.read(leftfold.select(stream))]
