"""What views answer, and which build they read."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from view_support import (
    BALANCES,
    CODEC,
    Balance,
    Bank,
    Deposited,
    Opened,
    Untouched,
    projection,
    totals,
)

from leftfold import Consumer, InvalidInput, Projection, ProjectionBehind, Unsupported
from leftfold.drive import BlockingDriver
from leftfold.projection.catalog import Build
from leftfold.projection.database import Database, Transaction
from leftfold.projection.finding import ROWS_MAX
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.swapping import make_build, swap_in, unmade
from leftfold.projection.views import AsyncView, View

PEOPLE = [Opened("c", "ada"), Opened("a", "ada"), Opened("e"), Opened("b", "bob"), Opened("d")]


@pytest.fixture
def bank(database: Database) -> Bank:
    """Five accounts, of ada, bob, ada and nobody."""
    bank = Bank(database)
    bank.append(*PEOPLE)
    bank.run(bank.build())
    return bank


def names(rows: list[Balance]) -> str:
    return "".join(each.account for each in rows)


def test_get_gives_the_row_of_a_key(bank: Bank) -> None:
    assert bank.view().get("a") == Balance("a", "ada", 0)


def test_get_gives_none_where_there_is_no_row(bank: Bank) -> None:
    assert bank.view().get("z") is None


class Seat(Struct, frozen=True):
    row: str
    number: int
    at: datetime
    owner: str = ""


def test_keys_of_several_fields_are_tuples(database: Database) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    seats = Projection(
        name="seats",
        row=Seat,
        key=lambda event: (event.data.account, 7, noon),
        evolve={Opened: lambda row, event: replace(row, owner=event.data.owner)},
    )
    bank = Bank(database, seats)
    token = bank.append(Opened("a", "ada"))
    bank.run(bank.build(seats, partitions=3), seats)
    view: View[Seat] = View(bank.parts, seats)
    found = view.get(("a", 7, noon), after=token, timeout_s=0)
    assert found == Seat("a", 7, noon, "ada")
    in_another_zone = noon.astimezone(timezone(timedelta(hours=2)))
    assert view.get(("a", 7, in_another_zone)) == found
    assert found is not None
    assert view.find({"row": "a", "number": 7}) == [found]
    assert view.find(beyond=found) == []
    with pytest.raises(InvalidInput, match="row, number, at"):
        view.get("a")


@pytest.mark.parametrize("key", [7, None, ("a", "b"), (), "\0", "\ud800"])
def test_what_can_be_no_key_is_refused(bank: Bank, key: Any) -> None:
    with pytest.raises(InvalidInput, match="key of projection 'balances'"):
        bank.view().get(key)


def test_find_gives_rows_in_the_order_of_the_key(bank: Bank) -> None:
    assert names(bank.view().find()) == "abcde"


def test_find_selects_by_indexed_fields_and_by_the_key(bank: Bank) -> None:
    view = bank.view()
    assert names(view.find({"owner": "ada"})) == "ac"
    assert names(view.find({"account": "c", "owner": "ada"})) == "c"
    assert names(view.find({"account": "b", "owner": "ada"})) == ""
    assert names(view.find({"owner": None})) == "de"


def test_find_refuses_fields_that_are_not_indexed(bank: Bank) -> None:
    for unknown in ("cents", "nothing", "owner; DROP TABLE balances"):
        with pytest.raises(InvalidInput, match="found by account, owner"):
            bank.view().find({unknown: 1})
        with pytest.raises(InvalidInput, match="found by account, owner"):
            bank.view().count({unknown: 1})


def test_find_refuses_values_that_do_not_fit(bank: Bank) -> None:
    with pytest.raises(InvalidInput, match="owner: it is of type text, found 7"):
        bank.view().find({"owner": 7})
    with pytest.raises(InvalidInput, match=r"account: .* found None"):
        bank.view().find({"account": None})
    with pytest.raises(InvalidInput, match="by a dict"):
        bank.view().find("ada")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="a row is of Balance, found str"):
        bank.view().find(beyond="a")  # type: ignore[arg-type]


def test_find_returns_so_many_rows_at_most(bank: Bank) -> None:
    view = bank.view()
    assert names(view.find(limit=2)) == "ab"
    for limit in (0, -1, ROWS_MAX + 1, "2", True):
        with pytest.raises(InvalidInput, match=f"from 1 to {ROWS_MAX}"):
            view.find(limit=limit)  # type: ignore[arg-type]


def test_pages_neither_repeat_nor_hide_rows_while_others_are_written(bank: Bank) -> None:
    view, (build,) = bank.view(), bank.builds()
    first = view.find(limit=2)
    bank.append(Opened("aa", "ada"), Opened("cc", "ada"))
    bank.run(build)
    second = view.find(limit=2, beyond=first[-1])
    third = view.find(limit=2, beyond=second[-1])
    assert (names(first), names(second), names(third)) == ("ab", "ccc", "de")
    assert view.find(limit=2, beyond=third[-1]) == []


def test_pages_of_selected_rows(bank: Bank) -> None:
    view = bank.view()
    first = view.find({"owner": "ada"}, limit=1)
    second = view.find({"owner": "ada"}, limit=1, beyond=first[-1])
    assert names(first + second) == "ac"
    assert view.find({"owner": "ada"}, limit=1, beyond=second[-1]) == []


@pytest.mark.parametrize("engine", ["file"], indirect=True)
def test_the_next_page_is_found_by_the_index(bank: Bank) -> None:
    plans: list[str] = []

    class Explaining:
        def __init__(self, tx: Transaction) -> None:
            self._tx = tx

        def execute(self, sql: str, values: Any = ()) -> Any:
            rows = self._tx.execute(f"EXPLAIN QUERY PLAN {sql}", values)
            plans.extend(row[3] for row in rows)
            return self._tx.execute(sql, values)

    view, (build,) = bank.view(), bank.builds()
    for where in (None, {"owner": "ada"}):
        question = view._viewing.rows.find(where, 10, Balance("b"))
        bank.database.read(lambda tx, question=question: question(Explaining(tx), build))
    by_key, by_owner = plans
    assert by_key.startswith("SEARCH"), plans
    assert "balances__1__1" in by_owner
    assert "owner=? AND" in by_owner


def test_count(bank: Bank) -> None:
    view = bank.view()
    counts = view.count(), view.count({"owner": "ada"}), view.count({"owner": "eve"})
    assert counts == (5, 2, 0)


def test_sql_reads_the_table_by_the_name_of_the_projection(bank: Bank) -> None:
    mark = "?" if bank.database.dialect.name == "sqlite" else "%s"
    sql = f"SELECT owner, count(*) AS accounts FROM balances WHERE account < {mark} GROUP BY 1"
    found = bank.view().sql(f"{sql} ORDER BY 1", ["d"])
    assert found == [{"owner": "ada", "accounts": 2}, {"owner": "bob", "accounts": 1}]
    assert bank.view().sql("SELECT 1 AS one WHERE 1 = 2") == []


@pytest.mark.parametrize(
    "sql", ["DELETE FROM balances", "UPDATE balances__1 SET cents = 1", "SELECT nonsense", "", "DR"]
)
def test_sql_that_writes_or_is_none_is_refused(bank: Bank, sql: str) -> None:
    with pytest.raises(InvalidInput):
        bank.view().sql(sql)
    assert bank.view().count() == 5
    assert bank.view().get("a") == Balance("a", "ada", 0)


def test_sql_returns_so_many_rows_at_most(bank: Bank) -> None:
    numbers = "SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}"
    many = f"WITH RECURSIVE n(i) AS ({numbers}) SELECT i FROM n"
    assert len(bank.view().sql(many.format(ROWS_MAX))) == ROWS_MAX
    with pytest.raises(InvalidInput, match=f"more than {ROWS_MAX} rows"):
        bank.view().sql(many.format(ROWS_MAX + 1))


def test_columns_of_one_name_are_refused(bank: Bank) -> None:
    with pytest.raises(InvalidInput, match="two columns are called 'account'"):
        bank.view().sql("SELECT x.account, y.account FROM balances x, balances y")


def test_a_view_of_an_sql_projection_has_sql_and_wait_alone(database: Database) -> None:
    of = totals()
    bank = Bank(database, of)
    token = bank.append(Deposited("a", 5), Deposited("b", 2))
    bank.run(bank.build(of), of)
    view: View[Any] = View(bank.parts, of)
    view.wait(token, timeout_s=0)
    assert view.sql("SELECT cents FROM totals") == [{"cents": 7}]
    for ask in (lambda: view.get("a"), view.find, view.count):
        with pytest.raises(InvalidInput, match="tables of its own; use sql"):
            ask()


def test_what_has_no_rows_has_no_view(bank: Bank) -> None:
    consumer = Consumer(name="mails", handle=print)
    with pytest.raises(InvalidInput, match="'mails' is a consumer"):
        View(bank.parts, consumer)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the object itself, found 'balances'"):
        View(bank.parts, "balances")  # type: ignore[arg-type]


def test_inline_projections_are_read_where_the_log_is(database: Database) -> None:
    inline = projection(mode="inline")
    bank = Bank(database, inline)
    token = bank.append(*PEOPLE)
    bank.run(bank.build(inline), inline)
    with pytest.raises(Unsupported, match="is inline, which this store cannot do"):
        bank.view(inline)
    parts = ProjectionParts(
        bank.store,
        CODEC,
        [inline],
        databases=(Untouched(""), database),
        make_driver=BlockingDriver,
    )
    view: View[Balance] = View(parts, inline)
    assert view.get("a", after=token, timeout_s=0) == Balance("a", "ada")
    assert view.sql("SELECT count(*) AS people FROM balances") == [{"people": 5}]


def test_where_nobody_has_run_it_one_is_told_so(database: Database) -> None:
    bank = Bank(database, BALANCES)
    view = bank.view()
    asks = (lambda: view.get("a"), view.find, view.count, lambda: view.sql("SELECT 1"))
    for ask in (*asks, lambda: view.wait("1", timeout_s=0)):
        with pytest.raises(ProjectionBehind, match="leftfold run") as caught:
            ask()
        assert (caught.value.projection, caught.value.position) == ("balances", 0)


def test_the_serving_build_is_read_until_another_is_swapped_in(bank: Bank) -> None:
    new = replace(unmade(BALANCES, CODEC.fingerprint), version=2)
    second: Build = bank.write(lambda tx: make_build(tx, BALANCES, new))
    view = bank.view()
    assert view.count() == 5
    bank.append(Opened("f", "ada"))
    bank.run(second)
    assert view.count() == 5
    bank.write(lambda tx: swap_in(tx, second))
    assert view.count() == 6
    first = bank.builds()[0]
    bank.write(lambda tx: swap_in(tx, first))
    assert view.count() == 5


class Account(Struct, frozen=True):
    """As Balance, of another shape."""

    account: str
    owner: str | None = None
    cents: int = 0
    is_open: bool = True


OTHER = projection(row=Account, version=2)


def test_code_with_other_rows_reads_the_build_of_these_rows(bank: Bank) -> None:
    old: View[Any] = bank.view()
    new: View[Any] = View(bank.parts, OTHER)
    with pytest.raises(ProjectionBehind, match="nobody has run it yet since its rows"):
        new.get("a")
    second = bank.build(OTHER)
    bank.run(second, OTHER, until=3)
    with pytest.raises(ProjectionBehind, match="build 2 is not complete yet") as caught:
        new.get("a")
    assert caught.value.position == 3
    bank.run(second, OTHER)
    bank.write(lambda tx: swap_in(tx, second))
    assert new.get("a") == Account("a", "ada")
    # Code that has not been replaced yet goes on with what it knows, as long as that is kept.
    assert old.get("a") == Balance("a", "ada")


def test_of_two_complete_builds_of_other_rows_the_newest_is_read(bank: Bank) -> None:
    for _ in range(2):
        made = bank.build()
        bank.run(made)
        bank.write(
            lambda tx, made=made: tx.execute(
                "UPDATE leftfold_builds SET state = 'ready' WHERE id = ?", [made.id]
            )
        )
    bank.append(Opened("f"))
    bank.run(bank.builds()[-1])
    bank.write(
        lambda tx: tx.execute("UPDATE leftfold_builds SET shape = 'other' WHERE state = 'serving'")
    )
    assert bank.view().count() == 6


def test_the_twins_differ_in_await_alone() -> None:
    for name, mine in inspect.getmembers(View, inspect.isfunction):
        other = getattr(AsyncView, name)
        assert mine.__doc__ == other.__doc__, name
        assert inspect.signature(mine) == inspect.signature(other), name
        assert inspect.iscoroutinefunction(other) == (not name.startswith("_")), name
    assert str(View.__doc__).split("\n")[1:] == str(AsyncView.__doc__).split("\n")[1:]
