"""Snapshots are of no use rather than wrong: in what they are of, and in what becomes of them."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from functools import partial, wraps
from pathlib import Path
from typing import Any

import apsw
import pytest
from decider_bank import ACCOUNT, CODEC, Account, MoneyDeposited, deposit, withdraw
from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import Aggregate, Decider, EventStore, Metadata, Snapshots, select
from leftfold.snapshot import KEPT_MAX, fingerprint
from leftfold.states import is_same

SNAPPED = replace(ACCOUNT, snapshots=Snapshots(every=1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}?durability=may_lose_latest"


def fill(es: EventStore, count: int, amount: int = 1) -> None:
    es.append_to_stream("account-1", [MoneyDeposited(Decimal(amount))] * count)


def kept(path: Path) -> list[int]:
    connection = apsw.Connection(f"{path}-snapshots")
    return [
        version for (version,) in connection.execute("SELECT version FROM snapshots ORDER BY 1")
    ]


class Colour(StrEnum):
    RED = "red"


class Untold(Struct, eq=False):
    amount: Any = None


@dataclass
class Told:
    amount: Any = None


PRAGUE = timezone(timedelta(hours=2))
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Counter(a=1), {"a": 1}),
        (NOON, NOON.astimezone(PRAGUE)),
        (Colour.RED, "red"),
        (1, True),
        (1, 1.0),
        (Decimal(1), Decimal("1.0")),
        ([1], (1,)),
        ({"a": [Decimal(1)]}, {"a": [1]}),
        (frozenset({1}), frozenset({True})),
        (Told((1,)), Told([1])),
        (Untold(1), Untold(2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_values_that_can_be_told_apart(first: Any, second: Any) -> None:
    assert not is_same(first, second)
    assert is_same(first, first)
    assert is_same(second, second)


@pytest.mark.parametrize(
    "state", [Account("a", Decimal(1)), Untold(1), Told({"a": {1, 2}}), {"a": (1, None, NOON)}]
)
def test_values_that_cannot(state: Any) -> None:
    encoded = leftfold.decider.msgspec.msgpack.encode(state)
    kind = dict[str, tuple[int, None, datetime]] if isinstance(state, dict) else type(state)
    again = leftfold.decider.msgspec.msgpack.decode(encoded, type=kind)
    if isinstance(again, Told):
        again.amount["a"] = {*again.amount["a"]}
    assert is_same(state, again)


@pytest.mark.parametrize("initial", [Counter[str](), {"when": NOON.astimezone(PRAGUE)}])
def test_a_state_that_only_equals_what_is_kept_is_not_kept(
    path: Path, initial: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def count_up(state: Any, event: Any) -> Any:
        assert type(state) is type(initial)
        return type(state)({**state, "n": state.get("n", 0) + 1})

    snapshots = Snapshots(every=1, state_type=dict)
    decider = Decider("account", initial_state=initial, evolve=count_up, snapshots=snapshots)
    with leftfold.open(url_of(path), CODEC) as es, caplog.at_level(logging.WARNING):
        for number in range(1, 4):
            fill(es, 1)
            assert es.state(decider, "1")["n"] == number
    assert "does not come back the same" in caplog.text


def evolve_by(rate: int, state: int, event: Any) -> int:
    return state + rate


def by_partial(rate: int) -> Any:
    return partial(evolve_by, rate)


def by_closure(rate: Any) -> Any:
    return lambda state, event: state + rate


def by_default(rate: int) -> Any:
    def evolve(state: int, event: Any, rate: int = rate) -> int:
        return state + rate

    return evolve


def by_wrapping(rate: int) -> Any:
    inner = by_default(rate)

    @wraps(by_default)
    def outer(state: int, event: Any) -> int:
        return int(inner(state, event))

    return outer


@pytest.mark.parametrize(
    "make",
    [by_closure, by_default, by_wrapping, by_partial, lambda rate: by_closure(by_default(rate))],
)
def test_a_fingerprint_is_of_what_evolve_holds(make: Any) -> None:
    def decider(evolve: Any, initial: int = 0) -> Any:
        return Decider("n", initial_state=initial, evolve=evolve, snapshots=Snapshots())

    one, again, two = (fingerprint(decider(make(rate))) for rate in (1, 1, 2))
    assert one == again != two
    assert fingerprint(decider(make(1), initial=7)) != one


def test_a_fingerprint_is_of_what_an_aggregate_applies() -> None:
    def made(amount: int) -> Any:
        @dataclass
        class Wallet(Aggregate):
            balance: int = 0

            if amount == 1:

                def apply(self, event: Any) -> None:
                    self.balance += 1

            else:

                def apply(self, event: Any) -> None:
                    self.balance += 2

        return Wallet.decider("wallet", snapshots=Snapshots())

    assert fingerprint(made(1)) == fingerprint(made(1)) != fingerprint(made(2))


def test_another_history_with_the_same_command(path: Path) -> None:
    sent = Metadata(command_id="c-1")
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 1)
    shutil.copy(path, f"{path}.backup")
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 1, 1000)
        es.handle(SNAPPED, "1", deposit(5), metadata=sent)
        assert es.state(SNAPPED, "1").balance == 1006
    for left in (f"{path}-wal", f"{path}-shm"):
        Path(left).unlink(missing_ok=True)
    shutil.move(f"{path}.backup", path)
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 1, 2)
        es.handle(ACCOUNT, "1", deposit(5), metadata=sent)
        assert es.state(SNAPPED, "1").balance == 8


@pytest.mark.parametrize("boundary", ["1", select(category="account")])
def test_what_was_kept_of_another_history_is_forgotten(path: Path, boundary: Any) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 5)
    shutil.copy(path, f"{path}.backup")
    with leftfold.open(url_of(path), CODEC) as es:
        for _ in range(30):
            fill(es, 1)
            es.load(SNAPPED, boundary)
    for left in (f"{path}-wal", f"{path}-shm"):
        Path(left).unlink(missing_ok=True)
    shutil.move(f"{path}.backup", path)
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 1)
        assert es.load(SNAPPED, boundary).version == 6
    assert kept(path) == [6]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_looks_at_the_past_leave_the_latest_snapshot(path: Path, store: str) -> None:
    with leftfold.open("memory://" if store == "memory" else url_of(path), CODEC) as es:
        fill(es, KEPT_MAX + 50)
        es.load(SNAPPED, "1")
        for version in range(1, KEPT_MAX + 20):
            es.load(SNAPPED, "1", at=version)
        if store == "memory":
            assert es._parts.snapshotting is not None
            snapshots: Any = es._parts.snapshotting._store
            [versions] = snapshots._snapshots.values()
            assert max(versions) == KEPT_MAX + 50
            assert len(versions) == KEPT_MAX
    if store == "sqlite":
        assert kept(path)[-1] == KEPT_MAX + 50
        assert len(kept(path)) <= KEPT_MAX + 1


def test_a_second_delivery_loads_from_a_snapshot(path: Path) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 1000)
        es.load(SNAPPED, "1")
    with leftfold.open(url_of(path), CODEC) as es:
        sent = Metadata(command_id="c-1")
        first = es.handle(SNAPPED, "1", withdraw(1000), metadata=sent)
        read, events = es.store.read, []

        async def counted(*args: Any, **kwargs: Any) -> Any:
            page = await read(*args, **kwargs)
            events.extend(page)
            return page

        es.store.read = counted  # type: ignore[method-assign]
        assert es.handle(SNAPPED, "1", withdraw(1000), metadata=sent) == first
        assert len(events) < 20


def test_a_busy_file_means_no_snapshot_for_now(path: Path) -> None:
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 2)
        es.load(SNAPPED, "1")
    other = apsw.Connection(f"{path}-snapshots")
    other.execute("BEGIN EXCLUSIVE")
    with leftfold.open(url_of(path), CODEC) as es:
        fill(es, 2)
        assert es.load(SNAPPED, "1").version == 4
        other.execute("ROLLBACK")
        fill(es, 2)
        assert es.load(SNAPPED, "1").version == 6
    assert 6 in kept(path)


def test_aopen_remembers_states_too(path: Path) -> None:
    async def main() -> None:
        async with await leftfold.aopen(url_of(path), CODEC, cached_states_max=3) as es:
            await es.append_to_stream("account-1", [MoneyDeposited(Decimal(1))] * 9)
            assert (await es.load(ACCOUNT, "1")).version == 9
            read, pages = es.store.read, []

            async def counted(*args: Any, **kwargs: Any) -> Any:
                pages.append(len(await read(*args, **kwargs)))
                return []

            es.store.read = counted  # type: ignore[method-assign]
            assert (await es.load(ACCOUNT, "1")).version == 9
            assert pages == [0]
        es = await leftfold.aopen(url_of(path), CODEC)
        await es.load(SNAPPED, "1")
        await es.store.close()
        await es.close()

    asyncio.run(main())
