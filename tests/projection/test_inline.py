"""Inline projections: after an append every view shows it, and what cannot be shown is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import inline_worker as bank
import psycopg
import pytest
from inline_worker import APP, BALANCES, CODEC, Closed, Noted, check, moved

import leftfold
from leftfold import (
    App,
    Decider,
    Event,
    EventStore,
    InvalidInput,
    Metadata,
    ProjectionBehind,
    ProjectionFailed,
    ProjectionRefused,
    Unsupported,
)
from leftfold.stores.group import Append
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteStore


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("server").new_log())


def in_threads(works: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not errors, errors


def test_a_view_shows_every_append_that_has_returned(url: str) -> None:
    with leftfold.open(url, APP) as es:
        view = es.view(BALANCES)

        def work(number: int) -> None:
            for done in range(1, 31):
                appended = es.append([moved(1, f"a{number}", "all")])
                row = view.get(f"a{number}", after=appended.token, timeout_s=0)
                assert row
                assert row.moves == done

        in_threads([lambda number=number: work(number) for number in range(8)])
        all_of_them = view.get("all")
        assert all_of_them
        assert all_of_them.moves == 240
        check(es)


def test_rows_of_several_keys_come_and_go(url: str) -> None:
    with leftfold.open(url, APP) as es:
        es.append([moved(1, "a", "b"), moved(2, "b", "c"), Event("bank-2", Noted())])
        es.append([Event("bank-1", Closed("a")), Event("bank-1", Closed("nobody"))])
        assert [row.account for row in bank.rows_of(es)] == ["b", "c"]
        es.append([moved(5, "a")])
        check(es)


def test_events_that_do_not_match_are_shown_as_well(url: str) -> None:
    with leftfold.open(url, APP) as es:
        token = es.append([Event("bank-2", Noted())]).token
        assert es.view(BALANCES).get("a", after=token, timeout_s=0) is None
        (status, _) = es.projections.status()
        assert (status.position, status.events_behind) == (es.head(), 0)


def test_what_evolve_cannot_take_is_not_recorded(url: str) -> None:
    with leftfold.open(url, APP) as es:
        es.append([moved(1, "a")])
        with pytest.raises(ProjectionFailed, match="nothing was recorded") as caught:
            es.append([moved(5, "a", stream="bank-new"), moved(-1, "b")])
        failed = caught.value
        assert (failed.projection, failed.key, failed.stream) == ("balances", '["b"]', "bank-1")
        assert isinstance(failed.__cause__, ValueError)
        assert len([*es.read()]) == 1
        # Nothing of it is left in what the store remembers.
        appended = es.append([moved(2, "a", stream="bank-new"), moved(3, "b")])
        assert appended.versions == {"bank-new": 1, "bank-1": 2}
        check(es)


def test_what_sql_of_the_user_cannot_take_is_not_recorded(url: str) -> None:
    with leftfold.open(url, APP) as es:
        with pytest.raises(ProjectionFailed, match=r"'totals'.*unlucky"):
            es.append([moved(13, "a")])
        assert es.head() == 0
        es.append([moved(1, "a")])
        check(es)


def test_neighbours_in_a_group_are_recorded(url: str) -> None:
    async def run() -> list[Any]:
        async with await leftfold.aopen(url, APP) as es:
            appends = [es.append([moved(-1 if n % 7 == 3 else 1, f"a{n % 5}")]) for n in range(60)]
            return list(await asyncio.gather(*appends, return_exceptions=True))

    outcomes = asyncio.run(run())
    failed = [n for n, each in enumerate(outcomes) if isinstance(each, ProjectionFailed)]
    assert failed == [n for n in range(60) if n % 7 == 3]
    assert all(isinstance(outcomes[n], leftfold.Appended) for n in range(60) if n not in failed)
    with leftfold.open(url, APP) as es:
        assert len([*es.read()]) == 60 - len(failed)
        check(es)


def committed(es: EventStore, appends: list[tuple[list[Event[Any]], list[Any]]]) -> list[Any]:
    """What comes of appends, each of events and conditions, that share a commit."""
    store: Any = es.store
    writer = store._writer if isinstance(store, SqliteStore) else store._quick.writer
    group = [Append([CODEC.encode(each) for each in events], on) for events, on in appends]
    return list(writer.commit(group))


def test_each_of_a_group_is_judged_on_its_own(url: str) -> None:
    with leftfold.open(url, APP) as es:
        known = [moved(1, "a")]
        es.append(known)
        good, bad = moved(1, "a", "b"), moved(-1, "a")
        outcomes = committed(
            es,
            [
                ([good], []),
                (known, []),
                ([bad], []),
                ([moved(2, "b")], [leftfold.StreamVersion("bank-1", 2)]),
                ([moved(-1, "b")], []),
                ([moved(9, "b")], [leftfold.StreamVersion("bank-1", 9)]),
            ],
        )
        assert [type(each).__name__ for each in outcomes] == [
            *("Appended", "Appended", "ProjectionFailed"),
            *("Appended", "ProjectionFailed", "AppendConditionFailed"),
        ]
        assert [outcomes[n].is_repeat for n in (0, 1, 3)] == [False, True, False]
        assert [each.version for each in es.read()] == [1, 2, 3]
        check(es)
        assert {each.position for each in es.projections.status()} == {es.head()}
        if isinstance(es.store, SqliteStore):
            assert es.head() == 3, "what is refused leaves no hole"
        # Where none fails, a repeat beside what is new is not applied again either.
        committed(es, [(known, []), ([moved(1, "a")], [])])
        check(es)


def test_a_repeat_is_applied_once(url: str) -> None:
    with leftfold.open(url, APP) as es:
        events = [moved(1, "a")]
        es.append(events)
        assert es.append(events).is_repeat
        check(es)
        (row,) = bank.rows_of(es)
        assert row.moves == 1


def test_a_refused_condition_leaves_everything_as_it_was(url: str) -> None:
    with leftfold.open(url, APP) as es:
        es.append([moved(1, "a")])
        with pytest.raises(leftfold.AppendConditionFailed):
            es.append([moved(1, "a")], conditions=[leftfold.StreamVersion("bank-1", 5)])
        (status, _) = es.projections.status()
        assert status.position == es.head()
        es.append([moved(1, "a")])
        check(es)


def test_commands_show_at_once(url: str) -> None:
    decider: Decider[int, int, Any] = Decider(
        category="bank",
        initial_state=0,
        decide=lambda command, state: [bank.Moved(command, ["a"])],
        evolve=lambda state, event: state + 1,
    )
    with leftfold.open(url, APP) as es:
        metadata = Metadata(command_id="once")
        es.handle(decider, "1", 5, metadata=metadata, consistency="strong")
        es.handle(decider, "1", 5, metadata=metadata, consistency=["balances"])
        (row,) = bank.rows_of(es)
        assert (row.cents, row.moves) == (5, 1)


def test_a_store_that_cannot_refuses_when_it_is_opened() -> None:
    with pytest.raises(Unsupported, match="'balances' is inline"):
        leftfold.open("memory://", APP)
    with pytest.raises(Unsupported, match="'balances' is inline"):
        EventStore(MemoryStore(), APP)


def test_runners_leave_them_alone(url: str) -> None:
    with leftfold.open(url, APP) as es:
        with pytest.raises(InvalidInput, match="there is nothing to run"):
            es.running().start()
        es.append([moved(1, "a")])
        check(es)
        assert all(not each.owners for each in es.projections.status())


def test_opening_builds_what_the_log_has_already(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        for number in range(5):
            es.append([moved(1, f"a{n}") for n in range(500 * number, 500 * number + 500)])
    with leftfold.open(url, APP) as es:
        check(es)
        es.append([moved(1, "a1")])
        check(es)
    with leftfold.open(url, APP) as es:
        assert [each.build for each in es.projections.status()] == [1, 2]


def test_what_cannot_be_built_is_not_opened_and_stops_nobody(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        es.append([moved(1, "a"), moved(-1, "b")])
        begun_s = time.monotonic()
        for _ in range(2):
            with pytest.raises(ProjectionFailed, match="position 2"):
                leftfold.open(url, APP)
        assert time.monotonic() - begun_s < 20, "the second one waits for a lease of the first"
        es.append([moved(1, "c")])
        mended = bank.balances(evolve={bank.Moved: lambda row, event: row})
        with leftfold.open(url, App(codec=CODEC, projections=[mended])) as mine:
            assert mine.view(mended).count() == 0


def test_a_first_build_is_not_read_before_it_is_complete(url: str) -> None:
    with leftfold.open(url, CODEC) as es:
        es.append([moved(1, "a")])
        es.append([moved(1, "a") for _ in range(1000)])
        es.append([moved(-1, "b")])
        with pytest.raises(ProjectionFailed):
            leftfold.open(url, APP)
        reader = EventStore(
            es.store,
            APP,
            databases=(es._projecting.database, es._projecting.log_database),
        )
        with pytest.raises(ProjectionBehind):
            reader.view(BALANCES).get("a")


def test_a_rebuild_mends_what_was_damaged(url: str) -> None:
    with leftfold.open(url, APP) as es, leftfold.open(url, APP) as other:
        es.append([moved(1, "a", "b"), moved(2, "b")])
        database = es._projecting.log_database
        assert database is not None
        (build, _) = es.projections.status()
        database.write(lambda tx: tx.execute(f"DELETE FROM balances__{build.build}"))
        assert bank.rows_of(es) == []
        rebuilt = es.projections.rebuild("balances")
        check(es)
        es.append([moved(1, "a")])
        # Others go on with it, without being told.
        other.append([moved(1, "b")])
        check(other)
        states = [(each.build, each.state) for each in es.projections.status("balances")]
        assert states == [(rebuilt.id, "serving")]
        assert database.read(lambda tx: tx.relations("balances")) == [rebuilt.table]


def test_a_table_that_is_gone_stops_appends_until_it_is_rebuilt(url: str) -> None:
    with leftfold.open(url, APP) as es:
        es.append([moved(1, "a")])
        database = es._projecting.log_database
        assert database is not None
        drop = "DROP VIEW balances", "DROP TABLE balances__1"
        database.write(lambda tx: [tx.execute(each) for each in drop])
        with pytest.raises(ProjectionFailed, match="balances__1"):
            es.append([moved(1, "a")])
        es.projections.rebuild("balances")
        es.append([moved(2, "a")])
        check(es)


def test_dropping_it_lets_everybody_append(url: str) -> None:
    with leftfold.open(url, CODEC) as plain, leftfold.open(url, APP) as es:
        es.append([moved(1, "a")])
        es.projections.drop("balances")
        with pytest.raises(ProjectionRefused, match="totals"):
            plain.append([moved(1, "a")])
        es.projections.drop("totals")
        plain.append([moved(1, "a")])
        with pytest.raises(ProjectionRefused, match="'balances' was dropped"):
            es.append([moved(1, "a")])
    with leftfold.open(url, APP) as es:
        assert len([*es.read()]) == 2
        check(es)


def test_a_transaction_of_the_caller_is_refused(server: Any) -> None:
    with leftfold.open(server.new_log(), APP) as es, psycopg.connect(server.url()) as connection:
        store: Any = es.store
        with pytest.raises(Unsupported, match="inline"):
            store.within(connection)
