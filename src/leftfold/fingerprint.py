"""Fingerprints of code and types: texts that change when these do, and are the same in each
process.
"""

from __future__ import annotations

from hashlib import sha256
from types import CodeType
from typing import Any

import msgspec


def digest(*parts: str) -> str:
    """A short text for many."""
    return sha256("\n".join(parts).encode()).hexdigest()[:32]


def shape(kind: Any) -> str:
    """The form of a type's values. Raises TypeError for types that have none."""
    return msgspec.json.encode(msgspec.json.schema(kind), order="sorted").decode()


def code(function: Any) -> str:
    """A function's name and code, not that of what it calls."""
    found = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name} {_text(found) if isinstance(found, CodeType) else ''}"


def _text(found: CodeType) -> str:
    constants = [
        _text(each)
        if isinstance(each, CodeType)
        # The order of a set differs from process to process.
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in found.co_consts
    ]
    return f"{found.co_code.hex()} {found.co_names} {found.co_varnames} {constants}"
