"""A bank with projections of every kind, and a process that runs them for as long as it lives.

Run with: URL of the log, URL of the views, options as JSON (see Options). It says `running` when it
has begun, then each delivery of the consumer as a line; it stops when its stdin is closed.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import (
    REMOVED,
    App,
    Codec,
    Consumer,
    Event,
    EventStore,
    Projection,
    RecordedEvent,
    SqlProjection,
)
from leftfold.projection import catalog, pacing, running
from leftfold.projection.catalog import Build, Progress
from leftfold.stores.postgres import database as postgres_database

STUCK_S = 60
"""After so long something counts as stuck."""
BUCKETS = 7


class Options(Struct, frozen=True):
    """How a worker differs from others."""

    lease_s: float = 30.0
    batch_events: int = 20
    only: list[str] | None = None
    swap: str = "auto"
    version: int = 1
    pause_s: float = 0.0
    """How long each batch of the ledger and each delivery takes at least."""


class Deposited(Struct, frozen=True):
    account: str
    amount: Decimal


class Moved(Struct, frozen=True):
    source: str
    target: str
    amount: Decimal


class Closed(Struct, frozen=True):
    account: str


class Noted(Struct, frozen=True):
    text: str


CODEC = Codec(Deposited, Moved, Closed, Noted)


class Total(Struct, frozen=True):
    stream: str
    amount: Decimal = Decimal(0)
    events: int = 0


class Holding(Struct):
    """Mutable, and with a list inside: what is half done must not stay."""

    account: str
    amount: Decimal = Decimal(0)
    events: int = 0
    last: list[int] = []


def add_to_total(row: Total, event: RecordedEvent[Any]) -> Total:
    amount = getattr(event.data, "amount", Decimal(0))
    return replace(row, amount=row.amount + amount, events=row.events + 1)


def keys_of_holding(event: RecordedEvent[Any]) -> Any:
    match event.data:
        case Moved(source, target):
            return [source, target]
        case Deposited(account) | Closed(account):
            return account
    return None


def change_holding(row: Holding, event: RecordedEvent[Any]) -> Any:
    match event.data:
        case Moved(source, target, amount):
            row.amount += amount * ((row.account == target) - (row.account == source))
        case Deposited(_, amount):
            row.amount += amount
        case Closed():
            return REMOVED
    row.events += 1
    row.last = [*row.last[-2:], event.position]
    return row


def create_ledger(sql: Any) -> None:
    sql.execute(
        f"CREATE TABLE {sql.table} (bucket bigint PRIMARY KEY, cents bigint NOT NULL, "
        "events bigint NOT NULL)"
    )


def bucket_and_cents(event: RecordedEvent[Any]) -> tuple[int, int]:
    return len(event.stream) % BUCKETS, int(getattr(event.data, "amount", 0) * 100)


def apply_ledger(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
    for event in events:
        sql.execute(
            f"INSERT INTO {sql.table} AS t VALUES (?, ?, 1) ON CONFLICT (bucket) DO UPDATE SET "
            "cents = t.cents + excluded.cents, events = t.events + 1",
            bucket_and_cents(event),
        )


def totals(**changes: Any) -> Projection[Total]:
    arguments: dict[str, Any] = {
        "name": "totals",
        "row": Total,
        "key": lambda event: event.stream,
        "evolve": add_to_total,
    }
    return Projection(**arguments | changes)


def holdings(**changes: Any) -> Projection[Holding]:
    arguments: dict[str, Any] = {
        "name": "holdings",
        "row": Holding,
        "key": keys_of_holding,
        "evolve": change_holding,
    }
    return Projection(**arguments | changes)


def ledger(pause_s: float = 0.0) -> SqlProjection:
    def apply(sql: Any, events: Sequence[RecordedEvent[Any]]) -> None:
        apply_ledger(sql, events)
        time.sleep(pause_s)

    return SqlProjection(name="ledger", create=create_ledger, apply=apply)


def mail(handle: Callable[[RecordedEvent[Any]], Any], **changes: Any) -> Consumer:
    arguments: dict[str, Any] = {
        "name": "mail",
        "handle": handle,
        "key": lambda event: event.stream,
        "checkpoint_events": 10,
    }
    return Consumer(**arguments | changes)


def app_of(*subscribers: Any) -> App:
    return App(
        codec=CODEC,
        projections=[each for each in subscribers if not isinstance(each, Consumer)],
        consumers=[each for each in subscribers if isinstance(each, Consumer)],
    )


def random_event(random: Random) -> Event[Any]:
    account, other = (f"{'x' * random.randrange(BUCKETS)}{random.randrange(9)}" for _ in "ab")
    data: Any = Deposited(account, Decimal(random.randrange(10_000)) / 100)
    kind = random.random()
    if kind < 0.3:
        data = Moved(account, other, Decimal(random.randrange(10_000)) / 100)
    elif kind < 0.4:
        data = Closed(account)
    elif kind < 0.5:
        data = Noted("nothing that matters")
    return Event(f"account-{account}", data)


def append_random(es: EventStore, random: Random, events: int) -> str:
    """The token of the last of `events` appended events."""
    token = ""
    for start in range(0, events, 200):
        some = [random_event(random) for _ in range(min(200, events - start))]
        token = es.append(some).token
    return token


def wait_for_all(es: EventStore, app: App) -> None:
    """Return when everything shows in every projection."""
    token = es.append([Event("end-1", Noted("the end"))]).token
    for each in app.projections:
        es.view(each).wait(token, timeout_s=STUCK_S)


def expected_totals(log: Iterable[RecordedEvent[Any]]) -> dict[str, tuple[Decimal, int]]:
    sums: dict[str, tuple[Decimal, int]] = defaultdict(lambda: (Decimal(0), 0))
    for each in log:
        amount, events = sums[each.stream]
        sums[each.stream] = amount + getattr(each.data, "amount", Decimal(0)), events + 1
    return dict(sums)


def expected_holdings(log: Iterable[RecordedEvent[Any]]) -> dict[str, tuple[Decimal, int]]:
    found: dict[str, tuple[Decimal, int]] = {}

    def add(account: str, amount: Decimal) -> None:
        before, events = found.get(account, (Decimal(0), 0))
        found[account] = before + amount, events + 1

    for each in log:
        match each.data:
            case Deposited(account, amount):
                add(account, amount)
            case Moved(source, target, amount) if source == target:
                add(source, Decimal(0))
            case Moved(source, target, amount):
                add(source, -amount)
                add(target, amount)
            case Closed(account):
                found.pop(account, None)
    return found


def expected_ledger(log: Iterable[RecordedEvent[Any]]) -> list[tuple[int, int, int]]:
    found: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for each in log:
        bucket, cents = bucket_and_cents(each)
        found[bucket] = found[bucket][0] + cents, found[bucket][1] + 1
    return sorted((bucket, *sums) for bucket, sums in found.items())


def check_rows(es: EventStore, *names: str) -> None:
    """Each read model is what a plain fold of the log comes to. Numbers only: no order helps."""
    log = list(es.read())
    if "totals" in names:
        rows = es.view(totals()).find(limit=10_000)
        assert {each.stream: (each.amount, each.events) for each in rows} == expected_totals(log)
    if "holdings" in names:
        check_rows_of(es, holdings())
    if "ledger" in names:
        sums = es.view(ledger()).sql("SELECT bucket, cents, events FROM ledger ORDER BY bucket")
        assert [tuple(each.values()) for each in sums] == expected_ledger(log)


def check_rows_of(es: EventStore, of: Projection[Holding]) -> None:
    found = {each.account: (each.amount, each.events) for each in es.view(of).find(limit=10_000)}
    assert found == expected_holdings(es.read())


def check_delivered(log: Sequence[RecordedEvent[Any]], positions: Sequence[int]) -> None:
    """At least once, and in order: whatever is new comes after all that came before."""
    first = list(dict.fromkeys(positions))
    assert first == sorted(first), "something came too early"
    assert first == [each.position for each in log]


def builds_of(es: EventStore, name: str) -> list[Build]:
    return es._projecting.database.read(lambda tx: catalog.builds(tx, name))


def progress_of(es: EventStore, name: str) -> list[Progress]:
    """Of all partitions of all builds of a name."""

    def look(tx: Any) -> list[Progress]:
        found = catalog.builds(tx, name)
        return [each for build in found for each in catalog.progress(tx, build.id)]

    return es._projecting.database.read(look) if es._projecting.database.read(_is_there) else []


_is_there = catalog.is_prepared


def eventually(condition: Callable[[], Any], what: str = "it") -> Any:
    """What the condition says once that is true."""
    deadline_s = time.monotonic() + STUCK_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"{what} does not come to pass"
        time.sleep(0.01)
    return found


class Worker:
    """Such a process, seen from outside."""

    def __init__(self, log: str, views: str, options: Options = Options()) -> None:  # noqa: B008
        text = msgspec.json.encode(options).decode()
        self.process = subprocess.Popen(
            [sys.executable, __file__, log, views, text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self.process.pid
        self.delivered: list[int] = []

    def begun(self) -> Worker:
        assert self.process.stdout
        while (line := self.process.stdout.readline()) != b"running\n":
            self.delivered.append(int(line))
        return self

    def read(self, lines: int, last: int) -> None:
        """See so many deliveries, or those up to the position `last`."""
        assert self.process.stdout
        while lines > 0 and (not self.delivered or self.delivered[-1] < last):
            self.delivered.append(int(self.process.stdout.readline()))
            lines -= 1

    def kill(self) -> list[int]:
        """All that it has delivered."""
        assert self.process.stdout
        self.process.kill()
        # A line that was cut off is part of a delivery that was made.
        rest = [line for line in self.process.stdout if line.endswith(b"\n")]
        self.delivered += [int(line) for line in rest if line != b"running\n"]
        self.process.wait()
        self.close()
        return self.delivered

    def stop(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(STUCK_S) == 0
        self.close()

    def close(self) -> None:
        for each in (self.process.stdin, self.process.stdout):
            assert each
            each.close()


@contextmanager
def workers(log: str, views: str, *options: Options) -> Iterator[list[Worker]]:
    """Workers that have begun. Those that are left at the end are killed."""
    found = [Worker(log, views, each) for each in options]
    try:
        yield [each.begun() for each in found]
    finally:
        for each in found:
            if each.process.poll() is None:
                each.kill()
            each.close()


def tell(event: RecordedEvent[Any]) -> None:
    os.write(1, b"%d\n" % event.position)


def main(log: str, views: str, text: str) -> None:
    logging.basicConfig(level=logging.WARNING, format=f"{os.getpid()} %(message)s")
    options = msgspec.json.decode(text, type=Options)
    catalog.LEASE_S = running.LEASE_S = options.lease_s
    postgres_database.IDLE_S = 2 * options.lease_s
    pacing.BATCH_EVENTS_MAX = options.batch_events
    pacing.BATCH_EVENTS_MIN = max(options.batch_events // 10, 1)

    def handle(event: RecordedEvent[Any]) -> None:
        tell(event)
        time.sleep(options.pause_s)

    app = app_of(
        totals(version=options.version),
        holdings(version=options.version),
        ledger(options.pause_s),
        mail(handle),
    )
    swap: Any = options.swap
    with leftfold.open(log, app, views=views) as es, es.running(only=options.only, swap=swap):
        os.write(1, b"running\n")
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
