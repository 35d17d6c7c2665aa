"""Snapshots and cached states shorten loads, and change nothing else."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import apsw
import pytest
from decider_bank import ACCOUNT, CODEC, Account, Deposit, MoneyDeposited, deposit, withdraw
from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import (
    Aggregate,
    Codec,
    Decider,
    EventStore,
    EventType,
    InvalidInput,
    Snapshots,
    StoreClosed,
    Upcaster,
    select,
)

EVERY = 10
SNAPPED = replace(ACCOUNT, snapshots=Snapshots(every=EVERY))


def fill(es: EventStore, count: int, account: str = "1") -> None:
    es.append_to_stream(f"account-{account}", [MoneyDeposited(Decimal(1))] * count)


class Reads:
    """Counts the events that a store has read."""

    def __init__(self, es: EventStore) -> None:
        self.events = 0
        read = es.store.read

        async def counted(*args: Any, **kwargs: Any) -> Any:
            page = await read(*args, **kwargs)
            self.events += len(page)
            return page

        es.store.read = counted  # type: ignore[method-assign]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}?durability=may_lose_latest"


def kept(path: Path) -> list[int]:
    """The versions of the snapshots in the file."""
    connection = apsw.Connection(f"{path}-snapshots")
    return [
        version for (version,) in connection.execute("SELECT version FROM snapshots ORDER BY 1")
    ]


def test_a_load_that_folds_enough_events_takes_one(path: Path) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, EVERY - 1)
        es.load(SNAPPED, "1")
        fill(es, 1)
        es.load(SNAPPED, "1")
        es.load(SNAPPED, "1")
    assert kept(path) == [EVERY]
    with leftfold.open(url_of(path), CODEC) as es:
        for _ in range(EVERY + 1):
            es.handle(SNAPPED, "1", deposit(1))
        assert es.load(SNAPPED, "1").version == 2 * EVERY + 1
    # Until one is written, others may be taken.
    assert {EVERY, 2 * EVERY} <= set(kept(path))


def test_a_load_reads_only_what_came_after_the_snapshot(path: Path) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 1000)
        es.load(SNAPPED, "1")
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 3)
        reads = Reads(es)
        assert es.load(SNAPPED, "1").state.balance == 1003
        assert reads.events == 4  # the one that proves it, and what is new


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("cached", [0, 1, 10])
def test_they_change_no_state(url: str, every: int, cached: int) -> None:
    decider = replace(ACCOUNT, snapshots=Snapshots(every=every))
    with leftfold.open(url, CODEC, cached_states_max=cached) as es:
        for number in range(40):
            for account in ("1", "2"):
                command = withdraw(1) if number % 3 == 2 else deposit(number)
                reply = es.handle(decider, account, command)
                assert reply.state == es.state(ACCOUNT, account) == es.state(decider, account)
        moments = [event.recorded_at for event in es.read(select("account-1"))]
        for boundary in ("1", select("account-1", types=[MoneyDeposited])):
            plain = list(es.history(ACCOUNT, boundary))
            assert plain == list(es.history(decider, boundary))
            assert plain[11:] == list(es.history(decider, boundary, after=11))
            for at in (*range(len(plain)), *moments):
                assert es.load(decider, boundary, at=at) == es.load(ACCOUNT, boundary, at=at)


def test_the_nearest_one_before_a_time_is_used(path: Path) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        for _ in range(5):
            fill(es, 100)
            es.load(SNAPPED, "1")
    assert kept(path) == [100, 200, 300, 400, 500]
    with leftfold.open(url_of(path), CODEC) as es:
        moment = next(iter(es.read(select("account-1"), after=249))).recorded_at
        reads = Reads(es)
        assert es.load(SNAPPED, "1", at=250).state.balance == 250
        # The one that proves the snapshot, what came after it, and the last for a new snapshot.
        assert reads.events == 1 + 50 + 1
        assert es.load(SNAPPED, "1", at=moment).state.balance == 300
        assert es.load(SNAPPED, "1", at=300).version == 300


def test_a_policy_may_decide(path: Path) -> None:
    asked = []

    def often_when_rich(state: Account, events: int) -> bool:
        asked.append(events)
        return state.balance >= 3

    decider = replace(ACCOUNT, snapshots=Snapshots(every=often_when_rich))
    with leftfold.open(url_of(path), CODEC) as es:
        for _ in range(6):
            es.handle(decider, "1", deposit(1))
    assert kept(path) == [3, 4, 5]
    assert asked[:3] == [1, 2, 3]


def test_a_restored_log_does_not_meet_the_snapshots_of_its_future(path: Path) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 5)
    shutil.copy(path, f"{path}.backup")
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 20)
        assert es.state(SNAPPED, "1").balance == 25
    for left in (f"{path}-wal", f"{path}-shm"):
        Path(left).unlink(missing_ok=True)
    shutil.move(f"{path}.backup", path)
    with leftfold.open(url_of(path), CODEC) as es:
        assert kept(path) == [25]
        assert es.state(SNAPPED, "1").balance == 5
        es.append_to_stream("account-1", [MoneyDeposited(Decimal(2))] * 20)
        assert es.state(SNAPPED, "1").balance == 45
        assert es.handle(SNAPPED, "1", withdraw(45)).state.balance == 0


@pytest.mark.parametrize("boundary", ["1", select(tags=["owner:ada"])])
def test_what_does_not_decode_is_not_trusted(
    path: Path, boundary: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        es.append(
            [
                leftfold.Event("account-1", MoneyDeposited(Decimal(1)), tags=("owner:ada",))
                for _ in range(12)
            ]
        )
        es.load(SNAPPED, boundary)
    connection = apsw.Connection(f"{path}-snapshots")
    connection.execute("UPDATE snapshots SET data = x'00'")
    connection.close()
    with leftfold.open(url_of(path), CODEC) as es, caplog.at_level(logging.WARNING):
        assert es.state(SNAPPED, boundary).balance == 12
    assert "snapshot of" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"no database at all, but long enough to be one" * 40])
def test_a_damaged_file_means_no_snapshots(
    path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 12)
        es.load(SNAPPED, "1")
    for left in (f"{path}-snapshots-wal", f"{path}-snapshots-shm"):
        Path(left).unlink(missing_ok=True)
    Path(f"{path}-snapshots").write_bytes(damage)
    with leftfold.open(url_of(path), CODEC) as es:
        for balance in range(13, 30):
            assert es.handle(SNAPPED, "1", deposit(1)).state.balance == balance
    # Said once, and an empty file is as good as none.
    assert caplog.text.count("may be deleted") == (1 if damage else 0)


def test_a_directory_in_its_place_means_no_snapshots(path: Path) -> None:
    os.mkdir(f"{path}-snapshots")
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 12)
        assert es.state(SNAPPED, "1").balance == es.state(SNAPPED, "1").balance == 12


class Account2(Struct, frozen=True):
    owner: str = ""
    balance: Decimal = Decimal(0)
    deposits: int = 0


def test_a_snapshot_of_another_type_version_or_fold_is_not_used(path: Path) -> None:
    def evolve2(state: Account2, event: Any) -> Account2:
        return Account2(state.owner, state.balance + event.amount, state.deposits + 1)

    def doubled(state: Account, event: Any) -> Account:
        return Account(state.owner, state.balance + 2 * event.amount)

    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 15)
        es.load(SNAPPED, "1")
    with leftfold.open(url_of(path), CODEC) as es:
        other = replace(SNAPPED, initial_state=Account2(), evolve=evolve2)
        assert es.state(other, "1") == Account2("", Decimal(15), 15)
        assert es.state(replace(SNAPPED, evolve=doubled), "1").balance == 30
        newer = replace(SNAPPED, snapshots=Snapshots(every=EVERY, version=2))
        reads = Reads(es)
        es.load(newer, "1")
        assert reads.events == 15 + 1


def test_a_snapshot_from_before_an_upcaster_is_not_used(path: Path) -> None:
    class Paid(Struct, frozen=True):
        amount: int

    adding = Decider(
        "account",
        initial_state=0,
        evolve=lambda state, event: state + event.amount,
        snapshots=Snapshots(every=1),
    )
    with leftfold.open(url_of(path), Codec(Paid)) as es:
        es.append_to_stream("account-1", [Paid(1), Paid(2)])
        assert es.state(adding, "1") == 3
    cents = Upcaster("Paid", 1, lambda data: {"amount": data["amount"] * 100})
    with leftfold.open(url_of(path), Codec(EventType(Paid, version=2), upcasters=[cents])) as es:
        assert es.state(adding, "1") == 300


def test_a_state_that_does_not_come_back_equal_is_not_kept(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    decider = Decider(
        "account",
        initial_state={"sum": Decimal(0)},
        decide=lambda command, state: [],
        evolve=lambda state, event: {"sum": state["sum"] + event.amount},
        snapshots=Snapshots(every=1),
    )
    with leftfold.open(url, CODEC) as es:
        fill(es, 3)
        for _ in range(3):
            assert es.state(decider, "1") == {"sum": Decimal(3)}
    assert caplog.text.count("does not come back the same") == 1


def test_a_type_for_states_that_do_not_tell(path: Path) -> None:
    decider = Decider(
        "account",
        initial_state={"sum": Decimal(0)},
        decide=lambda command, state: [],
        evolve=lambda state, event: {"sum": state["sum"] + event.amount},
        snapshots=Snapshots(every=1, state_type=dict[str, Decimal]),
    )
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 3)
        assert es.state(decider, "1") == {"sum": Decimal(3)}
    assert kept(path) == [3]


def test_a_state_without_a_form_is_refused_at_once() -> None:
    class Plain:
        pass

    with pytest.raises(InvalidInput, match="cannot be kept as snapshots"):
        replace(ACCOUNT, initial_state=Plain(), snapshots=Snapshots())  # type: ignore[type-var]
    for every in (0, -1, True, "x", 1.5):
        with pytest.raises(InvalidInput, match="every"):
            Snapshots(every=every)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="version"):
        Snapshots(version="2")  # type: ignore[arg-type]


@dataclass
class Basket(Aggregate):
    amounts: list[Decimal] = field(default_factory=list)

    def put(self, amount: int) -> None:
        self.record(MoneyDeposited(Decimal(amount)))

    def apply(self, event: MoneyDeposited) -> None:
        self.amounts.append(event.amount)


@pytest.mark.parametrize("cached", [0, 5])
def test_aggregates_that_are_dataclasses(path: Path, cached: int) -> None:
    baskets = Basket.decider("basket", snapshots=Snapshots(every=2))
    with leftfold.open(url_of(path), CODEC, cached_states_max=cached) as es:
        for number in range(7):
            reply = es.handle(baskets, "1", lambda basket, n=number: basket.put(n))
            reply.state.amounts.append(Decimal(99))  # the caller's own copy
        assert es.state(baskets, "1").amounts == list(range(7))
        assert es.state(baskets, "1", at=5).amounts == list(range(5))
        steps = list(es.history(baskets, "1", after=4))
        assert [len(step.before.amounts) for step in steps] == [4, 5, 6]
        assert [len(step.after.amounts) for step in steps] == [5, 6, 7]
    assert kept(path)[0] == 2


def test_cached_states_see_foreign_writers(path: Path) -> None:
    with (
        leftfold.open(url_of(path), CODEC, cached_states_max=2) as es,
        leftfold.open(url_of(path), CODEC) as other,
    ):
        for number in range(1, 5):
            for account in ("1", "2", "3"):
                es.handle(ACCOUNT, account, deposit(1))
                other.handle(ACCOUNT, account, deposit(1))
                assert es.state(ACCOUNT, account).balance == 2 * number
        reads = Reads(es)
        assert es.state(ACCOUNT, "3").balance == 8
        assert reads.events == 0
        assert es.state(ACCOUNT, "1").balance == 8
        assert reads.events == 8


def test_a_cached_boundary_over_a_query_reads_on(es: EventStore, url: str) -> None:
    cached = EventStore(es.store, CODEC, cached_states_max=5)
    everything = select(category="account")
    for number in range(1, 6):
        fill(es, 1, str(number))
        assert cached.load(ACCOUNT, everything).version == number
        es.append([leftfold.Event("other-1", MoneyDeposited(Decimal(1)))])
    reads = Reads(es)
    assert cached.state(ACCOUNT, everything).balance == 5
    assert reads.events == 0


def test_snapshots_under_threads(path: Path) -> None:
    decider = replace(ACCOUNT, snapshots=Snapshots(every=3))
    with leftfold.open(url_of(path), CODEC) as es:

        def work() -> None:
            for number in range(20):
                es.handle(decider, str(number % 3), Deposit(Decimal(1)))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for account in ("0", "1", "2"):
            assert es.load(decider, account) == es.load(ACCOUNT, account)
        assert sum(es.state(decider, account).balance for account in ("0", "1", "2")) == 120


def test_a_closed_store_is_closed(url: str) -> None:
    es = leftfold.open(url, CODEC, cached_states_max=2)
    es.handle(SNAPPED, "1", deposit(1))
    es.close()
    es.close()
    for use in (es.load, es.state, lambda *key: list(es.history(*key))):
        with pytest.raises(StoreClosed):
            use(SNAPPED, "1")
    with pytest.raises(StoreClosed):
        es.handle(SNAPPED, "1", deposit(1))


def test_a_cached_state_takes_a_snapshot_once(url: str) -> None:
    with leftfold.open(url, CODEC, cached_states_max=5) as es:
        assert es._parts.snapshotting is not None
        store = es._parts.snapshotting._store
        keep, kept_at = store.keep, []

        def counted(key: str, make: Any) -> None:
            kept_at.append(key)
            keep(key, make)

        store.keep = counted  # type: ignore[method-assign]
        for _ in range(3 * EVERY + 5):
            es.handle(SNAPPED, "1", deposit(1))
            es.state(SNAPPED, "1")
        assert len(kept_at) == 3
