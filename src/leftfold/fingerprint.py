"""Fingerprints of code and types: texts that change when these do, and are the same in each
process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from functools import partial
from hashlib import sha256
from types import CodeType
from typing import Any

import msgspec

DEPTH_MAX = 5
"""How far functions are followed into those that they wrap or enclose."""


def digest(*parts: str) -> str:
    """A short text for many."""
    return sha256("\n".join(parts).encode()).hexdigest()[:32]


def shape(kind: Any) -> str:
    """The form of a type's values. Raises TypeError for types that have none."""
    return msgspec.json.encode(msgspec.json.schema(kind), order="sorted").decode()


def code(function: Any, depth: int = 0) -> str:
    """A function's name, code, defaults, and what it wraps or encloses; not what it calls."""
    if depth > DEPTH_MAX:
        return ""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    found = getattr(function, "__code__", None)
    inner = [
        getattr(function, "__wrapped__", None),
        *(_content(cell) for cell in getattr(function, "__closure__", None) or ()),
        *(getattr(function, "__defaults__", None) or ()),
        *(getattr(function, "__kwdefaults__", None) or {}).items(),
    ]
    if isinstance(function, partial):
        inner += [function.func, *function.args, *function.keywords.items()]
    parts = [_value(each, depth + 1) for each in inner if each is not None]
    return f"{name} {_text(found) if isinstance(found, CodeType) else ''} {parts}"


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _value(value: Any, depth: int) -> str:
    if callable(value):
        return code(value, depth)
    if depth <= DEPTH_MAX:
        inner = partial(_value, depth=depth + 1)
        # The order of a set differs from process to process, also within other values.
        if isinstance(value, set | frozenset):
            return str(sorted(map(inner, value)))
        if isinstance(value, tuple | list):
            return str([*map(inner, value)])
        if isinstance(value, Mapping):
            return str([(inner(key), inner(each)) for key, each in value.items()])
        fields = _fields(value)
        if fields:
            return f"{type(value).__qualname__} {[inner(getattr(value, each)) for each in fields]}"
    # So do addresses.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _fields(value: Any) -> tuple[str, ...]:
    if is_dataclass(value):
        return tuple(each.name for each in dataclass_fields(value))
    return getattr(value, "__struct_fields__", ())


def _text(found: CodeType) -> str:
    constants = [
        _text(each) if isinstance(each, CodeType) else _value(each, 0) for each in found.co_consts
    ]
    return f"{found.co_code.hex()} {found.co_names} {found.co_varnames} {constants}"
