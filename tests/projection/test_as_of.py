"""Any projection as of an earlier position or moment: folded from the log, not from what serves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from view_support import BALANCES, Balance, Bank, Deposited, Noted, Opened, projection, totals

from leftfold import Event, InvalidInput, ProjectionBehind, ProjectionFailed
from leftfold.drive import run_sync
from leftfold.event import to_us
from leftfold.projection import waiting
from leftfold.projection.database import Database
from leftfold.projection.views import View

EVENTS = [Opened("a"), Deposited("a", 5), Noted(), Deposited("b", 2), Deposited("a", 1)]


@pytest.fixture
def bank(database: Database) -> Bank:
    return Bank(database, BALANCES)


@pytest.fixture
def moments(bank: Bank) -> list[datetime]:
    """When each of the events was recorded: a minute apart."""
    start = datetime.now(UTC) - timedelta(hours=1)
    found = [start + timedelta(minutes=number) for number in range(len(EVENTS))]
    for moment, each in zip(found, EVENTS, strict=True):
        bank.recorded_us = to_us(moment)
        bank.append(each)
    bank.recorded_us = None
    return found


def rows_after(count: int) -> list[Balance]:
    """The same, folded by hand."""
    found: dict[str, Balance] = {}
    for each in EVENTS[:count]:
        if isinstance(each, Opened):
            found[each.account] = Balance(each.account)
        elif isinstance(each, Deposited):
            before = found.get(each.account, Balance(each.account))
            found[each.account] = Balance(each.account, None, before.cents + each.cents)
    return sorted(found.values(), key=lambda row: row.account)


def test_as_of_each_position(bank: Bank, moments: list[datetime]) -> None:
    for position in range(len(EVENTS) + 1):
        assert bank.view(at=position).find() == rows_after(position), position


def test_as_of_each_moment(bank: Bank, moments: list[datetime]) -> None:
    second = timedelta(seconds=1)
    for number, moment in enumerate(moments):
        assert bank.view(at=moment - second).find() == rows_after(number)
        assert bank.view(at=moment).find() == rows_after(number + 1)
        elsewhere = (moment + second).astimezone(timezone(timedelta(hours=5)))
        assert bank.view(at=elsewhere).find() == rows_after(number + 1)


def test_what_comes_later_changes_nothing(bank: Bank, moments: list[datetime]) -> None:
    views = [bank.view(at=2), bank.view(at=moments[1])]
    for view in views:
        assert view.get("a") == Balance("a", None, 5)
    bank.append(Deposited("a", 100))
    for view in views:
        assert view.get("a") == Balance("a", None, 5)
        assert view.count() == 1
        assert view.sql("SELECT cents FROM balances") == [{"cents": 5}]


def test_it_is_built_beside_what_serves(bank: Bank, moments: list[datetime]) -> None:
    bank.run(bank.build())
    bank.write(lambda tx: tx.execute("UPDATE balances__1 SET cents = -1"))
    assert bank.view(at=2).get("a") == Balance("a", None, 5)
    assert bank.view().get("a") == Balance("a", None, -1)


def test_a_moment_to_come_shows_what_is_there_so_far(bank: Bank, moments: list[datetime]) -> None:
    view = bank.view(at=datetime.now(UTC) + timedelta(days=1))
    assert view.find() == rows_after(len(EVENTS))
    bank.append(Opened("z"))
    assert view.get("z") == Balance("z")


def test_sql_projections_have_been_other_too(database: Database) -> None:
    of = totals()
    bank = Bank(database, of)
    bank.append(*EVENTS)
    for position, cents in ((1, []), (2, [{"cents": 5}]), (5, [{"cents": 8}])):
        view: View[Any] = View(bank.parts, of, position)
        assert view.sql("SELECT cents FROM totals") == cents


def test_a_token_from_after_that_time_is_refused(bank: Bank, moments: list[datetime]) -> None:
    for at in (2, moments[1]):
        view = bank.view(at=at)
        assert view.get("a", after="2") == Balance("a", None, 5)
        with pytest.raises(InvalidInput, match="as of position 2, which cannot show"):
            view.get("a", after="3")
        with pytest.raises(InvalidInput, match="at position 5"):
            view.wait("5")


def test_a_position_that_the_log_has_not_reached(
    monkeypatch: pytest.MonkeyPatch, bank: Bank
) -> None:
    bank.append(Opened("a"))
    view = bank.view(at=2)
    monkeypatch.setattr("leftfold.projection.folded.WAIT_S", 0.01)
    assert waiting.WAIT_S > 0.01
    for ask in (view.find, lambda: view.get("a", after="1", timeout_s=0)):
        with pytest.raises(ProjectionBehind, match="the log has not reached position 2") as caught:
            ask()
        assert caught.value.position == 1
    bank.append(Opened("b"))
    assert view.count() == 2


@pytest.mark.parametrize("at", [-1, 1.5, "2", True, 2**63, datetime.fromisoformat("2026-01-01")])
def test_what_is_no_time_is_refused(bank: Bank, at: Any) -> None:
    with pytest.raises(InvalidInput, match="at"):
        bank.view(at=at)


def test_what_runners_pass_over_is_passed_over(bank: Bank) -> None:
    bank.append(Opened("a"), Deposited("a", -1), Deposited("b", -1), Deposited("a", 5))
    with pytest.raises(ProjectionFailed, match="a deposit is positive") as caught:
        bank.view(at=4).count()
    assert caught.value.position == 2

    def skip(tx: Any) -> None:
        for position, key in ((2, ""), (3, '["b"]')):
            values = ["balances", 1, position, key, "a mistake", 0]
            tx.execute("INSERT INTO leftfold_skips VALUES (?, ?, ?, ?, ?, ?)", values)

    bank.write(skip)
    assert bank.view(at=4).find() == [Balance("a", None, 5)]
    # What another version passes over is another matter.
    with pytest.raises(ProjectionFailed):
        bank.view(projection(version=2), at=4).count()


def test_what_cannot_be_decoded_can_be_passed_over(bank: Bank) -> None:
    every = projection(name="every", evolve=lambda row, event: row, key=lambda event: None)
    run_sync(bank.store.append([Event("bank-1", b"{}", type="Gone")]))
    bank.write(
        lambda tx: tx.execute(
            "INSERT INTO leftfold_skips VALUES (?, ?, ?, ?, ?, ?)", ["every", 1, 1, "", "old", 0]
        )
    )
    assert bank.view(every, at=1).find() == []
