"""Course enrolment: python examples/enrolment.py

Two rules that no single stream can keep: a course has so many seats, and a student takes three
courses at most. An enrolment belongs to both a course and a student. So it is decided on a
boundary: the events with the tag of that course, and those with the tag of that student.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Annotated

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import App, Codec, Decider, EventStore, Query, Tag, select

COURSES_MAX = 3
STUDENTS = ("ada", "bob", "cleo", "dan", "eve")

# ------------------------------------------------------------------------------------------------
# Events. Their tags, such as `course:algebra` and `student:ada`, make them part of boundaries.


class CourseOffered(Struct, frozen=True):
    course: Annotated[str, Tag()]
    seats: int


class StudentEnrolled(Struct, frozen=True):
    course: Annotated[str, Tag()]
    student: Annotated[str, Tag()]


class StudentLeft(Struct, frozen=True):
    course: Annotated[str, Tag()]
    student: Annotated[str, Tag()]


EnrolmentEvent = CourseOffered | StudentEnrolled | StudentLeft


# ------------------------------------------------------------------------------------------------
# State: of the courses and the students that are in the boundary, whichever these are.


class Enrolments(Struct, frozen=True):
    seats: Mapping[str, int] = {}
    pairs: frozenset[tuple[str, str]] = frozenset()
    """Who is in which course: (course, student)."""

    def students_in(self, course: str) -> int:
        return sum(each == course for each, _ in self.pairs)

    def courses_of(self, student: str) -> int:
        return sum(each == student for _, each in self.pairs)


def evolve(state: Enrolments, event: EnrolmentEvent) -> Enrolments:
    match event:
        case CourseOffered(course, seats):
            return replace(state, seats={**state.seats, course: seats})
        case StudentEnrolled(course, student):
            return replace(state, pairs=state.pairs | {(course, student)})
        case StudentLeft(course, student):
            return replace(state, pairs=state.pairs - {(course, student)})


# ------------------------------------------------------------------------------------------------
# Commands


class Offer(Struct, frozen=True):
    course: str
    seats: int


class Enrol(Struct, frozen=True):
    course: str
    student: str


class Leave(Struct, frozen=True):
    course: str
    student: str


Command = Offer | Enrol | Leave


class Rejected(Exception):
    """The university says no."""


def decide(command: Command, state: Enrolments) -> list[EnrolmentEvent]:
    match command:
        case Offer(course, seats):
            if course in state.seats:
                raise Rejected(f"{course} is offered already")
            return [CourseOffered(course, seats)]
        case Leave(course, student):
            # Not in the course is what was asked for, so then there is nothing to do.
            return [StudentLeft(course, student)] if (course, student) in state.pairs else []
        case Enrol(course, student):
            if course not in state.seats:
                raise Rejected(f"there is no course {course}")
            if (course, student) in state.pairs:
                raise Rejected(f"{student} is in {course} already")
            if state.students_in(course) >= state.seats[course]:
                raise Rejected(f"{course} is full")
            if state.courses_of(student) >= COURSES_MAX:
                raise Rejected(f"{student} is in {COURSES_MAX} courses")
            return [StudentEnrolled(course, student)]


# ------------------------------------------------------------------------------------------------
# The app: a decider, whose events go to the stream of the course. The boundary of a command is all
# that it has to know: it is read, and nobody may have added to it when the decision is recorded.

enrolment = Decider(
    "enrolment",
    initial_state=Enrolments(),
    decide=decide,
    evolve=evolve,
    stream=lambda event: f"course-{event.course}",
)
codec = Codec(CourseOffered, StudentEnrolled, StudentLeft)
app = App(codec=codec, deciders=[enrolment])


def boundary(command: Command) -> Query:
    of_course = select(tags=[f"course:{command.course}"])
    if isinstance(command, Offer):
        return of_course
    return of_course | select(tags=[f"student:{command.student}"])


def handle(es: EventStore, command: Command) -> str:
    try:
        es.handle(enrolment, boundary(command), command)
    except Rejected as rejection:
        return str(rejection)
    return "done"


def main() -> None:
    with leftfold.open("memory://", app) as es:
        for course, seats in [("algebra", 2), ("botany", 30), ("chess", 30), ("drawing", 30)]:
            print(f"offer {course}: {handle(es, Offer(course, seats))}")
        print(f"offer chess again: {handle(es, Offer('chess', 5))}")
        print(f"ada enrols in algebra: {handle(es, Enrol('algebra', 'ada'))}")
        print(f"ada enrols once more: {handle(es, Enrol('algebra', 'ada'))}")

        # Everybody wants algebra, and then all the rest, each time all at once.
        for courses in (["algebra"], ["botany", "chess", "drawing"]):
            wishes = [Enrol(course, student) for student, course in product(STUDENTS, courses)]
            with ThreadPoolExecutor(8) as threads:
                replies = list(threads.map(partial(handle, es), wishes))
            met = replies.count("done")
            print(f"{len(wishes)} wishes at once for {', '.join(courses)}: {met} are met")

        everything = es.state(enrolment, select(types=[CourseOffered, StudentEnrolled]))
        for course, seats in everything.seats.items():
            taken = everything.students_in(course)
            print(f"{course}: {taken} of {seats} seats taken")
            assert taken <= seats
        assert everything.students_in("algebra") == 2
        for student in STUDENTS:
            assert everything.courses_of(student) == COURSES_MAX

        print(f"fay enrols in algebra: {handle(es, Enrol('algebra', 'fay'))}")
        print(f"ada leaves algebra: {handle(es, Leave('algebra', 'ada'))}")
        print(f"fay enrols in algebra: {handle(es, Enrol('algebra', 'fay'))}")
        assert handle(es, Enrol("algebra", "ada")) == "algebra is full"

        print("The story of algebra, by its tag:")
        for step in es.history(enrolment, select(tags=["course:algebra"])):
            event, taken = step.event, step.after.students_in("algebra")
            who = getattr(event.data, "student", "")
            print(f"  position {event.position:2}: {event.type:15} {who:4} -> {taken} seats taken")


if __name__ == "__main__":
    main()
