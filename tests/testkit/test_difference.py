"""Values are equal if they say so, or if their parts are; what differs is told by its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import attrs
import pydantic
import pytest
from msgspec import Struct

from leftfold import Event
from leftfold.testing.difference import differences


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Point(Struct):
    x: Any
    y: Any = 0


class Unequal(Struct, eq=False):
    x: Any


@dataclass
class Data:
    x: Any
    plain: Plain = field(default_factory=Plain)


@attrs.define
class Attrs:
    x: Any


class Model(pydantic.BaseModel):
    x: Any


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1),
        (Decimal(1), Decimal("1.0")),
        (1, True),
        ([1, [2]], [1, [2]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Point(1), Point(1)),
        (Unequal([1]), Unequal([1])),
        (Plain(), Plain()),
        (Plain(a=[Plain(b=1)]), Plain(a=[Plain(b=1)])),
        (Data(1), Data(1)),
        (Attrs(1), Attrs(1)),
        (Model(x=1), Model(x=1)),
        (Event("a-1", Point(1), tags=("a", "b")), Event("a-1", Point(1), tags=("b", "a"))),
        (float, float),
    ],
)
def test_equal_values_do_not_differ(one: object, other: object) -> None:
    assert differences(one, other) == []


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (1, 2, ["expected 1, found 2"]),
        (1, "1", ["expected 1, found '1'"]),
        ({1}, {2}, ["expected {1}, found {2}"]),
        ([1], (1,), ["expected [1], found (1,)"]),
        ([1, 2], [1], ["[1]: expected 2, found nothing"]),
        ([], [None], ["[0]: expected nothing, found None"]),
        (
            {"a": 1},
            {"b": 1},
            ["['a']: expected 1, found nothing", "['b']: expected nothing, found 1"],
        ),
        (Point(1, [2]), Point(1, [3]), ["y[0]: expected 2, found 3"]),
        (Point(Point(1)), Point(Point(2)), ["x.x: expected 1, found 2"]),
        (Unequal(1), Unequal(2), ["x: expected 1, found 2"]),
        (Plain(a=1), Plain(a=2), ["a: expected 1, found 2"]),
        (Plain(), Plain(a=2), ["a: expected nothing, found 2"]),
        (Data(1), Data(2), ["x: expected 1, found 2"]),
        (Attrs(1), Attrs(2), ["x: expected 1, found 2"]),
        (Model(x=1), Model(x=2), ["x: expected 1, found 2"]),
        (float, int, ["expected <class 'float'>, found <class 'int'>"]),
        (Event("a-1", 1), Event("a-2", 1), ["stream: expected 'a-1', found 'a-2'"]),
    ],
)
def test_different_values_are_told_by_place(one: Any, other: Any, told: list[str]) -> None:
    assert differences(one, other) == told


def test_functions_are_not_equal_for_want_of_parts() -> None:
    assert differences(lambda: 1, lambda: 2)
