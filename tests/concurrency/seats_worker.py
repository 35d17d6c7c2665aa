"""A crowd that enrols students in courses: the boundary of each decision is a query over two tags.

Each event says how much was known when it was decided, so the log shows whether that was all. Run
as a process with: URL, options, name, seed, threads, steps.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from random import Random
from typing import Annotated

import msgspec
from concurrent_worker import Threads
from crowd_worker import tell
from msgspec import Struct, structs

import leftfold
from leftfold import Codec, Decider, EventStore, Query, RecordedEvent, Snapshots, Tag, select

SEATS = 12
COURSES_MAX = 2
COURSES = ("art", "biology", "chemistry", "drama")


class Enrol(Struct, frozen=True):
    student: str
    course: str


class Enrolled(Struct, frozen=True):
    student: Annotated[str, Tag()]
    course: Annotated[str, Tag()]
    seen: int
    """How many enrolments in this course, or of this student, were known."""


class Enrolments(Struct, frozen=True):
    """Those in one course, and those of one student."""

    pairs: tuple[tuple[str, str], ...] = ()


class Refused(Exception):
    pass


class Told(Struct, frozen=True):
    """What a caller was told of a command."""

    command: Enrol
    refusal: str = ""
    version: int = 0
    position: int = 0


def decide(command: Enrol, state: Enrolments) -> list[Enrolled]:
    if (command.student, command.course) in state.pairs:
        raise Refused("enrolled already")
    if sum(course == command.course for _, course in state.pairs) >= SEATS:
        raise Refused("the course is full")
    if sum(student == command.student for student, _ in state.pairs) >= COURSES_MAX:
        raise Refused("too many courses")
    return [Enrolled(command.student, command.course, len(state.pairs))]


def evolve(state: Enrolments, enrolled: Enrolled) -> Enrolments:
    return Enrolments((*state.pairs, (enrolled.student, enrolled.course)))


def boundary(command: Enrol) -> Query:
    course, student = f"course:{command.course}", f"student:{command.student}"
    return select(tags=[course]) | select(tags=[student])


CODEC = Codec(Enrolled)
PLAIN = Decider(
    "enrolment",
    initial_state=Enrolments(),
    decide=decide,
    evolve=evolve,
    stream=lambda enrolled: f"course-{enrolled.course}",
)
KEEPING = structs.replace(PLAIN, snapshots=Snapshots(every=3))
OPTIONS = {"plain": (PLAIN, 0), "snapshots": (KEEPING, 0), "cached": (PLAIN, 20)}
"""The decider, and how many states are cached."""


def wishes(caller: str, seed: int) -> Iterator[Enrol]:
    """Enrolments that a caller tries, for ever: of the same students as other callers."""
    random = Random(f"{seed} {caller}")
    while True:
        yield Enrol(f"student {random.randrange(40)}", random.choice(COURSES))


def enrol(es: EventStore, decider: Decider[Enrol, Enrolments, Enrolled], command: Enrol) -> Told:
    try:
        reply = es.handle(decider, boundary(command), command)
    except Refused as refused:
        return Told(command, str(refused))
    return Told(command, "", reply.version, reply.position)


def check(log: Iterable[RecordedEvent[Enrolled]], told: Iterable[Told]) -> Counter[str]:
    """Raise AssertionError unless each enrolment was decided on all that there was, no rule is
    broken, and each caller was told the truth. The enrolments of each course and each student.
    """
    known: list[Enrolled] = []
    places: dict[tuple[str, str], RecordedEvent[Enrolled]] = {}
    for event in log:
        new = event.data
        there = sum(new.course == old.course or new.student == old.student for old in known)
        assert new.seen == there, f"{new} was decided on {new.seen} events, and there were {there}"
        assert (new.student, new.course) not in places, f"{new} is there twice"
        places[new.student, new.course] = event
        known.append(new)
    taken = Counter(each.course for each in known)
    busy = Counter(each.student for each in known)
    assert max(taken.values()) <= SEATS
    assert max(busy.values()) <= COURSES_MAX
    for each in told:
        command, event = each.command, places.get((each.command.student, each.command.course))
        if each.position:
            assert event is not None, f"acknowledged, and not there: {each}"
            assert (event.position, event.data.seen + 1) == (each.position, each.version), each
        # Nobody ever leaves, so what was a reason then is one at the end.
        elif each.refusal == "the course is full":
            assert taken[command.course] == SEATS, each
        elif each.refusal == "too many courses":
            assert busy[command.student] == COURSES_MAX, each
        else:
            assert event is not None, each
    return taken + busy


def heard(lines: Iterable[bytes]) -> list[Told]:
    return [msgspec.json.decode(line, type=Told) for line in lines]


def main(url: str, options: str, name: str, *numbers: str) -> None:
    seed, threads, steps = map(int, numbers)
    decider, cached = OPTIONS[options]
    with leftfold.open(url, CODEC, cached_states_max=cached) as es:
        os.write(1, b"ready\n")
        sys.stdin.readline()

        def run(number: int) -> None:
            for command in islice(wishes(f"{name}.{number}", seed), steps):
                tell(enrol(es, decider, command))

        Threads([lambda number=number: run(number) for number in range(threads)]).join()


if __name__ == "__main__":
    main(*sys.argv[1:])
