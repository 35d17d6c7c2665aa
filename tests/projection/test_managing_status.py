"""How projections are."""

from __future__ import annotations

from typing import Any

import pytest
from managing_support import BALANCES, CHANGED, Deposited, Managed, Opened, projection, totals

from leftfold import Consumer, InvalidInput
from leftfold.drive import run_sync
from leftfold.projection.catalog import add_waiting
from leftfold.projection.managing import Managing
from leftfold.stores.sqlite import SqliteDatabase


@pytest.fixture
def bank(database: Any) -> Managed:
    return Managed(database)


def one(bank: Managed, name: str = "balances") -> Any:
    [found] = bank.status(name)
    return found


def test_a_build_that_is_up_to_date(bank: Managed) -> None:
    build = bank.served()
    found = one(bank)
    assert (found.name, found.kind, found.mode) == ("balances", "projection", "async")
    assert (found.build, found.version, found.state) == (build.id, 1, "serving")
    assert (found.position, found.head, found.events) == (4, 4, 4)
    assert (found.events_behind, found.seconds_behind) == (0, 0)
    assert (found.partitions, found.owners, found.failure) == (1, [], None)
    assert (found.quarantined, found.waiting, found.is_current) == (0, 0, True)
    assert found.updated_us >= build.created_us


def test_how_far_it_lags(bank: Managed, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.served()
    bank.append(Deposited("a", 1), Deposited("a", 1))
    [*_, first, last] = run_sync(bank.store.read())
    monkeypatch.setattr("leftfold.projection.status.now_us", lambda: first.recorded_us + 90_000_000)
    found = one(bank)
    assert (found.position, found.head) == (4, last.position)
    assert (found.events_behind, found.seconds_behind) == (2, 90)


def test_events_that_do_not_match_are_no_lag(bank: Managed) -> None:
    only_openings = projection(evolve={Opened: lambda row, event: row})
    bank.now_has(only_openings)
    bank.served(only_openings)
    bank.append(Deposited("a", 1))
    found = one(bank)
    assert (found.position, found.head) == (4, 5)
    assert (found.events_behind, found.seconds_behind) == (0, 0)


def test_the_slowest_partition_counts(bank: Managed) -> None:
    build = bank.build(partitions=2)
    bank.run_partition(build, BALANCES, held=bank.progress(build)[1])
    found = one(bank)
    assert (found.partitions, found.position, found.events_behind) == (2, 0, 4)


def test_owners_are_those_whose_lease_is_running(bank: Managed) -> None:
    build = bank.build(partitions=2)
    bank.lease(build)
    assert one(bank).owners == ["worker"]
    bank.lease(build, seconds=-1)
    assert one(bank).owners == []


def test_why_it_is_stopped_and_what_waits(bank: Managed) -> None:
    build = bank.served()
    bank.stop(build, 2)
    for key, position in (('["a"]', 2), ('["b"]', 3)):
        bank.quarantine(build, key, position)
    bank.write(lambda tx: add_waiting(tx, build.id, {'["a"]': 2}))
    found = one(bank)
    assert "at position 2" in found.failure
    assert (found.quarantined, found.waiting) == (2, 2)
    first, second = bank.in_quarantine()
    assert (first.name, first.build, first.key, first.waiting) == ("balances", 1, '["a"]', 2)
    assert (first.failure.position, first.failure.error) == (2, "ValueError: no")
    assert (second.key, second.waiting, second.is_due) == ('["b"]', 0, False)


def test_code_that_has_changed(bank: Managed) -> None:
    bank.served()
    bank.now_has(CHANGED)
    assert not one(bank).is_current
    bank.run(bank.rebuild("balances"), CHANGED)
    assert [each.is_current for each in bank.status("balances")] == [False, True]


def test_every_kind_in_the_order_of_the_app_and_then_what_it_no_longer_has(bank: Managed) -> None:
    mails = Consumer(name="mails", handle=print)
    live, sql = projection(name="lively", mode="live"), totals()
    bank.served()
    for each in (mails, sql):
        bank.build(each)
    bank.now_has(live, sql, mails, projection(name="unused"))
    found = [(each.name, each.kind, each.mode, each.state) for each in bank.status()]
    assert found == [
        ("lively", "projection", "live", "live"),
        ("totals", "sql", "async", "serving"),
        ("mails", "consumer", "async", "serving"),
        ("unused", "projection", "async", "new"),
        ("balances", "projection", None, "serving"),
    ]
    assert [each.is_current for each in bank.status()] == [True, True, True, True, False]
    assert [each.events_behind for each in bank.status()] == [0, 4, 4, 4, 0]
    assert one(bank, "balances").build == 1


def test_inline_ones_are_kept_with_the_log(bank: Managed) -> None:
    inline = projection(mode="inline")
    bank.served()
    bank.now_has(inline)
    bank.parts.log_database = bank.database
    assert [(each.mode, each.state) for each in bank.status()] == [("inline", "serving")]


def test_what_is_left_of_a_projection_that_is_inline_now_is_not_its_own(tmp_path: Any) -> None:
    bank = Managed(SqliteDatabase(str(tmp_path / "read.db")))
    bank.served()
    bank.now_has(projection(mode="inline"))
    bank.parts.log_database = SqliteDatabase(str(tmp_path / "log.db"))
    assert [(each.mode, each.state, each.build) for each in bank.status()] == [
        ("inline", "new", None),
        (None, "serving", 1),
    ]
    assert len(bank.drop("balances")) == 1
    bank.parts.log_database.close()
    bank.database.close()


def test_unknown_names_are_refused_with_those_there_are(bank: Managed) -> None:
    with pytest.raises(InvalidInput, match="'nobody', it has 'balances'"):
        bank.status("nobody")
    with pytest.raises(InvalidInput, match="'nobody', it has 'balances'"):
        run_sync(Managing(bank.parts).quarantine("nobody"))
