"""What a format cannot keep is refused: nothing reads back as something else without a word."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from leftfold import Codec, Event, InvalidEvent, InvalidInput
from leftfold.event import record


@dataclass(frozen=True)
class Measured:
    celsius: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


class Number(pydantic.RootModel[int]):
    pass


class Numbers(pydantic.RootModel[list[float]]):
    pass


@attrs.frozen
class Secret:
    _pin: int = 0
    owner: str = ""


class Locker(msgspec.Struct):
    secrets: dict[str, list[Secret]] = {}


def read_back(codec: Codec, data: Any) -> Any:
    (back,) = codec.decode(record(codec.encode(Event("a-1", data)), 1, 1, 0))
    return back.data


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("place", "measured"),
    [
        ("$.celsius", Measured),
        ("$.more.a[1]", lambda number: Measured(more={"a": [None, number]})),
    ],
)
def test_json_refuses_numbers_that_it_has_no_word_for(number, place, measured) -> None:
    with pytest.raises(InvalidEvent) as caught:
        Codec(Measured).encode(Event("a-1", measured(number)))
    assert caught.value.path == place
    assert str(number) in caught.value.reason


def test_msgpack_has_a_word_for_them() -> None:
    codec = Codec(Measured, format="msgpack")
    assert read_back(codec, Measured(math.inf)) == Measured(math.inf)
    assert math.isnan(read_back(codec, Measured(math.nan)).celsius)


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_none_is_none(format: Any) -> None:
    for measured in (Measured(), Measured(1.5, {"a": [None, 2.5]})):
        assert read_back(Codec(Measured, format=format), measured) == measured


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("cls", [Secret, Locker])
def test_private_attrs_fields_are_refused(cls: type, format: Any) -> None:
    with pytest.raises(InvalidInput, match="_pin of Secret"):
        Codec(cls, format=format)


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("number", [0, 5, 49, 127, 128, 10_000, -1, -40])
def test_a_model_of_one_number_comes_back(number: int, format: Any) -> None:
    codec = Codec(Number, Numbers, format=format)
    assert read_back(codec, Number(number)) == Number(number)
    assert read_back(codec, Numbers([number, 0.5])) == Numbers([number, 0.5])
