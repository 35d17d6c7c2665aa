"""Rebuilding, swapping, rolling back and dropping."""

from __future__ import annotations

from typing import Any

import pytest
from managing_support import BALANCES, CHANGED, Deposited, Managed, Opened, projection, totals
from msgspec import Struct
from msgspec.structs import replace

from leftfold import Consumer, InvalidInput, ProjectionRefused, SqlProjection, Unsupported
from leftfold.projection import managing, swapping


@pytest.fixture
def bank(database: Any) -> Managed:
    return Managed(database)


@pytest.fixture
def rebuilt(bank: Managed) -> Managed:
    """Build 1 serves, build 2 is complete."""
    bank.served()
    bank.run(bank.rebuild("balances"))
    return bank


def wider() -> Any:
    class Wider(Struct, frozen=True):
        account: str
        owner: str | None = None
        cents: int = 0
        events: int = 0

    def evolve(row: Any, event: Any) -> Any:
        return replace(row, events=row.events + 1)

    return projection(row=Wider, evolve={Opened: evolve, Deposited: evolve}, version=2)


def totals_of(create: Any) -> Any:
    return SqlProjection(name="totals", create=create, apply=lambda sql, events: None)


def test_a_rebuild_is_made_beside_what_serves(bank: Managed) -> None:
    serving = bank.served()
    before = bank.signals(serving)
    build = bank.rebuild("balances", partitions=3, events_per_s_max=50)
    assert (build.state, build.partitions, build.rate_max) == ("building", 3, 50)
    assert bank.builds() == [serving, build]
    assert len(bank.progress(build)) == 3
    assert bank.rows(build.table) == []
    assert len(bank.rows("balances")) == 3
    assert bank.signals(serving) > before


def test_the_first_build_serves_from_the_start(bank: Managed) -> None:
    build = bank.rebuild("balances")
    assert build.state == "serving"
    bank.run(build)
    assert len(bank.rows("balances")) == 3


def test_a_rebuild_started_twice_is_refused(bank: Managed) -> None:
    bank.served()
    bank.rebuild("balances")
    with pytest.raises(ProjectionRefused, match=r"build 2 .* is building, at position 0.*build=2"):
        bank.rebuild("balances")
    assert bank.states() == {1: "serving", 2: "building"}


def test_a_rebuild_of_other_code_is_no_hindrance(bank: Managed) -> None:
    bank.served()
    bank.rebuild("balances")
    bank.now_has(CHANGED)
    assert bank.rebuild("balances").version == 2


def test_a_rebuild_that_was_dropped_can_be_started_again(bank: Managed) -> None:
    bank.served()
    build = bank.rebuild("balances")
    assert bank.drop("balances", build=build.id) == [build]
    assert bank.rebuild("balances").state == "building"


@pytest.mark.parametrize(
    ("subscriber", "options", "error"),
    [
        (Consumer(name="mails", handle=print), {}, InvalidInput),
        (projection(name="mails", mode="live"), {}, InvalidInput),
        (projection(name="other"), {}, InvalidInput),
        (projection(name="mails"), {"partitions": 0}, InvalidInput),
        (projection(name="mails"), {"partitions": 65}, InvalidInput),
        (projection(name="mails"), {"events_per_s_max": -1}, InvalidInput),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(
    bank: Managed, subscriber: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    bank.now_has(subscriber)
    with pytest.raises(error):
        bank.rebuild("mails", **options)
    assert bank.builds("mails") == []


def test_inline_projections_are_not_rebuilt_where_they_cannot_be_kept(bank: Managed) -> None:
    bank.now_has(projection(mode="inline"))
    with pytest.raises(Unsupported, match="async"):
        bank.rebuild("balances")


def test_tables_of_sql_have_no_keys_to_be_divided_by(bank: Managed) -> None:
    bank.now_has(totals())
    with pytest.raises(InvalidInput, match="partitions=1"):
        bank.rebuild("totals", partitions=2)
    assert bank.rebuild("totals").partitions == 1


def test_a_swap_shows_the_new_rows_and_keeps_the_old(rebuilt: Managed) -> None:
    rebuilt.execute("UPDATE balances__2 SET cents = 7 WHERE account = 'a'")
    old, new = rebuilt.builds()
    before = rebuilt.signals(old), rebuilt.signals(new)
    swapped = rebuilt.swap("balances")
    assert (swapped.id, swapped.state) == (2, "serving")
    assert swapped.swapped_us > 0
    assert rebuilt.states() == {1: "retired", 2: "serving"}
    assert rebuilt.rows("balances WHERE account = 'a'") == [("a", "ann", 7)]
    after = rebuilt.signals(old), rebuilt.signals(new)
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_a_swap_of_an_incomplete_build_is_refused(bank: Managed) -> None:
    bank.served()
    build = bank.rebuild("balances", partitions=2)
    bank.run_partition(build, BALANCES, held=bank.progress(build)[0])
    with pytest.raises(ProjectionRefused, match=r"at position 0: it is not complete"):
        bank.swap("balances")
    assert bank.states() == {1: "serving", 2: "building"}


def test_a_stopped_build_says_why_it_cannot_be_swapped_in(bank: Managed) -> None:
    bank.served()
    build = bank.rebuild("balances")
    bank.stop(build, 2)
    with pytest.raises(ProjectionRefused, match="stopped by 'Deposited' at position 2"):
        bank.swap("balances")


def test_readers_are_not_taken_back_in_time_by_a_build_that_was_ready(rebuilt: Managed) -> None:
    serving, build = rebuilt.builds()
    rebuilt.execute("UPDATE leftfold_builds SET state = 'ready' WHERE id = 2")
    rebuilt.append(Deposited("a", 1))
    rebuilt.run(serving)
    with pytest.raises(ProjectionRefused, match=r"lags behind build 1.*runner"):
        rebuilt.swap("balances")
    assert rebuilt.states() == {1: "serving", 2: "ready"}
    rebuilt.run(build)
    assert rebuilt.swap("balances").id == 2


def test_what_serves_may_lag_behind_what_is_swapped_in(rebuilt: Managed) -> None:
    rebuilt.append(Deposited("a", 1))
    rebuilt.run(rebuilt.builds()[1])
    assert rebuilt.swap("balances").id == 2


def test_a_part_of_what_serves_may_lag_behind_what_is_swapped_in(bank: Managed) -> None:
    serving = bank.build(partitions=2)
    bank.run_partition(serving, BALANCES, held=bank.progress(serving)[1])
    bank.run(bank.rebuild("balances"))
    assert bank.swap("balances").id == 2


def test_a_swap_waits_for_a_build_that_is_at_work(rebuilt: Managed) -> None:
    serving, build = rebuilt.builds()
    rebuilt.execute("UPDATE leftfold_builds SET state = 'ready' WHERE id = 2")
    rebuilt.append(Deposited("a", 1))
    rebuilt.run(serving)
    rebuilt.lease(build)
    held = []

    def go_on() -> None:
        held.extend(rebuilt.progress(serving))
        rebuilt.run(build)

    rebuilt.meanwhile(go_on)
    assert rebuilt.swap("balances").id == 2
    assert held[0].hold_position == 5
    assert [each.hold_position for each in rebuilt.progress(serving)] == [0]


def test_a_swap_needs_something_to_swap_in(bank: Managed) -> None:
    bank.served()
    with pytest.raises(ProjectionRefused, match=r"its builds: 1 \(serving\)"):
        bank.swap("balances")
    with pytest.raises(ProjectionRefused, match="retired"):
        bank.rollback("balances")


def test_a_rollback_brings_back_what_served_before(rebuilt: Managed) -> None:
    rebuilt.execute("UPDATE balances__2 SET cents = 7 WHERE account = 'a'")
    rebuilt.swap("balances")
    assert rebuilt.rollback("balances").id == 1
    assert rebuilt.states() == {1: "serving", 2: "retired"}
    assert rebuilt.rows("balances WHERE account = 'a'") == [("a", "ann", 5)]
    assert rebuilt.rollback("balances").id == 2


def test_one_build_is_kept_for_a_rollback(rebuilt: Managed) -> None:
    rebuilt.swap("balances")
    rebuilt.run(rebuilt.rebuild("balances"))
    rebuilt.swap("balances")
    assert rebuilt.states() == {2: "retired", 3: "serving"}
    assert rebuilt.relations() == ["balances__2", "balances__3"]
    assert rebuilt.execute("SELECT count(*) FROM leftfold_consumers WHERE build = 1") == [(0,)]


def test_rows_of_another_type_are_swapped_in(bank: Managed) -> None:
    bank.served()
    bank.now_has(wider())
    build = bank.rebuild("balances")
    bank.run(build, wider())
    bank.swap("balances")
    assert len(bank.rows("balances")[0]) == 4
    bank.rollback("balances")
    assert len(bank.rows("balances")[0]) == 3


def test_all_tables_of_sql_have_views_and_are_swapped_together(bank: Managed) -> None:
    def create(sql: Any) -> None:
        sql.execute(f"CREATE TABLE {sql.table} (n integer)")
        sql.execute(f"CREATE TABLE {sql.table}_lines (n integer)")

    bank.now_has(lines := totals_of(create))
    bank.run(bank.build(lines), lines)
    bank.run(build := bank.rebuild("totals"), lines)
    bank.execute(f"INSERT INTO {build.table}_lines VALUES (2)")
    assert bank.rows("totals_lines") == []
    bank.swap("totals")
    assert bank.rows("totals_lines") == [(2,)]
    assert bank.rows("totals") == []
    bank.drop("totals")
    assert bank.relations() == []


def test_tables_that_refer_to_each_other_are_dropped_together(bank: Managed) -> None:
    def create(sql: Any) -> None:
        sql.execute(f"CREATE TABLE {sql.table} (n integer PRIMARY KEY)")
        sql.execute(f"CREATE TABLE {sql.table}_lines (n integer REFERENCES {sql.table} (n))")

    bank.now_has(totals_of(create))
    bank.rebuild("totals")
    bank.drop("totals")
    assert bank.relations() == []


def test_build_1_does_not_own_the_tables_of_build_10(bank: Managed) -> None:
    bank.served()
    bank.execute("CREATE TABLE balances__10 (n integer)")
    bank.drop("balances")
    assert bank.relations() == ["balances__10"]


@pytest.mark.parametrize("taken", ["TABLE balances (n integer)", "VIEW balances AS SELECT 1 AS n"])
def test_a_name_that_somebody_else_has_is_not_taken_from_them(bank: Managed, taken: str) -> None:
    bank.execute(f"CREATE {taken}")
    with pytest.raises(ProjectionRefused, match=r"'balances'.*rename"):
        bank.rebuild("balances")
    assert bank.builds() == []
    assert [each for each in bank.relations() if "__" in each] == []
    assert bank.rows("balances") in ([], [(1,)])


def test_a_swap_that_fails_half_way_changes_nothing(
    rebuilt: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt.execute("UPDATE balances__2 SET cents = 7")

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(swapping, "set_state", fail)
    with pytest.raises(ZeroDivisionError):
        rebuilt.swap("balances")
    assert rebuilt.states() == {1: "serving", 2: "building"}
    assert rebuilt.rows("balances WHERE account = 'a'") == [("a", "ann", 5)]


def test_a_drop_that_fails_half_way_changes_nothing(
    rebuilt: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = []

    def fail_later(tx: Any, build: Any) -> None:
        if dropped:
            raise ZeroDivisionError
        dropped.append(build)
        swapping.drop_build(tx, build)

    monkeypatch.setattr(managing, "drop_build", fail_later)
    with pytest.raises(ZeroDivisionError):
        rebuilt.drop("balances")
    assert rebuilt.states() == {1: "serving", 2: "building"}
    assert len(rebuilt.rows("balances")) == 3


def test_a_read_model_that_was_lost_is_rebuilt(bank: Managed, engine: str) -> None:
    serving = bank.served()
    # On PostgreSQL a table that is dropped takes its view along, or stays.
    bank.execute(f"DROP TABLE {serving.table}{' CASCADE' if engine == 'postgresql' else ''}")
    bank.run(bank.rebuild("balances"))
    bank.swap("balances")
    assert len(bank.rows("balances")) == 3
    bank.run(bank.rebuild("balances"))
    bank.swap("balances")
    assert bank.states() == {2: "retired", 3: "serving"}


def test_a_lost_read_model_can_be_dropped(bank: Managed, engine: str) -> None:
    serving = bank.served()
    bank.execute(f"DROP TABLE {serving.table}{' CASCADE' if engine == 'postgresql' else ''}")
    bank.drop("balances")
    bank.served()
    assert len(bank.rows("balances")) == 3


def test_views_of_others_survive_a_swap(rebuilt: Managed, engine: str) -> None:
    rebuilt.execute("CREATE VIEW rich AS SELECT account FROM balances WHERE cents > 4")
    rebuilt.execute("UPDATE balances__2 SET cents = 7")
    rebuilt.swap("balances")
    assert sorted(rebuilt.rows("rich")) == [("a",), ("b",), ("c",)]


def test_what_serves_is_dropped_only_with_all_of_its_name(rebuilt: Managed) -> None:
    with pytest.raises(ProjectionRefused, match="build 1 of 'balances' serves"):
        rebuilt.drop("balances", build=1)
    with pytest.raises(InvalidInput, match="no build 9"):
        rebuilt.drop("balances", build=9)
    assert rebuilt.states() == {1: "serving", 2: "building"}
    rebuilt.stop(rebuilt.builds()[0], 2)
    rebuilt.skip("balances", 2, reason="known to be wrong")
    assert len(rebuilt.rows("leftfold_skips")) == 1
    assert [each.id for each in rebuilt.drop("balances")] == [1, 2]
    assert rebuilt.builds() == []
    assert rebuilt.relations() == []
    for table in ("consumers", "quarantine", "skips"):
        assert rebuilt.rows(f"leftfold_{table}") == []
    with pytest.raises(InvalidInput, match="nothing is kept"):
        rebuilt.drop("balances")


def test_what_the_app_no_longer_has_can_be_dropped(bank: Managed) -> None:
    bank.served()
    bank.now_has()
    assert [each.name for each in bank.drop("balances")] == ["balances"]
    assert bank.relations() == []


def test_dropping_a_consumer_forgets_its_checkpoint(bank: Managed) -> None:
    bank.now_has(mails := Consumer(name="mails", handle=print))
    bank.build(mails)
    for flow in (bank.rebuild, bank.compare, bank.swap, bank.rollback):
        with pytest.raises(InvalidInput, match="consumer"):
            flow("mails")
    assert len(bank.drop("mails")) == 1
    assert bank.builds("mails") == []
