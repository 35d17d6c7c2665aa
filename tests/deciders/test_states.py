"""States that are shared, copied and kept in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from decider_bank import ACCOUNT
from msgspec import Struct
from msgspec.structs import replace

from leftfold import Decider, Snapshots
from leftfold.cache import Cached, StateCache
from leftfold.snapshot import fingerprint
from leftfold.states import is_frozen, isolated

SNAPPED = replace(ACCOUNT, snapshots=Snapshots(every=10))


def test_the_cache_keeps_the_states_that_were_used_last() -> None:
    cache = StateCache(2)
    for key, version in (("a", 1), ("b", 1), ("a", 2), ("a", 1), ("b", 2)):
        cache.put(ACCOUNT, key, Cached([version], version))
    assert cache.get(ACCOUNT, "a") == Cached([2], 2)  # a later state is not forgotten
    cache.put(ACCOUNT, "c", Cached([1], 1))
    assert cache.get(ACCOUNT, "b") is None
    assert cache.get(ACCOUNT, "a") is not None
    assert cache.get(SNAPPED, "a") is None
    cache.put(ACCOUNT, "d", Cached([1], 1))
    assert cache.get(ACCOUNT, "c") is None


def test_a_cached_state_is_nobodys_own() -> None:
    cache, mine = StateCache(2), [1]
    cache.put(ACCOUNT, "a", Cached(mine, 1))
    mine.append(2)
    first = cache.get(ACCOUNT, "a")
    assert first is not None
    assert first.state == [1]
    first.state.append(2)
    assert cache.get(ACCOUNT, "a") == Cached([1], 1)


class Frozen(Struct, frozen=True):
    inner: Any = None


class Thawed(Struct):
    inner: int = 0


@dataclass(frozen=True)
class FrozenData:
    inner: Any = None


class Subclass(FrozenData):
    """Takes other attributes."""


class Colour(Enum):
    RED = "red"


RED, NESTED = FrozenData(Colour.RED), Frozen((Frozen([]),))


@pytest.mark.parametrize(
    "value",
    [None, 1, "a", Decimal(1), (), (1, "a"), frozenset({1}), Frozen(), Frozen((1, Frozen(2))), RED],
)
def test_frozen_values_are_shared(value: Any) -> None:
    assert is_frozen(value)
    assert isolated(value) is value


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        set(),
        Thawed(),
        Frozen([1]),
        Frozen(Thawed()),
        FrozenData({}),
        (1, [2]),
        NESTED,
        Subclass(),
    ],
)
def test_others_are_copied(value: Any) -> None:
    assert not is_frozen(value)
    assert isolated(value) is not value
    assert isolated(value) == value


def test_fingerprints() -> None:
    first, second = (lambda state, event: state + 1), (lambda state, event: state + 2)

    def sets(state: int, event: object) -> int:
        return state if event in {"a", "b", "c"} else state + 1

    base = Decider(
        "n", initial_state=0, decide=lambda c, s: [], evolve=first, snapshots=Snapshots()
    )
    prints = {
        fingerprint(each)
        for each in (
            base,
            replace(base, evolve=second),
            replace(base, evolve=sets),
            replace(base, initial_state="", evolve=first),
            replace(base, category="m"),
            replace(base, snapshots=Snapshots(version=2)),
        )
    }
    assert len(prints) == 6
    assert fingerprint(base) == fingerprint(replace(base, snapshots=Snapshots(every=7)))


def test_fingerprints_are_the_same_in_each_process() -> None:
    script = """
from leftfold import Decider, Snapshots
from leftfold.cache import Cached, StateCache
from leftfold.snapshot import fingerprint
from leftfold.states import is_frozen, isolated

def evolve(state, event):
    return state if event in {"a", "b", "c", "d", "e"} else (lambda: state + 1)()

print(fingerprint(Decider("n", initial_state=0, evolve=evolve, snapshots=Snapshots())))
"""
    prints = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(prints) == 1


def test_a_state_that_answers_to_every_name_is_copied() -> None:
    class Bag(dict[str, Any]):
        def __getattr__(self, name: str) -> Any:
            return self.get(name)

    bag = Bag(a=[1])
    assert isolated(bag) == bag
    assert isolated(bag) is not bag
