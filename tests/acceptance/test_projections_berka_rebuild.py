"""The daily balances of a real bank built again while 8 writers go on appending: compared, swapped
in and rolled back, with clients that read all the time and see nothing wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import pytest
from berka_bank import APP, DAILY, Bank
from berka_crowd import LIMIT_S, Client, Latest, Writer, until

import leftfold
from leftfold import Event, EventStore
from leftfold.drive import run_sync
from leftfold.projection.catalog import builds, set_hold
from leftfold.projection.database import Transaction

WRITERS = 8
CLIENTS = 2
BATCH = 1_000
ROUNDS = 10
"""That each client completes between two changes."""


class Scene:
    """Writers and clients at work on a log."""

    def __init__(self, es: EventStore, url: str, bank: Bank, *, of_one_moment: bool) -> None:
        shares: list[list[Event[Any]]] = [[] for _ in range(WRITERS)]
        for event in bank.events[es.head() :]:
            shares[crc32(event.stream.encode()) % WRITERS].append(event)
        self._es = es
        self._writers = [Writer(url, share) for share in shares]
        self.clients = [
            Client(url, bank, self._latest, of_one_moment=of_one_moment) for _ in range(CLIENTS)
        ]
        self._threads = [*self._writers, *self.clients]

    def _latest(self) -> list[Latest]:
        return [each.latest for each in self._writers if each.latest is not None]

    def __enter__(self) -> Scene:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end()

    def _end(self) -> None:
        for client in self.clients:
            client.stop.set()
        for writer in self._writers:
            writer.hurry.set()
        for each in self._threads:
            each.join(LIMIT_S)
            assert not each.is_alive()

    @contextmanager
    def meanwhile(self, what: str) -> Iterator[None]:
        """Something that is done, and then read, while all of them are at work."""
        before, begun = self._es.head(), time.monotonic()
        rounds = [client.rounds for client in self.clients]
        yield
        took_s = time.monotonic() - begun
        for client, count in zip(self.clients, rounds, strict=True):
            self.until(lambda c=client, n=count: c.rounds >= n + ROUNDS, f"reads after {what}")
        self.until(lambda: self._es.head() > before, f"appends during {what}")
        assert all(each.is_alive() for each in self._threads), what
        print(f"{what}: {took_s:.2f} s, {self._es.head() - before} events appended meanwhile")

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        until(is_so, self._threads, what)

    def finish(self) -> None:
        """Append what is left, and see that nobody has an objection."""
        for writer in self._writers:
            writer.hurry.set()
        self.until(lambda: not any(each.is_alive() for each in self._writers), "all appended")
        self._end()
        for each in self._threads:
            each.check()


def state_of(es: EventStore, build: int) -> str:
    (found,) = [each for each in es.projections.status(DAILY.name) if each.build == build]
    return found.state


def let_lag(es: EventStore, name: str) -> None:
    """Let those who fold the retired build pause, as they do where a worker is slow."""
    parts = es._projecting

    def hold(tx: Transaction) -> None:
        (retired,) = [each for each in builds(tx, name) if each.state == "retired"]
        set_hold(tx, retired, 1, LIMIT_S)

    run_sync(parts.write(parts.database, hold))


@pytest.mark.parametrize(
    ("store", "partitions", "every", "days"),
    [("sqlite", 1, 1, 39_960), ("postgresql", 2, 3, 13_463)],
)
def test_a_rebuild_under_writers_shows_nothing_wrong(new_url, store, partitions, every, days):
    """All accounts on SQLite; on PostgreSQL, where all are folded in test_projections_berka, every
    third.
    """
    bank, url = Bank(every), new_url(store)
    with leftfold.open(url, APP) as es:
        # The rest is for the writers.
        for start in range(0, len(bank.events) * 2 // 5, BATCH):
            es.append(bank.events[start : start + BATCH])
        with es.running(only=[DAILY.name], swap="manual"):
            es.view(DAILY).wait(str(es.head()), timeout_s=LIMIT_S)
            with Scene(es, url, bank, of_one_moment=partitions == 1) as scene:
                rebuild_compare_and_swap(es, scene, partitions)
                scene.finish()
            print([client.reads for client in scene.clients])
            view, truth = es.view(DAILY), bank.days()
            view.wait(str(es.head()), timeout_s=LIMIT_S)
            compared = es.projections.compare(DAILY.name, timeout_s=LIMIT_S)
            assert compared.is_aligned
            assert compared.is_same, compared
        assert compared.tables[0].rows_candidate == view.count() == len(truth) == days
        rows, page = [], view.find(limit=10_000)
        while page:
            rows += page
            page = view.find(limit=10_000, beyond=page[-1])
        assert {(row.account, row.day): row for row in rows} == truth


def rebuild_compare_and_swap(es: EventStore, scene: Scene, partitions: int) -> None:
    projections, name = es.projections, DAILY.name
    (first,) = projections.status(name)
    with scene.meanwhile("rebuild"):
        build = projections.rebuild(name, partitions=partitions)
        scene.until(lambda: state_of(es, build.id) == "ready", "build ready")
    with scene.meanwhile("compare"):
        compared = projections.compare(name, timeout_s=LIMIT_S)
        assert (compared.serving, compared.candidate) == (first.build, build.id)
        assert compared.is_aligned
        assert compared.is_same, compared
        assert compared.tables[0].rows_candidate > 0
    with scene.meanwhile("swap"):
        assert projections.swap(name).id == build.id
        assert state_of(es, build.id) == "serving"
    with scene.meanwhile("lag of what a rollback brings back"):
        let_lag(es, name)
    with scene.meanwhile("rollback"):
        assert projections.rollback(name).id == first.build
        assert state_of(es, build.id) == "retired"
    with scene.meanwhile("rollback of the rollback"):
        assert projections.rollback(name).id == build.id
        assert state_of(es, first.build) == "retired"
