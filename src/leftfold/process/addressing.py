"""Which instances of a process an event is for: by the query and the key of each definition."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent
from leftfold.loading import Parts
from leftfold.process.orders import React
from leftfold.process.rules import Rules
from leftfold.query import Version, select
from leftfold.reading import Decoding

Keys = dict[str, tuple[int, ...]]
"""Of instances, each with the versions of the definitions that give an event to it."""


def keys_of(definitions: Sequence[Rules[Any]], event: RecordedEvent[Any]) -> Keys:
    """The instances that definitions give an event to, whatever their queries select. Raises
    InvalidInput, and what `key` raises.
    """
    keys: Keys = {}
    for each in definitions:
        key = _key(each, event)
        if key is not None:
            keys[key] = (*keys.get(key, ()), each.version)
    return keys


class Given(Struct, frozen=True):
    """An event for an instance. `number`: which of those that upcasters make of the stored one."""

    number: int
    event: RecordedEvent[Any]
    versions: tuple[int, ...]

    def order(self, key: str, newest: int, taken: Collection[int]) -> React:
        """To react to it. What an instance of an earlier version was given starts no new one."""
        may_start = newest in self.versions and self.number not in taken
        versions = (*self.versions, 0) if may_start else self.versions
        return React(key, self.event, versions=versions)


async def given_of(
    parts: Parts, process: Rules[Any], events: Sequence[RecordedEvent[Any]]
) -> dict[str, list[Given]]:
    """What each instance is given of the events that upcasters make of a stored one; those of the
    newest definition come last. Raises as `keys_of` and the store do.
    """
    found: dict[str, list[Given]] = {}
    for number, event in enumerate(events):
        for key, versions in (await _keys_for(parts, process, event)).items():
            found.setdefault(key, []).append(Given(number, event, versions))

    def is_newest(each: tuple[str, list[Given]]) -> bool:
        return any(process.version in given.versions for given in each[1])

    return dict(sorted(found.items(), key=is_newest))


async def _keys_for(parts: Parts, process: Rules[Any], event: RecordedEvent[Any]) -> Keys:
    definitions = process.in_use
    if any(each.query != process.query for each in definitions):
        definitions = await _selecting(parts, definitions, event)
    return keys_of(definitions, event)


async def _selecting(
    parts: Parts, definitions: Sequence[Rules[Any]], event: RecordedEvent[Any]
) -> tuple[Rules[Any], ...]:
    """The definitions whose query selects an event."""
    # A decoded event does not tell the type that it is stored as, which a query may name.
    before = Version(event.version - 1)
    [stored] = await parts.store.read(select(event.stream), after=before, limit=1)
    return tuple(
        each for each in definitions if Decoding(parts.codec, each.query).selects(stored, event)
    )


def _key(rules: Rules[Any], event: RecordedEvent[Any]) -> str | None:
    found: Any = rules.key(event)
    if found is None:
        return None
    if not isinstance(found, str | int | UUID) or isinstance(found, bool) or found == "":
        raise InvalidInput(
            f"key of process {rules.name!r} is a str, an int, a UUID or None, found {found!r} "
            f"for {event.type!r}"
        )
    return str(found)
