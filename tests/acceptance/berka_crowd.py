"""Threads around a log of the bank: writers who append what comes next, and clients who read daily
balances all the time and object to every row that cannot be.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from berka_bank import APP, DAILY, Bank, Day, DayKey, Posted
from msgspec import Struct

import leftfold
from leftfold import Event, EventStore, View

LIMIT_S = 120.0


class Latest(Struct, frozen=True):
    """What a writer was told about the last event of an append of its own."""

    token: str
    key: DayKey
    version: int


class Crowd(threading.Thread):
    """A thread with a store of its own. What it raises, `check` raises."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with leftfold.open(self._url, APP) as es:
                self.work(es)
        except BaseException as error:  # of any kind: it is for the test
            self._error = error

    def work(self, es: EventStore) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Raise what ended it."""
        if self._error is not None:
            raise self._error


class Writer(Crowd):
    """Appends events, slower the fewer are left, so that there are always some, until `hurry`."""

    def __init__(self, url: str, events: list[Event[Any]]) -> None:
        super().__init__(url)
        self._events = events
        self.hurry = threading.Event()
        self.latest: Latest | None = None

    def work(self, es: EventStore) -> None:
        total, done = len(self._events), 0
        while done < total:
            size = 200 if self.hurry.is_set() else 3
            batch = self._events[done : done + size]
            appended = es.append(batch)
            done += len(batch)
            self.latest = _latest(appended, batch[-1])
            self.hurry.wait(0.02 * total / max(1, total - done))


def _latest(appended: leftfold.Appended, event: Event[Any]) -> Latest | None:
    if type(event.data) is not Posted:
        return None
    key = event.stream.removeprefix("account-"), event.occurred_at.date()
    return Latest(appended.token, key, appended.versions[event.stream])


class Client(Crowd):
    """Reads the daily balances of accounts. Each row has to be one that this account really had, of
    that day, and never an older one than this client has seen; no row may vanish; and what a writer
    was given a token for shows.

    `of_one_moment`: the rows of an account also have to chain, as they do where one consumer folds
    all of them.
    """

    def __init__(
        self, url: str, bank: Bank, latest: Callable[[], list[Latest]], *, of_one_moment: bool
    ) -> None:
        super().__init__(url)
        self._states = {(row.account, row.version): row for row in bank.states()}
        self._latest = latest
        self._of_one_moment = of_one_moment
        self._seen: dict[DayKey, int] = {}
        self._counted = 0
        self._random = Random(1)
        self.stop = threading.Event()
        self.rounds = 0
        self.reads: Counter[str] = Counter()

    def work(self, es: EventStore) -> None:
        view = es.view(DAILY)
        while not self.stop.is_set():
            for each in self._latest():
                self._read_after(view, each)
            self._read_again(view)
            count = view.count()
            assert count >= self._counted, f"{count} rows after {self._counted}"
            self._counted = count
            self.rounds += 1

    def _read_after(self, view: View[Day], latest: Latest) -> None:
        row = view.get(latest.key, after=latest.token, timeout_s=LIMIT_S)
        assert row is not None, latest
        assert row.version >= latest.version, (row, latest)
        self._see(row, "get after")

    def _read_again(self, view: View[Day]) -> None:
        for key in self._random.sample([*self._seen], min(20, len(self._seen))):
            row = view.get(key)
            assert row is not None, f"{key} is gone"
            self._see(row, "get")
            self._read_account(view, key[0])

    def _read_account(self, view: View[Day], account: str) -> None:
        rows = view.find({"account": account}, limit=1_000)
        for row in rows:
            self._see(row, "find")
        lost = {key for key in self._seen if key[0] == account} - {
            (row.account, row.day) for row in rows
        }
        assert not lost, f"{lost} are gone"
        if self._of_one_moment:
            for before, row in pairwise(rows):
                assert row.version - row.postings == before.version, (before, row)

    def _see(self, row: Day, how: str) -> None:
        key = row.account, row.day
        truth = self._states.get((row.account, row.version))
        assert row == truth, f"{how}: never was: {row}, at this version: {truth}"
        seen = self._seen.get(key, 0)
        assert row.version >= seen, f"{how}: {row} is older than version {seen}, seen before"
        self._seen[key] = row.version
        self.reads[how] += 1


def until(is_so: Callable[[], bool], threads: list[Crowd], what: str) -> None:
    """Wait until something is so, for as long as nothing has gone wrong in `threads`."""
    deadline_s = time.monotonic() + LIMIT_S
    while not is_so():
        for each in threads:
            each.check()
        assert time.monotonic() < deadline_s, f"not so within {LIMIT_S} s: {what}"
        time.sleep(0.02)
