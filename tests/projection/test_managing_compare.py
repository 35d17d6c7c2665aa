"""Comparing two builds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from managing_support import CHANGED, Deposited, Managed, Opened, projection, totals
from msgspec import Struct

from leftfold import InvalidInput, ProjectionRefused, SqlProjection
from leftfold.projection import comparing, managing


@pytest.fixture
def bank(database: Any) -> Managed:
    """Build 1 serves, build 2 is complete."""
    bank = Managed(database)
    bank.served()
    bank.run(bank.rebuild("balances"))
    return bank


def one_table(bank: Managed, name: str = "balances") -> Any:
    found = bank.compare(name)
    assert found.is_aligned
    assert (found.tables_added, found.tables_removed) == ([], [])
    [table] = found.tables
    assert table.is_same == found.is_same
    return table


def test_equal_builds(bank: Managed) -> None:
    found = bank.compare("balances")
    assert (found.serving, found.candidate) == (1, 2)
    assert (found.serving_position, found.candidate_position) == (4, 4)
    table = one_table(bank)
    assert (table.name, table.is_same, table.samples) == ("balances", True, [])
    assert (table.rows_serving, table.rows_candidate) == (3, 3)
    assert (table.columns_added, table.columns_removed) == ([], [])


def test_each_difference_is_counted_and_shown(bank: Managed) -> None:
    bank.execute("DELETE FROM balances__2 WHERE account = 'a'")
    bank.execute("UPDATE balances__2 SET owner = NULL WHERE account = 'b'")
    bank.execute("UPDATE balances__2 SET owner = NULL WHERE account = 'c'")
    bank.execute("UPDATE balances__1 SET owner = NULL WHERE account = 'c'")
    bank.execute("INSERT INTO balances__2 VALUES ('d', NULL, 1)")
    table = one_table(bank)
    assert (table.rows_serving, table.rows_candidate) == (3, 3)
    assert (table.only_serving, table.only_candidate, table.different) == (1, 1, 1)
    assert [(each.serving, each.candidate) for each in table.samples] == [
        ({"account": "a", "owner": "ann", "cents": 5}, None),
        (
            {"account": "b", "owner": "bob", "cents": 0},
            {"account": "b", "owner": None, "cents": 0},
        ),
        (None, {"account": "d", "owner": None, "cents": 1}),
    ]


def test_many_differences_are_counted_and_some_are_shown(bank: Managed) -> None:
    bank.execute(
        "INSERT INTO balances__2 WITH RECURSIVE n (n) AS "
        "(SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50) "
        "SELECT 'x' || n, NULL, 0 FROM n"
    )
    table = one_table(bank)
    assert table.only_candidate == 50
    assert len(table.samples) == comparing.SAMPLES_MAX


def test_rows_of_another_type_are_compared_by_the_columns_that_both_have(bank: Managed) -> None:
    class Named(Struct, frozen=True):
        account: str
        owner: str | None = None
        name: str = ""

    bank.drop("balances", build=2)
    changed = projection(row=Named, evolve=lambda row, event: Named(row.account, "eve"), version=2)
    bank.now_has(changed)
    bank.run(bank.rebuild("balances"), changed)
    table = one_table(bank)
    assert (table.columns_added, table.columns_removed) == (["name"], ["cents"])
    assert table.different == 3
    assert table.samples[0].serving == {"account": "a", "owner": "ann", "cents": 5}
    assert table.samples[0].candidate == {"account": "a", "owner": "eve", "name": ""}


def test_a_column_of_another_type_is_another_column(bank: Managed) -> None:
    class Told(Struct, frozen=True):
        account: str
        owner: str | None = None
        cents: str = ""

    bank.drop("balances", build=2)
    changed = projection(row=Told, evolve=lambda row, event: Told(row.account, "eve"), version=2)
    bank.now_has(changed)
    bank.run(bank.rebuild("balances"), changed)
    table = one_table(bank)
    assert (table.columns_added, table.columns_removed) == (["cents"], ["cents"])
    assert table.different == 3


def test_rows_with_another_key_are_compared_as_wholes(bank: Managed) -> None:
    class ByOwner(Struct, frozen=True):
        owner: str
        cents: int = 0

    bank.drop("balances", build=2)
    bank.now_has(projection(row=ByOwner, evolve=lambda row, event: row, indexes=[], version=2))
    build = bank.rebuild("balances")
    bank.execute(f"INSERT INTO {build.table} VALUES ('ann', 5), ('eve', 5)")
    found = bank.compare("balances")
    [table] = found.tables
    # The owner may be missing in one, and not in the other: that is no other type of column.
    assert (table.columns_added, table.columns_removed) == ([], ["account"])
    assert (table.only_serving, table.only_candidate, table.different) == (2, 1, 0)


def test_tables_without_a_key_are_compared_as_often_as_a_row_is_there(database: Any) -> None:
    def create(sql: Any) -> None:
        sql.execute(f"CREATE TABLE {sql.table} (n integer, m integer)")
        sql.execute(
            f"CREATE TABLE {sql.table}_{'old' if sql.table.endswith('1') else 'new'} (n int)"
        )

    sql = SqlProjection(name="totals", create=create, apply=lambda sql, events: None)
    bank = Managed(database, sql)
    bank.run(bank.build(sql), sql)
    bank.run(bank.rebuild("totals"), sql)
    bank.execute("INSERT INTO totals__1 VALUES (1, NULL), (1, NULL), (2, 2), (3, 3)")
    bank.execute("INSERT INTO totals__2 VALUES (1, NULL), (2, 2), (4, 4)")
    found = bank.compare("totals")
    assert (found.tables_added, found.tables_removed) == (["totals_new"], ["totals_old"])
    [table] = found.tables
    assert (table.rows_serving, table.rows_candidate) == (4, 3)
    assert (table.only_serving, table.only_candidate, table.different) == (2, 2, 0)
    assert [(each.serving, each.candidate) for each in table.samples] == [
        ({"n": 1, "m": None}, None),
        ({"n": 3, "m": 3}, None),
        (None, {"n": 1, "m": None}),
        (None, {"n": 4, "m": 4}),
    ]


def test_tables_of_sql_with_a_key_are_compared_by_it(database: Any) -> None:
    bank = Managed(database, totals())
    bank.run(bank.build(totals()), totals())
    bank.run(bank.rebuild("totals"), totals())
    bank.execute("UPDATE totals__2 SET cents = 6")
    table = one_table(bank, "totals")
    assert (table.only_serving, table.only_candidate, table.different) == (0, 0, 1)


def test_builds_at_different_positions_are_compared_and_it_is_said(bank: Managed) -> None:
    bank.append(Deposited("a", 1))
    bank.run(bank.builds()[0])
    found = bank.compare("balances")
    assert not found.is_aligned
    assert (found.serving_position, found.candidate_position) == (5, 4)
    assert not found.is_same


def test_positions_between_which_nothing_matches_are_the_same(database: Any) -> None:
    only_openings = projection(evolve={Opened: lambda row, event: row})
    bank = Managed(database, only_openings)
    bank.served(only_openings)
    bank.run(bank.rebuild("balances"), only_openings)
    bank.append(Deposited("a", 1))
    bank.run(bank.builds()[0], only_openings)
    assert bank.compare("balances").is_aligned


def test_those_at_work_are_held_until_both_are_at_one_position(bank: Managed) -> None:
    serving, build = bank.builds()
    bank.lease(serving)
    bank.lease(build)
    bank.append(Deposited("a", 1), Deposited("a", 2))
    bank.run(serving, until=5)
    seen = []

    def go_on() -> None:
        held = [bank.progress(each)[0] for each in (serving, build)]
        seen.append([each.hold_position for each in held])
        if len(seen) == 1:
            # It was in the middle of a batch, and is further than it is to be held at.
            bank.run(serving, until=6)
        else:
            bank.run(build, until=held[1].hold_position)

    bank.meanwhile(go_on)
    found = bank.compare("balances")
    assert seen == [[5, 5], [6, 6]]
    assert found.is_aligned
    assert found.is_same
    assert [bank.progress(each)[0].hold_position for each in (serving, build)] == [0, 0]


def test_a_hold_is_lifted_when_comparing_fails(
    bank: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving, build = bank.builds()
    bank.lease(build)
    bank.append(Deposited("a", 1))
    bank.run(serving)
    bank.meanwhile(lambda: bank.run(build))

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(managing, "compare_builds", fail)
    before = bank.signals(serving)
    with pytest.raises(ZeroDivisionError):
        bank.compare("balances")
    assert bank.signals(serving) == before + 2
    assert bank.progress(serving)[0].hold_position == 0


def test_nobody_is_waited_for_who_does_not_move(bank: Managed) -> None:
    serving, build = bank.builds()
    bank.append(Deposited("a", 1))
    bank.run(serving)
    bank.meanwhile(lambda: pytest.fail("it waits"))
    assert not bank.compare("balances").is_aligned
    bank.lease(build, seconds=-1)
    assert not bank.compare("balances").is_aligned
    bank.lease(build)
    bank.stop(build, 5)
    assert not bank.compare("balances").is_aligned


def test_waiting_has_an_end(bank: Managed) -> None:
    serving, build = bank.builds()
    bank.append(Deposited("a", 1))
    bank.run(serving)
    bank.lease(build)
    assert not bank.compare("balances", timeout_s=0.2).is_aligned


def test_the_build_to_be_swapped_in_is_compared_or_else_the_one_before(bank: Managed) -> None:
    bank.swap("balances")
    found = bank.compare("balances")
    assert (found.serving, found.candidate) == (2, 1)
    bank.now_has(CHANGED)
    bank.run(bank.rebuild("balances"), CHANGED)
    assert bank.compare("balances").candidate == 3


def test_the_build_of_the_present_code_comes_first(bank: Managed) -> None:
    bank.now_has(CHANGED)
    bank.run(bank.rebuild("balances"), CHANGED)
    assert bank.compare("balances").candidate == 3
    bank.now_has(projection())
    assert bank.compare("balances").candidate == 2


def test_comparing_needs_two_builds(bank: Managed) -> None:
    bank.drop("balances", build=2)
    with pytest.raises(ProjectionRefused, match=r"1 \(serving\)"):
        bank.compare("balances")


@pytest.mark.parametrize("timeout_s", [-1, math.nan, math.inf, 3601])
def test_the_time_to_wait_is_limited(bank: Managed, timeout_s: float) -> None:
    with pytest.raises(InvalidInput, match="timeout_s"):
        bank.compare("balances", timeout_s=timeout_s)
