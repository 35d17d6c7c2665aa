"""JSON checked against the event classes of a codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from leftfold.codec import Codec, EventType
from leftfold.errors import InvalidInput, UndecodableEvent
from leftfold.event import Event, record


class _Class(Struct, frozen=True):
    decode: Callable[[bytes], Any]
    fields: frozenset[str]


class Typed:
    """Makes events of JSON by the classes of a codec.

    Text becomes what the class wants: a Decimal, a date, a number. What the class does not know is
    refused: a misspelt field would be lost without a word.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._types = {each.name: each for each in codec.types}
        self._classes: dict[str, _Class] = {}

    def encode(self, event: Event[bytes]) -> Event[bytes]:
        """The event as the codec would record it, with the tags of its class. Raises
        InvalidInput.
        """
        cls = self._class(event.type)
        try:
            given = msgspec.json.decode(event.data)
            # Before decoding: a misspelt field is better news than the one that is missing for it.
            unknown = sorted(set(given) - cls.fields) if isinstance(given, dict) else []
            data = None if unknown else cls.decode(event.data)
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise InvalidInput(f"the data is no {event.type}: {reason}") from None
        if unknown:
            there = ", ".join(sorted(cls.fields))
            raise InvalidInput(f"{event.type} has no field {unknown[0]!r}; it has {there}")
        return self._codec.encode(replace(event, data=data))

    def check(self, event: Event[bytes]) -> None:
        """Refuse, with InvalidInput, stored data that the codec cannot decode."""
        try:
            self._codec.decode_page([record(event, 1, 1, 0)])
        except UndecodableEvent as error:
            raise InvalidInput(f"{error.type}: {error.reason}") from None

    def _class(self, name: str) -> _Class:
        if name not in self._types:
            known = ", ".join(sorted(self._types)) or "none"
            raise InvalidInput(f"the app has no event type {name!r}; it has {known}")
        if name not in self._classes:
            self._classes[name] = _read_class(self._types[name])
        return self._classes[name]


def _read_class(event_type: EventType) -> _Class:
    cls: Any = event_type.cls
    if hasattr(cls, "__pydantic_validator__"):
        # A model has them since pydantic 2.10, a dataclass of pydantic always.
        found = getattr(cls, "__pydantic_fields__", None) or cls.model_fields
        aliases = {
            alias for each in found.values() for alias in (each.alias, each.validation_alias)
        }
        names = frozenset(each for each in (*found, *aliases) if isinstance(each, str))
        return _Class(cls.__pydantic_validator__.validate_json, names)
    # Lax: a column of a CSV file, and a Decimal in JSON, is text.
    decode = msgspec.json.Decoder(cls, strict=False).decode
    info: Any = msgspec.inspect.type_info(cls)
    fields = {each.encode_name for each in info.fields}
    tag = getattr(getattr(cls, "__struct_config__", None), "tag_field", None)
    return _Class(decode, frozenset(fields | ({tag} if tag else set())))
