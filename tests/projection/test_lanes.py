"""A worker is given events of several lanes at a time, and nothing else changes for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import projection_worker as bank
import pytest
from projection_worker import eventually
from running_support import Places, places_on

import leftfold
from leftfold import Event, ProjectionRefused
from leftfold.errors import StoreUnavailable
from leftfold.event import RecordedEvent
from leftfold.projection import consuming
from leftfold.projection.catalog import Failure
from leftfold.projection.definition import Worker
from leftfold.projection.folding import Control
from leftfold.projection.lanes import Lane, Lanes, Pass, Unit
from leftfold.projection.status import QuarantinedKey

TOGETHER = 3
PATIENCE_S = 30.0


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consuming, "PAUSE_MIN_S", 0.01)


def stream(event: RecordedEvent[Any]) -> str:
    return event.stream


def lane(unit: Unit) -> str | None:
    """Each stream is a lane but one, whose events are of none."""
    return None if unit[0].stream == "account-alone" else unit[0].stream


def worker(handle: Any, **changes: Any) -> Worker:
    given: dict[str, Any] = {
        "handle": handle,
        "key": stream,
        "lane": lane,
        "lanes_max": TOGETHER,
        "tick": lambda position: None,
        "not_of_events": (StoreUnavailable,),
        "on_failure": "quarantine",
        "attempts_max": 2,
    }
    return Worker("mail", **(given | changes))


def noted(text: object, stream: str) -> Event[Any]:
    return Event(f"account-{stream}", bank.Noted(str(text)))


def events_of(*streams: str) -> list[RecordedEvent[Any]]:
    with leftfold.open("memory://", bank.app_of()) as es:
        es.append([noted(number, each) for number, each in enumerate(streams)])
        return [*es.read()]


def divided(events: list[RecordedEvent[Any]], **changes: Any) -> list[list[list[str]]]:
    """The streams of what is delivered, by lanes that are independent of each other."""
    lanes = Lanes(worker(print, **changes))

    def names(lane: Lane) -> list[str]:
        return [unit[0].stream.removeprefix("account-") for _, unit in lane]

    return [[names(lane) for lane in some] for some in lanes.of(lanes.units(events))]


def test_lanes_are_divided_by_what_is_of_none() -> None:
    events = events_of("a", "b", "a", "alone", "b", "b")
    assert divided(events) == [[["a", "a"], ["b"]], [["alone"]], [["b", "b"]]]


def test_one_at_a_time_is_one_lane() -> None:
    events = events_of("a", "b", "a", "alone")
    assert divided(events, lanes_max=1) == [[["a", "b", "a", "alone"]]]


def passed(*delivered: int, failed: Sequence[int] = ()) -> Pass:
    """What came of three events at the positions from 1 on."""
    found = Pass(Control(), [(each,) for each in events_of("a", "b", "c")])
    found.delivered |= {each - 1 for each in delivered}
    found.failures += [Failure(each, "", 0, "", "", "poison", 1, 0) for each in failed]
    return found


def test_all_before_the_first_failure_is_still_delivered() -> None:
    found = passed(failed=[3, 2])
    assert [found.may_go_on(each) for each in (1, 2, 3)] == [True, False, False]
    found.errors.append(StoreUnavailable("for a while"))
    assert not found.may_go_on(1)


@pytest.mark.parametrize(
    ("delivered", "failed", "expected"),
    [
        ([1, 2, 3], [], (None, 7)),
        ([1, 3], [2], (2, 1)),
        ([2, 3], [], (None, 0)),
        ([1], [3, 2], (2, 1)),
        ([2], [3], (None, 0)),
    ],
)
def test_the_failure_that_counts_is_that_of_the_first_event_that_was_not_delivered(
    delivered: list[int], failed: list[int], expected: tuple[int | None, int]
) -> None:
    failure, until = passed(*delivered, failed=failed).end(7)
    assert (failure and failure.position, until) == expected


def test_so_many_are_handled_at_the_same_time(places: Places) -> None:
    together = threading.Barrier(TOGETHER)
    met: list[str] = []

    def handle(event: RecordedEvent[Any]) -> None:
        together.wait(PATIENCE_S)
        met.append(event.stream)

    app = bank.app_of(worker(handle))
    with leftfold.open(places.log, app, views=places.views) as es:
        es.append([noted(1, each) for each in "abc"])
        with es.running():
            eventually(lambda: len(met) == TOGETHER)


def test_so_many_coroutines_are_awaited_at_the_same_time(tmp_path: Path) -> None:
    async def main() -> None:
        waiting: list[str] = []
        all_there = asyncio.Event()

        async def handle(event: RecordedEvent[Any]) -> None:
            waiting.append(event.stream)
            if len(waiting) == TOGETHER:
                all_there.set()
            await all_there.wait()

        url = f"sqlite:///{tmp_path}/log.db"
        async with await leftfold.aopen(url, bank.app_of(worker(handle))) as es:
            await es.append([noted(1, each) for each in "abcd"])
            async with es.running():
                await asyncio.wait_for(all_there.wait(), PATIENCE_S)

    asyncio.run(main())


def test_no_more_than_so_many_and_none_beside_one_of_no_lane(places: Places) -> None:
    mutex, now, most = threading.Lock(), [""], []
    random = Random(1)
    done: list[str] = []

    def handle(event: RecordedEvent[Any]) -> None:
        with mutex:
            now.append(event.stream)
            most.append([*now])
        threading.Event().wait(random.random() / 200)
        with mutex:
            now.remove(event.stream)
            done.append(event.stream)

    app = bank.app_of(worker(handle))
    given = [noted(number, random.choice([*"abcdef", "alone"])) for number in range(100)]
    with leftfold.open(places.log, app, views=places.views) as es:
        es.append(given)
        with es.running():
            eventually(lambda: len(done) == len(given))
    assert max(map(len, most)) <= TOGETHER + 1
    assert all(len(each) == 2 for each in most if "account-alone" in each)
    assert all(len(set(each)) == len(each) for each in most)


class Chaotic:
    """Handles events, with failures that pass, and those of some events that do not."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.poison: set[str] = set()
        self.handled: dict[str, list[int]] = {}
        self.mutex = threading.Lock()

    def __call__(self, event: RecordedEvent[Any]) -> None:
        with self.mutex:
            chance = self.random.random()
            threading.Event().wait(chance / 2000)
            if chance < 0.05:
                raise StoreUnavailable("for a while")
            if event.data.text in self.poison:
                raise ValueError("poison")
            self.handled.setdefault(event.stream, []).append(event.position)


def first_times(positions: list[int]) -> list[int]:
    return [*dict.fromkeys(positions)]


def is_mended(es: leftfold.EventStore) -> bool:
    with suppress(ProjectionRefused):
        es.projections.retry("mail")
    return not waiting_of(es)


def waiting_of(es: leftfold.EventStore) -> list[QuarantinedKey]:
    return es.projections.quarantine("mail")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_fails_each_event_comes_and_those_of_a_lane_in_order(
    places: Places, seed: int
) -> None:
    random = Random(seed)
    handle = Chaotic(seed)
    app = bank.app_of(worker(handle, checkpoint_events=10))
    given = [noted(number, random.choice([*"abcdef", "alone"])) for number in range(150)]
    handle.poison = {"40", "90"}
    with leftfold.open(places.log, app, views=places.views) as es:
        es.append(given)
        log: dict[str, list[int]] = {}
        for each in es.read():
            log.setdefault(each.stream, []).append(each.position)
        with es.running():
            eventually(lambda: es.projections.status("mail")[0].events_behind == 0)
            assert es.projections.status("mail")[0].events == len(given)
            waits = {each.failure.stream: each for each in waiting_of(es)}
            assert set(waits) == {given[40].stream, given[90].stream}
            for name, positions in log.items():
                found = waits.get(name)
                after = [each for each in positions if found and each >= found.failure.position]
                assert found is None or found.waiting == len(after)
                assert first_times(handle.handled[name]) == positions[: len(positions) - len(after)]
            handle.poison = set()
            eventually(lambda: is_mended(es))
    assert {name: first_times(found) for name, found in handle.handled.items()} == log
