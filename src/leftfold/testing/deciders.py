"""Random commands for a decider, through the real `handle`, on a store in memory.

TestAccount = decider_machine(account, commands, invariant=is_solvent).TestCase
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import hypothesis
import msgspec
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from hypothesis.strategies import SearchStrategy
from msgspec import Struct
from msgspec.structs import replace

from leftfold.codec import EventCodec
from leftfold.command import Handled
from leftfold.decider import Boundary, Decider, state_encoder
from leftfold.errors import LeftfoldError
from leftfold.event import Event, record
from leftfold.facade import EventStore
from leftfold.loading import Step
from leftfold.states import isolated
from leftfold.stores.memory import MemoryStore
from leftfold.stores.memory_snapshots import MemorySnapshots
from leftfold.testing.as_is import AsIs
from leftfold.testing.difference import differences, show

C = TypeVar("C")
S = TypeVar("S")

# Has pytest show what is the user's, and none of this file.
__tracebackhide__ = True

SNAPSHOT_EVENTS = 2
"""How often the machine has snapshots taken, of deciders that have them: short runs meet them."""


def decider_machine(
    decider: Decider[C, S, Any],
    commands: SearchStrategy[C] | Mapping[Any, SearchStrategy[C]],
    *,
    invariant: Callable[[S], bool],
    rejections: tuple[type[Exception], ...] = (),
    codec: EventCodec | None = None,
) -> type[RuleBasedStateMachine]:
    """A Hypothesis state machine that handles random commands; give pytest its `TestCase`.

    `commands` makes commands for one stream; or it says for each boundary (an id, a query) what
    makes commands for that. After each command it fails unless

    - it was accepted, or rejected with one of `rejections`,
    - `invariant` returns True of the state,
    - `decide` and `evolve` return the same for the same, and change nothing they are given, except
      that `evolve` may change and return the very state,
    - the state is the same returned by `handle`, folded from the log, loaded through a cache and
      through snapshots, and at an earlier version what it was then.
    """
    by_boundary = commands if isinstance(commands, Mapping) else {"1": commands}
    asked = _Asked(decider, tuple(by_boundary), invariant, rejections, codec)
    orders = st.one_of(
        [st.tuples(st.just(boundary), each) for boundary, each in by_boundary.items()]
    )
    return _machine(asked, orders)


def _machine(
    asked: _Asked, orders: SearchStrategy[tuple[Boundary, Any]]
) -> type[RuleBasedStateMachine]:
    class DeciderMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.checking = _Checking(asked)

        @rule(order=orders)
        def handle(self, order: tuple[Boundary, Any]) -> None:
            self.checking.handle(*order)

        def teardown(self) -> None:
            self.checking.close()

    # Explaining takes a hundred times as long as shrinking, and would point into this file.
    test_case: Any = DeciderMachine.TestCase
    phases = [each for each in test_case.settings.phases if each is not Phase.explain]
    test_case.settings = settings(test_case.settings, phases=phases)
    return DeciderMachine


class _Asked(Struct, frozen=True, eq=False):
    """What a machine was asked for."""

    decider: Decider[Any, Any, Any]
    boundaries: tuple[Boundary, ...]
    invariant: Callable[[Any], bool]
    rejections: tuple[type[Exception], ...]
    codec: EventCodec | None


class _Checking:
    """One run of a machine, on a store of its own."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._decider = _with_early_snapshots(asked.decider)
        store, codec = MemoryStore(), asked.codec or AsIs()
        self._plain = EventStore(store, codec)
        # These take turns, so that each meets events that it did not write itself.
        self._handlers = deque(
            [
                ("snapshots", EventStore(store, codec, snapshots=MemorySnapshots())),
                ("a cache", EventStore(store, codec, cached_states_max=1)),
            ]
        )
        self._states = {each: [isolated(self._decider.initial_state)] for each in asked.boundaries}
        """By boundary, all there have been, by version."""

    def close(self) -> None:
        self._plain.close()

    def handle(self, boundary: Boundary, command: Any) -> None:
        """Handle one command, and look at everything afterwards."""
        what, head = f"decide on {show(command)}, repeated", self._plain.head()
        expected = self._decide(boundary, command)
        self._handlers.rotate()
        _, es = self._handlers[0]
        try:
            found = es.handle(self._decider, boundary, command)
        except LeftfoldError:
            raise
        except self._asked.rejections as rejection:
            _check_same(what, expected, type(rejection))
            hypothesis.event(f"rejected with {type(rejection).__name__}")
            return
        hypothesis.event(f"accepted {type(command).__name__}")
        # From cause to effect, so that what is told first is what to mend.
        self._follow()
        _check_same(what, expected, found.events)
        recorded = tuple(each.data for each in self._plain.read(after=head))
        _check_same("the events in the log", found.events, recorded)
        self._look(boundary, found)

    def _decide(self, boundary: Boundary, command: Any) -> tuple[Any, ...] | type[Exception]:
        """The data of the events that a command comes to, or its rejection."""
        given = isolated(command)
        try:
            decided = self._decider.decided(given, self._states[boundary][-1])
            outcome: Any = tuple(e.data if isinstance(e, Event) else e for e in decided)
            self._check_codec(outcome)
        except LeftfoldError:
            raise
        except self._asked.rejections as rejection:
            outcome = type(rejection)
        _check_same("the command that decide was given", command, given)
        return cast("tuple[Any, ...] | type[Exception]", outcome)

    def _check_codec(self, events: tuple[Any, ...]) -> None:
        codec = self._plain.codec
        encoded = [codec.encode(Event("check-1", data)) for data in events]
        read = codec.decode_page([record(event, 1, 1, 0) for event in encoded])
        what = "the events read back through the codec"
        _check_same(what, events, tuple(event.data for event in read))

    def _follow(self) -> None:
        """Learn the new states from the log."""
        for boundary, states in self._states.items():
            for step in self._plain.history(self._decider, boundary, after=len(states) - 1):
                self._check_evolve(step)
                states.append(isolated(step.after))

    def _look(self, boundary: Boundary, found: Handled[Any]) -> None:
        """Whether everything says the same of the new states, and they are as they should be."""
        states = self._states[boundary]
        _check_same("the version that handle returned", len(states) - 1, found.version)
        _check_same("the state that handle returned", states[-1], found.state)
        for each, states in self._states.items():
            holds = self._asked.invariant(isolated(states[-1]))
            if not holds:
                raise AssertionError(f"the invariant returned {holds!r} of {states[-1]!r}")
            self._check_snapshot(states[-1])
            self._check_loads(each, states)

    def _check_evolve(self, step: Step[Any]) -> None:
        event = next(self._plain.read(after=step.event.position - 1, limit=1)).data
        before, given = isolated(step.before), isolated(event)
        after = self._decider.evolve(before, given)
        _check_same(f"evolve on {event!r}, repeated", step.after, after)
        _check_same("the event that evolve was given", event, given)
        if after is not before:
            _check_same("the state that evolve was given", step.before, before)

    def _check_loads(self, boundary: Boundary, states: list[Any]) -> None:
        # The run of all versions at each step would take quadratic time; these go over them all.
        latest = len(states) - 1
        for name, es in self._handlers:
            found = es.state(self._decider, boundary)
            _check_same(f"the state loaded through {name}", states[latest], found)
            for at in {latest // 2, max(latest - 1, 0)}:
                found = es.state(self._decider, boundary, at=at)
                _check_same(f"the state loaded at={at} through {name}", states[at], found)

    def _check_snapshot(self, state: Any) -> None:
        # One that does not come back is not kept, and production would only log it.
        if self._decider.snapshots is not None:
            _, decoder = state_encoder(self._decider)
            again = decoder.decode(msgspec.msgpack.encode(state))
            _check_same("the state kept as a snapshot", state, again)


def _with_early_snapshots(decider: Decider[C, S, Any]) -> Decider[C, S, Any]:
    if decider.snapshots is None:
        return decider
    return replace(decider, snapshots=replace(decider.snapshots, every=SNAPSHOT_EVENTS))


def _check_same(what: str, expected: object, found: object) -> None:
    if lines := differences(expected, found):
        raise AssertionError("\n  ".join([f"{what}, differs", *lines]))
