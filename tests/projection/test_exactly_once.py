"""Whatever becomes of databases and logs, a read model is what a fresh fold of the log comes to, or
says that it is not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
import projection_worker as bank
import pytest
from projection_worker import Options, eventually
from running_support import Places, places_on, shorten

import leftfold
from leftfold import Event, SqlProjection
from leftfold.projection import catalog, consuming
from leftfold.stores.sqlite import database as sqlite_database
from leftfold.testing.faults import FaultyVfs

NAMES = ("totals", "holdings", "ledger")
MEMORY_MB = 40
"""So much more a long catch-up may take than a short one."""


@pytest.fixture(params=["sqlite", "postgresql", "sqlite+postgresql", "postgresql+sqlite"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture
def on_sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on("sqlite", request, tmp_path)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PAUSE_MAX_S", 0.2)


def all_kinds() -> leftfold.App:
    return bank.app_of(bank.totals(), bank.holdings(), bank.ledger())


class Polling:
    """Looks, all the time, whether something goes backwards."""

    def __init__(self, look: Callable[[], dict[Any, Any]]) -> None:
        self._look = look
        self._over = threading.Event()
        self.backwards: list[Any] = []
        self.looks = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        before: dict[Any, Any] = {}
        while not self._over.wait(0.002):
            now = self._look()
            self.looks += 1
            self.backwards += [
                (key, before[key], each)
                for key, each in now.items()
                if before.get(key, each) > each
            ]
            before |= now

    def __enter__(self) -> Polling:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.looks > 1
        assert self.backwards == []


def test_checkpoints_never_go_backwards(places: Places) -> None:
    app = all_kinds()

    def positions() -> dict[Any, Any]:
        found = [each for name in NAMES for each in bank.progress_of(seen, name)]
        return {(each.build, each.partition): each.position for each in found}

    with (
        leftfold.open(places.log, app, views=places.views) as es,
        leftfold.open(places.log, app, views=places.views) as seen,
        es.running(),
        seen.running(),
        Polling(positions),
    ):
        for seed in range(5):
            bank.append_random(es, Random(seed), 100)
            bank.wait_for_all(es, app)
        bank.check_rows(es, *NAMES)


def test_partitions_of_two_processes_come_to_the_same(places: Places) -> None:
    app = bank.app_of(bank.totals(), bank.holdings())
    options = Options(lease_s=0.4, only=["totals", "holdings"])
    random = Random(5)
    with leftfold.open(places.log, app, views=places.views) as es:
        bank.append_random(es, random, 1000)
        for name in ("totals", "holdings"):
            es.projections.rebuild(name, partitions=4)
        with bank.workers(places.log, places.views, options, options) as (first, _):
            eventually(lambda: any(each.events for each in bank.progress_of(es, "totals")))
            first.kill()
            bank.append_random(es, random, 100)
            bank.wait_for_all(es, app)
            assert len(bank.progress_of(es, "totals")) == 4
        bank.check_rows(es, "totals", "holdings")
        for held in es.view(bank.holdings()).find():
            assert held.last == sorted(held.last)


def test_a_log_from_a_backup_stops_it(tmp_path: Path, on_sqlite: Places) -> None:
    """Both where the last event is another, and where there are fewer."""
    app = bank.app_of(bank.totals(), bank.mail(print, query=leftfold.select(types=[bank.Closed])))
    log = tmp_path / "log.db"
    with leftfold.open(on_sqlite.log) as es:
        es.append([Event("account-1", b'{"account":"1"}', type="Closed")])
    shutil.copy(log, tmp_path / "backup.db")
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as es, es.running():
        es.append([Event("account-1", bank.Noted("lost"))] * 1)
        bank.wait_for_all(es, app)
        eventually(lambda: [each.position for each in bank.progress_of(es, "mail")] == [es.head()])
        before = es.view(bank.totals()).find()
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    shutil.copy(tmp_path / "backup.db", log)
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as es:
        for events in (0, 5):
            for each in range(events):
                es.append([Event("account-1", bank.Noted(f"{each}"))])
            with es.running():
                for name in ("totals", "mail"):
                    (found,) = eventually(
                        lambda name=name: [
                            each for each in bank.progress_of(es, name) if each.stopped
                        ],
                        "it stops",
                    )
                    assert "another log" in found.failure
                assert es.view(bank.totals()).find() == before
                with pytest.raises(leftfold.ProjectionRefused, match="another log"):
                    es.projections.retry("totals")


def test_read_models_that_are_deleted_are_folded_again(on_sqlite: Places, tmp_path: Path) -> None:
    app = all_kinds()
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as es, es.running():
        for _ in range(2):
            bank.append_random(es, Random(1), 200)
            bank.wait_for_all(es, app)
            for path in tmp_path.glob("views.db*"):
                path.unlink()
            # Nobody is told; they see it at the latest when something is to be written.
            bank.append_random(es, Random(2), 100)
            eventually(lambda: all(bank.progress_of(es, name) for name in NAMES), "it is made")
            bank.wait_for_all(es, app)
            bank.check_rows(es, *NAMES)
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as again:
        bank.check_rows(again, *NAMES)


def test_a_schema_that_is_dropped_is_folded_again(
    server: Any, tmp_path: Path, request: Any
) -> None:
    app = all_kinds()
    places = places_on("sqlite+postgresql", request, tmp_path)
    schema = places.views.partition("schema=")[2]
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        bank.append_random(es, Random(1), 200)
        bank.wait_for_all(es, app)
        server.execute(f"DROP SCHEMA {schema} CASCADE")
        bank.append_random(es, Random(2), 100)
        made = "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'leftfold_builds'"
        eventually(lambda: server.execute(made, schema), "it is made again")
        eventually(lambda: all(bank.progress_of(es, name) for name in NAMES), "builds are made")
        bank.wait_for_all(es, app)
        bank.check_rows(es, *NAMES)


def test_connections_that_die_in_the_middle_of_batches(
    server: Any, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is ended by the projection itself, in its transaction: no event is to blame."""
    shorten(monkeypatch, batch=50)
    places = places_on("sqlite+postgresql", request, tmp_path)
    plain, killed = bank.ledger(), [0]

    def apply(sql: Any, events: Any) -> None:
        plain.apply(sql, events)
        if killed[0] < 8 and len(events) % 2 == 0:
            killed[0] += 1
            ((pid,),) = sql.execute("SELECT pg_backend_pid()")
            server.execute("SELECT pg_terminate_backend(%s)", pid)
            plain.apply(sql, events)

    ledger = SqlProjection(name="ledger", create=plain.create, apply=apply, attempts_max=1)
    app = bank.app_of(ledger, bank.totals(), bank.holdings())
    with leftfold.open(places.log, app, views=places.views) as es:
        bank.append_random(es, Random(3), 500)
        with es.running():
            bank.wait_for_all(es, app)
            assert killed[0] == 8
            (progress,) = bank.progress_of(es, "ledger")
            assert progress.events == len(list(es.read()))
        bank.check_rows(es, *NAMES)


def test_a_server_that_is_restarted(
    server: Any, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, batch=20)
    places = places_on("sqlite+postgresql", request, tmp_path)
    app = all_kinds()
    with leftfold.open(places.log, app, views=places.views) as es, es.running():
        for seed in range(2):
            bank.append_random(es, Random(seed), 400)
            eventually(lambda: all(bank.progress_of(es, name) for name in NAMES))
            server.crash()
        bank.wait_for_all(es, app)
        bank.check_rows(es, *NAMES)


def test_a_disk_that_is_full_for_a_while(
    on_sqlite: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, batch=20)
    with FaultyVfs() as vfs:
        faulty = types.SimpleNamespace(**vars(apsw))
        faulty.Connection = lambda path: apsw.Connection(path, vfs=vfs.name if path else None)
        monkeypatch.setattr(sqlite_database, "apsw", faulty)
        plain = bank.ledger()
        ledger = SqlProjection(
            name="ledger", create=plain.create, apply=plain.apply, attempts_max=1
        )
        app = bank.app_of(bank.totals(attempts_max=1), bank.holdings(attempts_max=1), ledger)
        with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as es:
            bank.append_random(es, Random(1), 300)
            with es.running():
                eventually(lambda: bank.progress_of(es, "ledger"))
                for _ in range(3):
                    vfs.fail("write", nth=5, times=30)
                    bank.append_random(es, Random(2), 100)
                vfs.heal()
                bank.wait_for_all(es, app)
            bank.check_rows(es, *NAMES)


MEASURED = """
import resource, sys
from random import Random
import projection_worker as bank
import leftfold
app = bank.app_of(bank.totals(), bank.holdings())
with leftfold.open(sys.argv[1], app, views=sys.argv[2]) as es, es.running():
    es.view(app.projections[0]).wait(str(es.head()), timeout_s=200)
    es.view(app.projections[1]).wait(str(es.head()), timeout_s=200)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(places: Places, events: int) -> float:
    with leftfold.open(places.log, bank.CODEC) as es:
        random = Random(events)
        some = [bank.random_event(random) for _ in range(1000)]
        for _ in range(0, events, 1000):
            es.append([Event(each.stream, each.data) for each in some])
    command = [sys.executable, "-c", MEASURED, places.log, places.views]
    folder = Path(bank.__file__).parent
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True)
    return int(done.stdout) / 1024


def test_memory_is_bounded_at_any_length_of_the_log(request: Any, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    short = peak_mb(places_on("sqlite", request, tmp_path), 20_000)
    long = peak_mb(places_on("sqlite", request, tmp_path / "long"), 200_000)
    assert long - short < MEMORY_MB, (short, long)


def test_a_swap_goes_back_for_no_key_of_any_partition(on_sqlite: Places) -> None:
    """What serves is further in one of its partitions: the new build has to get there."""
    app = bank.app_of(bank.totals())
    with leftfold.open(on_sqlite.log, app, views=on_sqlite.views) as es:
        bank.append_random(es, Random(1), 100)
        es.projections.rebuild("totals", partitions=2)
        with es.running():
            bank.wait_for_all(es, app)
        database = es._projecting.database
        old, _ = bank.progress_of(es, "totals")
        database.write(
            lambda tx: tx.execute(
                "UPDATE leftfold_consumers SET position = 50 WHERE build = ? AND partition = 1",
                [old.build],
            )
        )
        new = es.projections.rebuild("totals")
        database.write(
            lambda tx: tx.execute(
                "UPDATE leftfold_consumers SET position = 60 WHERE build = ?", [new.id]
            )
        )
        completed = database.write(
            lambda tx: leftfold.projection.running._complete(tx, new, 0, True)
        )
        assert not completed
        (serving,) = (each for each in bank.builds_of(es, "totals") if each.state == "serving")
        assert serving.id == old.build
        held = database.read(lambda tx: catalog.progress(tx, old.build))
        assert {each.hold_position for each in held} == {old.position}
