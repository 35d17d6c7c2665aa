"""States of deciders: which can be shared, and the left fold that makes them. Without I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import fields as fields_of
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from leftfold.errors import EvolveFailed
from leftfold.event import RecordedEvent

S = TypeVar("S")

CLASSES_CACHED_MAX = 1000

_ATOMS = frozenset(
    {type(None), msgspec.Raw, bool, int, float, complex, str, bytes, Decimal, UUID, frozenset}
    | {date, datetime, time, timedelta, timezone}
)


def is_frozen(value: object) -> bool:
    """Whether nobody can change `value` in place, as far as one can tell."""
    kind: Any = type(value)
    if kind in _ATOMS:
        return True
    if isinstance(value, tuple):
        return all(map(is_frozen, value))
    fields = _frozen_fields(kind)
    if fields is None:
        return isinstance(value, Enum)
    for field in fields:
        inner = getattr(value, field)
        if type(inner) not in _ATOMS and not is_frozen(inner):
            return False
    return True


def is_frozen_class(kind: type) -> bool:
    """Whether fields of values of a Struct or dataclass cannot be set."""
    return _frozen_fields(kind) is not None


@lru_cache(CLASSES_CACHED_MAX)
def _frozen_fields(kind: Any) -> tuple[str, ...] | None:
    """The fields of a frozen Struct or dataclass; None of any other class."""
    if issubclass(kind, Struct):
        return kind.__struct_fields__ if kind.__struct_config__.frozen else None
    # Of the class itself: a subclass that is no dataclass takes other attributes.
    if getattr(vars(kind).get("__dataclass_params__"), "frozen", False):
        return tuple(field.name for field in fields_of(kind))
    return None


def isolated(state: S) -> S:
    """`state`, or a copy where somebody could change it in place. A class of our own may say by
    `__isolated__` what of it that can be: to look through a long state takes long.
    """
    own: Callable[[S], S] | None = getattr(type(state), "__isolated__", None)
    if own is not None:
        return own(state)
    return state if is_frozen(state) else deepcopy(state)


def is_same(first: object, second: object) -> bool:
    """Whether two values cannot be told apart: equal, and of the same types all the way down."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict) and isinstance(second, dict):
        return is_same([*first.items()], [*second.items()])
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    if isinstance(first, Struct | set | frozenset) or hasattr(first, "__dict__"):
        return _parts_are_same(first, second)
    # Equal moments of two zones are of different days, perhaps.
    return first == second and str(first) == str(second)


def _parts_are_same(first: Any, second: Any) -> bool:
    if isinstance(first, set | frozenset):
        return first == second and {*map(type, first)} == {*map(type, second)}
    if isinstance(first, Enum):
        return first is second
    return is_same(_parts(first), _parts(second))


def _parts(value: Any) -> dict[str, object]:
    parts = {name: getattr(value, name) for name in getattr(value, "__struct_fields__", ())}
    return parts | getattr(value, "__dict__", {})


def has_equality(value: object) -> bool:
    """Whether the class of `value` says when two of its objects are equal."""
    return type(value).__eq__ is not object.__eq__


class Folding:
    """The fold of one decider: applies its `evolve`, and says of which event it cannot be had."""

    def __init__(self, category: str, evolve: Callable[[Any, Any], Any], initial: object) -> None:
        self._category = category
        self._evolve = evolve
        # A forgotten `return` must not make a state of None, unless None is a state.
        self._may_be_none = initial is None

    def fold(self, state: Any, decoded: Iterable[tuple[RecordedEvent[Any], Any]]) -> Any:
        """The state after events, each given as recorded and as a domain object. Raises
        EvolveFailed.
        """
        evolve, may_be_none = self._evolve, self._may_be_none
        event: RecordedEvent[Any] | None = None
        try:
            for event, data in decoded:
                state = evolve(state, data)
                if state is None and not may_be_none:
                    raise self._failed(event, "it returned None, not a state")
        except EvolveFailed:
            raise
        except Exception as error:
            if event is None:
                raise
            raise self._failed(event, f"it raised {type(error).__name__}: {error}") from error
        return state

    def evolve(self, state: Any, data: object) -> Any:
        """The state after one event that is not recorded yet. Raises what `evolve` raises."""
        state = self._evolve(state, data)
        if state is None and not self._may_be_none:
            raise TypeError("it returned None, not a state")
        return state

    def _failed(self, event: RecordedEvent[Any], reason: str) -> EvolveFailed:
        facts = (event.position, event.stream, event.version, event.type)
        return EvolveFailed(self._category, facts, reason)
