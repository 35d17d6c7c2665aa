"""Tests of one decision, as sentences. Pure: without a store.

given(account, AccountOpened("ada")).when(Withdraw(Decimal(3))).then_rejected(InsufficientFunds)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NoReturn, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from leftfold.codec import EventCodec
from leftfold.decider import Boundary, Decider
from leftfold.errors import EvolveFailed, InvalidDecision
from leftfold.event import Event, RecordedEvent, record
from leftfold.limits import check_append
from leftfold.query import ALL, select
from leftfold.states import isolated
from leftfold.testing.as_is import AsIs
from leftfold.testing.difference import differences, event_differences, show

C = TypeVar("C")
S = TypeVar("S")
X = TypeVar("X", bound=Exception)

# Has pytest show the line of the test, and none of this file.
__tracebackhide__ = True


# Events are typed as Any: a decider may fold older events than those it decides on, and one over
# tags folds data and decides on Events.
def given(
    decider: Decider[C, S, Any],
    *events: Any,
    codec: EventCodec | None = None,
    boundary: Boundary | None = None,
) -> Given[C, S]:
    """A decider after events: data, or `Event` values. Go on with `when(command)`.

    With `codec`, all events must come back from it as they were. All events are folded; with
    `boundary`, an id or a query, only those that are of it, as `handle` does. Raises EvolveFailed.
    """
    rules = _Rules(decider, codec or AsIs(), boundary)
    placed = [rules.placed(each) for each in events]
    state = rules.fold(decider.initial_state, placed)
    return Given(rules, state, tuple(f"given {each!r}" for each in events))


class _Rules(Generic[C, S]):
    """What `handle` does with events, without a log."""

    def __init__(
        self, decider: Decider[C, S, Any], codec: EventCodec, boundary: Boundary | None
    ) -> None:
        self.decider = decider
        self._codec = codec
        self._query = codec.resolve(ALL if boundary is None else decider.query(boundary))
        self._stream = f"{decider.category}-?" if boundary is None else self._query.single_stream
        if boundary is not None and self._query != select(self._stream):
            self._stream = None

    def placed(self, event: Any) -> Event[Any]:
        """An event with the stream that it goes to, and with the tags that the codec gives it."""
        if not isinstance(event, Event):
            event = Event("", event)
        name = self.decider.stream
        stream = event.stream or (name(event.data) if name else self._stream or "?")
        return replace(event, stream=stream, tags=self._codec.encode(event).tags)

    def fold(self, state: S, events: Sequence[Event[Any]]) -> S:
        """The state after events that are recorded and read back."""
        if not events:
            return state
        encoded = [self._codec.encode(each) for each in events]
        check_append(encoded, ())
        log = [record(each, number, number, 0) for number, each in enumerate(encoded, 1)]
        read = self._codec.decode_page(log)
        _check_codec(events, read)
        mine = [(each, each.data) for each in read if self._query.matches(each)]
        folded: S = self.decider.folding().fold(isolated(state), mine)
        return folded

    def accept(
        self, command: C, state: S, decided: Sequence[Any]
    ) -> tuple[Sequence[Event[Any]], S]:
        """Decided events with their places, and the state after them. Raises InvalidDecision."""
        if not (self._stream or self.decider.stream or _all_placed(decided)):
            reason = "its boundary is a query, so decide returns Event(stream, ...)"
            raise self.decider.invalid(command, reason)
        placed = [self.placed(each) for each in decided]
        try:
            return placed, self.fold(state, placed)
        except EvolveFailed as error:
            reason = f"evolve cannot take {error.type}: {error.reason}"
            raise self.decider.invalid(command, reason) from error.__cause__


def _all_placed(events: Iterable[Any]) -> bool:
    return all(isinstance(each, Event) and each.stream for each in events)


def _check_codec(events: Sequence[Event[Any]], read: Sequence[RecordedEvent[Any]]) -> None:
    for event, again in zip(events, read, strict=True):
        if lines := differences(event.data, again.data):
            name = type(event.data).__name__
            raise AssertionError(
                _text(f"{name} does not come back from the codec as it was", lines)
            )


def _text(problem: str, lines: Iterable[str], story: Iterable[str] = ()) -> str:
    return "\n".join([problem, *(f"  {line}" for line in lines), *story])


class _Decision(Struct, frozen=True):
    """What a command came to."""

    command: str
    events: Sequence[Event[Any]] = ()
    rejection: Exception | None = None

    def story(self) -> list[str]:
        return [f" when {self.command}", *(f"      decided {each.data!r}" for each in self.events)]


class Given(Generic[C, S]):
    """A decider and what has happened. Can be used several times."""

    def __init__(self, rules: _Rules[C, S], state: S, story: tuple[str, ...]) -> None:
        self._rules = rules
        self._state = state
        self._story = story

    @property
    def state(self) -> S:
        """The state after all events so far."""
        return isolated(self._state)

    def when(self, command: C) -> Outcome[C, S]:
        """Decide on a command, as `handle` does: raises InvalidDecision and InvalidEvent as that
        does. Go on with `then...`: an outcome that nobody looks at gives a RuntimeWarning.
        """
        rules, state = self._rules, self._state
        story = (*self._story, f"state {state!r}")
        try:
            decided = rules.decider.decided(command, state)
        except InvalidDecision:
            raise
        except Exception as error:
            # Whatever `decide` raises is a rejection; which one is expected is said later.
            return Outcome(rules, state, story, _Decision(show(command), (), error))
        events, after = rules.accept(command, state, decided)
        return Outcome(rules, after, story, _Decision(show(command), events))

    def then_state(self, expected: S) -> Self:
        """The state after all events so far equals `expected`."""
        if lines := differences(expected, self._state):
            self._fail("the state differs", lines)
        return self

    def _fail(self, problem: str, lines: Iterable[str] = ()) -> NoReturn:
        raise AssertionError(_text(problem, lines, ["", *self._story]))


class Outcome(Given[C, S]):
    """What was decided. `then...` raise AssertionError, and say what differs, unless it is as
    expected. Of several commands in a row they look at the last one.
    """

    # Until it is made, there is nothing to look at.
    _is_checked = True

    def __init__(
        self, rules: _Rules[C, S], state: S, story: tuple[str, ...], decision: _Decision
    ) -> None:
        super().__init__(rules, state, (*story, *decision.story()))
        self._decision = decision
        self._is_checked = False

    def __del__(self) -> None:
        if not self._is_checked:
            message = f"what came of {self._decision.command} was never checked; add then(...)"
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def when(self, command: C) -> Outcome[C, S]:
        """Decide on one more command, in the state after the one before, which was accepted."""
        self._check_accepted()
        return super().when(command)

    def then(self, *events: Any) -> Self:
        """Exactly these events were decided on, in this order.

        An event is data. Given as an `Event`, its stream, tags and `occurred_at` are compared too.
        """
        self._check_accepted()
        placed = self._rules.placed
        expected = [placed(each) if isinstance(each, Event) else each for each in events]
        if lines := event_differences(expected, self._decision.events):
            self._fail("other events were decided on", lines)
        return self

    def then_nothing(self) -> Self:
        """The command was accepted, and there was nothing to do."""
        return self.then()

    def then_state(self, expected: S) -> Self:
        """The command was accepted, and the state after it equals `expected`."""
        self._check_accepted()
        return super().then_state(expected)

    def then_rejected(self, kind: type[X], *, match: str = "") -> X:
        """The command was rejected with `kind`, and the regular expression `match` is found in what
        it says. Returns the rejection, for its facts.
        """
        self._is_checked = True
        rejection = self._decision.rejection
        if rejection is None:
            self._fail(f"expected the rejection {kind.__name__}, but it was accepted")
        if not isinstance(rejection, kind):
            found = f"expected {kind.__name__}, found {rejection!r}"
            self._fail("it was rejected for another reason", [found])
        if not re.search(match, str(rejection)):
            found = f"expected a match of {match!r}, found {str(rejection)!r}"
            self._fail("the rejection says something else", [found])
        return rejection

    def _check_accepted(self) -> None:
        self._is_checked = True
        if self._decision.rejection is not None:
            self._fail(f"it was rejected: {self._decision.rejection!r}")

    def _fail(self, problem: str, lines: Iterable[str] = ()) -> NoReturn:
        error = AssertionError(_text(problem, lines, ["", *self._story]))
        raise error from self._decision.rejection
