"""Processes as their users have them. One runner works on them, in this process."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import leftfold
from bench import on_raw, on_raw_postgres
from bench.managers import (
    ACCOUNT,
    CODEC,
    LATER,
    REMINDERS,
    TRANSFERS,
    Answered,
    Asked,
    Deposit,
    Deposited,
    TransferRequested,
    Withdraw,
)
from bench.on_leftfold import FULL, pragmas
from bench.projecting import ACCOUNTS, WITHIN_S, OnServer, Projecting
from leftfold import App, Event, Metadata, select
from leftfold.event import now_us
from leftfold.process import ProcessManager
from leftfold.process import events as log

CENTS = 1_000_000_000
"""What is in each account at first."""
COMMITS = 5
"""Appends that a transfer takes: three of its instance, and one of each account."""
_LATER_US = LATER // timedelta(microseconds=1)
_POLL_S = 0.01


class Processing(Projecting):
    """A subject with a store of its own, whose process a runner works on. A slice lasts from the
    append of what starts its instances until all of them have ended.
    """

    def __init__(self, name: str, process: ProcessManager[Any]) -> None:
        super().__init__(name)
        self._process = process
        self._numbers = count()

    def open(self, directory: Path) -> None:
        super().open(directory)
        app = App(codec=CODEC, deciders=[ACCOUNT], processes=[self._process])
        self._es = leftfold.open(self._place(directory, self.name, FULL), app)

    def settings(self) -> str:
        return pragmas(self._es.store._writer._connection)

    def prepare(self, count: int) -> list[Event[Any]]:
        self._closing.enter_context(self._es.running())
        return self._requests(count)

    def _requests(self, count: int) -> list[Event[Any]]:
        return [Event(f"request-{next(self._numbers)}", Asked(1)) for _ in range(count)]

    def run(self, prepared: list[Event[Any]]) -> None:
        before = self._es.head()
        self._es.append(prepared)
        self._wait(log.Ended, before, len(prepared))

    def _wait(self, kind: type, after: int, count: int) -> None:
        """Until there are so many events of a kind in the streams of instances."""
        query = select(category=self._process.name, types=[log.type_name(kind)])
        deadline = time.monotonic() + WITHIN_S
        while count:
            for event in self._es.read(query, after=after):
                after = event.position
                count -= 1
                if getattr(event.data, "outcome", "done") != "done":
                    raise AssertionError(f"{event.stream} is {event.data}")
            if time.monotonic() > deadline:
                raise AssertionError("they do not get there")
            time.sleep(_POLL_S if count else 0)

    def measure(self, count: int) -> float:
        with ExitStack() as self._closing:
            return super().measure(count)

    def close(self) -> None:
        self._es.close()
        super().close()


class Transfers(Processing):
    """Transfers between accounts, from each to the next one in turn."""

    def __init__(self, name: str) -> None:
        super().__init__(name, TRANSFERS)

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._es.append([Event(f"account-{n}", Deposited(CENTS)) for n in range(ACCOUNTS)])

    def _requests(self, count: int) -> list[Event[Any]]:
        return [_request(next(self._numbers)) for _ in range(count)]


def _request(number: int) -> Event[TransferRequested]:
    source, target = (str(n % ACCOUNTS) for n in (number, number + 1))
    return Event(f"request-{number}", TransferRequested(source, target, 1))


class ByHand(Transfers):
    """The same two commands for each transfer, with command ids, one after the other."""

    def prepare(self, count: int) -> list[Event[Any]]:
        return self._requests(count)

    def run(self, prepared: list[Event[Any]]) -> None:
        handle = self._es.handle
        for event in prepared:
            request: TransferRequested = event.data
            for step, id, command in (
                ("take", request.source, Withdraw(request.cents)),
                ("give", request.target, Deposit(request.cents)),
            ):
                metadata = Metadata(command_id=f"{event.stream}:{step}", causation_id=str(event.id))
                handle(ACCOUNT, id, command, metadata=metadata)


class RawCommits(on_raw.Writer):
    """As many commits as a transfer takes, with one event each."""

    def prepare(self, count: int) -> list[on_raw.Batch]:
        return super().prepare(count * COMMITS)


class Growth(Processing):
    """One instance gets `length` events: microseconds for each, until it has ended."""

    def __init__(self, name: str, process: ProcessManager[Any], length: int) -> None:
        super().__init__(name, process)
        self._length = length

    def _requests(self, count: int) -> list[Event[Any]]:
        stream = f"request-{next(self._numbers)}"
        return [Event(stream, Asked(self._length)) for _ in range(self._length)]

    def run(self, prepared: list[Event[Any]]) -> None:
        before = self._es.head()
        self._es.append(prepared)
        self._wait(log.Ended, before, 1)

    def measure(self, count: int) -> float:
        return 1e6 / super().measure(self._length)


class Due(Processing):
    """Instances that wait: the timers of all of them are due when the runner starts, or all get an
    event instead.
    """

    def __init__(self, name: str, *, is_event: bool = False) -> None:
        super().__init__(name, REMINDERS)
        self._is_event = is_event

    def prepare(self, count: int) -> list[Event[Any]]:
        requests = self._requests(count)
        before = self._es.head()
        self._es.append(requests)
        with self._es.running():
            self._wait(log.TimerSet, before, count)
            self._wait_until_listed(count)
        if self._is_event:
            self._es.append([Event(each.stream, Answered()) for each in requests])
        return requests

    def _wait_until_listed(self, count: int) -> None:
        deadline = time.monotonic() + WITHIN_S
        while len(self._es.processes.list(status="running", limit=count)) < count:
            if time.monotonic() > deadline:
                raise AssertionError("its read model does not get there")
            time.sleep(_POLL_S)

    def run(self, prepared: list[Event[Any]]) -> None:
        before = self._es.head()
        if not self._is_event:
            # The clock that timers go by.
            later = patch.object(self._es.store, "now_us", lambda: now_us() + _LATER_US)
            self._closing.enter_context(later)
        self._closing.enter_context(self._es.running())
        self._wait(log.Ended, before, len(prepared))


class PostgresTransfers(OnServer, Transfers):
    """The same on a server."""


class PostgresByHand(OnServer, ByHand):
    """The same on a server."""


class PostgresRawCommits(on_raw_postgres.Writers):
    """The same on a server."""

    def prepare(self, count: int) -> list[list[on_raw_postgres.Row]]:
        return super().prepare(count * COMMITS)
