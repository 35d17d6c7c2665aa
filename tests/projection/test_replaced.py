"""Code that was replaced does not come back by itself, however many workers still have it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import projection_worker as bank
import pytest
from projection_worker import eventually
from running_support import Places, Told, places_on

import leftfold
from leftfold import Event, EventStore, Projection

NOTED = Event("account-1", bank.Noted("one"))
OLD, NEW, NEWEST = (bank.totals(version=version) for version in (1, 2, 3))
# Of one version, and other code each.
FIRST, SECOND, THIRD = (
    bank.totals(),
    bank.totals(key=lambda event: event.stream.strip()),
    bank.totals(key=lambda event: str(event.stream)),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    return places_on(request.param, request, tmp_path)


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    logging.getLogger("leftfold").addHandler(told)
    yield told
    logging.getLogger("leftfold").removeHandler(told)


@contextmanager
def opened(places: Places, *codes: Projection[Any]) -> Iterator[list[EventStore]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(leftfold.open(places.log, bank.app_of(code), views=places.views))
            for code in codes
        ]


def states(es: EventStore) -> dict[int, tuple[int, str]]:
    return {each.id: (each.version, each.state) for each in bank.builds_of(es, "totals")}


def serving(es: EventStore) -> int:
    (found,) = (each.id for each in bank.builds_of(es, "totals") if each.state == "serving")
    return found


def deploy(es: EventStore, build: int) -> None:
    """Run code until its build serves."""
    with es.running():
        eventually(lambda: serving(es) == build, f"build {build} serves")


def stands_by(es: EventStore) -> bool:
    return any(each.stands_by for each in es.projections.status("totals"))


def lines(told: Told) -> int:
    return sum("stands by" in each for each in told.lines)


def test_old_code_that_is_still_at_work_stands_by(places: Places, told: Told) -> None:
    with opened(places, OLD, NEW) as (old, new), old.running(), new.running():
        old.append([NOTED])
        eventually(lambda: (2, "serving") in states(new).values())
        new.projections.drop("totals", build=1)
        # It has lost its build, and looks for another each second.
        eventually(lambda: told.has("stands by"))
        # Another one that begins has looked when this returns, and still there is none.
        with old.running():
            assert states(old) == {2: (2, "serving")}
        assert lines(told) == 2
        (found,) = old.projections.status("totals")
        assert (found.is_current, found.stands_by) == (False, True)
        assert not stands_by(new)
        assert old.view(OLD).count() == 1


def test_a_rebuild_of_the_new_code_does_not_bring_back_the_old(places: Places, told: Told) -> None:
    with opened(places, OLD, NEW) as (old, new), old.running():
        old.append([NOTED])
        deploy(new, 2)
        new.projections.rebuild("totals")
        deploy(new, 3)
        eventually(lambda: told.has("stands by"))
        assert states(old) == {2: (2, "retired"), 3: (2, "serving")}


def test_code_of_a_lower_version_makes_no_build(places: Places) -> None:
    with opened(places, OLD, NEW) as (old, new):
        old.append([NOTED])
        with new.running():
            assert not stands_by(new)
        assert stands_by(old)
        with old.running():
            assert states(old) == {1: (2, "serving")}


def test_code_that_was_replaced_comes_back_by_a_rebuild_only(places: Places) -> None:
    with opened(places, FIRST, SECOND, THIRD) as (first, second, third):
        first.append([NOTED])
        for number, es in enumerate((first, second, third), 1):
            assert not stands_by(es)
            deploy(es, number)
        assert [stands_by(es) for es in (first, second, third)] == [True, False, False]
        with first.running():
            assert states(first) == {2: (1, "retired"), 3: (1, "serving")}
        first.projections.rebuild("totals")
        assert not stands_by(first)
        deploy(first, 4)
        assert states(first) == {3: (1, "retired"), 4: (1, "serving")}
        # Now it is the second one that was replaced.
        assert [stands_by(es) for es in (first, second, third)] == [False, True, False]


def test_a_rebuild_ends_it_also_where_it_comes_to_nothing(places: Places) -> None:
    with opened(places, FIRST, SECOND) as (first, second):
        first.append([NOTED])
        deploy(first, 1)
        deploy(second, 2)
        first.projections.drop("totals", build=1)
        build = first.projections.rebuild("totals")
        first.projections.drop("totals", build=build.id)
        assert not stands_by(first)


def test_what_is_dropped_as_a_whole_is_begun_by_any_code(places: Places) -> None:
    with opened(places, FIRST, SECOND) as (first, second):
        first.append([NOTED])
        deploy(first, 1)
        deploy(second, 2)
        first.projections.drop("totals", build=1)
        assert stands_by(first)
        first.projections.drop("totals")
        deploy(second, 3)
        assert not stands_by(first)
        deploy(first, 4)


def test_code_whose_build_never_served_was_not_replaced(places: Places) -> None:
    with opened(places, FIRST, SECOND) as (first, second):
        first.append([NOTED])
        deploy(first, 1)
        build = second.projections.rebuild("totals")
        second.projections.drop("totals", build=build.id)
        assert not stands_by(second)
        deploy(second, 3)


def test_a_slow_build_of_older_code_does_not_take_over(places: Places) -> None:
    with opened(places, OLD, NEW, NEWEST) as (old, new, newest):
        old.append([NOTED])
        deploy(old, 1)
        new.projections.rebuild("totals")
        deploy(newest, 3)
        with new.running():
            eventually(lambda: states(new)[2] != (2, "building"))
        assert states(new) == {1: (1, "retired"), 2: (2, "ready"), 3: (3, "serving")}
        # Whoever wants it says so.
        assert new.projections.swap("totals").id == 2
