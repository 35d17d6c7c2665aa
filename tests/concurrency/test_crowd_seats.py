"""Many callers enrol students in courses at once. What each decision depends on is a query over
tags: a course is never overbooked, and no seat is left that somebody was refused.
"""

import asyncio
import sys
from collections.abc import Iterator
from itertools import islice

import crowd_worker as crowd
import pytest
import seats_worker as seats
from concurrent_worker import STUCK_S, Threads
from msgspec import structs
from seats_worker import COURSES, OPTIONS, SEATS, Enrol, Told

import leftfold
from leftfold import Metadata
from leftfold.testing.faults import seeds

CALLERS = 32

schemes = pytest.mark.parametrize("scheme", ["memory", "sqlite"])
options = pytest.mark.parametrize("options", OPTIONS)


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Threads take turns more often than they usually do, also in the middle of a function."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@schemes
@options
def test_a_course_gets_exactly_as_many_students_as_it_has_seats(tmp_path, scheme, options):
    decider, cached = OPTIONS[options]
    url = crowd.url_of(scheme, tmp_path)
    told: list[Told] = []
    with leftfold.open(url, seats.CODEC, cached_states_max=cached) as es:

        def run(number: int) -> None:
            mine = [Enrol(f"student {number}.{step}", "art") for step in range(3)]
            told.extend(seats.enrol(es, decider, each) for each in mine)

        Threads([lambda number=number: run(number) for number in range(CALLERS)]).join()
        enrolled = seats.check(es.read(), told)
    assert enrolled["art"] == SEATS == sum(each.position > 0 for each in told)
    assert len(told) == CALLERS * 3


@schemes
@options
def test_threads_break_no_rule(tmp_path, scheme, options):
    decider, cached = OPTIONS[options]
    for seed in seeds(1):
        (tmp_path / f"{seed}").mkdir()
        url = crowd.url_of(scheme, tmp_path / f"{seed}")
        told: list[Told] = []
        with leftfold.open(url, seats.CODEC, cached_states_max=cached) as es:

            def run(number: int, seed=seed, es=es, told=told) -> None:
                for command in islice(seats.wishes(f"{number}", seed), 15):
                    told.append(seats.enrol(es, decider, command))

            Threads([lambda number=number: run(number) for number in range(CALLERS)]).join()
            enrolled = seats.check(es.read(), told)
            check_states(es, decider)
        assert len(told) == CALLERS * 15
        assert {each.refusal for each in told} >= {"", "too many courses", "the course is full"}
        assert [enrolled[course] for course in COURSES] == [SEATS] * len(COURSES)


def check_states(es: leftfold.EventStore, decider) -> None:
    """The states of the decider, cached or from snapshots, are what the log says."""
    for student in range(40):
        query = seats.boundary(Enrol(f"student {student}", COURSES[student % 4]))
        pairs = tuple((event.data.student, event.data.course) for event in es.read(query))
        assert es.state(decider, query).pairs == pairs


@options
def test_tasks_break_no_rule(tmp_path, options):
    decider, cached = OPTIONS[options]

    async def run(es: leftfold.AsyncEventStore, caller: str, seed: int) -> list[Told]:
        told = []
        for command in islice(seats.wishes(caller, seed), 12):
            try:
                reply = await es.handle(decider, seats.boundary(command), command)
                told.append(Told(command, "", reply.version, reply.position))
            except seats.Refused as refused:
                told.append(Told(command, str(refused)))
        return told

    async def run_all(url: str, seed: int) -> tuple[list[Told], list]:
        async with await leftfold.aopen(url, seats.CODEC, cached_states_max=cached) as es:
            async with asyncio.timeout(STUCK_S):
                answers = await asyncio.gather(*(run(es, f"{n}", seed) for n in range(CALLERS)))
            return [told for each in answers for told in each], [each async for each in es.read()]

    for seed in seeds(1):
        (tmp_path / f"{seed}").mkdir()
        told, log = asyncio.run(run_all(crowd.url_of("sqlite", tmp_path / f"{seed}"), seed))
        assert len(told) == CALLERS * 12
        assert 0 < sum(each.position > 0 for each in told) == len(log)
        seats.check(log, told)


@options
def test_threads_of_processes_break_no_rule(tmp_path, options):
    decider, cached = OPTIONS[options]
    for seed in seeds(1):
        (tmp_path / f"{seed}").mkdir()
        url = crowd.url_of("sqlite", tmp_path / f"{seed}")
        arguments = [(url, options, name, seed, 8, 10) for name in "abcd"]
        with crowd.processes(*arguments, script=seats.__file__) as running:
            told = [each for lines in crowd.said_by_all(running) for each in seats.heard(lines)]
            assert [process.wait(STUCK_S) for process in running] == [0, 0, 0, 0]
        assert len(told) == CALLERS * 10
        with leftfold.open(url, seats.CODEC, cached_states_max=cached) as es:
            seats.check(es.read(), told)
            check_states(es, decider)


@schemes
@options
def test_an_enrolment_sent_by_many_at_once_is_done_once(tmp_path, scheme, options):
    """While others enrol in the same course: what the first delivery saw is what all are told."""
    decider, cached = OPTIONS[options]
    wanted = [Enrol(f"student {number}", "art") for number in range(SEATS - 4)]
    replies: dict[str, set[object]] = {each.student: set() for each in wanted}
    with leftfold.open(crowd.url_of(scheme, tmp_path), seats.CODEC, cached_states_max=cached) as es:

        def send() -> None:
            for each in wanted:
                metadata = Metadata(command_id=each.student)
                reply = es.handle(decider, seats.boundary(each), each, metadata=metadata)
                replies[each.student].add(reply)

        def disturb(number: int) -> None:
            seats.enrol(es, decider, Enrol(f"other {number}", "art"))

        Threads([send] * 16 + [lambda number=number: disturb(number) for number in range(4)]).join()
        log = list(es.read())
        assert seats.check(log, ())["art"] == SEATS == len(log)
        check_states(es, decider)
    for each in wanted:
        [reply] = replies[each.student]
        [event] = [event for event in log if event.data.student == each.student]
        assert (reply.events, reply.position) == ((event.data,), event.position)
        assert reply.version == len(reply.state.pairs) == event.data.seen + 1


@schemes
@options
def test_a_delivery_that_is_overtaken_by_another_of_its_command_gets_what_that_one_got(
    tmp_path, scheme, options
):
    decider, cached = OPTIONS[options]
    command, metadata = Enrol("ada", "art"), Metadata(command_id="ada in art")
    query = seats.boundary(command)
    with leftfold.open(crowd.url_of(scheme, tmp_path), seats.CODEC, cached_states_max=cached) as es:
        overtaking: list[leftfold.Handled[seats.Enrolments]] = []

        def decide(late: Enrol, state: seats.Enrolments) -> list[seats.Enrolled]:
            if not overtaking:
                # Both between its load and its append: a stranger, and then the same command.
                seats.enrol(es, decider, Enrol("a stranger", "art"))
                overtaking.append(es.handle(decider, query, command, metadata=metadata))
            return seats.decide(late, state)

        slow = structs.replace(decider, decide=decide)
        reply = es.handle(slow, query, command, metadata=metadata)
        assert overtaking == [reply]
        assert reply.state.pairs == (("a stranger", "art"), ("ada", "art"))
        assert es.state(slow, query) == es.state(decider, query) == reply.state
        seats.check(es.read(), ())
