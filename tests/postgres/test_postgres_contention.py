"""Threads of processes append to the same streams and tags while others read, connections are
killed and the server crashes: the history is sound, and everybody goes on by themselves.
"""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

import leftfold
from leftfold import Appended
from leftfold.testing.faults import seeds
from leftfold.testing.history import Attempt, Outcome, check

sys.path.append(str(Path(__file__).parents[1] / "concurrency"))
import concurrent_worker as worker

CRASHES_MAX = 5
KILL = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'leftfold' ORDER BY random() LIMIT 2"""
CANCEL = """SELECT pg_cancel_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'leftfold' AND state = 'active' AND query LIKE '%.append(%'"""


def count_outcomes(attempts: list[Attempt]) -> dict[str, int]:
    acknowledged = [each for each in attempts if isinstance(each.outcome, Appended)]
    return {
        "acknowledged": len(acknowledged),
        "repeated": len(acknowledged) - len({each.event_ids for each in acknowledged}),
        "conflicts": sum(each.outcome is Outcome.CONFLICT for each in attempts),
    }


class Mischief:
    """Kills connections, and now and then the server, while a block runs."""

    def __init__(self, server: Any, seed: int) -> None:
        self._server = server
        self._random = Random(seed)
        self._is_over = threading.Event()
        self.kills = 0
        self.crashes = 0

    def __enter__(self) -> None:
        self._thread = worker.Threads([self._run])

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._random.uniform(0.05, 0.3)):
            if self._random.random() < 0.1 and self.crashes < CRASHES_MAX:
                self._server.crash()
                self.crashes += 1
            else:
                self.kills += len(self._server.execute(KILL))


def run(url: str, seed: int, steps: int, meanwhile: AbstractContextManager[None]) -> dict[str, int]:
    """Four processes of eight writers, a process of watchers, and watchers in this process."""
    started = [("write", url, name, seed, 8, steps) for name in "abcd"]
    processes = worker.processes(("watch", url), *started)
    with processes as (watcher, *writers), leftfold.open(url) as events:
        with worker.watching(events) as sightings, meanwhile:
            attempts = [attempt for each in writers for attempt in worker.finish(each)]
        check(list(events.read()), attempts, sightings + worker.finish(watcher))
    return count_outcomes(attempts)


def test_threads_of_processes(server: Any) -> None:
    for seed in seeds(1):
        outcomes = run(server.new_log(), seed, 60, nullcontext())
        assert min(outcomes.values()) > 0, outcomes


@pytest.mark.timeout(600)
def test_connections_are_killed_and_the_server_crashes(server: Any) -> None:
    for seed in seeds(1):
        mischief = Mischief(server, seed)
        outcomes = run(server.new_log(), seed, 150, mischief)
        assert min(outcomes.values()) > 0, outcomes
        assert mischief.kills > 0
        print(mischief.kills, mischief.crashes, outcomes)


def test_cancelled_statements_leak_nothing(server: Any) -> None:
    """Above all not the lock under which positions are handed out."""
    for seed in seeds(1):
        url, over = server.new_log(), threading.Event()
        cancelled: list[object] = []

        def cancel(over: threading.Event = over, cancelled: list[object] = cancelled) -> None:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                while not over.wait(0.001):
                    cancelled += connection.execute(CANCEL).fetchall()

        with leftfold.open(url) as events:
            canceller = worker.Threads([cancel])
            try:
                attempts = worker.write(events, "one", seed, 8, 60)
            finally:
                over.set()
                canceller.join()
            check(list(events.read()), attempts)
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert server.execute(locks) == [(0,)]
        assert any(each.outcome is Outcome.UNAVAILABLE for each in attempts)
        assert min(count_outcomes(attempts).values()) > 0
