"""How the objects of one event class become bytes: JSON or msgpack, by msgspec or, for its models,
by pydantic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

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
        self.encode = (msgspec.json if name == "json" else msgspec.msgpack).Encoder().encode
        self._decode_json: Callable[[bytes], Any] = msgspec.json.Decoder(cls).decode
        self._decode_msgpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder(cls).decode
        self.read_back: Callable[[bytes], Any] = (
            self._decode_json if name == "json" else self._decode_msgpack
        )

    def decode(self, encoded: bytes) -> Any:
        return (
            self._decode_msgpack(encoded) if encoded[:1] >= b"\x80" else self._decode_json(encoded)
        )

    def explain(self, error: Exception) -> tuple[str, str]:
        reason, _, path = str(error).partition(" - at `")
        return path.rstrip("`") or "$", reason


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
        # Excluded fields and one-sided aliases would come back as their defaults.
        if self._adapter.validate_json(encoded) != data:
            raise ValueError("what would be stored reads back as something else")
        if self._name == "json":
            return encoded
        return msgspec.msgpack.encode(msgspec.json.decode(encoded))

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
