"""Reading one's own writes: what a token promises, and how a view says that it cannot keep it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from view_support import (
    BALANCES,
    CODEC,
    Balance,
    Bank,
    Deposited,
    Noted,
    Opened,
    projection,
    totals,
)

from leftfold import Consumer, InvalidInput, ProjectionBehind
from leftfold.drive import LoopDriver, run_sync
from leftfold.projection.database import Database
from leftfold.projection.folding import key_text, partition_of
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.swapping import make_build, swap_in, unmade
from leftfold.projection.views import AsyncView, View
from leftfold.projection.waiting import WAIT_S_MAX, to_wait_for, wait_for

SOON_S = 60.0
"""Longer than anything takes that happens at all."""
PARTITIONS = 4


@pytest.fixture
def bank(database: Database) -> Bank:
    return Bank(database, BALANCES)


def accounts_of(partition: int) -> list[str]:
    """Two accounts whose rows are in a partition."""
    names = (f"account-{number}" for number in range(1000))
    found = [each for each in names if partition_of(key_text((each,)), PARTITIONS) == partition]
    return found[:2]


def late(ask: Callable[[], Any]) -> ProjectionBehind:
    with pytest.raises(ProjectionBehind) as caught:
        ask()
    return caught.value


def test_what_shows_already_is_read_at_once(bank: Bank) -> None:
    token = bank.append(Opened("a"), Deposited("a", 5))
    bank.run(bank.build())
    view = bank.view()
    assert view.get("a", after=token, timeout_s=0) == Balance("a", None, 5)
    assert view.find(after=token, timeout_s=0) == [Balance("a", None, 5)]
    assert view.count(after=token, timeout_s=0) == 1
    view.wait(token, timeout_s=0)


def test_what_does_not_show_in_time_is_said_to_be_behind(bank: Bank) -> None:
    token = bank.append(Opened("a"), Deposited("a", 5))
    bank.run(bank.build(), until=1)
    view = bank.view()
    asks: list[Callable[..., Any]] = [
        lambda **how: view.get("a", after=token, **how),
        lambda **how: view.find(after=token, **how),
        lambda **how: view.count(after=token, **how),
        lambda **how: view.wait(token, **how),
    ]
    for ask in asks:
        for timeout_s in (0, 0.01):
            error = late(lambda ask=ask, s=timeout_s: ask(timeout_s=s))
            assert (error.projection, error.position) == ("balances", 1)
            assert str(error).endswith("it does not show position 2 yet")
    assert view.get("a") == Balance("a", None, 0)


@pytest.mark.parametrize("partitions", [1, PARTITIONS])
def test_a_reader_waits_until_it_shows(bank: Bank, partitions: int) -> None:
    build = bank.build(partitions=partitions)
    token = bank.append(Opened("a"), Deposited("a", 5))
    found: list[Any] = []
    view = bank.view()
    asks = (
        lambda: view.get("a", after=token, timeout_s=SOON_S),
        lambda: view.find(after=token, timeout_s=SOON_S)[0],
        lambda: view.wait(token, timeout_s=SOON_S) or view.get("a"),
    )
    readers = [threading.Thread(target=lambda ask=ask: found.append(ask())) for ask in asks]
    for each in readers:
        each.start()
    assert found == []
    bank.run(build)
    for each in readers:
        each.join(SOON_S)
    assert found == [Balance("a", None, 5)] * 3


def test_a_reader_waits_for_the_first_build(bank: Bank) -> None:
    token = bank.append(Opened("a"))
    found: list[Any] = []
    view = bank.view()
    reader = threading.Thread(
        target=lambda: found.append(view.get("a", after=token, timeout_s=SOON_S))
    )
    reader.start()
    bank.run(bank.build())
    reader.join(SOON_S)
    assert found == [Balance("a")]


def test_events_that_do_not_match_need_no_checkpoint(bank: Bank) -> None:
    bank.append(Opened("a"))
    build = bank.build()
    bank.run(build)
    token = bank.append(Noted(), Noted())
    assert bank.progress(build)[0].position == 1
    assert bank.view().get("a", after=token, timeout_s=0) == Balance("a")
    bank.append(Deposited("a", 5))
    bank.view().wait(token, timeout_s=0)
    after_all = bank.append(Noted())
    assert late(lambda: bank.view().wait(after_all, timeout_s=0)).position == 1


def test_a_checkpoint_at_the_last_event_that_matches_is_enough(bank: Bank) -> None:
    build = bank.build()
    token = bank.append(Noted(), Opened("a"), Noted(), Noted())
    bank.run(build, until=2)
    assert bank.view().get("a", after=token, timeout_s=0) == Balance("a")


def test_a_token_that_the_log_has_not_reached_is_waited_for(bank: Bank) -> None:
    bank.append(Opened("a"))
    bank.run(bank.build())
    error = late(lambda: bank.view().get("a", after="2", timeout_s=0))
    assert str(error).endswith("; the log has not reached position 2 yet")
    reader = threading.Thread(target=lambda: bank.view().wait("2", timeout_s=SOON_S))
    reader.start()
    bank.append(Noted())
    reader.join(SOON_S)
    assert not reader.is_alive()


def test_of_a_key_its_partition_alone_matters(bank: Bank) -> None:
    build = bank.build(partitions=PARTITIONS)
    (mine, _), (other, _) = accounts_of(0), accounts_of(1)
    token = bank.append(Opened(mine), Opened(other))
    held = bank.progress(build)[0]
    bank.run_partition(build, BALANCES, held=held)
    view = bank.view()
    assert view.get(mine, after=token, timeout_s=0) == Balance(mine)
    assert late(lambda: view.get(other, after=token, timeout_s=0)).position == 0
    for ask in (view.find, view.count):
        assert late(lambda ask=ask: ask(after=token, timeout_s=0)).position == 0
    assert late(lambda: view.wait(token, timeout_s=0)).position == 0


def test_what_is_stopped_is_not_waited_for(bank: Bank) -> None:
    build = bank.build(partitions=PARTITIONS)
    (mine, _), (other, _) = accounts_of(0), accounts_of(1)
    shown = bank.append(Opened(mine), Opened(other))
    bank.run(build)
    token = bank.append(Deposited(mine, -1), Deposited(other, 1))
    bank.stop(build, 3, partition=0)
    for held in bank.progress(build)[1:]:
        bank.run_partition(build, BALANCES, held=held)
    view = bank.view()
    asks: list[Callable[..., Any]] = [lambda **how: view.get(mine, **how), view.find, view.count]
    for ask in asks:
        error = late(lambda ask=ask: ask(after=token, timeout_s=WAIT_S_MAX))
        assert "it is stopped by 'Deposited' at position 3" in str(error)
        assert (error.position, error.projection) == (2, "balances")
    # It still shows what it has shown, and other partitions go on.
    assert view.get(mine, after=shown) == Balance(mine)
    assert view.find(after=shown) == view.find()
    assert view.get(other, after=token) == Balance(other, None, 1)
    assert view.get(mine) == Balance(mine)


def test_what_is_stopped_shows_appends_that_it_need_not_apply(bank: Bank) -> None:
    build = bank.build()
    bank.append(Opened("a"))
    bank.run(build)
    bank.stop(build, 2)
    assert bank.view().get("a", after=bank.append(Noted())) == Balance("a")


def test_a_key_in_quarantine_does_not_show_what_waits(bank: Bank) -> None:
    build = bank.build()
    before = bank.append(Opened("a"), Opened("b"))
    token = bank.append(Deposited("a", 1), Deposited("b", 1))
    bank.run(build)
    bank.quarantine(build, key_text(("a",)), 3)
    view = bank.view()
    error = late(lambda: view.get("a", after=token, timeout_s=WAIT_S_MAX))
    assert "in quarantine by 'Deposited' at position 3" in str(error)
    assert view.get("a", after=before) is not None
    assert view.get("a") is not None
    assert view.get("b", after=token) == Balance("b", None, 1)
    # Of all rows, a few that wait are said elsewhere: see the status of the projection.
    assert view.count(after=token) == 2


def test_a_build_that_is_swapped_in_must_show_it_too(bank: Bank) -> None:
    first = bank.build()
    bank.append(Opened("a"))
    bank.run(first)
    new = replace(unmade(BALANCES, CODEC.fingerprint), version=2)
    second = bank.write(lambda tx: make_build(tx, BALANCES, new))
    token = bank.append(Deposited("a", 5))
    bank.run(first)
    assert bank.view().get("a", after=token, timeout_s=0) == Balance("a", None, 5)
    bank.write(lambda tx: swap_in(tx, second))
    assert late(lambda: bank.view().get("a", after=token, timeout_s=0)).position == 0
    bank.run(second)
    assert bank.view().get("a", after=token, timeout_s=0) == Balance("a", None, 5)


def test_rows_and_checkpoints_are_of_one_moment(bank: Bank) -> None:
    build = bank.build()
    deposits = 40
    bank.append(Opened("a"))
    for _ in range(deposits):
        bank.append(Deposited("a", 1))
    runner = threading.Thread(target=bank.run, args=(build,))
    runner.start()
    view = bank.view()
    for number in range(1, deposits + 1):
        row = view.get("a", after=str(number + 1), timeout_s=SOON_S)
        assert row is not None
        assert row.cents >= number
    runner.join(SOON_S)


@pytest.mark.parametrize("token", ["", "x", "-1", "1.5", "²", 5, b"5", str(2**63)])
def test_what_is_no_token_is_refused(bank: Bank, token: Any) -> None:
    for ask in (lambda: bank.view().get("a", after=token), lambda: bank.view().wait(token)):
        with pytest.raises(InvalidInput, match="token"):
            ask()


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), float("inf"), "1", None, WAIT_S_MAX + 1])
def test_what_is_no_time_to_wait_is_refused(bank: Bank, timeout_s: Any) -> None:
    with pytest.raises(InvalidInput, match="timeout_s is from 0 to 3600"):
        bank.view().get("a", after="1", timeout_s=timeout_s)


def test_a_coroutine_waits_without_holding_up_others(bank: Bank) -> None:
    async def flow() -> tuple[Balance | None, Balance | None]:
        build = bank.build()
        async_parts = ProjectionParts(
            bank.store,
            CODEC,
            [BALANCES],
            databases=(bank.database, None),
            make_driver=LoopDriver,
        )
        view = AsyncView(async_parts, BALANCES)
        token = bank.append(Opened("a"), Deposited("a", 5))
        behind = asyncio.create_task(view.get("a", after=token, timeout_s=SOON_S))
        while not await view.get("a"):
            # The loop is free: this goes on beside the task that waits.
            bank.run(build, until=1)
        assert not behind.done()
        bank.run(build)
        found = await behind, (await view.find({"account": "a"}, after=token))[0]
        assert await view.count() == len(await view.sql("SELECT * FROM balances")) == 1
        await view.wait(token)
        async_parts.driver.close()
        return found

    assert asyncio.run(flow()) == (Balance("a", None, 5),) * 2


STRONG = totals()
LIVE = projection(name="live", mode="live")
MAILS = Consumer(name="mails", handle=print)


@pytest.fixture
def strong(database: Database) -> Bank:
    return Bank(database, BALANCES, STRONG, LIVE, MAILS)


def wait(bank: Bank, names: list[str] | None, position: int, timeout_s: float = 0) -> None:
    run_sync(wait_for(bank.parts, to_wait_for(bank.parts, names), position, timeout_s))


def test_a_command_waits_for_all_projections_or_some(strong: Bank) -> None:
    bank = strong
    balances, sums = bank.build(), bank.build(STRONG)
    bank.append(Opened("a"))
    bank.run(balances)
    wait(bank, ["balances"], 1)
    wait(bank, ["balances", "live"], 1)
    wait(bank, [], 1)
    for names in (None, ["totals"], ["balances", "totals"]):
        assert late(lambda names=names: wait(bank, names, 1)).projection == "totals"
    bank.run(sums, STRONG)
    wait(bank, None, 1)


def test_a_command_waits_for_so_long_in_all(strong: Bank) -> None:
    bank = strong
    bank.build()
    sums = bank.build(STRONG)
    bank.append(Opened("a"))
    runner = threading.Thread(target=lambda: bank.run(sums, STRONG))
    waiting = threading.Thread(target=lambda: wait(bank, ["totals"], 1, SOON_S))
    waiting.start()
    runner.start()
    runner.join(SOON_S)
    waiting.join(SOON_S)
    assert not waiting.is_alive()
    assert late(lambda: wait(bank, None, 1, 0.01)).projection == "balances"


def test_names_that_are_no_projections_are_refused_beforehand(strong: Bank) -> None:
    for names, message in (
        (["nobody"], "no projection or consumer 'nobody'"),
        (["mails"], "'mails' is a consumer"),
        ("balances", "put it in brackets"),
    ):
        with pytest.raises(InvalidInput, match=message):
            to_wait_for(strong.parts, names)


def test_a_view_of_one_projection_needs_no_app(database: Database) -> None:
    bank = Bank(database, LIVE)
    bank.append(Opened("a"))
    view: View[Balance] = View(bank.parts, BALANCES)
    assert late(view.find).position == 0


def test_what_waits_in_quarantine_does_not_show_for_all_keys(bank: Bank) -> None:
    token = bank.append(Opened("a"), Deposited("a", 5))
    later = bank.append(Opened("b"))
    build = bank.build()
    bank.run(build)
    bank.quarantine(build, key_text(("b",)), 3)
    view = bank.view()
    view.wait(token, timeout_s=0)
    assert view.count(after=later, timeout_s=0) == 2
    for ask in (
        lambda: view.wait(later),
        lambda: run_sync(wait_for(bank.parts, [BALANCES], int(later), SOON_S)),
    ):
        assert "a key is in quarantine by 'Deposited' at position 3" in str(late(ask))
