"""The history checker finds every kind of broken history, so its silence means something."""

import random
from collections.abc import Iterable
from uuid import UUID

import pytest
from msgspec.structs import replace

from leftfold import ALL, Appended, Event, NoneMatch, RecordedEvent, StreamVersion, select
from leftfold.event import record
from leftfold.testing.history import Attempt, Outcome, Sightings, Watcher, check

Log = list[RecordedEvent[bytes]]


def event(stream: str, *tags: str) -> Event[bytes]:
    return Event(stream, b"{}", type="A", tags=tags)


def log_of(events: Iterable[Event[bytes]]) -> Log:
    versions: dict[str, int] = {}
    log = []
    for position, each in enumerate(events, 1):
        versions[each.stream] = versions.get(each.stream, 0) + 1
        log.append(record(each, position, versions[each.stream], 1_000_000 + position))
    return log


A1, A2, B1, A3 = event("a"), event("a", "red"), event("b", "red"), event("a")
LOG = log_of([A1, A2, B1, A3])
FIRST = Attempt.of([A1], [StreamVersion("a", 0)], Appended(1, 1, {"a": 1}))
BOTH = Attempt.of(
    [A2, B1],
    [StreamVersion("a", 1), NoneMatch(select(tags=["red"]))],
    Appended(2, 3, {"a": 2, "b": 1}),
)
LAST = Attempt.of([A3], [NoneMatch(select(tags=["red"]), after=3)], Appended(4, 4, {"a": 3}))
ATTEMPTS = [FIRST, BOTH, LAST]


def fails(
    fact: str,
    log: Log,
    attempts: Iterable[Attempt] = (),
    sightings: Iterable[Sightings] = (),
) -> None:
    with pytest.raises(AssertionError, match=fact):
        check(log, attempts, sightings)


def saw(*positions: int, cursor: int = 4, query=ALL) -> Sightings:
    seen = tuple((position, LOG[position - 1].id) for position in positions)
    return Sightings(query, cursor, seen)


def test_a_sound_history_passes():
    check([])
    check(LOG)
    repeats = [BOTH, FIRST, replace(LAST, outcome=Outcome.UNKNOWN)]
    never = [
        Attempt.of([event("a")], [StreamVersion("a", 7)], Outcome.CONFLICT),
        Attempt.of([event("a"), event("b")]),
    ]
    early = saw(1, 2, cursor=2)
    check(LOG, ATTEMPTS + repeats + never, [saw(1, 2, 3, 4), early, saw(cursor=0)])
    check(LOG, ATTEMPTS, [saw(2, 3, query=select(tags=["red"]))])


def test_positions_may_have_gaps():
    gaps = [replace(each, position=each.position * 10) for each in LOG]
    check(gaps, [replace(BOTH, outcome=Outcome.UNKNOWN), Attempt.of([A1]), Attempt.of([A3])])


def test_a_position_that_does_not_increase_is_found():
    fails("G3: position 3 follows 3", [*LOG[:3], replace(LOG[3], position=3)])


def test_a_hole_between_versions_is_found():
    fails("G3: stream 'a' goes from version 1 to 3 at position 4", [LOG[0], LOG[2], LOG[3]])


def test_a_version_that_appears_twice_is_found():
    fails("G3: stream 'a' goes from version 2 to 2", [*LOG[:3], replace(LOG[3], version=2)])


def test_an_event_recorded_twice_is_found():
    fails("G5: event .* is at positions 1 and 5", log_of([A1, A2, B1, A3, A1]))


def test_time_that_goes_back_is_found():
    fails("G9: recorded_at decreases", [*LOG[:3], replace(LOG[3], recorded_us=999_999)])


def test_an_acknowledged_append_that_is_missing_is_found():
    fails("G6: the append of 1 event.* was acknowledged and is not", LOG[:3], ATTEMPTS)


def test_half_an_append_is_found():
    fails("G1: whole", log_of([A1, A2]), [FIRST, replace(BOTH, outcome=Outcome.UNKNOWN)])
    fails("G1: whole", log_of([A1, A2]), [FIRST, BOTH])


def test_an_append_that_is_not_adjacent_is_found():
    mixed = log_of([A1, A2, A3, B1])
    fails("G1: whole", mixed, [FIRST, replace(BOTH, conditions=(), outcome=Outcome.UNKNOWN), LAST])


def test_an_append_out_of_order_is_found():
    swapped = log_of([A1, B1, A2, A3])
    fails("G1: whole, adjacent and in order", swapped, [FIRST, BOTH, LAST])


@pytest.mark.parametrize(
    "told",
    [Appended(1, 3, {"a": 2, "b": 1}), Appended(2, 4, {"a": 2, "b": 1}), Appended(2, 3, {"a": 2})],
)
def test_an_append_that_is_not_where_it_was_said_to_be_is_found(told: Appended):
    fails("G1: .*told was", LOG, [FIRST, replace(BOTH, outcome=told), LAST])


@pytest.mark.parametrize("outcome", [Outcome.CONFLICT, Outcome.UNAVAILABLE])
def test_an_append_that_failed_and_is_recorded_is_found(outcome: Outcome):
    fails("G1: .* failed, and is at position 4", LOG, [FIRST, BOTH, replace(LAST, outcome=outcome)])


def test_an_append_that_failed_may_be_recorded_by_its_repeat():
    check(LOG, [FIRST, BOTH, replace(LAST, outcome=Outcome.CONFLICT), LAST])
    check(LOG, [*ATTEMPTS, replace(LAST, outcome=Outcome.UNAVAILABLE)])


def test_a_repeat_that_conflicts_with_itself_is_found():
    fails("G5: .* its repeat conflicts", LOG, [*ATTEMPTS, replace(LAST, outcome=Outcome.CONFLICT)])


def test_an_event_that_nobody_wrote_is_found():
    fails("nobody wrote", LOG, [FIRST, BOTH])


def test_a_violated_stream_version_is_found():
    wrong = replace(LAST, conditions=(StreamVersion("a", 1),))
    fails("G2: .*'a' at version 1, and it was at 2", LOG, [FIRST, BOTH, wrong])


def test_a_violated_version_of_a_stream_not_written_to_is_found():
    wrong = replace(LAST, conditions=(StreamVersion("b", 0),))
    fails("G2: .*'b' at version 0, and it was at 1", LOG, [FIRST, BOTH, wrong])


@pytest.mark.parametrize(
    ("query", "culprit"),
    [
        (select(tags=["red"]), 3),
        (select("b"), 3),
        (select(types=["A"]), 3),
        (select("none") | select("b", tags=["red"]), 3),
    ],
)
def test_a_match_before_the_append_is_found(query, culprit: int):
    wrong = replace(LAST, conditions=(NoneMatch(query, after=2),))
    fails(f"G2: .*event at {culprit} does", LOG, [FIRST, BOTH, wrong])


def test_a_match_in_the_append_itself_or_before_after_is_none():
    own = replace(BOTH, conditions=(NoneMatch(select(tags=["red"]), after=1),))
    check(LOG, [FIRST, own, LAST])


def test_a_late_arrival_is_found():
    fails(r"G4: positions \[2\] appeared after", LOG, (), [saw(1, 3, 4)])
    fails(r"G4: positions \[3\]", LOG, (), [saw(2, query=select(tags=["red"]))])


def test_an_event_that_vanished_is_found():
    fails(r"G6: a reader saw positions \[4\]", LOG[:3], (), [saw(1, 2, 3, 4)])


def test_an_event_that_changed_is_found():
    other = Sightings(ALL, 1, ((1, UUID(int=7)),))
    fails(r"G4: other events are at positions \[1\]", LOG, (), [other])


def test_a_page_out_of_order_is_found():
    fails("G3: a reader was given position 2 after 3", LOG, (), [saw(1, 3, 2, 4)])


class ShownLog:
    """A log of which readers see what a test lets them see."""

    def __init__(self) -> None:
        self.shown: Log = []

    def read(self, after: int) -> Log:
        return [event for event in self.shown if event.position > after][:2]

    def head(self) -> int:
        return max((event.position for event in self.shown), default=0)

    def watcher(self) -> Watcher:
        return Watcher(self.read, self.head)


def test_a_watcher_sees_a_growing_log_in_pages():
    source = ShownLog()
    watcher = source.watcher()

    assert watcher.look() == 0
    source.shown = LOG[:1]
    assert watcher.look() == 1
    source.shown = LOG
    assert watcher.look() == 3
    check(LOG, ATTEMPTS, [watcher.sightings])


def test_a_watcher_catches_what_commits_out_of_order():
    source = ShownLog()
    watcher = source.watcher()
    for shown in ([LOG[0], LOG[2]], LOG):
        source.shown = shown
        watcher.look()

    fails(r"G4: positions \[2\] appeared", LOG, ATTEMPTS, [watcher.sightings])


def test_a_watcher_catches_a_head_that_is_not_readable_yet():
    source = ShownLog()
    source.shown = LOG[:2]
    watcher = Watcher(source.read, lambda: 3)
    watcher.look()

    fails(r"G4: positions \[3\] appeared", LOG, ATTEMPTS, [watcher.sightings])


def test_a_watcher_watches_until_it_is_over_and_looks_once_more():
    source = ShownLog()
    ends = iter([False, True])

    def is_over() -> bool:
        over = next(ends)
        source.shown = LOG if over else LOG[:1]
        return over

    assert len(source.watcher().watch(is_over).seen) == 4


def test_any_single_loss_swap_or_repetition_is_found():
    """Mutations of a larger history: the checker has no blind spot between its rules."""
    rng = random.Random(5)
    events = [event(rng.choice("abc"), rng.choice(("x", "y"))) for _ in range(60)]
    log = log_of(events)
    attempts = [
        Attempt.of([each], (), Appended(at.position, at.position, {each.stream: at.version}))
        for each, at in zip(events, log, strict=True)
    ]
    check(log, attempts)
    for place in range(len(log) - 1):
        for mutant in (
            log[:place] + log[place + 1 :],
            [*log[:place], log[place + 1], log[place], *log[place + 2 :]],
            log[: place + 1] + log[place:],
        ):
            fails("^(G1|G3|G5|G6|G9|nobody)", mutant, attempts)
