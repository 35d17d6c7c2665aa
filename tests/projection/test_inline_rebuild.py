"""Rebuilds of inline projections that are interrupted, and those that wait for each other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from inline_worker import APP, CODEC, check, moved
from running_support import Told, eventually

import leftfold
from leftfold import EventStore, InvalidInput
from leftfold.projection import catalog, registering
from leftfold.projection.registering import Registering

LOOKS = 100
"""A number that is doubled so often is too large for any database."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("server").new_log())


@pytest.fixture
def told() -> Iterator[Told]:
    told, logger = Told(), logging.getLogger("leftfold")
    level = logger.level
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    yield told
    logger.removeHandler(told)
    logger.setLevel(level)


class Killed(BaseException):
    pass


def rebuild_and_die(es: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All events are applied, and nothing is swapped in."""

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Registering, "_finish", die)
        with pytest.raises(Killed):
            es.projections.rebuild("balances")


def test_what_an_interrupted_rebuild_leaves_is_not_swapped_in(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leftfold.open(url, APP) as es:
        es.append([moved(1, "a")])
        rebuild_and_die(es, monkeypatch)
        assert [each.state for each in es.projections.status("balances")] == [
            "serving",
            "building",
        ]
        for flow in (es.projections.swap, es.projections.rollback):
            with pytest.raises(InvalidInput, match=r"inline.*rebuild"):
                flow("balances")
        es.append([moved(2, "a")])
        check(es)
        es.projections.rebuild("balances")
        assert [each.state for each in es.projections.status("balances")] == ["serving"]
        es.append([moved(3, "a")])
        check(es)


def test_who_waits_for_another_process_says_so_and_waits_as_long_as_it_takes(
    url: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registering, "PAUSE_S", 0.0005)
    looks: list[None] = []
    claimed = Registering._claimed

    def look(self: Any, tx: Any) -> Any:
        looks.append(None)
        return claimed(self, tx)

    with leftfold.open(url, CODEC) as plain:
        plain.append([moved(1, "a", "b") for _ in range(10)])
    with leftfold.open(url, APP) as before, monkeypatch.context() as patched:
        database: Any = before._projecting.log_database
        before.append([moved(1, "c")])
        # Somebody is at it: the build is not demanded of appends, so it is not complete.
        log: Any = before._projecting.inline_log
        database.write(lambda tx: registering.lift(log, tx, "balances"))
        held = database.write(lambda tx: catalog.claim(tx, serving(tx), 0, "somebody"))
        patched.setattr(Registering, "_claimed", look)
        opened: list[EventStore] = []
        thread = threading.Thread(target=lambda: opened.append(leftfold.open(url, APP)))
        thread.start()
        eventually(lambda: len(looks) > LOOKS, "it looks again and again")
        assert told.has("balances: somebody builds it, and is waited for")
        database.write(lambda tx: catalog.release(tx, held))
        thread.join()
        assert len(opened) == 1, "it was opened"
        opened[0].append([moved(1, "d")])
        check(opened[0])
        opened[0].close()


def serving(tx: Any) -> int:
    (build,) = (each for each in catalog.builds(tx, "balances") if each.state == "serving")
    return build.id


def test_the_rest_that_all_wait_for_is_limited(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    async def attempt(self: Any, claimed: Any, rest_max: int) -> Any:
        tried.append(rest_max)
        if len(tried) > LOOKS:
            raise Killed

    monkeypatch.setattr(Registering, "_attempt", attempt)
    with pytest.raises(Killed):
        leftfold.open(url, APP)
    assert tried[:3] == [500, 1000, 2000]
    assert tried[-1] == registering.REST_EVENTS_LIMIT
