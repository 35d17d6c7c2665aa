"""Live projections: folded from the log whenever they are read."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace
from view_support import (
    CODEC,
    Balance,
    Bank,
    Deposited,
    Noted,
    Opened,
    Untouched,
    evolve_deposited,
    evolve_opened,
    projection,
    totals,
)

from leftfold import (
    Event,
    InvalidInput,
    ProjectionBehind,
    ProjectionFailed,
    StoreClosed,
    StoreUnavailable,
    UnknownEventType,
)
from leftfold.drive import LoopDriver, run_sync
from leftfold.projection import applying, folded
from leftfold.projection.database import Database
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.views import AsyncView, View
from leftfold.reading import PAGE_EVENTS
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteDatabase

SOON_S = 60.0
LIVE = projection(mode="live")


@pytest.fixture
def bank() -> Bank:
    return Bank(Untouched(""), LIVE)


def test_a_live_view_shows_each_append_at_once(bank: Bank) -> None:
    view = bank.view(LIVE)
    assert view.get("a") is None
    token = bank.append(Opened("a", "ada"))
    assert view.get("a", after=token, timeout_s=0) == Balance("a", "ada")
    bank.append(Deposited("a", 5), Noted(), Opened("b", "ada"))
    assert view.find({"owner": "ada"}) == [Balance("a", "ada", 5), Balance("b", "ada")]
    bank.append(Deposited("a", 2))
    assert view.sql("SELECT sum(cents) AS cents FROM balances") == [{"cents": 7}]
    bank.append(Opened("c"))
    assert view.count() == 3
    view.wait(token)


def test_what_was_folded_is_not_folded_again() -> None:
    seen: list[int] = []

    def evolve(row: Balance, event: Any) -> Balance:
        seen.append(event.position)
        return evolve_deposited(row, event)

    live = projection(mode="live", evolve={Deposited: evolve})
    bank = Bank(Untouched(""), live)
    view = bank.view(live)
    for number in range(1, 4):
        bank.append(Deposited("a", 1))
        assert view.count() == view.count() == 1
        assert seen == [*range(1, number + 1)]


def test_more_events_than_a_page(bank: Bank) -> None:
    view = bank.view(LIVE)
    for extra in (-1, 0, 1):
        events = PAGE_EVENTS + extra
        before = view.get("a") or Balance("a")
        bank.append(*[Deposited("a", 1) for _ in range(events)])
        assert view.get("a") == replace(before, cents=before.cents + events)


def test_views_of_one_projection_are_apart(bank: Bank) -> None:
    first, second = bank.view(LIVE), bank.view(LIVE)
    bank.append(Opened("a"))
    assert first.count() == 1
    bank.append(Opened("b"))
    assert (first.count(), second.count()) == (2, 2)


def test_threads_that_share_a_view_fold_each_event_once(bank: Bank) -> None:
    view, threads, rounds = bank.view(LIVE), 4, 20
    barrier = threading.Barrier(threads)
    found: list[int] = []

    def read() -> None:
        for _ in range(rounds):
            barrier.wait(SOON_S)
            bank.append(Deposited("a", 1), Deposited("a", 1))
            row = view.get("a")
            found.append(row.cents if row else 0)

    readers = [threading.Thread(target=read) for _ in range(threads)]
    for each in readers:
        each.start()
    for each in readers:
        each.join(SOON_S)
    assert len(found) == threads * rounds
    assert view.get("a") == Balance("a", None, 2 * threads * rounds)
    assert max(found) == 2 * threads * rounds


def test_what_evolve_cannot_take_is_said_each_time(bank: Bank) -> None:
    view = bank.view(LIVE)
    bank.append(Opened("a"), Deposited("b", 5), Deposited("a", -1), Deposited("b", 5))
    for _ in range(2):
        with pytest.raises(ProjectionFailed, match="ValueError: a deposit is positive") as caught:
            view.get("b")
        error = caught.value
        assert (error.projection, error.position, error.key) == ("balances", 3, '["a"]')
        assert (error.stream, error.version, error.type) == ("bank-1", 3, "Deposited")


def test_what_cannot_be_decoded_is_said(bank: Bank) -> None:
    every = projection(mode="live", evolve=lambda row, event: row)
    view = bank.view(every)
    run_sync(bank.store.append([Event("bank-1", b"{}", type="Gone")]))
    with pytest.raises(UnknownEventType):
        view.get("a")


def test_a_live_sql_projection_is_read_by_sql() -> None:
    live = totals(mode="live")
    bank = Bank(Untouched(""), live)
    view: View[Any] = View(bank.parts, live)
    assert view.sql("SELECT * FROM totals") == []
    bank.append(Deposited("a", 5), Deposited("b", 2))
    assert view.sql("SELECT cents FROM totals WHERE day = ?", [1]) == [{"cents": 7}]
    view.wait(bank.append(Deposited("a", 1)))
    assert view.sql("SELECT cents FROM totals") == [{"cents": 8}]
    with pytest.raises(InvalidInput, match="use sql"):
        view.find()
    with pytest.raises(InvalidInput):
        view.sql("DELETE FROM totals")


def test_an_sql_projection_that_fails_says_at_which_event() -> None:
    def apply(sql: Any, events: Any) -> None:
        for event in events:
            if event.data.cents < 0:
                raise ValueError("a deposit is positive")

    live = replace(totals(mode="live"), apply=apply)
    bank = Bank(Untouched(""), live)
    bank.append(Deposited("a", 5), Deposited("a", -1))
    view: View[Any] = View(bank.parts, live)
    with pytest.raises(ProjectionFailed, match="a deposit is positive") as caught:
        view.sql("SELECT * FROM totals")
    assert (caught.value.position, caught.value.key) == (2, "")


def test_a_token_that_the_log_has_not_reached_is_waited_for(bank: Bank) -> None:
    view = bank.view(LIVE)
    with pytest.raises(ProjectionBehind, match="the log has not reached position 1 yet"):
        view.get("a", after="1", timeout_s=0)
    found: list[Any] = []
    reader = threading.Thread(
        target=lambda: found.append(view.get("a", after="1", timeout_s=SOON_S))
    )
    reader.start()
    bank.append(Opened("a"))
    reader.join(SOON_S)
    assert found == [Balance("a")]


def test_what_a_view_has_folded_goes_with_it(monkeypatch: pytest.MonkeyPatch, bank: Bank) -> None:
    made: list[SqliteDatabase] = []

    class Noticed(SqliteDatabase):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            made.append(self)

    monkeypatch.setattr("leftfold.projection.folded.SqliteDatabase", Noticed)
    view = bank.view(LIVE)
    assert view.count() == 0
    (database,) = made
    del view
    with pytest.raises(StoreClosed):
        database.read(lambda tx: None)


def test_threads_that_read_a_new_view_make_it_once(
    monkeypatch: pytest.MonkeyPatch, bank: Bank
) -> None:
    view, made, found = bank.view(LIVE), [], []
    bank.append(Opened("a"))
    meeting = threading.Barrier(2)

    def work_of(*of: Any) -> Any:
        made.append(of)
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.1)
        return applying.work_of(*of)

    monkeypatch.setattr(folded, "work_of", work_of)
    readers = [threading.Thread(target=lambda: found.append(view.count())) for _ in range(2)]
    for each in readers:
        each.start()
    for each in readers:
        each.join(SOON_S)
    assert (len(made), found) == (1, [1, 1])


def test_what_could_not_be_written_is_folded_again(
    monkeypatch: pytest.MonkeyPatch, bank: Bank
) -> None:
    view = bank.view(LIVE)
    bank.append(Deposited("a", 1))
    assert view.get("a") == Balance("a", None, 1)
    bank.append(Deposited("a", 1))

    def full(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(SqliteDatabase, "write", full)
        with pytest.raises(StoreUnavailable):
            view.get("a")
    assert view.get("a") == Balance("a", None, 2)


def test_tasks_that_share_a_view_fold_each_event_once() -> None:
    async def flow() -> Balance | None:
        driver = LoopDriver()
        store = MemoryStore(driver)
        database: Database = Untouched("")
        parts = ProjectionParts(
            store, CODEC, [LIVE], databases=(database, None), make_driver=LoopDriver
        )
        view = AsyncView(parts, LIVE)

        async def append_and_read() -> None:
            event = CODEC.encode(Event("bank-1", Deposited("a", 1)))
            token = str((await store.append([event])).position)
            assert await view.get("a", after=token) is not None

        await asyncio.gather(*[append_and_read() for _ in range(50)])
        found = await view.get("a")
        parts.driver.close()
        driver.close()
        return found

    assert asyncio.run(flow()) == Balance("a", None, 50)


def test_events_that_it_does_not_fold_do_no_harm(bank: Bank) -> None:
    view = bank.view(projection(mode="live", evolve={Opened: evolve_opened}))
    bank.append(Opened("a", "ada"), Deposited("a", -1))
    assert view.find() == [Balance("a", "ada", 0)]
