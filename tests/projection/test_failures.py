"""Events that cannot be applied: who stops, who waits, who goes on, and what is there after all."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import projection_worker as bank
import pytest
from msgspec import Struct
from projection_worker import eventually
from running_support import Places, places_on, shorten

import leftfold
from leftfold import Codec, Event, ProjectionBehind, RecordedEvent, SqlProjection
from leftfold.projection import consuming
from leftfold.projection.catalog import Failure

BAD = bank.Noted("bad")


def reaches_the_head(es: Any, name: str) -> None:
    """Wait until nothing is left to read, whatever waits in quarantine."""
    eventually(lambda: all(each.position >= es.head() for each in bank.progress_of(es, name)))


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture
def one_place(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on("sqlite", request, tmp_path)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PAUSE_MIN_S", 0.01)
    shorten(monkeypatch, batch=100)


class Mending:
    """Raises for bad events until it is mended."""

    def __init__(self, function: Callable[..., Any], times: int = 1_000_000) -> None:
        self.function = function
        self.left = times
        self.tried = 0

    def __call__(self, row: Any, event: RecordedEvent[Any]) -> Any:
        row = self.function(row, event)
        if event.data == BAD and self.left > 0:
            self.left -= 1
            self.tried += 1
            raise ValueError("a bad event")
        return row


def mending(times: int = 1_000_000, function: Any = bank.add_to_total) -> tuple[Mending, Any]:
    """What can be mended, and a function for a projection: its code stays the same."""
    mends = Mending(function, times)

    def evolve(row: Any, event: RecordedEvent[Any]) -> Any:
        return mends(row, event)

    return mends, evolve


def append_bad(es: Any, *, stream: str = "account-1") -> int:
    """The position of a bad event between others."""
    bank.append_random(es, Random(1), 59)
    # So that there is a row already.
    es.append([Event(stream, bank.Deposited("1", Decimal(1)))])
    position: int = es.append([Event(stream, BAD)]).position
    bank.append_random(es, Random(2), 60)
    return position


def failure(es: Any, name: str) -> Failure | None:
    return next((each.stopped for each in bank.progress_of(es, name) if each.stopped), None)


def stopped(es: Any, name: str) -> Failure:
    found: Failure = eventually(lambda: failure(es, name), f"{name} stops")
    return found


def test_a_poison_event_stops_its_projection_and_no_other(places: Places) -> None:
    mends, evolve = mending()
    app = bank.app_of(
        bank.totals(name="poisoned", evolve=evolve), bank.totals(), bank.ledger(), bank.holdings()
    )
    with leftfold.open(places.log, app, views=places.views) as es:
        bad = append_bad(es)
        with es.running():
            found = stopped(es, "poisoned")
            assert (found.position, found.attempts, found.type) == (bad, 3, "Noted")
            assert found.key == '["account-1"]'
            assert "ValueError: a bad event" in found.error
            for each in app.projections[1:]:
                es.view(each).wait(str(es.head()), timeout_s=bank.STUCK_S)
            bank.check_rows(es, "totals", "ledger", "holdings")
            with pytest.raises(ProjectionBehind, match="a bad event"):
                es.view(app.projections[0]).wait(str(es.head()))
            # Everything before it is there, and nothing after it.
            (progress,) = bank.progress_of(es, "poisoned")
            assert (progress.position, progress.events) == (bad - 1, 60)
            mends.left = 0
            assert es.projections.retry("poisoned") == 1
            bank.wait_for_all(es, app)
        check_totals(es, app.projections[0])


def check_totals(es: Any, projection: Any, skipped: int = 0) -> None:
    log = [each for each in es.read() if each.position != skipped]
    rows = es.view(projection).find(limit=10_000)
    found = {each.stream: (each.amount, each.events) for each in rows}
    assert found == bank.expected_totals(log)


def test_a_new_runner_tries_what_was_stopped(one_place: Places) -> None:
    mends, evolve = mending()
    app = bank.app_of(bank.totals(evolve=evolve, attempts_max=1))
    with leftfold.open(one_place.log, app, views=one_place.views) as es:
        append_bad(es)
        with es.running():
            stopped(es, "totals")
        assert mends.tried == 1 + 1  # in the batch, and by itself
        mends.left = 0
        with es.running():
            bank.wait_for_all(es, app)
        check_totals(es, app.projections[0])


@pytest.mark.parametrize("function", [bank.add_to_total, bank.change_holding])
def test_errors_that_pass_leave_no_trace(places: Places, function: Any) -> None:
    """Mutable rows were changed half, and even wholly, before it raised."""
    is_total = function is bank.add_to_total
    mends, evolve = mending(4, function)
    projection = bank.totals if is_total else bank.holdings
    app = bank.app_of(projection(evolve=evolve, key=lambda event: event.stream))
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        append_bad(es)
        bank.wait_for_all(es, app)
        assert mends.tried == 4
        (progress,) = bank.progress_of(es, app.projections[0].name)
        log = list(es.read())
        assert progress.events == len(log)
        if is_total:
            check_totals(es, app.projections[0])
        else:
            fresh = es.view(app.projections[0], at=int(es.head())).find(limit=10_000)
            assert es.view(app.projections[0]).find(limit=10_000) == fresh


def test_a_key_in_quarantine_waits_alone_and_makes_up_for_it_all(places: Places) -> None:
    mends, evolve = mending()
    quarantined = bank.totals(evolve=evolve, on_failure="quarantine")
    app = bank.app_of(quarantined, bank.ledger())
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        bad = append_bad(es)
        later = es.append([Event("account-1", bank.Noted("later"))] * 1)
        es.append([Event("account-1", bank.Deposited("1", Decimal("0.5")))])
        reaches_the_head(es, quarantined.name)
        (waits,) = es.projections.quarantine("totals")
        waiting = list(es.read(leftfold.select("account-1"), after=bad - 1))
        assert (waits.key, waits.failure.position) == ('["account-1"]', bad)
        assert waits.waiting == len(waiting)
        with pytest.raises(ProjectionBehind, match="quarantine"):
            es.view(quarantined).get("account-1", after=later.token)
        everything = bank.expected_totals(es.read())
        rows = {each.stream: (each.amount, each.events) for each in es.view(quarantined).find()}
        before = es.read(leftfold.select("account-1"), until=bad - 1)
        assert rows.get("account-1") == bank.expected_totals(before).get("account-1")
        assert {**rows, "account-1": everything["account-1"]} == everything
        # Tried again in vain, it waits on.
        es.projections.retry("totals", key="account-1")
        eventually(lambda: not es.projections.quarantine("totals")[0].is_due)
        mends.left = 0
        es.projections.retry("totals")
        eventually(lambda: not es.projections.quarantine("totals"), "it is free")
        bank.wait_for_all(es, app)
        check_totals(es, quarantined)


def test_a_quarantined_key_of_several_leaves_the_others_their_share(one_place: Places) -> None:
    """An event of two keys, of which one cannot take it."""
    is_bad = [True]

    def change(row: bank.Holding, event: RecordedEvent[Any]) -> Any:
        done = bank.change_holding(row, event)
        if is_bad[0] and isinstance(event.data, bank.Moved) and row.account == "b":
            raise ValueError("b takes nothing")
        return done

    holdings = bank.holdings(evolve=change, on_failure="quarantine")
    app = bank.app_of(holdings)
    with leftfold.open(one_place.log, app, views=one_place.views) as es, es.running():
        es.append([Event("x-1", bank.Moved("a", "b", Decimal(5)))])
        es.append([Event("x-1", bank.Moved("b", "c", Decimal(2)))])
        reaches_the_head(es, holdings.name)
        found = {each.account: each.amount for each in es.view(holdings).find()}
        assert found == {"a": -5, "c": 2}
        is_bad[0] = False
        es.projections.retry("holdings")
        eventually(lambda: not es.projections.quarantine("holdings"))
        bank.check_rows_of(es, holdings)


def test_a_skip_passes_over_that_event_for_that_key(places: Places) -> None:
    _, evolve = mending()
    stopping = bank.totals(name="stopping", evolve=evolve)
    waiting = bank.totals(name="waiting", evolve=evolve, on_failure="quarantine")
    app = bank.app_of(stopping, waiting)
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        bad = append_bad(es)
        stopped(es, "stopping")
        eventually(lambda: es.projections.quarantine("waiting"))
        for name in ("stopping", "waiting"):
            assert es.projections.skip(name, bad, reason="it is known to be bad") == 1
        eventually(lambda: not es.projections.quarantine("waiting"))
        bank.wait_for_all(es, app)
        for each in (stopping, waiting):
            check_totals(es, each, skipped=bad)


def return_none(row: bank.Total, event: RecordedEvent[Any]) -> Any:
    return None if event.data == BAD else bank.add_to_total(row, event)


def return_another(row: bank.Total, event: RecordedEvent[Any]) -> Any:
    return "a row" if event.data == BAD else bank.add_to_total(row, event)


def return_a_misfit(row: bank.Total, event: RecordedEvent[Any]) -> Any:
    wrong: Any = "many"
    done = bank.add_to_total(row, event)
    return bank.replace(done, events=wrong) if event.data == BAD else done


def change_the_key(row: bank.Total, event: RecordedEvent[Any]) -> Any:
    done = bank.add_to_total(row, event)
    return bank.replace(done, stream="another") if event.data == BAD else done


@pytest.mark.parametrize(
    ("evolve", "reason"),
    [
        (return_none, "evolve returned None"),
        (return_another, "a row is of Total, found str"),
        (return_a_misfit, "events: it is of type integer, found 'many'"),
        (change_the_key, "evolve changed the key"),
    ],
)
@pytest.mark.parametrize("on_failure", ["stop", "quarantine"])
def test_what_evolve_must_not_return(
    one_place: Places, evolve: Any, reason: str, on_failure: Any
) -> None:
    totals = bank.totals(evolve=evolve, on_failure=on_failure, attempts_max=2)
    app = bank.app_of(totals)
    with leftfold.open(one_place.log, app, views=one_place.views) as es, es.running():
        bad = append_bad(es)
        if on_failure == "stop":
            found = stopped(es, "totals")
        else:
            found = eventually(lambda: es.projections.quarantine("totals"))[0].failure
        assert (found.position, found.key, found.attempts) == (bad, '["account-1"]', 2)
        assert reason in found.error
        es.projections.skip("totals", bad, reason="a test")
        eventually(lambda: not es.projections.quarantine("totals"))
        bank.wait_for_all(es, app)
        check_totals(es, totals, skipped=bad)


def key_that_raises(event: RecordedEvent[Any]) -> Any:
    if event.data == BAD:
        raise LookupError("no key")
    return event.stream


def key_that_misfits(event: RecordedEvent[Any]) -> Any:
    return ("one", "too many") if event.data == BAD else event.stream


@pytest.mark.parametrize("key", [key_that_raises, key_that_misfits])
@pytest.mark.parametrize("on_failure", ["stop", "quarantine"])
def test_an_event_without_a_key_stops_all(one_place: Places, key: Any, on_failure: Any) -> None:
    """Nobody knows whose events would have to wait."""
    totals = bank.totals(key=key, on_failure=on_failure)
    app = bank.app_of(totals)
    with leftfold.open(one_place.log, app, views=one_place.views) as es, es.running():
        bad = append_bad(es)
        assert (stopped(es, "totals").position, stopped(es, "totals").key) == (bad, "")
        es.projections.skip("totals", bad, reason="a test")
        bank.wait_for_all(es, app)
        check_totals(es, totals, skipped=bad)


class Strange(Struct, frozen=True):
    """A class that only the writer knows."""


@pytest.mark.parametrize("partitions", [1, 2])
def test_an_event_that_cannot_be_decoded(one_place: Places, partitions: int) -> None:
    totals = bank.totals(on_failure="quarantine")
    app = bank.app_of(totals, bank.ledger())
    with leftfold.open(one_place.log, Codec(bank.Deposited, Strange)) as writer:
        writer.append([Event("account-1", bank.Deposited("1", Decimal(1)))])
        bad = writer.append([Event("account-1", Strange())]).position
        writer.append([Event("account-1", bank.Deposited("1", Decimal(2)))])
        log = [each for each in writer.read() if each.position != bad]
    with leftfold.open(one_place.log, app, views=one_place.views) as es:
        es.projections.rebuild("totals", partitions=partitions)
        with es.running():
            for name, several in (("totals", partitions), ("ledger", 1)):
                eventually(
                    lambda name=name, several=several: (
                        several == sum(bool(each.failure) for each in bank.progress_of(es, name))
                    )
                )
                assert stopped(es, name).position == bad
                assert "Strange" in stopped(es, name).error
                es.projections.skip(name, bad, reason="nobody knows it")
            for each in app.projections:
                es.view(each).wait(str(es.head()), timeout_s=bank.STUCK_S)
            (row,) = es.view(totals).find()
            assert (row.amount, row.events) == (3, len(log))


@pytest.mark.parametrize("is_raised_before", [True, False])
def test_an_sql_projection_that_raises(places: Places, is_raised_before: bool) -> None:
    """All before the event are applied once, it and all after it not at all."""
    is_bad, plain = [True], bank.ledger()

    def check(events: Any) -> None:
        if is_bad[0] and any(each.data == BAD for each in events):
            raise ValueError("a bad event")

    def apply(sql: Any, events: Any) -> None:
        if is_raised_before:
            check(events)
        plain.apply(sql, events)
        check(events)

    ledger = SqlProjection(name="ledger", create=plain.create, apply=apply)
    app = bank.app_of(ledger, bank.totals())
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        bad = append_bad(es)
        assert stopped(es, "ledger").position == bad
        rows = es.view(ledger).sql("SELECT bucket, cents, events FROM ledger ORDER BY bucket")
        before = bank.expected_ledger(es.read(until=bad - 1))
        assert [tuple(each.values()) for each in rows] == before
        is_bad[0] = False
        es.projections.retry("ledger")
        bank.wait_for_all(es, app)
        bank.check_rows(es, "ledger", "totals")


def test_sql_that_the_database_refuses_stops_it(places: Places) -> None:
    plain = bank.ledger()

    def apply(sql: Any, events: Any) -> None:
        plain.apply(sql, events)
        if any(each.data == BAD for each in events):
            sql.execute("SELECT nonsense FROM nowhere")

    ledger = SqlProjection(name="ledger", create=plain.create, apply=apply)
    app = bank.app_of(ledger)
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        bad = append_bad(es)
        assert stopped(es, "ledger").position == bad
        assert "nowhere" in stopped(es, "ledger").error


def test_a_key_that_fails_at_a_later_event_when_it_makes_up(one_place: Places) -> None:
    """What was made up for stays made up for, exactly once, over several batches."""
    mends, evolve = mending()
    totals = bank.totals(evolve=evolve, on_failure="quarantine")
    app = bank.app_of(totals)
    with leftfold.open(one_place.log, app, views=one_place.views) as es, es.running():
        first = append_bad(es)
        es.append([Event("account-1", bank.Noted(str(number))) for number in range(150)])
        second = append_bad(es)
        reaches_the_head(es, totals.name)
        es.projections.skip("totals", first, reason="a test")
        eventually(lambda: es.projections.quarantine("totals")[0].failure.position == second)
        mends.left = 0
        es.projections.retry("totals")
        eventually(lambda: not es.projections.quarantine("totals"))
        check_totals(es, totals, skipped=first)
