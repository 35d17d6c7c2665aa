"""Code changes while others write and read: the new rows are made beside the old ones, and nobody
sees a wrong row or an older one than before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / each) for each in ("crash", "postgres")]
import projection_worker as bank
from postgres_server import Server
from projection_worker import Options, eventually

import leftfold
from leftfold.testing.faults import seeds

OLD = Options(lease_s=2, only=["totals"])
NEW = Options(lease_s=2, only=["totals"], version=2)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: Any, tmp_path: Path) -> tuple[str, str]:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/views.db"
    server = request.getfixturevalue("server")
    return server.new_log(), server.new_log()


def states(es: Any) -> list[tuple[int, str]]:
    return [(each.version, each.state) for each in bank.builds_of(es, "totals")]


class Client:
    """Polls rows by SQL and by a view, and what was counted never gets less."""

    def __init__(self, es: Any) -> None:
        self._es = es
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.looks = 0
        self.wrong: list[Any] = []

    def _run(self) -> None:
        view = self._es.view(bank.totals())
        before: dict[str, int] = {}
        while not self._over.wait(0.001):
            if self.looks % 2:
                rows = {each.stream: each.events for each in view.find(limit=10_000)}
            else:
                found = view.sql("SELECT stream, events FROM totals")
                rows = {each["stream"]: each["events"] for each in found}
            # One of the streams in question has an event after each that was seen before.
            self.wrong += [
                (stream, events, rows.get(stream))
                for stream, events in before.items()
                if rows.get(stream, 0) < events
            ]
            before = rows
            self.looks += 1

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.looks > 1
        assert self.wrong == []


def test_changed_code_takes_over_while_the_old_goes_on(places: tuple[str, str]) -> None:
    with leftfold.open(places[0], bank.app_of(bank.totals()), views=places[1]) as es:
        for seed in seeds(1):
            change_code(es, places, seed)
            es.projections.drop("totals")


def change_code(es: Any, places: tuple[str, str], seed: int) -> None:
    app = bank.app_of(bank.totals())
    bank.append_random(es, Random(seed), 500)
    with bank.workers(*places, OLD):
        eventually(lambda: states(es))
        bank.wait_for_all(es, app)
        with Client(es), writing(places[0], seed), bank.workers(*places, NEW):
            eventually(lambda: (2, "serving") in states(es), "it is swapped in")
            bank.wait_for_all(es, app)
        assert states(es) == [(1, "retired"), (2, "serving")]
        # Old code keeps the old build up to date, for a rollback.
        head = es.head()
        eventually(lambda: bank.progress_of(es, "totals")[0].position >= head)
    with bank.workers(*places, NEW):
        bank.wait_for_all(es, app)
    bank.check_rows(es, "totals")


class writing:  # noqa: N801
    """Somebody appends all the time."""

    def __init__(self, log: str, seed: int) -> None:
        self._log = log
        self._random = Random(seed + 1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with leftfold.open(self._log, bank.CODEC) as es:
            while not self._over.wait(0.002):
                bank.append_random(es, self._random, 5)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_a_manual_swap_and_the_build_before_the_last(places: tuple[str, str]) -> None:
    log, views = places
    first, second, third = (bank.totals(version=version) for version in (1, 2, 3))
    for each in (first, second, third):
        app = bank.app_of(each)
        with leftfold.open(log, app, views=views) as es:
            bank.append_random(es, Random(1), 100)
            swap: Any = "manual"
            with es.running(swap=swap):
                if each is first:
                    bank.wait_for_all(es, app)
                    continue
                eventually(lambda es=es: "ready" in dict(map(reversed, states(es))), "it is ready")
                assert states(es)[-2][1] == "serving"
                es.projections.swap("totals")
                bank.wait_for_all(es, app)
            bank.check_rows(es, "totals")
    with leftfold.open(log, app, views=views) as es:
        assert states(es) == [(2, "retired"), (3, "serving")]
        tables = es._projecting.database.read(lambda tx: tx.relations("totals__"))
        assert len(tables) == 2
