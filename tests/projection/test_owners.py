"""Owners of builds: clocks that are set back, signals that are seen, and catalogs with holes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import inline_worker as inline
import projection_worker as bank
import pytest
from running_support import Places, Told, eventually, places_on
from view_support import Bank, Deposited, Opened, projection, totals

import leftfold
from leftfold import Event
from leftfold.drive import run_sync
from leftfold.projection import catalog, consuming, managing
from leftfold.projection.consuming import Consuming
from leftfold.projection.database import Database, Transaction

DAY_US = 86_400 * 1_000_000


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on("sqlite", request, tmp_path)


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    logging.getLogger("leftfold").addHandler(told)
    yield told
    logging.getLogger("leftfold").removeHandler(told)


@pytest.mark.parametrize(
    "left",
    [
        "owner = 'dead', lease_until_us = {}",
        "hold_position = 1, hold_until_us = {}",
    ],
)
def test_a_clock_that_was_set_back_holds_nobody_up(places: Places, left: str) -> None:
    app = bank.app_of(bank.totals())
    with leftfold.open(places.log, app, views=places.views) as es:
        with es.running():
            bank.wait_for_all(es, app)

        def leave(tx: Transaction) -> None:
            until_us = tx.now_us() + DAY_US
            tx.execute(f"UPDATE leftfold_consumers SET {left.format(until_us)}")

        es._projecting.database.write(leave)
        with es.running():
            bank.wait_for_all(es, app)


def test_no_hold_is_taken_for_one_of_another_time() -> None:
    assert max(managing.COMPARE_S_MAX, managing.SWAP_S) <= catalog.HOLD_S_MAX


def test_a_lease_that_holds_is_not_taken(database: Database) -> None:
    bank = Bank(database)
    build = bank.build()
    assert bank.write(lambda tx: catalog.claim(tx, build.id, 0, "first")) is not None
    assert bank.write(lambda tx: catalog.claim(tx, build.id, 0, "second")) is None


def test_a_table_that_is_missing_is_made_whatever_else_is_there(database: Database) -> None:
    bank = Bank(database)
    bank.build()
    newest = bank.build()

    def lose(tx: Transaction) -> None:
        tx.execute("DROP TABLE leftfold_ids")
        tx.execute("DROP TABLE leftfold_skips")
        for number in range(2):
            tx.execute(f"CREATE TABLE leftfold_other_{number} (id integer)")

    bank.write(lose)
    bank.parts.look_again()
    assert bank.write(lambda tx: catalog.skips(tx, newest)) == set()
    # No id is given twice.
    assert bank.build().id > newest.id


@pytest.mark.parametrize("kind", ["keyed", "sql"])
def test_what_is_wanted_while_an_event_fails_is_seen_at_once(
    database: Database, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when nothing is left to do."""
    monkeypatch.setattr(consuming, "PAUSE_MIN_S", 0.0)
    of: Any = projection() if kind == "keyed" else totals_that_fail()
    bank = Bank(database, of)
    bank.append(Opened("a"), Deposited("a", -1), Deposited("a", 5))
    build = bank.build(of)
    consumer = Consuming(bank.parts, of, build, at=("worker", 0))
    run_sync(consumer._round())

    def skip(tx: Transaction) -> None:
        row = (of.name, 1, 2, "", "wrong", 0)
        tx.execute("INSERT INTO leftfold_skips VALUES (?, ?, ?, ?, ?, ?)", row)
        catalog.signal(tx, build.id)

    bank.write(skip)
    for _ in range(3):
        run_sync(consumer._round())
    consumer._parts.driver.close()
    (progress,) = bank.progress(build)
    assert (progress.position, progress.failure) == (3, "")


def totals_that_fail() -> Any:
    def apply(sql: Any, events: Any) -> None:
        if any(getattr(each.data, "cents", 0) < 0 for each in events):
            raise ValueError("no")

    plain = totals()
    return leftfold.SqlProjection(name="totals", create=plain.create, apply=apply, attempts_max=2)


def test_a_consumer_says_what_it_leaves_out(places: Places, told: Told) -> None:
    app = bank.app_of(bank.mail(print, start="now"))
    for begins in (False, True):
        told.lines.clear()
        with leftfold.open(places.log, app, views=f"{places.views}{begins}") as es:
            with es.running():
                eventually(lambda es=es: bank.progress_of(es, "mail"))
            assert told.has("mail: it begins after position 1") is begins
            es.append([Event("account-1", bank.Noted("text"))])
            told.lines.clear()
            with es.running():
                eventually(
                    lambda es=es: [each.events for each in bank.progress_of(es, "mail")] == [1]
                )
            assert not told.has("it begins after")


def test_an_inline_projection_passes_over_what_cannot_be_decoded(
    places: Places, tmp_path: Path
) -> None:
    with leftfold.open(places.log) as plain:
        plain.append([Event("bank-1", b'{"cents":1,"to":["a"]}', type="Moved")])
        plain.append([Event("bank-1", b'"none"', type="Moved")])
        plain.append([Event("bank-1", b'{"cents":2,"to":["a"]}', type="Moved")])
    app = leftfold.App(codec=inline.CODEC, projections=[inline.BALANCES])
    with pytest.raises(leftfold.UndecodableEvent):
        leftfold.open(places.log, app)
    connection = apsw.Connection(str(tmp_path / "log.db"))
    connection.execute("INSERT INTO leftfold_skips VALUES ('balances', 1, 2, '', 'wrong', 0)")
    connection.close()
    with leftfold.open(places.log, app) as es:
        assert es.view(inline.BALANCES).get("a") == inline.Balance("a", 3, 2)
