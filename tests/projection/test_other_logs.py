"""A log that was restored, or is another one altogether: its events are neither passed over nor
shown as what they are not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import inline_worker as inline
import projection_worker as bank
import psycopg
import pytest
from running_support import Places, eventually, places_on
from view_support import BALANCES, CODEC, Bank, Deposited, Noted

import leftfold
from leftfold import Event, EventStore, ProjectionBehind
from leftfold.drive import BlockingDriver, run_sync
from leftfold.projection import catalog, consuming
from leftfold.projection.consuming import Consuming
from leftfold.projection.database import Database
from leftfold.store import Store
from leftfold.stores.memory import MemoryStore
from leftfold.stores.postgres.reader import Reader


class Backup:
    """Takes a log back to an earlier state, as if it was restored from a backup."""

    def __init__(self, places: Places, request: Any, tmp_path: Path) -> None:
        self._places = places
        self._is_file = places.log.startswith("sqlite")
        self._log, self._copy = tmp_path / "log.db", tmp_path / "backup.db"
        self._server = None if self._is_file else request.getfixturevalue("server")
        self._head = 0

    def save(self, head: int) -> None:
        self._head = head
        if self._is_file:
            with closing(apsw.Connection(str(self._log))) as log:
                log.execute("VACUUM INTO ?", [str(self._copy)])

    def restore(self) -> None:
        if self._server is not None:
            cut(self._server, self._places.log, self._head)
            return
        for path in self._log.parent.glob("log.db*"):
            path.unlink()
        shutil.copy(self._copy, self._log)


def cut(server: Any, url: str, head: int) -> None:
    """Let a log on a server, and nothing else there, be as it was at an earlier head; whoever is
    connected has to connect again.
    """
    schema = url.partition("schema=")[2]
    with psycopg.connect(server.url(), autocommit=True) as connection:
        with connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute(f"DELETE FROM {schema}.events WHERE position > {head}")
            connection.execute(f"SELECT setval('{schema}.positions', {head})")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


@pytest.fixture(params=["sqlite", "postgresql+sqlite"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture
def backup(places: Places, request: pytest.FixtureRequest, tmp_path: Path) -> Backup:
    return Backup(places, request, tmp_path)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PAUSE_MAX_S", 0.2)


def note(es: EventStore, count: int) -> None:
    for _ in range(count):
        es.append([Event("account-1", bank.Noted("text"))])


def close(es: EventStore, stream: str = "account-1") -> str:
    return es.append([Event(stream, bank.Closed("1"))]).token


def evolve_closed(row: Any, event: Any) -> Any:
    if event.stream == "bad-1":
        raise ValueError("no")
    return bank.add_to_total(row, event)


CLOSINGS = bank.totals(name="closings", evolve={bank.Closed: evolve_closed}, attempts_max=1)


def stopped(es: EventStore, name: str) -> str:
    def look() -> list[str]:
        return [each.failure for each in bank.progress_of(es, name) if each.failure]

    (failure,) = eventually(look, "it stops")
    return str(failure)


@pytest.mark.parametrize("ending", ["matches nothing", "fails"])
def test_what_was_passed_over_tells_logs_apart(places: Places, backup: Backup, ending: str) -> None:
    """Restored to a position after the last event that matches, and as long as before since."""
    app = bank.app_of(CLOSINGS)
    with leftfold.open(places.log, app, views=places.views) as es:
        close(es)
        backup.save(es.head())
        note(es, 3)
        last = es.head()
        if ending == "fails":
            close(es, "bad-1")
        with es.running():
            eventually(
                lambda: [each.position for each in bank.progress_of(es, "closings")] == [last]
            )
            if ending == "fails":
                stopped(es, "closings")
    backup.restore()
    with leftfold.open(places.log, app, views=places.views) as es:
        close(es)
        note(es, 4)
        token = close(es)
        with es.running():
            failure = eventually(
                lambda: [
                    each.failure
                    for each in bank.progress_of(es, "closings")
                    if each.failure and "bad-1" not in each.failure
                ]
            )
            assert "another log" in failure[0]
            with pytest.raises(ProjectionBehind, match="another log"):
                es.view(CLOSINGS).wait(token)


def test_a_server_that_takes_over_without_the_last_events_stops_it(
    server: Any, request: Any, tmp_path: Path
) -> None:
    places = places_on("postgresql+sqlite", request, tmp_path)
    app = bank.app_of(bank.totals())
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        note(es, 20)
        bank.wait_for_all(es, app)
        cut(server, places.log, 10)
        assert "another log" in stopped(es, "totals")


class Switched:
    """A store behind which another one may take over."""

    def __init__(self, store: Store) -> None:
        self.now = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


@contextmanager
def consumer_of(bank: Bank, build: Any) -> Iterator[Consuming]:
    consumer = Consuming(bank.parts, BALANCES, build, at=("worker", 0))
    yield consumer
    consumer._parts.driver.close()


def rounds(consumer: Consuming, count: int) -> None:
    for _ in range(count):
        run_sync(consumer._round())


LATER: dict[str, list[Any]] = {
    "shorter": [],
    "longer": [Deposited("a", 1)] * 8,
    "longer, and nothing matches": [Noted()] * 8,
}


@pytest.mark.parametrize("later", LATER)
def test_a_log_that_goes_back_under_its_runner_is_noticed_before_anything_moves(
    database: Database, later: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "IDLE_CHECKPOINT_S", 0.0)
    bank = Bank(database)
    common = [CODEC.encode(Event("bank-1", Deposited("a", 1))) for _ in range(3)]
    run_sync(bank.store.append(common))
    other = MemoryStore()
    run_sync(other.append(common))
    for each in LATER[later]:
        run_sync(other.append([CODEC.encode(Event("bank-1", each))]))
    bank.append(*[Deposited("a", 1)] * 2, Noted())
    store: Any = Switched(bank.store)
    bank.parts.store = store
    build = bank.build()
    with consumer_of(bank, build) as consumer:
        rounds(consumer, 3)
        (before,) = bank.progress(build)
        assert (before.position, before.event_position, before.failure) == (6, 6, "")
        store.now = other
        rounds(consumer, 1)
        (after,) = bank.progress(build)
        assert "another log" in after.failure
        assert (after.position, after.events) == (6, 5)
        # Positions say nothing any more, not even those that it was beyond.
        with pytest.raises(ProjectionBehind, match="another log"):
            bank.view().wait("4", timeout_s=0)
        with pytest.raises(ProjectionBehind, match="another log"):
            bank.view().get("a", after="4", timeout_s=0)


def test_read_models_of_another_log_are_not_read(tmp_path: Path) -> None:
    app = bank.app_of(bank.totals())
    views = f"sqlite:///{tmp_path}/views.db"
    with (
        leftfold.open(f"sqlite:///{tmp_path}/a.db", app, views=views) as mine,
        leftfold.open(f"sqlite:///{tmp_path}/b.db", app, views=views) as other,
    ):
        note(mine, 20)
        with mine.running():
            bank.wait_for_all(mine, app)
            view = other.view(bank.totals())
            # At first it has no events at all.
            for _ in range(2):
                with pytest.raises(ProjectionBehind, match=r"views\.db are of another log"):
                    view.find()
                with pytest.raises(ProjectionBehind, match="another log"):
                    view.sql("SELECT * FROM totals")
                note(other, 1)
            with pytest.raises(ProjectionBehind, match="another log"):
                view.wait(str(other.head()))
            assert mine.view(bank.totals()).count() == 2
        with other.running():
            assert "another log" in stopped(other, "totals")
        note(other, 30)
        with mine.running():
            bank.wait_for_all(mine, app)
            bank.check_rows(mine, "totals")


def test_a_build_is_of_the_log_whose_first_event_comes_first(tmp_path: Path) -> None:
    app = bank.app_of(bank.totals())
    url = f"sqlite:///{tmp_path}/log.db"
    with leftfold.open(url, app) as es, es.running():
        eventually(lambda: bank.progress_of(es, "totals"))
        assert es.view(bank.totals()).find() == []
        assert [each.log for each in bank.builds_of(es, "totals")] == [""]
        note(es, 2)
        bank.wait_for_all(es, app)
        first = next(iter(es.read()))
        assert [each.log for each in bank.builds_of(es, "totals")] == [first.id.hex]


@pytest.mark.parametrize("head", [2, 0])
def test_inline_rows_of_another_history_are_built_again(server: Any, head: int) -> None:
    """The schema of the log is restored, and that of the read models is not."""
    url = server.new_log()
    with leftfold.open(url, inline.APP) as es:
        for _ in range(6):
            es.append([inline.moved(1, "a"), Event("note-1", inline.Noted())])
    cut(server, url, head)
    with leftfold.open(url, inline.APP) as es:
        inline.check(es)
        es.append([inline.moved(100, "a")])
        inline.check(es)
        builds = inline_builds(es)
    with leftfold.open(url, inline.APP) as es:
        inline.check(es)
        assert inline_builds(es) == builds


def inline_builds(es: EventStore) -> list[int]:
    database: Any = es._projecting.log_database
    return [each.id for each in database.read(catalog.builds)]


def test_what_a_server_answered_before_it_was_replaced_is_forgotten() -> None:
    heads = [100, 10]

    class Link:
        async def fetch(self, sql: str) -> Any:
            if len(heads) == 2:
                # Another connection is made meanwhile.
                reader.forget()
            return [(heads.pop(0),)]

    class Pool:
        async def call(self, function: Any) -> Any:
            return await function(Link())

    pool: Any = Pool()
    link: Any = Link()
    reader = Reader(pool, "log", BlockingDriver())
    assert run_sync(reader._head(link)) is None
    assert run_sync(reader.head()) == 10
