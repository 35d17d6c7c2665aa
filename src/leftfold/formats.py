"""How the objects of one event class become bytes: JSON or msgpack, by msgspec or, for its models,
by pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import msgspec
from msgspec import inspect

from leftfold.errors import MissingExtra

FormatName = Literal["json", "msgpack"]


class Format(Protocol):
    """Encodes and decodes one class. Errors are ValueError, TypeError, OverflowError or
    RecursionError.
    """

    def encode(self, data: Any) -> bytes: ...

    def read_back(self, encoded: bytes) -> Any:
        """Decode what `encode` made."""
        ...

    def decode(self, encoded: bytes) -> Any: ...

    def explain(self, error: Exception) -> tuple[str, str]:
        """The path inside the object (`$` is the object) and what is wrong there."""
        ...


def make_format(cls: type, name: FormatName) -> Format:
    """The format of one class, written in `name`; both are read. Raises TypeError, NameError for
    unusable classes.
    """
    return (
        _PydanticFormat(cls, name)
        if hasattr(cls, "__pydantic_validator__")
        else _MsgspecFormat(cls, name)
    )


def is_msgpack(encoded: bytes) -> bool:
    """A msgpack map or array starts with a byte that no JSON text starts with."""
    return encoded[:1] >= b"\x80"


def decode_plain(encoded: bytes) -> Any:
    """The data as plain dicts, lists and values. Raises ValueError."""
    return msgspec.msgpack.decode(encoded) if is_msgpack(encoded) else msgspec.json.decode(encoded)


class _MsgspecFormat:
    def __init__(self, cls: type, name: FormatName) -> None:
        self._encode_json = msgspec.json.Encoder().encode
        self._decode_json: Callable[[bytes], Any] = msgspec.json.Decoder(cls).decode
        self._decode_msgpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder(cls).decode
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        self.read_back: Callable[[bytes], Any] = self._decode_msgpack
        parts = _parts(cls)
        _refuse_private_fields(parts)
        if name == "json":
            has_floats = any(isinstance(part, _MAY_BE_FLOAT) for part in parts)
            self.encode = self._encode_floats if has_floats else self._encode_json
            self.read_back = self._decode_json

    def _encode_floats(self, data: Any) -> bytes:
        encoded = self._encode_json(data)
        # Perhaps it is None that was meant.
        if b"null" in encoded:
            _refuse_non_finite(msgspec.to_builtins(data), "$")
        return encoded

    def decode(self, encoded: bytes) -> Any:
        return (
            self._decode_msgpack(encoded) if encoded[:1] >= b"\x80" else self._decode_json(encoded)
        )

    def explain(self, error: Exception) -> tuple[str, str]:
        reason, _, path = str(error).partition(" - at `")
        return path.rstrip("`") or "$", reason


_MAY_BE_FLOAT = (inspect.FloatType, inspect.AnyType, inspect.CustomType)


def _parts(cls: type) -> list[Any]:
    """Every type and field that objects of the class consist of."""
    parts: dict[int, Any] = {}
    left: list[Any] = [inspect.type_info(cls)]
    while left:
        part = left.pop()
        if isinstance(part, tuple):
            left += part
        elif isinstance(part, inspect.Type | inspect.Field) and id(part) not in parts:
            parts[id(part)] = part
            left += msgspec.structs.astuple(part)
    return [*parts.values()]


def _refuse_private_fields(parts: list[Any]) -> None:
    for part in parts:
        if isinstance(part, inspect.DataclassType) and hasattr(part.cls, "__attrs_attrs__"):
            private = [field.name for field in part.fields if field.name.startswith("_")]
            if private:
                found = f"{', '.join(private)} of {part.cls.__name__}"
                raise TypeError(f"private attrs fields would not be stored, found {found}")


def _refuse_non_finite(value: Any, path: str) -> None:
    """JSON would have null for a NaN or an infinity, which reads back as None."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}; use msgpack or None - at `{path}`")
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        items = ((f".{key}", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        items = ((f"[{number}]", each) for number, each in enumerate(value))
    for place, each in items:
        _refuse_non_finite(each, path + place)


class _PydanticFormat:
    def __init__(self, cls: type, name: FormatName) -> None:
        try:
            from pydantic import TypeAdapter
        except ImportError as error:
            raise MissingExtra("pydantic", f"the event class {cls.__name__}") from error
        self._adapter: Any = TypeAdapter(cls)
        self._name = name

    def encode(self, data: Any) -> bytes:
        # What does not fit its field is found by reading it back, with its path.
        encoded: bytes = self._adapter.dump_json(data, by_alias=True, warnings=False)
        if self._name == "msgpack":
            packed = msgspec.msgpack.encode(msgspec.json.decode(encoded))
            # A model of a single number would be taken for JSON, so it is.
            encoded = packed if is_msgpack(packed) else encoded
        # Excluded fields and one-sided aliases would come back as their defaults.
        if self.decode(encoded) != data:
            raise ValueError("what would be stored reads back as something else")
        return encoded

    def read_back(self, encoded: bytes) -> Any:
        return self.decode(encoded)

    def decode(self, encoded: bytes) -> Any:
        if is_msgpack(encoded):
            encoded = msgspec.json.encode(msgspec.msgpack.decode(encoded))
        return self._adapter.validate_json(encoded)

    def explain(self, error: Exception) -> tuple[str, str]:
        details = error.errors() if hasattr(error, "errors") else ()
        if not details:
            return "$", str(error)
        return ".".join(["$", *map(str, details[0]["loc"])]), str(details[0]["msg"])
