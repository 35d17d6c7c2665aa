"""What differs between two values, said field by field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from typing import Any

from msgspec import Struct

from leftfold.event import Event
from leftfold.states import has_equality


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def show(value: object) -> str:
    """A value in one line; of a function its name."""
    return str(getattr(value, "__qualname__", None) or repr(value))


def differences(expected: object, found: object, path: str = "") -> list[str]:
    """A line for each place where two values differ, none where they are equal.

    Objects whose class has no equality are equal if their attributes are. Events are equal if their
    stream, data, tags in any order and `occurred_at` are.
    """
    if expected is found:
        return []
    here = path.removeprefix(".") + ": " * bool(path)
    if type(expected) is not type(found):
        return [] if expected == found else [f"{here}expected {expected!r}, found {found!r}"]
    if has_equality(expected) and expected == found:
        return []
    mine, theirs = _parts(expected), _parts(found)
    if not (mine or theirs or _is_plain(expected)):
        return [f"{here}expected {expected!r}, found {found!r}"]
    return [
        line
        for key in {**mine, **theirs}
        for line in differences(mine.get(key, _ABSENT), theirs.get(key, _ABSENT), path + key)
    ]


def _parts(value: Any) -> dict[str, Any]:
    """What a value consists of, by how it is reached."""
    if isinstance(value, Event):
        place = {".stream": value.stream, ".tags": tuple(sorted(value.tags))}
        return {**place, ".occurred_at": value.occurred_at, ".data": value.data}
    if isinstance(value, Mapping):
        return {f"[{key!r}]": each for key, each in value.items()}
    if isinstance(value, list | tuple):
        return {f"[{index}]": each for index, each in enumerate(value)}
    return {f".{name}": getattr(value, name, _ABSENT) for name in _attributes(value)}


def _is_plain(value: object) -> bool:
    """Whether it is nothing but its attributes, even without any."""
    return not has_equality(value) and hasattr(value, "__dict__") and not callable(value)


def _attributes(value: Any) -> Iterable[str]:
    if isinstance(value, type):
        return ()
    if isinstance(value, Struct):
        return value.__struct_fields__
    if hasattr(value, "__attrs_attrs__"):
        return [field.name for field in value.__attrs_attrs__]
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    return list(getattr(value, "__dict__", ()))


def event_differences(expected: Sequence[Any], found: Sequence[Event[Any]]) -> list[str]:
    """A line for each event that differs, is missing, or is surplus.

    An expected event is data, or an `Event` where its place matters too. They are aligned by their
    classes, so that one missing event does not make all later ones differ.
    """
    found_or_data = [each.data for each in found]
    aligned = SequenceMatcher(None, _names(expected), _names(found_or_data), autojunk=False)
    lines: list[str] = []
    for kind, start, end, found_start, found_end in aligned.get_opcodes():
        if kind == "equal":
            for index in range(end - start):
                lines += _pair(found_start + index, expected[start + index], found, found_or_data)
            continue
        lines += [f"missing, as event {i + 1}: {expected[i]!r}" for i in range(start, end)]
        surplus = range(found_start, found_end)
        lines += [f"surplus, as event {i + 1}: {found_or_data[i]!r}" for i in surplus]
    return lines


def _pair(
    index: int, expected: Any, found: Sequence[Event[Any]], data: Sequence[Any]
) -> Iterator[str]:
    other = found[index] if isinstance(expected, Event) else data[index]
    for line in differences(expected, other):
        yield f"event {index + 1}, {type(data[index]).__name__}: {line}"


def _names(events: Sequence[Any]) -> list[type]:
    return [type(each.data if isinstance(each, Event) else each) for each in events]
